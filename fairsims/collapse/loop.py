"""What every setting of a loop has: generations that are trained on the last one and measured, and may be resumed."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.measures import FloatArray
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.run import Progress

SAVE_SECONDS = 5.0
"""Generations that follow faster than this are saved together."""

State = dict[str, FloatArray]
"""What a generation leaves to the next one."""
Row = dict[str, float | None]
"""One repeat's measures by name; None is infinite."""


class Loop(ABC):
    """One setting.

    The same arguments give the same generation, whatever was done before: that is what resuming stands on.
    """

    headline: ClassVar[str]
    """The measure of drift that is drawn first and that thresholds are about."""
    digest: str | None = None
    """Of the data, where they are files."""

    def __init__(self, config: CollapseConfig) -> None:
        self.config, self.n = config, config.n or 0

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `collapse.json` says of data and measures."""
        return {}

    @abstractmethod
    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        """Generation g (from 1; `state` is then empty) and a row of measures per repeat."""

    def generations(self, cell: Cell) -> Iterator[list[Row]]:
        """Rows of one generation after another."""
        state: State = {}
        for g in range(1, self.config.generations + 1):
            state, rows = self.generation(g, cell, state)
            yield rows

    def theory(self, cell: Cell) -> list[float] | None:
        """What theory says of the headline in every generation; None where it says nothing."""
        return None

    def share(self, cell: Cell, g: int) -> float:
        """Synthetic share of a generation's training set."""
        return self.config.composition(cell.level, g, self.n).share


def run_cell(loop: Loop, cell: Cell, folder: Path, progress: Progress) -> list[list[Row]]:
    """Rows of every generation and repeat of one cell, `[generation][repeat]`; a killed call is gone on with."""
    finished, saved, total = folder / "rows.json", folder / "state.npz", loop.config.generations
    if finished.exists():
        return list(read_json(finished)["rows"])
    state, rows = _read_state(saved) if saved.exists() else ({}, [])
    clock = time.monotonic()
    while len(rows) < total:
        state, new = loop.generation(len(rows) + 1, cell, state)
        rows.append([{k: v if v is not None and np.isfinite(v) else None for k, v in row.items()} for row in new])
        progress(cell.name, len(rows), total)
        if time.monotonic() - clock > SAVE_SECONDS:
            _write_state(saved, state, rows)
            clock = time.monotonic()
    write_json(finished, {"rows": rows})
    saved.unlink(missing_ok=True)
    return rows


def column(rows: list[Row], name: str) -> FloatArray:
    """One measure over repeats, `(R,)`."""
    return np.array([np.inf if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _write_state(path: Path, state: State, rows: list[list[Row]]) -> None:
    with atomic(path) as temporary, temporary.open("wb") as f:
        np.savez(f, **state, rows=np.frombuffer(json.dumps(rows).encode(), dtype=np.uint8))  # type: ignore[arg-type]


def _read_state(path: Path) -> tuple[State, list[list[Row]]]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        return arrays, json.loads(arrays.pop("rows").tobytes())
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{path} is corrupt ({e}); delete it to run its loop again") from None
