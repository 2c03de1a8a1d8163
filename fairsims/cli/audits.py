"""`fairsims audit`, `report`, `info` and `dashboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command_line, json_option, path, show


@click.command()
@click.option("--before", required=True, help="Images of the model as it was: pool, folder, zip, Parquet or data set.")
@click.option("--after", help="Images of the model as it is; without it the one source is measured.")
@click.option("--attr", multiple=True, required=True, help="Attribute, e.g. gender; again for several.")
@click.option(
    "--target", multiple=True, help="0.5, uniform, or woman=0.3,man=0.7; one for each --attr in order, or none."
)
@click.option("--hold", multiple=True, metavar="ATTR", help="Attribute that was to stay: its drift is judged.")
@click.option(
    "--classifier", multiple=True, help="Folder, embedded name or table of labels; the one that fits by default."
)
@click.option(
    "--labels", multiple=True, metavar="[SIDE=]FILE", help="Labels by people of some images; SIDE is before or after."
)
@click.option("--reference", help="Real images to hold quality against: path, embedded name, or EDM .npz.")
@click.option(
    "--features", multiple=True, default=("classifier",), show_default=True,
    help="Extractor of the quality numbers: classifier, inception, dinov2-vit-b-14, clip:MODEL; again for more.",
)  # fmt: skip
@click.option("--inception-weights", type=path, help="File of the Inception weights; downloaded otherwise.")
@click.option("--split", help="Held-out split whose errors correct the shares.")
@click.option(
    "--tolerance", type=float, default=0.03, show_default=True, help="Reached: interval inside target +- this."
)
@click.option("--drift", type=float, default=0.03, show_default=True, help="Held: every share's change inside +- this.")
@click.option("--out", type=path, help="Folder for audit/ and report.html; without it the result is printed only.")
@json_option
def audit(out: Path | None, as_json: bool, **options: Any) -> None:
    """Measure shares and quality of any images, before and after or alone."""
    from fairsims import jobs
    from fairsims.audit.command import AuditConfig
    from fairsims.report.terminal import terminal_table

    config = AuditConfig(**options)
    with Bars() as bars:
        result = jobs.run_audit(config, out, report=bars.report, command=command_line())
    where = "" if out is None else f"\n\nreport  {out / 'report.html'}"
    click.echo(json.dumps(result) if as_json else f"{terminal_table(result)}{where}")


@click.command()
@click.argument("run", type=path)
@click.option(
    "--form", "forms", multiple=True, type=click.Choice(("html", "pdf", "md", "card", "croissant")),
    help="html, pdf, md, card or croissant; again for several, all that can be written by default.",
)  # fmt: skip
@json_option
def report(run: Path, forms: tuple[str, ...], as_json: bool) -> None:
    """Write the report of a finished run or audit: page, PDF, Markdown, model card, Croissant.

    What no tool can know is asked in RUN/report.toml and stands as open until it is answered there.
    """
    from fairsims.report.forms import find_run, unwritten, write_reports
    from fairsims.report.open_fields import FIELDS, FILE, open_ids, read_fields
    from fairsims.run import SIGNATURE

    folder = find_run(run)
    written = write_reports(folder, forms)
    still = open_ids(read_fields(folder))
    if as_json:
        click.echo(json.dumps({"written": [str(p) for p in written], "open": still}))
        return
    for file in written:
        click.echo(file)
    for reason in [] if forms else unwritten(folder):
        click.echo(reason, err=True)
    if still:
        click.echo(f"{len(still)} of {len(FIELDS)} questions are open; answer them in {folder / FILE}", err=True)
    if (folder / SIGNATURE).exists():
        click.echo("this run was signed before: its signature does not fit the new report; sign it again", err=True)


@click.command()
@click.argument("path_or_name", required=False)
@json_option
def info(path_or_name: str | None, as_json: bool) -> None:
    """What is installed and embedded, or what a checkpoint, pool or run is."""
    from fairsims import jobs

    show(jobs.describe_path(path_or_name) if path_or_name else jobs.overview(), as_json)


@click.command()
@click.argument("runs", type=path, default=Path("runs"))
@click.option("--port", type=int, help="Port on this machine; Streamlit's choice by default.")
@click.option("--headless", is_flag=True, help="Do not open a browser.")
def dashboard(runs: Path, port: int | None, headless: bool) -> None:
    """Show runs in the browser (this machine only)."""
    from fairsims.dashboard.launch import launch_dashboard

    launch_dashboard(runs, port=port, headless=headless)
