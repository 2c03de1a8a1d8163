"""`python -m fairsims`: the command line, as torchrun starts it."""

from fairsims.cli import main

main(prog_name="fairsims")
