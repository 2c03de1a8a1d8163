"""`fairsims collapse`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command_line, json_option, path, seed_option
from fairsims.errors import InputError


@click.command()
@click.option(
    "--setting", default="gaussian", show_default=True,
    help="gaussian, mixture, kde, digits, emoji-people, or a path to images (with --classifier).",
)  # fmt: skip
@click.option(
    "--loop", type=click.Choice(["synthetic", "augmentation", "fresh"]), default="augmentation", show_default=True,
    help="Train on the last generation's samples alone, with a fixed real set, or with fresh real data.",
)  # fmt: skip
@click.option("--alpha", metavar="A,A,...", help="Fresh loop: share of new real samples, e.g. 0.1,0.5,0.9.")
@click.option("--synthetic-ratio", metavar="R,R,...", help="Augmentation: synthetic points per real one; 1 by default.")
@click.option("--method", type=click.Choice(["standard", "sims", "both"]), default="both", show_default=True)
@click.option("--generations", type=int, help="Generations; the setting's default when not given, as all below.")
@click.option("--repeats", type=int, help="Independent repeats, for intervals.")
@click.option("--n", type=int, help="Real points or images of generation 1.")
@click.option("--omega", type=float, help="Strength of SIMS's guidance; 1 by default.")
@click.option("--budget", type=float, help="Training of the auxiliary: kimg; gaussian: time constants of its fit.")
@click.option("--auxiliary-size", type=float, help="Own samples the auxiliary learns, per point of generation 1.")
@click.option("--auxiliary", type=click.Choice(["copy", "narrow"]), help="Fine-tuned copy, or a narrower network.")
@click.option("--kimg", type=float, help="Training of each generation's base.")
@click.option("--width", type=int, help="Width of the mixture's network.")
@click.option("--h", type=float, help="Bandwidth of kde's kernels.")
@click.option("--steps", type=int, help="Noise levels of the sampler.")
@click.option("--solver", type=click.Choice(["heun", "euler"]), help="ODE solver.")
@click.option("--samples", type=int, help="Points or images each generation is measured on.")
@click.option("--classifier", help="Classifier folder or embedded name, for images.")
@click.option(
    "--threshold/--no-threshold", default=None,
    help="Bisect for the largest synthetic share without drift; by default with gaussian augmentation alone.",
)  # fmt: skip
@seed_option
@click.option("--out", type=path, required=True, help="Folder; resumes when begun.")
@json_option
def collapse(
    loop: str, alpha: str | None, synthetic_ratio: str | None, method: str, threshold: bool | None, out: Path,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train generation after generation on its own samples, with and without SIMS, and measure the drift.

    The same command again resumes.
    """
    from fairsims.collapse.config import METHODS, CollapseConfig
    from fairsims.collapse.loops import run_loops
    from fairsims.report.collapse_figures import collapse_figures
    from fairsims.report.collapse_report import collapse_table, write_collapse_report

    levels = levels_of(loop, alpha, synthetic_ratio)
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
        click.echo(collapse_table(result))
        click.echo(
            f"\ntable   {out / 'collapse.parquet'}\nfigures {' '.join(map(str, drawn[:-1]))}\nreport  {drawn[-1]}"
        )


def levels_of(loop: str, alpha: str | None, ratio: str | None) -> tuple[float, ...] | None:
    """The levels of a loop from the option that belongs to it. Raises InputError for the other one."""
    asked = {"--alpha": alpha, "--synthetic-ratio": ratio}
    own = {"fresh": "--alpha", "augmentation": "--synthetic-ratio"}.get(loop)
    for option, text in asked.items():
        if option != own and text is not None:
            belongs = "the fresh loop" if option == "--alpha" else "augmentation"
            raise InputError(f"found {option} with the loop {loop!r}; it belongs to {belongs}: leave it out")
    text = asked[own] if own else None
    if own == "--alpha" and text is None:
        text = "0.5"
    if text is None:
        return None
    try:
        levels = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{own} is {text!r}; expected numbers with commas between, such as 0.1,0.5") from None
    highest = 1.0 if own == "--alpha" else math.inf
    if len(set(levels)) != len(levels) or not all(0 <= v <= highest for v in levels):
        limit = "from 0 to 1" if own == "--alpha" else "of 0 or more"
        raise InputError(f"{own} is {text!r}; expected numbers {limit}, each once")
    return levels
