"""`fairsims sweep`."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from fairsims.cli.common import (
    Bars,
    command_line,
    fine_tuning_options,
    json_option,
    model_option,
    path,
    reference_option,
    sampling_options,
    say,
    steps_option,
    values_of,
)
from fairsims.errors import InputError

T = TypeVar("T")


@click.command()
@model_option
@click.option("--attr", help="Attribute; the classifier's when one is given.")
@click.option(
    "--target",
    default="base",
    show_default=True,
    help="0.5, uniform or woman=0.3,man=0.7; base: the auxiliary learns the pool as it is, for quality alone (SIMS).",
)
@click.option("--classifier", help="Classifier folder or embedded name; the one that fits by default.")
@reference_option
@click.option("--budgets", default="4.8,9.6,19.2", show_default=True, help="Fine-tuning of the auxiliary, kimg.")
@click.option("--omegas", default="0.5,1,1.5,2", show_default=True, help="Strengths; the base comes by itself.")
@click.option("--sizes", default="all", show_default=True, help="Images in the synthetic set, e.g. all,1024.")
@click.option("--modes", default="merged", show_default=True, help="merged, guided or both.")
@click.option(
    "--intervals", default="none", show_default=True, help="Guided: noise levels with the auxiliary, e.g. none,0.3:5."
)
@click.option("--images", type=int, default=512, show_default=True, help="Images of each point.")
@click.option("--auxiliary/--no-auxiliary", default=True, help="Measure each auxiliary by itself too.")
@click.option(
    "--confirm", type=int, default=0, show_default=True, help="Audit images to measure base and best points again on."
)
@click.option("--pool", type=int, default=3072, show_default=True, help="Images of the base to draw sets from.")
@fine_tuning_options
@click.option("--tolerance", type=float, default=0.03, show_default=True, help="Near the target: within this.")
@steps_option
@sampling_options
@click.option("--out", type=path, required=True, help="Folder; resumes when begun.")
@json_option
def sweep(
    attr: str | None, target: str, classifier: str | None, budgets: str, omegas: str, sizes: str, modes: str,
    intervals: str, images: int, auxiliary: bool, confirm: int, finetune: tuple[str, ...], precision: str, out: Path,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Measure share and quality over budgets, strengths and set sizes. The same command again resumes."""
    import pandas as pd

    from fairsims import jobs
    from fairsims.report.sweep_table import sweep_table
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.grid import SweepConfig

    run = RetargetConfig(
        attr=attr or jobs.attribute_of(classifier), target="uniform" if target == "base" else target,
        classifier=classifier, finetune=values_of(finetune), precision=jobs.resolve_precision(precision), **options,
    )  # fmt: skip
    config = SweepConfig(
        run=run,
        steer=target != "base",
        budgets=listed("--budgets", budgets, float),
        omegas=listed("--omegas", omegas, float),
        sizes=listed("--sizes", sizes, lambda s: None if s == "all" else int(s)),
        modes=listed("--modes", modes, str),
        intervals=listed("--intervals", intervals, interval),
        images=images,
        auxiliary=auxiliary,
        confirm=confirm,
    )
    with Bars() as bars:
        result = jobs.run_sweep(config, out, report=bars.report, command=command_line())
    table = sweep_table(pd.read_parquet(out / "sweep.parquet"), result)
    table += f"\n\ntable   {out / 'sweep.parquet'}\nfigures {' '.join(map(str, sorted(out.glob('*.png'))))}"
    say(json.dumps({"sweep": str(out), **result}) if as_json else table)


def listed(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """`0.5,1` as values. Raises InputError naming the option when one cannot be read."""
    try:
        return tuple(kind(part.strip()) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; expected values with commas between, as in --help") from None


def interval(text: str) -> tuple[float, float] | None:
    """`none` or `0.3:5`."""
    if text == "none":
        return None
    low, high = map(float, text.split(":"))
    if not 0 <= low < high < math.inf:
        raise ValueError(f"found {text}; expected two finite noise levels, the lower first")
    return low, high
