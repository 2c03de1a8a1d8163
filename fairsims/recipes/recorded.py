"""What differs between the results of a recipe as recorded and as they came out again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims.errors import InputError
from fairsims.retarget import EARLIER

LEFT_OUT = ("seconds", "peak_memory_gb")
"""Starts of columns that another machine changes."""
AS_RECORDED, DIFFERS, OUTSIDE = "as recorded", "differs", "outside"
NOT_RECORDED, NOT_RUN = "not recorded", "not run here"
NUMBERS = ("interval", "target", "seed", "level", "size", "budget_kimg", "strength")
"""Keys whose value says nothing without the name."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value that is another now."""

    column: str
    recorded: str
    now: str
    relative: float | None = None
    """By how much it differs, of what was recorded; None for text and for a recorded 0."""
    limits: tuple[float, float] | None = None
    """The recorded 95% interval, of values that have one."""

    @property
    def outside(self) -> bool:
        return self.limits is not None and not self.limits[0] <= float(self.now) <= self.limits[1]


@dataclass(frozen=True, kw_only=True)
class Found:
    """One row."""

    row: str
    changes: tuple[Change, ...] = ()
    only: str = ""
    """`NOT_RECORDED` or `NOT_RUN`, of a row on one side."""

    @property
    def state(self) -> str:
        if self.only or not self.changes:
            return self.only or AS_RECORDED
        return OUTSIDE if any(c.outside for c in self.changes) else DIFFERS


def read_results(path: Path) -> pd.DataFrame:
    """A `results.csv` as text, so that equal means written alike. Raises InputError for a broken one."""
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=EARLIER)
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is no table of results ({e}); restore it") from None


def differences(recorded: pd.DataFrame, now: pd.DataFrame, keys: Sequence[str]) -> list[Found]:
    """Row by row, those recorded first and in their order; `keys` are the columns that say which row is which.

    Columns that one side lacks are not compared.
    """
    keys = [k for k in keys if k in recorded and k in now]
    before, after = _by_key(recorded, keys), _by_key(now, keys)
    columns = [c for c in map(str, recorded) if c in now and c not in keys and not c.startswith(LEFT_OUT)]
    found = [
        Found(row=_named(key, keys), changes=tuple(_changes(row, after[key], columns)))
        if key in after
        else Found(row=_named(key, keys), only=NOT_RUN)
        for key, row in before.items()
    ]
    return found + [Found(row=_named(key, keys), only=NOT_RECORDED) for key in after if key not in before]


def _by_key(table: pd.DataFrame, keys: list[str]) -> dict[tuple[str, ...], dict[str, str]]:
    """Rows by their keys; of several with the same keys, each by how many came before it too."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    seen = Counter[tuple[str, ...]]()
    for row in table.to_dict("records"):
        key = tuple(_text(row[k]) for k in keys)
        seen[key] += 1
        found[(*key, f"#{seen[key]}") if seen[key] > 1 else key] = {str(k): str(v) for k, v in row.items()}
    return found


def _changes(recorded: Mapping[str, str], now: Mapping[str, str], columns: list[str]) -> Iterator[Change]:
    for column in columns:
        old, new = recorded[column], now[column]
        # What was not measured then can't be held against anything.
        if old in ("", new):
            continue
        a, b = _number(old), _number(new)
        if a is None or b is None:
            yield Change(column=column, recorded=old, now=new)
        elif a != b:
            relative = (b - a) / abs(a) if a and math.isfinite(b - a) else None
            yield Change(column=column, recorded=old, now=new, relative=relative, limits=_limits(recorded, column))


def _limits(recorded: Mapping[str, str], column: str) -> tuple[float, float] | None:
    """The interval of a value: of the share after the run's low and high, of `x_mean` and `x_share` their own."""
    start = "" if column == "after" else column.rpartition("_")[0] + "_"
    if column != "after" and not column.endswith(("_mean", "_share")):
        return None
    low, high = (_number(recorded.get(start + end, "")) for end in ("low", "high"))
    return None if low is None or high is None else (low, high)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(value: Any) -> str:
    number = _number(value)
    return str(value) if number is None else f"{number:g}"


def _named(key: tuple[str, ...], keys: list[str]) -> str:
    """`merged, target 0.5, seed 0`: numbers with what they are."""
    told = [f"{k} {part}" if k in NUMBERS else part for k, part in zip(keys, key, strict=False) if part]
    return ", ".join([*told, *key[len(keys) :]])
