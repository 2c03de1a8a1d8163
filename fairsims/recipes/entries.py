"""The entries [[runs]] of a recipe, a class for each kind: how one is carried out, and its rows of the results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from fairsims.collapse.config import CollapseConfig
from fairsims.collapse.loops import run_loops
from fairsims.files import read_json
from fairsims.models.precondition import resolve_precision
from fairsims.options import from_mapping
from fairsims.report.collapse_figures import collapse_figures
from fairsims.report.collapse_report import write_collapse_report
from fairsims.report.comparison import write_comparison
from fairsims.report.sweep_figures import sweep_figures
from fairsims.report.sweep_table import read_points
from fairsims.retarget import EARLIER
from fairsims.retarget.compare import compare
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import SweepConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.sweep import sweep
from fairsims.run import Progress

Row = dict[str, Any]
Table = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry(ABC):
    """A run and its folder."""

    folder: Path
    config: Any

    root: ClassVar[Path] = Path("runs/audits")
    """Where the folders of recipes of this kind are, when nothing else is asked for."""
    keys: ClassVar[tuple[str, ...]]
    """Columns of the results that say which row is which."""
    result: ClassVar[str]
    """File of the folder that says what was reached; it is there when the run is finished."""

    @classmethod
    @abstractmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        """The run that `options`, a table [[runs]], describes, below `root`.

        Raises InputError for settings that none has, KeyError for one that is missing, ValueError for values that it
        cannot take.
        """

    @property
    def seed(self) -> int:
        """The seed of all its randomness."""
        return int(self.config.seed)

    @abstractmethod
    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        """Make it, or go on with it; `earlier` runs, the nearest first, may have made parts of it already."""

    def rows(self) -> list[Row]:
        """What it reached; nothing until it is finished."""
        path = self.folder / self.result
        return self._rows(read_json(path)) if path.exists() else []

    @abstractmethod
    def _rows(self, result: Table) -> list[Row]:
        """Rows of the results from the content of the file `result`."""


def retarget_config(recipe: Table, options: Table) -> RetargetConfig:
    """The settings of a run over the recipe's defaults, those of its mode between them."""
    settings = {"precision": resolve_precision("auto")} | recipe.get("defaults", {})
    settings |= recipe.get(options.get("mode", RetargetConfig.mode), {}) | options
    return from_mapping(RetargetConfig, settings)


@dataclass(frozen=True, kw_only=True)
class Comparison(Entry):
    """`fairsims compare`."""

    config: RetargetConfig

    keys = ("arm", "target", "seed")
    result = "compare.json"
    measured = ("fd_target", "fd_reference", "precision", "recall")
    spent = ("steps", "evaluations_per_image", "images_per_kept", "evaluations_per_kept", "training_kimg", "strength")

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        config = retarget_config(recipe, {**options, "mode": "guided"})
        return cls(folder=root / f"{config.label}-seed{config.seed}", config=config)

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        work = prepare(self.config, each=False)
        compare(work, self.folder, progress=progress, publish=write_comparison, command=command)

    def _rows(self, result: Table) -> list[Row]:
        """A row for each way to the target: where the class that ends up furthest off lies, quality, cost."""
        found = []
        for arm in result["arms"]:
            worst = arm["worst"]
            row = {"arm": arm["arm"], "target": result["target"][worst], "seed": self.seed, "worst": worst}
            row |= {"after": arm[f"share.{worst}"], "low": arm[f"low.{worst}"], "high": arm[f"high.{worst}"]}
            found.append(row | {k: arm[k] for k in (*self.measured, *self.spent) if k in arm})
        return found


@dataclass(frozen=True, kw_only=True)
class Sweep(Entry):
    """`fairsims sweep`."""

    config: SweepConfig

    keys = ("use", "mode", "size", "budget_kimg", "interval", "strength", "target", "seed")
    result = "sweep.json"
    expected = ("linear", "linear_measured")
    measured = (*Comparison.measured, "nearest_median", "nfe", "images", "seconds")

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        settings = {**options}
        grid, target = settings.pop("grid"), settings.get("target", "base")
        run = retarget_config(recipe, settings | ({"target": "uniform"} if target == "base" else {}))
        name = f"{run.attrs[0]}-base" if target == "base" else run.label
        config = SweepConfig.read(grid, run=run, steer=target != "base")
        return cls(folder=root / f"{name}-seed{run.seed}", config=config)

    @property
    def seed(self) -> int:
        return self.config.run.seed

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        sweep(self.config, self.folder, progress=progress, publish=sweep_figures, command=command)

    def _rows(self, result: Table) -> list[Row]:
        """A row per point, and one for each that was confirmed on audit seeds."""
        table = read_points(self.folder)
        points = table.astype(object).where(table.notna(), None).to_dict("records")
        confirmed = [{EARLIER.get(k, k): v for k, v in row.items()} for row in result["confirmed"].values()]
        uses = [("points", points), ("confirmed", confirmed)]
        return [self._row(use, point, result) for use, of in uses for point in of]

    def _row(self, use: str, point: Mapping[Any, Any], result: Table) -> Row:
        row: Row = {"use": use, **{k: point[k] for k in ("mode", "size", "budget_kimg", "interval", "strength")}}
        row |= {"target": result["target_share"], "seed": self.seed}
        if result["target_share"] is not None:
            row["after"] = point["share"]
            if len(result["focus"]) == 1:
                row |= {end: point[f"{end}.{result['focus'][0]}"] for end in ("low", "high")}
        return row | {k: point[k] for k in (*self.expected, *self.measured) if k in point}


@dataclass(frozen=True, kw_only=True)
class Loop(Entry):
    """`fairsims collapse`."""

    config: CollapseConfig
    threshold: bool = False
    """Whether thresholds are looked for."""

    root = Path("runs/collapse")
    keys = ("run", "method", "level", "measure")
    result = "collapse.json"

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        settings = recipe.get("defaults", {}) | options
        label, threshold = settings.pop("name"), settings.pop("threshold", False)
        config = CollapseConfig.of(settings.pop("setting"), **settings)
        return cls(folder=root / label, config=config, threshold=threshold)

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        def publish(folder: Path) -> None:
            collapse_figures(folder)
            write_collapse_report(folder)

        run_loops(
            self.config, self.folder, threshold=self.threshold, progress=progress, publish=publish, command=command
        )

    def _rows(self, result: Table) -> list[Row]:
        """A row per method and level, and thresholds where they were looked for."""
        label, found = self.folder.name, []
        for cell in result["cells"]:
            change = cell["change"]
            row = {"run": label, "method": cell["method"], "level": cell["level"], "share": cell["share"]}
            row |= {"measure": result["headline"], "first": change["first"]["mean"], "last": change["last"]["mean"]}
            found.append(row | {f"difference_{k}": v for k, v in change["difference"].items()})
        for threshold in (result["threshold"] or {"found": []})["found"]:
            row = {"run": label, "method": threshold["method"], "measure": f"threshold against {threshold['against']}"}
            found.append(row | {f"threshold_{k}": threshold[k] for k in ("share", "low", "high")})
        return found
