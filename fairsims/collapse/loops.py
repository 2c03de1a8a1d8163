"""A run of loops: every cell, into a table and `collapse.json`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fairsims import __version__
from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.gaussian import GaussianLoop
from fairsims.collapse.images import ImageLoop
from fairsims.collapse.kde import KernelLoop
from fairsims.collapse.kde_theory import generation_bounds
from fairsims.collapse.loop import Loop, Row, column, run_cell
from fairsims.collapse.measures import Interval
from fairsims.collapse.mixture import MixtureLoop
from fairsims.collapse.threshold import find_thresholds
from fairsims.errors import InputError
from fairsims.files import atomic, now, read_json, write_json
from fairsims.run import Progress, Run, silent

FORMAT = "fairsims-collapse/1"
LOOPS: dict[str, type[Loop]] = {"gaussian": GaussianLoop, "kde": KernelLoop, "mixture": MixtureLoop}
"""The exact settings; any other is one of images."""

Table = list[list[Row]]
"""`[generation][repeat]`"""


def loop_of(config: CollapseConfig, folder: Path, progress: Progress = silent) -> Loop:
    """The setting of a configuration. Raises InputError when its data cannot be used."""
    exact = LOOPS.get(config.setting)
    return exact(config) if exact else ImageLoop(config, folder, progress)


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
    loop = loop_of(config, out, progress)
    with Run(out, config.as_dict() | {"data_digest": loop.digest}, progress=progress) as run:
        with run.stage("generations"):
            tables = {cell: run_cell(loop, cell, out / "cells" / cell.name, progress) for cell in config.cells}
            with atomic(out / "collapse.parquet") as temporary:
                _table(loop, tables).to_parquet(temporary, index=False)
            result = _result(loop, tables) | {"theory": _theory(loop, out, progress)}
            result["threshold"] = find_thresholds(loop, out / "threshold", progress) if threshold else None
        result |= {"command": command, "seconds": round(sum(run.seconds.values()), 1)}
        write_json(out / "collapse.json", result)
        publish(out)
        run.finish()
    return result


def _table(loop: Loop, tables: dict[Cell, Table]) -> pd.DataFrame:
    """`collapse.parquet`: a row per cell, generation and repeat."""
    keys = {"setting": loop.config.setting, "loop": loop.config.loop}
    return pd.DataFrame(
        keys
        | {"method": cell.method, "level": cell.level, "share": loop.share(cell, g), "generation": g, "repeat": r}
        | row
        for cell, rows in tables.items()
        for g, of in enumerate(rows, 1)
        for r, row in enumerate(of)
    )


def _result(loop: Loop, tables: dict[Cell, Table]) -> dict[str, Any]:
    """What `collapse.json` says of the run and of every cell."""
    return {
        "format": FORMAT,
        "fairsims": __version__,
        "created": now(),
        "machine": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__,
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
        "settings": loop.config.as_dict(),
        "n": loop.n,
        "headline": loop.headline,
        "facts": loop.facts,
        "cells": [_summary(loop, cell, rows) for cell, rows in tables.items()],
    }


def _summary(loop: Loop, cell: Cell, rows: Table) -> dict[str, Any]:
    """Means over repeats with intervals, per generation, and the change from the first to the last."""
    series = {name: [column(of, name) for of in rows] for name in rows[0][0]}
    first, last = series[loop.headline][0], series[loop.headline][-1]
    return {
        "name": cell.name,
        "method": cell.method,
        "level": cell.level,
        "share": loop.share(cell, 2),
        "measures": {name: [Interval.over(v).as_dict() for v in values] for name, values in series.items()},
        "change": {
            "first": Interval.over(first).as_dict(),
            "last": Interval.over(last).as_dict(),
            "growth": float(last.mean() / first.mean()) if first.mean() else None,
            "difference": Interval.over(last - first).as_dict(),
        },
    }


def _theory(loop: Loop, out: Path, progress: Progress) -> dict[str, Any]:
    """What theory says of the headline, generation by generation, per cell; for kernels also the bounds."""
    config = loop.config
    curves = {cell.name: curve for cell in config.cells if (curve := loop.theory(cell)) is not None}
    bounds: list[dict[str, Any]] = []
    steps = [(alpha, i) for alpha in config.levels for i in range(config.generations)]
    for alpha, i in steps if isinstance(loop, KernelLoop) and config.loop == "fresh" else ():
        path = out / "bounds" / f"{alpha:g}-{i:03d}.json"
        if not path.exists():
            write_json(path, generation_bounds(alpha, i, config.h, seed=config.seed).as_dict())
        bounds.append(read_json(path))
        progress("bounds", len(bounds), len(steps))
    return {"curves": curves, "bounds": bounds}
