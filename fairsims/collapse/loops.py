"""Running loops: every cell generation by generation, resumable, into a table and `collapse.json`."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from fairsims import __version__
from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.gaussian import GaussianLoop, Row, State
from fairsims.collapse.measures import Interval
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.run import Progress, Run, silent

FORMAT = "fairsims-collapse/1"
SAVE_SECONDS = 5.0
"""Generations that follow faster than this are saved together."""


class Loop(Protocol):
    """One setting: how a generation is trained on the last one and measured.

    The same arguments give the same result, whatever was done before: that is what resuming stands on.
    """

    headline: str
    """The measure of drift that is drawn first and that thresholds are about."""
    n: int
    """Real points of generation 1."""

    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        """Generation g (from 1; `state` is then empty) and a row of measures per repeat."""
        ...


def loop_of(config: CollapseConfig, folder: Path, progress: Progress = silent) -> Loop:
    """The setting of a configuration. Raises InputError when its data cannot be used."""
    if config.setting == "gaussian":
        return GaussianLoop(config)
    if config.setting == "kde":
        from fairsims.collapse.kde import KernelLoop

        return KernelLoop(config)
    if config.setting == "mixture":
        from fairsims.collapse.mixture import MixtureLoop

        return MixtureLoop(config)
    from fairsims.collapse.images import ImageLoop

    return ImageLoop(config, folder, progress)


def run_loops(
    config: CollapseConfig,
    out: Path,
    *,
    threshold: bool = False,
    progress: Progress = silent,
    publish: Callable[[Path], None] = lambda _: None,
    command: str = "",
) -> dict[str, Any]:
    """Run every cell into `out`; returns the content of its `collapse.json`. The same call resumes a killed one.

    With `threshold` the largest synthetic share without drift is looked for (`fairsims.collapse.threshold`). `publish`
    makes figures and a report of the result before the manifest is written.
    Raises ChangedSettings when the folder holds loops with other settings, InputError when the data cannot be used.
    """
    if threshold and config.loop != "augmentation":
        raise InputError(f"found loop {config.loop!r} with a threshold; expected augmentation, where the share is free")
    started = time.perf_counter()
    loop = loop_of(config, out, progress)
    settings = config.as_dict() | {"data_digest": getattr(loop, "digest", None)}
    with Run(out, settings, progress=progress) as run:
        with run.stage("generations"):
            result = _result(config, loop, out, threshold, progress) | {"command": command}
        result["seconds"] = _seconds(out, time.perf_counter() - started)
        write_json(out / "collapse.json", result)
        publish(out)
        run.finish()
    return result


def _result(config: CollapseConfig, loop: Loop, out: Path, threshold: bool, progress: Progress) -> dict[str, Any]:
    """Every cell, the table of all and what `collapse.json` says of them."""
    tables = {cell: run_cell(loop, cell, config, out / "cells" / cell.name, progress) for cell in config.cells()}
    table = pd.concat([_labelled(config, loop, cell, rows) for cell, rows in tables.items()], ignore_index=True)
    with atomic(out / "collapse.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    result = {
        "format": FORMAT, "fairsims": __version__, "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "machine": machine(), "settings": config.as_dict(), "n": loop.n,
        "headline": loop.headline, "facts": getattr(loop, "facts", {}),
        "cells": [_summary(config, loop, cell, rows) for cell, rows in tables.items()],
        "theory": theory_of(config, loop, out, progress), "threshold": None,
    }  # fmt: skip
    if threshold:
        from fairsims.collapse.threshold import find_thresholds

        result["threshold"] = find_thresholds(config, loop, out / "threshold", progress)
    return result


def run_cell(loop: Loop, cell: Cell, config: CollapseConfig, folder: Path, progress: Progress) -> list[list[Row]]:
    """Rows of every generation and repeat of one cell, `[generation][repeat]`."""
    finished, saved = folder / "rows.json", folder / "state.npz"
    if finished.exists():
        return list(read_json(finished)["rows"])
    state, rows = _read_state(saved) if saved.exists() else ({}, [])
    clock = time.monotonic()
    while len(rows) < config.generations:
        state, new = loop.generation(len(rows) + 1, cell, state)
        rows.append([{k: v if v is not None and np.isfinite(v) else None for k, v in row.items()} for row in new])
        progress(cell.name, len(rows), config.generations)
        if time.monotonic() - clock > SAVE_SECONDS:
            _write_state(saved, state, rows)
            clock = time.monotonic()
    write_json(finished, {"rows": rows})
    saved.unlink(missing_ok=True)
    return rows


def theory_of(config: CollapseConfig, loop: Loop, out: Path, progress: Progress) -> dict[str, Any]:
    """What theory says of the headline, generation by generation, per cell; for kernels also the bounds."""
    found: dict[str, Any] = {"curves": {}, "bounds": []}
    for cell in config.cells():
        curve = None
        if config.setting == "gaussian":
            exact, state = GaussianLoop(config, noise=False), State()
            curve = []
            for g in range(1, config.generations + 1):
                state, rows = exact.generation(g, cell, state)
                curve.append(rows[0]["w2"])
        elif config.setting == "kde":
            curve = loop.theory(cell)  # type: ignore[attr-defined]
        if curve is not None:
            found["curves"][cell.name] = curve
    if config.setting == "kde" and config.loop == "fresh":
        from fairsims.collapse.kde_theory import generation_bounds

        for alpha in config.levels:
            for i in range(config.generations):
                path = out / "bounds" / f"{alpha:g}-{i:03d}.json"
                if not path.exists():
                    write_json(path, generation_bounds(alpha, i, config.h, seed=config.seed).as_dict())
                found["bounds"].append(read_json(path))
                progress("bounds", len(found["bounds"]), len(config.levels) * config.generations)
    return found


def machine() -> dict[str, Any]:
    """What the numbers were computed on."""
    return {
        "system": platform.system(), "machine": platform.machine(), "cpus": os.cpu_count(),
        "python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }  # fmt: skip


def _labelled(config: CollapseConfig, loop: Loop, cell: Cell, rows: list[list[Row]]) -> pd.DataFrame:
    """The cell's part of `collapse.parquet`: a row per generation and repeat."""
    keys = {"setting": config.setting, "loop": config.loop, "method": cell.method, "level": cell.level}
    return pd.DataFrame(
        [
            keys | {"share": _share(config, loop, cell, g), "generation": g, "repeat": r} | row
            for g, of in enumerate(rows, 1)
            for r, row in enumerate(of)
        ]
    )


