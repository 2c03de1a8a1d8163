"""Rows of a sweep: what is measured of each point's images, what the rule had promised, and which point is best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairsims.audit.extractors import classifier_features
from fairsims.audit.fidelity import QualityReference
from fairsims.audit.joint import FloatArray
from fairsims.audit.references import stored_features
from fairsims.audit.reweighting import reference_weights
from fairsims.audit.shares import corrected_shares
from fairsims.audit.sources import label_source, predicted_counts
from fairsims.classifiers.base import features_of
from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.retarget.complement import ComplementPlan
from fairsims.retarget.config import MODES
from fairsims.retarget.grid import Point, interval_name
from fairsims.retarget.job import Job

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """What the auxiliaries of a sweep are trained on."""

    base: FloatArray
    """pi: corrected shares of the pool, `(K,)`."""
    target: FloatArray | None
    """tau, `(K,)`; None when nothing is steered."""
    complement: ComplementPlan | None

    @property
    def rho(self) -> FloatArray:
        """Shares in the auxiliary's training set, `(K,)`: those of the pool when nothing is steered."""
        return self.base if self.complement is None else np.array(self.complement.complement)

    @property
    def focus(self) -> np.ndarray:
        """The classes that have to grow, `(K,)` booleans; none when nothing is steered."""
        return np.zeros(len(self.base), dtype=bool) if self.target is None else np.asarray(self.target > self.base)

    @property
    def target_share(self) -> float | None:
        """The share that the classes which have to grow are to reach together."""
        return None if self.target is None else float(self.target[self.focus].sum())


def linear_rule(base: FloatArray, auxiliary: FloatArray, omega: float) -> FloatArray:
    """(1 + omega) pi - omega a, `(K,)`: shares promised by those of the base and of the auxiliary.

    With the mix that the auxiliary was trained on it is the plan; with its measured shares, the plan at the fraction
    kappa of the way that its training took it. Not cut to [0, 1].
    """
    return np.asarray((1 + omega) * base - omega * auxiliary)


class Bench:
    """Measures finished points; what they are measured against is made once, when it is first needed."""

    def __init__(self, folder: Path, job: Job, plan: SweepPlan) -> None:
        self.folder, self.job, self.plan = folder, job, plan
        self.labelled_by: str | None = None
        """Whose labels weigh the reference to the target."""
        self._reference: QualityReference | None = None

    @property
    def reference(self) -> QualityReference | None:
        """The real data with its features, kept in the folder; None when there is none."""
        job, target = self.job, self.plan.target
        if job.reference is None or self._reference is not None:
            return self._reference
        features = stored_features(job.reference, classifier_features(job.classifier), self.folder)
        weights = None
        if target is not None:
            weights, self.labelled_by = reference_weights(job.reference, [(job.classifier, target)])
        self._reference = QualityReference(features=features, weights=weights)
        return self._reference

    def row(self, point: Point, images: Pool, *, size: int | None, seconds: float | None) -> Row:
        """Every column of a point; its auxiliary, where that is measured by itself, comes before it."""
        classifier, plan = self.job.classifier, self.plan
        classes, confusion = classifier.attribute.classes, classifier.confusions[classifier.default_split]
        found = corrected_shares(classes, predicted_counts(label_source(images, classifier)), confusion)
        row: Row = {
            "point": point.name, "mode": point.mode, "budget_kimg": point.budget, "omega": point.omega, "size": size,
            "interval": interval_name(point.interval),
        }  # fmt: skip
        for k, c in enumerate(classes):
            row |= {f"share.{c}": found.share[k], f"low.{c}": found.low[k], f"high.{c}": found.high[k]}
        if plan.target is not None:
            measured = self._auxiliary_shares(point)
            row["share"] = float(np.array(found.share)[plan.focus].sum())
            # Of the auxiliary itself the rule says the mix it was trained on: omega is -1 there.
            row["linear"] = float(linear_rule(plan.base, plan.rho, point.omega)[plan.focus].sum())
            row["linear_measured"] = (
                None if measured is None else float(linear_rule(plan.base, measured, point.omega)[plan.focus].sum())
            )
        if self.reference is not None:
            features = features_of(classifier, images.batches())
            numbers = self.reference.measure(features, min(len(features), len(self.reference.features)))
            row |= {k: v for k, v in numbers.items() if k != "n"}
        return row | {"nfe": images.meta["evaluations_per_image"], "images": len(images), "seconds": seconds}

    def _auxiliary_shares(self, point: Point) -> FloatArray | None:
        """Shares that the point's auxiliary makes by itself, `(K,)`, where that was measured."""
        auxiliary = Point(mode="auxiliary", size=point.size, budget=point.budget, omega=-1.0)
        path = row_file(self.folder / "points", auxiliary)
        if point.mode not in MODES or not path.exists():
            return None
        row = read_json(path)
        return np.array([row[f"share.{c}"] for c in self.job.classifier.attribute.classes])


def best_points(rows: Mapping[Point, Row], target: float | None, tolerance: float) -> dict[str, Point]:
    """`quality`: the point of best quality; `at_target`: the best within `tolerance` of the target, else the nearest.

    Quality is the distance to the reference in the target's mix, to the reference as given without a target. Only what
    could be measured is there.
    """
    measure = "fd_reference" if target is None else "fd_target"
    combined = {p: r for p, r in rows.items() if p.mode in MODES}
    found: dict[str, Point] = {}
    if all(r.get(measure) is not None for r in combined.values()) and combined:
        found["quality"] = min(combined, key=lambda p: float(combined[p][measure]))
    if target is not None and combined:
        error = {p: abs(r["share"] - target) for p, r in combined.items()}
        near = [p for p in combined if error[p] <= max(tolerance, min(error.values()))]
        found["at_target"] = min(near, key=lambda p: float(combined[p].get(measure, error[p])))
    return found


def row_file(folder: Path, point: Point) -> Path:
    """Where a finished point's row is, beside its images."""
    return folder / f"{point.name}.json"
