"""Recipes of sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pandas as pd

from fairsims import jobs
from fairsims.files import read_json
from fairsims.recipes.run import Report, Row, Run, retarget_config
from fairsims.retarget.grid import SweepConfig

COLUMNS = (
    "linear", "linear_measured", "fd_target", "fd_reference", "precision", "recall", "nearest_median", "nfe", "images",
    "seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Sweep(Run):
    """`fairsims sweep`."""

    config: SweepConfig

    keys = ("use", "mode", "size", "budget_kimg", "interval", "omega", "target", "seed")

    @classmethod
    def of(cls, recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Self:
        settings = {**options}
        grid, target = settings.pop("grid"), settings.get("target", "base")
        run = retarget_config(recipe, settings | ({"target": "uniform"} if target == "base" else {}))
        name = f"{run.attrs[0]}-base" if target == "base" else run.label
        config = SweepConfig.read(grid, run=run, steer=target != "base")
        return cls(folder=root / f"{name}-seed{run.seed}", config=config)

    @property
    def seed(self) -> int:
        return self.config.run.seed

    def carry_out(self, earlier: Sequence[Run], *, report: Report, command: str) -> None:
        jobs.run_sweep(self.config, self.folder, report=report, command=command)

    def rows(self) -> list[Row]:
        """A row per point, and one for each that was confirmed on audit seeds."""
        path = self.folder / "sweep.json"
        if not path.exists():
            return []
        result, table = read_json(path), pd.read_parquet(self.folder / "sweep.parquet")
        points = table.astype(object).where(table.notna(), None).to_dict("records")
        return [self._row("points", p, result) for p in points] + [
            self._row("confirmed", p, result) for p in result["confirmed"].values()
        ]

    def _row(self, use: str, point: Mapping[Any, Any], result: Mapping[str, Any]) -> Row:
        row: Row = {"use": use, **{k: point[k] for k in ("mode", "size", "budget_kimg", "interval", "omega")}}
        row |= {"target": result["target_share"], "seed": self.seed}
        if result["target_share"] is not None:
            row["after"] = point["share"]
            if len(result["focus"]) == 1:
                row |= {end: point[f"{end}.{result['focus'][0]}"] for end in ("low", "high")}
        return row | {k: point[k] for k in COLUMNS if k in point}