def _summary(config: CollapseConfig, loop: Loop, cell: Cell, rows: list[list[Row]]) -> dict[str, Any]:
    """Means over repeats with intervals, per generation, and the change from the first to the last."""
    series = {name: [column(of, name) for of in rows] for name in rows[0][0]}
    first, last = series[loop.headline][0], series[loop.headline][-1]
    change = {
        "first": asdict(Interval.over(first)),
        "last": asdict(Interval.over(last)),
        "growth": float(last.mean() / first.mean()) if first.mean() else None,
        "difference": asdict(Interval.over(last - first)),
    }
    return {
        "name": cell.name, "method": cell.method, "level": cell.level, "share": _share(config, loop, cell, 2),
        "measures": {name: [_finite(Interval.over(v)) for v in values] for name, values in series.items()},
        "change": change,
    }  # fmt: skip


def column(rows: list[Row], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """One measure over repeats, `(R,)`; what is infinite is stored as None."""
    return np.array([np.inf if row[name] is None else row[name] for row in rows], dtype=np.float64)


def _finite(interval: Interval) -> dict[str, float | None]:
    return {k: v if v is not None and np.isfinite(v) else None for k, v in asdict(interval).items()}


def _share(config: CollapseConfig, loop: Loop, cell: Cell, generation: int) -> float:
    return config.composition(cell.level, generation, loop.n).share


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


def _seconds(out: Path, now: float) -> float:
    """Time over all calls that worked on the folder; one that a kill ended is not counted."""
    earlier: Mapping[str, Any] = read_json(out / "collapse.json") if (out / "collapse.json").exists() else {}
    return round(float(earlier.get("seconds", 0)) + now, 1)
