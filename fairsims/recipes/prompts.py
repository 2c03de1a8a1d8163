"""Recipes of retargetings and comparisons over prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from fairsims.models.precondition import resolve_precision
from fairsims.options import from_mapping
from fairsims.recipes.entries import Entry, Row, Table
from fairsims.report.prompt_comparison import write_prompt_comparison
from fairsims.report.prompts import write_prompt_report
from fairsims.retarget.prompt_compare import RESULT, compare_prompts
from fairsims.retarget.prompt_config import PromptConfig
from fairsims.retarget.prompt_retarget import prepare_prompts, retarget_prompts
from fairsims.run import Progress

SIDES = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class OverPrompts(Entry):
    """`fairsims retarget --prompts`."""

    config: PromptConfig

    keys = ("run", "prompts", "seed")
    result = "prompts.json"

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        settings = {"precision": resolve_precision("auto")} | recipe.get("defaults", {}) | options
        name = settings.pop("name")
        config = from_mapping(PromptConfig, settings)
        return cls(folder=root / f"{name}-seed{config.seed}", config=config)

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        work = prepare_prompts(self.config)
        retarget_prompts(work, self.folder, progress=progress, publish=write_prompt_report, command=command)

    def _rows(self, result: Table) -> list[Row]:
        """A row for the neutral prompts and one for those held out: how far their shares are off, and what it cost."""
        run = self.folder.name.removesuffix(f"-seed{self.seed}")
        found = []
        for kind, sides in result["summary"].items():
            row: Row = {"run": run, "prompts": kind, "seed": self.seed, "strength": result["strength"]}
            for side in SIDES:
                summary = sides[side]
                off, worst = summary["metrics"]["off"], summary["worst"]
                row |= {f"off_{side}": off["value"], f"floor_{side}": off["were_the_target_met"]}
                row |= {f"worst_{side}": worst["gap"], f"worst_prompt_{side}": worst["prompt"]}
            if kind == "neutral":
                row |= {f"off_at_{g['guidance_scale']:g}": g["metrics"]["off"] for g in result["guidance"]}
                row |= {f"explicit_kept_{side}": result["kept"][side] for side in SIDES if result["kept"]}
                agreed = [r["agreement"] for r in result["prompts"] if r["kind"] == kind and "agreement" in r]
                row |= {f"agreement_{side}": float(np.mean([a[side] for a in agreed])) for side in SIDES if agreed}
                for other in result["others"]:
                    row[f"{other['attribute']}_moved"] = max(abs(c["change"]) for c in other["classes"])
            row |= {"evaluations": result["cost"]["evaluations_per_image"]["after"]}
            found.append(row | {"trained_kimg": result["cost"]["trained_kimg"]})
        return found


@dataclass(frozen=True, kw_only=True)
class ArmsOverPrompts(Entry):
    """`fairsims compare --prompts`."""

    config: PromptConfig
    arms: tuple[str, ...] | None

    keys = ("arm", "prompts", "seed")
    result = RESULT
    measured = ("fd_target", "fd_reference", "precision", "recall")
    spent = ("evaluations_per_image", "images_per_kept", "evaluations_per_kept", "trained_kimg", "calibration_images")

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        settings = {"precision": resolve_precision("auto")} | recipe.get("defaults", {}) | options
        arms = settings.pop("arms", None)
        config = from_mapping(PromptConfig, settings)
        return cls(folder=root / f"seed{config.seed}", config=config, arms=None if arms is None else tuple(arms))

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        work, publish = prepare_prompts(self.config), write_prompt_comparison
        compare_prompts(work, self.folder, self.arms, progress=progress, publish=publish, command=command)

    def _rows(self, result: Table) -> list[Row]:
        """A row for each arm's neutral prompts and one for those held out: how far off, what stayed, what it cost."""
        found = []
        for arm in result["arms"]:
            for kind, summary in arm["summary"].items():
                off, worst = summary["metrics"]["off"], summary["worst"]
                row: Row = {"arm": arm["arm"], "prompts": kind, "seed": self.seed, "strength": arm["strength"]}
                row |= {"off": off["value"], "floor": off["were_the_target_met"]}
                row |= {"met": summary["met"], "missed": summary["missed"], "of": summary["prompts"]}
                row |= {"worst": worst["gap"], "worst_prompt": worst["prompt"]}
                row["agreement"] = (arm["agreement"] or {}).get(kind)
                if kind == "neutral":
                    row["explicit_kept"] = arm["kept"] and arm["kept"]["after"]
                    row |= {k: arm["quality"][k] for k in self.measured if arm["quality"]}
                    row |= {k: arm["cost"][k] for k in self.spent}
                found.append(row)
        return found
