"""Recipes of comparisons of ways to a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fairsims import jobs
from fairsims.files import read_json
from fairsims.recipes.run import Report, Row, Run, retarget_config
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.job import prepare

COLUMNS = (
    "fd_target", "fd_reference", "precision", "recall", "steps", "evaluations_per_image", "images_per_kept",
    "evaluations_per_kept", "training_kimg", "strength",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Comparison(Run):
    """`fairsims compare`."""

    config: RetargetConfig

    keys = ("arm", "target", "seed")

    @classmethod
    def of(cls, recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Self:
        config = retarget_config(recipe, {**options, "mode": "guided"})
        return cls(folder=root / f"{config.label}-seed{config.seed}", config=config)

    @property
    def seed(self) -> int:
        return self.config.seed

    def carry_out(self, earlier: Sequence[Run], *, report: Report, command: str) -> None:
        jobs.run_compare(prepare(self.config), self.folder, report=report, command=command)

    def rows(self) -> list[Row]:
        """A row for each way to the target: where the class that ends up furthest off lies, quality, cost."""
        path, found = self.folder / "compare.json", []
        result = read_json(path) if path.exists() else {"arms": []}
        for arm in result["arms"]:
            worst = arm["worst"]
            row = {"arm": arm["arm"], "target": result["target"][worst], "seed": self.seed, "worst": worst}
            row |= {"after": arm[f"share.{worst}"], "low": arm[f"low.{worst}"], "high": arm[f"high.{worst}"]}
            found.append(row | {k: arm[k] for k in COLUMNS if k in arm})
        return found
