"""What every run of a recipe can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from fairsims import jobs
from fairsims.retarget.config import RetargetConfig

Report = Callable[[str, int, int], None]
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Run(ABC):
    """One run of a recipe in its folder; the subclasses are the kinds of recipes."""

    folder: Path

    root: ClassVar[Path] = Path("runs/audits")
    """Where the folders of recipes of this kind are, when nothing else is asked for."""
    keys: ClassVar[tuple[str, ...]]
    """Columns of the results that say which row is which."""

    @classmethod
    @abstractmethod
    def of(cls, recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Self:
        """The run that a recipe's table [[runs]] describes, below `root`.

        Raises KeyError or TypeError for settings that none has, ValueError for values that it cannot take.
        """

    @property
    @abstractmethod
    def seed(self) -> int:
        """The seed of all its randomness."""

    @abstractmethod
    def carry_out(self, earlier: Sequence[Run], *, report: Report, command: str) -> None:
        """Make it, or go on with it; `earlier` runs, the nearest first, may have made parts of it already."""

    @abstractmethod
    def rows(self) -> list[Row]:
        """What it reached; nothing until it is finished."""


def retarget_config(recipe: Mapping[str, Any], options: Mapping[str, Any]) -> RetargetConfig:
    """The settings of a run over the recipe's defaults, those of its mode between them."""
    settings = {"precision": jobs.resolve_precision("auto")} | recipe.get("defaults", {})
    settings |= recipe.get(options.get("mode", "merged"), {}) | options
    settings |= {k: tuple(settings[k]) for k in ("pilots", "interval") if k in settings}
    return RetargetConfig(**settings)
