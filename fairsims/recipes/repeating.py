"""The runs of a recipe, and the table of what they reached."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.recipes.entries import Comparison, Entry, Loop, Sweep
from fairsims.recipes.prompts import ArmsOverPrompts, OverPrompts
from fairsims.recipes.recipe import Recipe
from fairsims.recipes.retargeting import Retargeting

ENTRIES: dict[str, type[Entry]] = {
    "retarget": Retargeting,
    "compare": Comparison,
    "sweep": Sweep,
    "collapse": Loop,
    "prompts": OverPrompts,
    "prompt-compare": ArmsOverPrompts,
}
"""By the kinds of recipes that need no files of the user's own."""


def runs_of(recipe: Recipe, root: Path | None = None) -> list[Entry]:
    """The runs of a recipe in order, each in its folder below `root`. Raises InputError for settings that none has."""
    kind = ENTRIES.get(recipe.kind)
    if kind is None:
        raise InputError(
            f"{recipe.name} needs files of your own, which {recipe.folder / 'README.md'} names; "
            f"carry it out with: python {recipe.folder.parent / 'paper.py'} {recipe.name}"
        )
    try:
        return [kind.of(recipe.value, options, (root or kind.root) / recipe.name) for options in recipe.value["runs"]]
    except (InputError, ValueError, KeyError) as e:
        missing = f"there is no {e}" if isinstance(e, KeyError) else e
        raise InputError(f"{recipe.folder / 'recipe.toml'}: {missing}; mend it") from None


def table_of(runs: Sequence[Entry]) -> pd.DataFrame:
    """A row or more for every finished run."""
    return pd.DataFrame([row for run in runs for row in run.rows()])


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a `results.csv`."""
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.4f")
