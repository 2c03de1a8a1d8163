"""`fairsims audit`, `info` and `dashboard`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import (
    attr_option,
    classifier_option,
    command_line,
    json_option,
    path,
    show,
    target_option,
)


@click.command()
@click.option("--before", type=path, required=True, help="Pool of the model as it was.")
@click.option("--after", type=path, help="Pool of the model as it is.")
@attr_option
@target_option
@classifier_option
@click.option("--reference", help="Labelled real data for the Fréchet distances: embedded name or path.")
@click.option("--split", help="Held-out split whose errors correct the shares.")
@click.option("--tolerance", type=float, default=0.03, show_default=True)
@click.option("--out", type=path, required=True, help="Folder for audit/ and report.html.")
@json_option
def audit(before: Path, after: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """Measure shares and quality of pools before and after."""
    from fairsims import jobs
    from fairsims.report.terminal import terminal_table

    result = jobs.audit_pools(before, after, out, command=command_line(), **options)
    click.echo(json.dumps(result) if as_json else f"{terminal_table(result)}\n\nreport  {out / 'report.html'}")


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
    from fairsims.report.dashboard import launch_dashboard

    launch_dashboard(runs, port=port, headless=headless)
