"""The command line: parse, one library call, print. Results go to stdout, progress to stderr."""

from __future__ import annotations

import click

from fairsims import __version__
from fairsims.cli.audits import audit, dashboard, report
from fairsims.cli.classifying import classifier
from fairsims.cli.collapsing import collapse
from fairsims.cli.common import Group, say
from fairsims.cli.imports import export, import_
from fairsims.cli.info import info
from fairsims.cli.repeating import audits
from fairsims.cli.retargeting import compare, retarget, sweep
from fairsims.cli.signing import keygen, sign, verify
from fairsims.cli.stages import complement, generate, label, merge
from fairsims.cli.training import average, finetune, train

EXAMPLES = """\b
Examples:
  fairsims retarget --attr gender --target 0.5
  fairsims retarget --attr gender --target woman=0.35,man=0.65 --mode guided
  fairsims retarget --model digits-8 --attr parity --target 0.5 --dry-run
"""

WAYS_IN = """\
fairsims moves what a diffusion model generates to the mix of attributes that you ask for, and measures it.

Retarget a model     fairsims retarget --attr gender --target 0.5
                     An embedded model of person emojis to half women: minutes on two CPU cores.
Audit images         fairsims audit --before emoji-people --attr gender
                     Shares with intervals. --before also takes your folder, zip or Parquet file.
Study the method     fairsims collapse --synthetic-ratio 0.25 --out runs/collapse
                     A model that learns from its own images, with and without SIMS: about a minute.

fairsims --help      every command
fairsims info        what is installed, what ships with it, and what is missing for what
fairsims dashboard   your runs in the browser
"""


@click.group(
    cls=Group,
    epilog=EXAMPLES,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="fairsims")
@click.pass_context
def main(context: click.Context) -> None:
    """Retarget the attribute mix of a diffusion model with its own images (SIMS), and prove it."""
    if context.invoked_subcommand is None:
        say(WAYS_IN.rstrip())


for command in (
    retarget,
    sweep,
    collapse,
    compare,
    train,
    generate,
    label,
    classifier,
    complement,
    finetune,
    average,
    merge,
    audit,
    report,
    audits,
    info,
    keygen,
    sign,
    verify,
    dashboard,
    import_,
    export,
):
    main.add_command(command)
