"""`fairsims retarget`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import (
    Bars,
    attr_option,
    batch_option,
    budget_option,
    cap_option,
    classifier_option,
    command_line,
    floor_option,
    json_option,
    lr_option,
    model_option,
    omega_option,
    path,
    precision_option,
    seed_option,
    show,
    size_option,
    sizes_of,
    steps_option,
    target_option,
)


@click.command()
@model_option
@attr_option
@target_option
@click.option(
    "--mode",
    type=click.Choice(["merged", "guided"]),
    default="merged",
    show_default=True,
    help="One network, or two (SIMS).",
)
@classifier_option
@click.option("--reference", help="Labelled real data for the audit; the base's training data by default.")
@click.option("--out", type=path, help="Run folder; by default runs/NNNNN-ATTR-TARGET, resumed when begun.")
@click.option("--runs", type=path, default=Path("runs"), show_default=True, help="Where numbered run folders go.")
@click.option("--pool", type=int, default=3072, show_default=True, help="Images of the base to label and draw from.")
@budget_option
@batch_option
@lr_option
@omega_option
@cap_option
@floor_option
@size_option
@click.option("--pilots", default="512,1024,3072", show_default=True, help="Calibration images of each pilot.")
@click.option("--audit", type=int, default=2048, show_default=True, help="Audit images, before and after each.")
@click.option(
    "--tolerance", type=float, default=0.03, show_default=True, help="Reached: interval inside target +- this."
)
@steps_option
@click.option("--sample-batch", type=int, default=128, show_default=True, help="Images sampled at once.")
@precision_option
@seed_option
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and its cost, and stop.")
@json_option
def retarget(
    out: Path | None, runs: Path, pilots: str, precision: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Retarget a model to a mix of classes, with audit and report. The same command again resumes."""
    from fairsims import jobs
    from fairsims.report.terminal import terminal_table
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.pipeline import prepare

    sizes = sizes_of(pilots)
    config = RetargetConfig(**options, pilots=sizes, precision=jobs.resolve_precision(precision))
    job = prepare(config)
    if dry_run:
        show(jobs.dry_run(job), as_json)
        return
    run = out or jobs.find_run(job, runs)
    with Bars() as bars:
        result = jobs.run_retarget(job, run, report=bars.report, command=command_line())
    if as_json:
        click.echo(json.dumps({"run": str(run), **result}))
    else:
        click.echo(terminal_table(result))
        click.echo(f"\nreport  {run / 'report.html'}\nmodel   {run / config.mode}")
