"""`fairsims audit`, `report` and `dashboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command, command_line
from fairsims.cli.engines import engine_options
from fairsims.cli.options import PATH, json_option, refuse_idle, settings

AUDIT = "fairsims.audit.command:AuditConfig"
FORMS = ("html", "pdf", "md", "card", "croissant")


@command()
@settings(AUDIT, hold={"metavar": "ATTR"}, labels={"metavar": "[SIDE=]FILE"})
@click.option("--out", type=PATH, help="Folder for audit/ and report.html; without it the result is printed only.")
@engine_options()
@json_option
def audit(out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure shares and quality of any images, before and after or alone."""
    from fairsims.audit.command import AuditConfig, run_audit
    from fairsims.report.publish import publish
    from fairsims.report.terminal import terminal_table

    if not options["target"]:
        refuse_idle("without --target", "tolerance")
    if not options["hold"]:
        refuse_idle("without --hold", "drift")
    if options["reference"] is None:
        refuse_idle("without --reference: quality is measured against real images", "features", "inception_weights")
    if options["resize"] is None:
        refuse_idle("without --resize", "fit")
    config = AuditConfig(**options)
    with Bars() as bars:
        found = run_audit(config, out, publish=publish, progress=bars.report, command=command_line())
    where = "" if out is None else f"\n\nreport  {out / 'report.html'}"
    click.echo(json.dumps(found.to_json()) if as_json else f"{terminal_table(found)}{where}")


@command()
@click.argument("run", type=PATH)
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=click.Choice(FORMS),
    help="What to write; all that can be written by default. May be given again.",
)
@json_option
def report(run: Path, forms: tuple[str, ...], as_json: bool) -> None:
    """Write the report of a finished run or audit: page, PDF, Markdown, model card, Croissant.

    What no tool can know is asked in RUN/report.toml and stands as open until it is answered there.
    """
    from fairsims.report.forms import find_run, unwritten, write_reports
    from fairsims.report.questions import FILE, QUESTIONS, open_ids, read_answers
    from fairsims.run import SIGNATURE

    folder = find_run(run)
    written = write_reports(folder, forms)
    still = open_ids(read_answers(folder))
    if as_json:
        click.echo(json.dumps({"written": [str(p) for p in written], "open": still}))
        return
    for file in written:
        click.echo(file)
    for reason in [] if forms else unwritten(folder):
        click.echo(reason, err=True)
    if still:
        click.echo(f"{len(still)} of {len(QUESTIONS)} questions are open; answer them in {folder / FILE}", err=True)
    if (folder / SIGNATURE).exists():
        click.echo("this run was signed before: its signature does not fit the new report; sign it again", err=True)


@command()
@click.argument("runs", type=PATH, default=Path("runs"))
@click.option("--port", type=int, help="Port on this machine; the first free one from 8501 by default.")
@click.option("--headless", is_flag=True, help="Do not open a browser.")
def dashboard(runs: Path, port: int | None, headless: bool) -> None:
    """Show runs in the browser (this machine only)."""
    from fairsims.dashboard.launch import launch_dashboard

    launch_dashboard(runs, port=port, headless=headless)
