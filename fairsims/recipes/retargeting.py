"""Recipes of retargetings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from fairsims import jobs
from fairsims.errors import ChangedSettings
from fairsims.files import read_json
from fairsims.recipes.run import Report, Row, Run, retarget_config
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.job import prepare
from fairsims.run import PLAN

SAMPLED_BY = ("model", "steps", "solver", "precision", "sample_batch")
TRAINED_BY = ("budget", "lr", "batch_size", "finetune")


@dataclass(frozen=True, kw_only=True)
class Retargeting(Run):
    """`fairsims retarget`."""

    config: RetargetConfig

    keys = ("mode", "interval", "target", "seed", "attributes")

    @classmethod
    def of(cls, recipe: Mapping[str, Any], options: Mapping[str, Any], root: Path) -> Self:
        config = retarget_config(recipe, options)
        inside = f"-{config.interval[0]:g}-{config.interval[1]:g}" if config.interval else ""
        return cls(folder=root / f"{config.mode}{inside}-{config.label}-seed{config.seed}", config=config)

    @property
    def seed(self) -> int:
        return self.config.seed

    def carry_out(self, earlier: Sequence[Run], *, report: Report, command: str) -> None:
        for other in earlier:
            if isinstance(other, Retargeting) and other.seed == self.seed:
                self._take_over(other)
        job = prepare(self.config)
        try:
            jobs.run_retarget(job, self.folder, report=report, command=command)
        except ChangedSettings as e:
            if str(self.folder / "auxiliary") not in str(e):
                raise
            # The copied auxiliary was trained on another complement: the plan must not say that it was taken over.
            shutil.rmtree(self.folder / "auxiliary")
            for name in (PLAN, "complement.parquet"):
                (self.folder / name).unlink(missing_ok=True)
            jobs.run_retarget(job, self.folder, report=report, command=command)

    def _take_over(self, other: Retargeting) -> None:
        """Runs of one seed that sample alike share their base pool and, trained alike, their auxiliary."""
        ours, theirs = self.config, other.config
        if any(getattr(theirs, name) != getattr(ours, name) for name in SAMPLED_BY):
            return
        parts = [p for p, n in (("pool", "pool"), ("before", "audit")) if getattr(theirs, n) == getattr(ours, n)]
        if all(getattr(theirs, name) == getattr(ours, name) for name in TRAINED_BY):
            parts.append("auxiliary")
        for part in parts:
            if not (self.folder / part).exists() and (other.folder / part).exists():
                whole = self.folder / f".{part}.part"
                shutil.rmtree(whole, ignore_errors=True)
                shutil.copytree(other.folder / part, whole)
                whole.rename(self.folder / part)

    def rows(self) -> list[Row]:
        path, config = self.folder / "audit" / "audit.json", self.config
        if not path.exists() or not (self.folder / "status.json").exists():
            return []
        result = read_json(path)
        section = result["attributes"][config.attrs[0]]
        focus = section["focus"]
        before, after, q = section["before"][focus], section["after"][focus], result["quality"]
        concept = section["by_split"].get("concept", section["by_split"][section["split"]])
        seconds = {s["stage"]: s["seconds"] for s in result["cost"]["stages"]}
        wrong = [abs(section["after"][c]["share"] - t) for c, t in section["target"].items()]
        row = {
            "mode": config.mode, "interval": config.interval, "target": section["target"][focus], "seed": config.seed,
            "before": before["share"], "after": after["share"], "low": after["low"], "high": after["high"],
            "raw": after["raw"], "concept": concept["after"][focus]["share"], "worst_error": max(wrong),
            "strength": result["method"]["strength"], "images_per_kept": result["cost"]["after"]["images_per_kept"],
            **{
                f"{name}_{when}": q[when][name]
                for name in ("fd_target", "fd_reference", "precision", "recall", "nearest_median")
                for when in ("before", "after") if name in q[when]
            },
            "evaluations": result["cost"]["after"]["evaluations_per_image"],
            "seconds": sum(seconds.values()), **{f"seconds_{k}": v for k, v in seconds.items()},
            "peak_memory_gb": result["cost"]["peak_memory_gb"],
        }  # fmt: skip
        return [row | (_several(config, result) if len(config.names) > 1 else {})]


def _several(config: RetargetConfig, result: Mapping[str, Any]) -> Row:
    """How far each attribute's worst share is from its target, or has drifted, and every share after."""
    found: Row = {"attributes": config.label, "rounds": len(result["rounds"])}
    for name, section in result["attributes"].items():
        after = {c: section["after"][c]["share"] for c in section["classes"]}
        if "target" in section:
            found[f"{name}_worst"] = max(abs(after[c] - t) for c, t in section["target"].items())
            found[f"{name}_reached"] = section["reached"]
        else:
            found[f"{name}_drift"], found[f"{name}_held"] = section["drift"]["largest"], section["drift"]["held"]
        found |= {f"{name}.{c}": share for c, share in after.items()}
    return found
