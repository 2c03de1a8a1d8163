"""`fairsims collapse`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command, command_line
from fairsims.cli.options import NUMBERS, json_option, option, out_option, settings
from fairsims.errors import InputError

COLLAPSE = "fairsims.collapse.config:CollapseConfig"
LEVELS = {"--alpha": ("fresh", "the fresh loop"), "--synthetic-ratio": ("augmentation", "augmentation")}
"""The option of a loop's levels: the loop it belongs to, and that one in words."""


@command()
@option(COLLAPSE, "setting", required=False, default="gaussian", show_default=True)
@option(COLLAPSE, "loop")
@click.option("--alpha", type=NUMBERS, help="Fresh loop: shares of new real samples, 0.5 by default.")
@click.option("--synthetic-ratio", type=NUMBERS, help="Augmentation: synthetic points per real one, 1 by default.")
@click.option(
    "--method",
    type=click.Choice(["standard", "sims", "both"]),
    default="both",
    show_default=True,
    help="Without guidance away from an auxiliary (standard), with it (sims), or both.",
)
@settings(COLLAPSE, without=("setting", "loop", "levels", "methods", "seed"), unset=True)
@click.option(
    "--threshold/--no-threshold",
    default=None,
    help="Bisect for the largest synthetic share without drift; by default with gaussian augmentation alone.",
)
@option(COLLAPSE, "seed")
@out_option
@json_option
def collapse(
    loop: str,
    alpha: tuple[float, ...] | None,
    synthetic_ratio: tuple[float, ...] | None,
    method: str,
    threshold: bool | None,
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train generation after generation on its own samples, with and without SIMS, and measure the drift.

    What is not given has the default of the setting. The same command again resumes.
    """
    from fairsims.collapse.config import METHODS, CollapseConfig
    from fairsims.collapse.loops import run_loops
    from fairsims.report.collapse_figures import collapse_figures
    from fairsims.report.collapse_report import collapse_text, write_collapse_report

    levels = levels_of(loop, {"--alpha": alpha, "--synthetic-ratio": synthetic_ratio})
    methods = METHODS if method == "both" else (method,)
    config = CollapseConfig.of(loop=loop, levels=levels, methods=methods, **options)
    if threshold is None:
        threshold = config.setting == "gaussian" and loop == "augmentation"
    drawn: list[Path] = []

    def publish(folder: Path) -> None:
        drawn.extend([*collapse_figures(folder), write_collapse_report(folder)])

    with Bars(" generations") as bars:
        result = run_loops(
            config, out, threshold=threshold, progress=bars.report, publish=publish, command=command_line()
        )
    if as_json:
        click.echo(json.dumps({"collapse": str(out), **result}))
    else:
        click.echo(collapse_text(result))
        click.echo(
            f"\ntable   {out / 'collapse.parquet'}\nfigures {' '.join(map(str, drawn[:-1]))}\nreport  {drawn[-1]}"
        )


def levels_of(loop: str, given: dict[str, tuple[float, ...] | None]) -> tuple[float, ...] | None:
    """The levels of a loop from the option that belongs to it. Raises InputError for the other one."""
    for flag, (owner, words) in LEVELS.items():
        if owner != loop and given[flag] is not None:
            raise InputError(f"found {flag} with the loop {loop!r}; it belongs to {words}: leave it out")
    flag = next((f for f, (owner, _) in LEVELS.items() if owner == loop), "")
    levels, highest = given.get(flag), 1.0 if loop == "fresh" else math.inf
    if levels is None:
        return (0.5,) if loop == "fresh" else None
    if len(set(levels)) != len(levels) or not all(0 <= v <= highest for v in levels):
        limit = "from 0 to 1" if loop == "fresh" else "of 0 or more"
        raise InputError(f"{flag} is {','.join(f'{v:g}' for v in levels)}; expected numbers {limit}, each once")
    return levels
