"""Quality, cost and steered share of an audit as rows of numbers, with the decimals that tell them apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fairsims.audit.facts import SIDES, Cost, QualityResult, ReferenceFacts, Side
from fairsims.audit.result import AuditResult
from fairsims.report.numbers import ShareLike

DISTANCES = {
    "fd_reference": "against the reference",
    "fd_target": "against the target-reweighted reference",
}
"""Fréchet distances between distributions; lower is closer."""
NAMES = DISTANCES | {
    "fd_infinity": "for infinitely many images",
    "kid": "KID against the reference",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "auth_pct": "authentic images, percent",
    "nearest_median": "nearest reference image, median",
    "nearest_low": "nearest reference image, 1% quantile",
}
KEPT = "network evaluations per kept image"
"""The cost that compares resampling with retargeting."""
HIDDEN = ("n", "kid_low", "kid_high")
"""Shown elsewhere: beside the headline and as an interval."""


@dataclass(frozen=True, kw_only=True)
class QualityNumber:
    """One quality number of every side."""

    key: str
    values: Mapping[Side, float]
    """Without the sides that it was not measured on."""
    reference: float | None = None
    """The same number among the real images themselves."""
    intervals: Mapping[Side, tuple[float, float]]
    """95%, where there is one."""

    @property
    def name(self) -> str:
        """What a reader calls it."""
        return NAMES.get(self.key, self.key.replace("_", " "))

    @property
    def digits(self) -> int:
        """Decimals that tell its numbers apart."""
        found = [*self.values.values(), *([] if self.reference is None else [self.reference])]
        wide = digits_of([*found, *(v for ends in self.intervals.values() for v in ends)])
        least = min((abs(v) for v in found if v), default=1.0)
        # A small number beside a large one keeps a second digit.
        return min(max(wide, 1 - math.floor(math.log10(least))), wide + 1)


@dataclass(frozen=True, kw_only=True)
class CostNumber:
    """One cost of plain resampling of the base beside that of the retargeted model."""

    name: str
    base: float | None
    retargeted: float | None

    @property
    def digits(self) -> int:
        """Decimals that suit both numbers."""
        values = [v for v in (self.base, self.retargeted) if v is not None]
        if all(v == int(v) for v in values):
            return 0
        return 1 if max(values) >= 10 else 2


@dataclass(frozen=True, kw_only=True)
class Steered:
    """The share that the calibration steers."""

    name: str
    target: float | None
    tolerance: float | None = None
    after: ShareLike | None
    """What the audit seeds gave."""


def quality_numbers(section: QualityResult) -> list[QualityNumber]:
    """What one feature extractor says, the distances first."""
    keys = dict.fromkeys([*NAMES, *section.before, *section.after])
    found = []
    for k in keys:
        values = {side: section.side(side)[k] for side in SIDES if k in section.side(side)}
        if values and k not in HIDDEN:
            own = {side: ends for side in values if (ends := section.interval(side, k)) is not None}
            reference = getattr(section.reference, k, None) if k.startswith("nearest") else None
            found.append(QualityNumber(key=k, values=values, reference=reference, intervals=own))
    return found


def target_distance(result: AuditResult) -> QualityNumber | None:
    """The headline's distance: to the reference in the target's mix, or else as it is; None when none was measured."""
    found = [q for q in quality_numbers(result.quality) if q.key in DISTANCES] if result.quality is not None else []
    return found[-1] if found else None


def cost_numbers(cost: Cost | None) -> list[CostNumber]:
    """What an image costs, and what a kept one does."""
    if cost is None:
        return []
    base, total = cost.evaluations_per_kept
    before, after, resampled = cost.before, cost.after, cost.resampling_base
    rows = (
        ("network evaluations per image", before.evaluations_per_image, after.evaluations_per_image),
        ("images generated per kept image", resampled.images_per_kept, after.images_per_kept),
        (KEPT, base, total),
    )
    return [CostNumber(name=name, base=b, retargeted=r) for name, b, r in rows if (b, r) != (None, None)]


def steered(result: AuditResult) -> Steered:
    """What the calibration's points are shares of: the focus class, or with more shares than two all that grow."""
    value, a = result.controlled, result.main
    if value is not None:
        what = "classes" if len(result.attributes) == 1 else "cells"
        return Steered(name=f"share of all {what} that grow", target=value.target, after=value.after)
    return Steered(
        name=f"{a.focus} share", target=a.target.get(a.focus), tolerance=a.tolerance, after=a.after.get(a.focus)
    )


def reference_name(reference: ReferenceFacts | None) -> str | None:
    """Name and size of the reference images."""
    if reference is None or reference.name is None:
        return None
    return reference.name if reference.n is None else f"{reference.name} ({reference.n:,} images)"


def digits_of(values: Sequence[float]) -> int:
    """Decimals for three significant digits of the largest, two at least."""
    largest = max((abs(v) for v in values), default=1.0)
    return max(2, 2 - math.floor(math.log10(largest))) if largest else 2
