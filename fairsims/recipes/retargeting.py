"""Recipes of retargetings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fairsims.audit.facts import SIDES
from fairsims.audit.result import AuditResult
from fairsims.errors import ChangedSettings
from fairsims.recipes.entries import Comparison, Entry, Row, Table, retarget_config
from fairsims.report.publish import publish
from fairsims.retarget.config import SINCE, RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.run import PLAN, Progress

SAMPLED_BY = ("model", "steps", "solver", "schedule", "precision", "sample_batch", *SINCE)
TRAINED = ("auxiliary", "positive")
TRAINED_BY = ("paired", "budget", "lr", "rank", "batch_size", "finetune")


@dataclass(frozen=True, kw_only=True)
class Retargeting(Entry):
    """`fairsims retarget`."""

    config: RetargetConfig

    keys = ("mode", "interval", "target", "seed", "attributes")
    result = "audit/audit.json"
    measured = (*Comparison.measured, "nearest_median")

    @classmethod
    def of(cls, recipe: Table, options: Table, root: Path) -> Self:
        config = retarget_config(recipe, options)
        inside = f"-{config.interval[0]:g}-{config.interval[1]:g}" if config.interval else ""
        return cls(folder=root / f"{config.mode}{inside}-{config.label}-seed{config.seed}", config=config)

    def carry_out(self, earlier: Sequence[Entry], *, progress: Progress, command: str) -> None:
        for other in earlier:
            if isinstance(other, Retargeting) and other.seed == self.seed:
                self._take_over(other)
        work = prepare(self.config)
        try:
            retarget(work, self.folder, progress=progress, publish=publish, command=command)
        except ChangedSettings as e:
            if not any(str(self.folder / name) in str(e) for name in TRAINED):
                raise
            # What was copied was trained on other sets: the plan must not say that it was taken over.
            for name in TRAINED:
                shutil.rmtree(self.folder / name, ignore_errors=True)
            for name in (PLAN, "complement.parquet", "positive.parquet"):
                (self.folder / name).unlink(missing_ok=True)
            retarget(work, self.folder, progress=progress, publish=publish, command=command)

    def _take_over(self, other: Retargeting) -> None:
        """Runs of one seed that sample alike share their base pool and, trained alike, their auxiliary."""
        ours, theirs = self.config, other.config
        if any(getattr(theirs, name) != getattr(ours, name) for name in SAMPLED_BY):
            return
        parts = ["pool"] if theirs.pool == ours.pool else []
        if all(getattr(theirs, name) == getattr(ours, name) for name in TRAINED_BY):
            parts += TRAINED if ours.paired else TRAINED[:1]
        for part in parts:
            if not (self.folder / part).exists() and (other.folder / part).exists():
                whole = self.folder / f".{part}.part"
                shutil.rmtree(whole, ignore_errors=True)
                shutil.copytree(other.folder / part, whole)
                whole.rename(self.folder / part)

    def _rows(self, result: Table) -> list[Row]:
        config, audit = self.config, AuditResult.from_json(result)
        found, cost, quality = audit.attributes[config.attrs[0]], audit.cost, audit.quality
        if audit.method is None or cost is None or quality is None:
            return []
        focus, by_split = found.focus, found.by_split
        after = found.after[focus]
        concept = by_split.get("concept") or by_split[str(found.split)]
        seconds = {s.stage: s.seconds or 0.0 for s in cost.stages}
        row: Row = {"mode": config.mode, "interval": config.interval, "target": found.target[focus]}
        row |= {"seed": config.seed, "before": found.before[focus].share, "after": after.share, "low": after.low}
        row |= {"high": after.high, "raw": after.raw, "concept": concept["after"][focus].share}
        row |= {"worst_error": max(abs(found.after[c].share - t) for c, t in found.target.items())}
        for name, other in audit.attributes.items():
            if not other.target:
                row[f"{name}_moved"] = max(abs(change.delta) for change in other.difference.values())
        row |= {"strength": audit.method.strength, "images_per_kept": cost.after.images_per_kept}
        row |= {f"{k}_{s}": quality.side(s)[k] for k in self.measured for s in SIDES if k in quality.side(s)}
        row |= {"evaluations": cost.after.evaluations_per_image, "seconds": sum(seconds.values())}
        row |= {f"seconds_{k}": v for k, v in seconds.items()} | {"peak_memory_gb": cost.peak_memory_gb}
        return [row | (self._several(audit) if len(config.names) > 1 else {})]

    def _several(self, audit: AuditResult) -> Row:
        """How far each attribute's worst share is from its target, or has drifted, and every share after."""
        found: Row = {"attributes": self.config.label, "rounds": len(audit.rounds)}
        for name, attribute in audit.attributes.items():
            after = {c: attribute.after[c].share for c in attribute.classes}
            if attribute.target:
                found[f"{name}_worst"] = max(abs(after[c] - t) for c, t in attribute.target.items())
                found[f"{name}_reached"] = attribute.reached
            elif attribute.drift is not None:
                found |= {f"{name}_drift": attribute.drift.largest, f"{name}_held": attribute.drift.preserved}
            found |= {f"{name}.{c}": share for c, share in after.items()}
        return found
