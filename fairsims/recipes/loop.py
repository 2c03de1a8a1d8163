"""Recipes of self-consuming loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fairsims.collapse.config import CollapseConfig
from fairsims.collapse.loops import run_loops
from fairsims.files import read_json
from fairsims.recipes.run import Report, Row, Run
from fairsims.report.collapse_figures import collapse_figures
from fairsims.report.collapse_report import write_collapse_report


@dataclass(frozen=True, kw_only=True)
class Loop(Run):
    """`fairsims collapse`."""

    config: CollapseConfig
    threshold: bool = False
    """Whether thresholds are looked for."""

    root = Path("runs/collapse")
    keys = ("run", "method", "level", "measure")

    @classmethod
    def of(cls, recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Self:
        settings = recipe.get("defaults", {}) | options
        label, threshold = settings.pop("name"), settings.pop("threshold", False)
        settings |= {k: tuple(settings[k]) for k in ("levels", "methods") if k in settings}
        config = CollapseConfig.of(settings.pop("setting"), **settings)
        return cls(folder=root / label, config=config, threshold=threshold)

    @property
    def seed(self) -> int:
        return self.config.seed

    def carry_out(self, earlier: Sequence[Run], *, report: Report, command: str) -> None:
        def publish(folder: Path) -> None:
            collapse_figures(folder)
            write_collapse_report(folder)

        run_loops(self.config, self.folder, threshold=self.threshold, progress=report, publish=publish, command=command)

    def rows(self) -> list[Row]:
        """A row per method and level, and thresholds where they were looked for."""
        path, label, found = self.folder / "collapse.json", self.folder.name, []
        if not path.exists():
            return []
        result = read_json(path)
        for cell in result["cells"]:
            change = cell["change"]
            row = {"run": label, "method": cell["method"], "level": cell["level"], "share": cell["share"]}
            row |= {"measure": result["headline"], "first": change["first"]["mean"], "last": change["last"]["mean"]}
            found.append(row | {f"difference_{k}": v for k, v in change["difference"].items()})
        for threshold in (result["threshold"] or {"found": []})["found"]:
            row = {"run": label, "method": threshold["method"], "measure": f"threshold against {threshold['against']}"}
            found.append(row | {f"threshold_{k}": threshold[k] for k in ("share", "low", "high")})
        return found
