"""The points of a sweep: what makes their images, and what is measured of these."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import engine
from fairsims.audit.features import FeatureExtractor
from fairsims.audit.joint import FloatArray
from fairsims.audit.references import reference_weights
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.labelling import label_source, predicted_counts
from fairsims.files import atomic, read_json, write_json
from fairsims.models import Checkpoint
from fairsims.pools import Pool
from fairsims.retarget import EARLIER
from fairsims.retarget.config import SIMS
from fairsims.retarget.grid import ARMS, Point, SweepConfig, interval_name
from fairsims.retarget.retargeting import Retargeting
from fairsims.retarget.sweep_arms import Arms
from fairsims.retarget.sweep_quality import SweepQuality, other_training_data

Row = dict[str, Any]


@dataclass(kw_only=True)
class Points:
    """Measures points into the folder of a run: rows that are there are read, the others made."""

    config: SweepConfig
    work: Retargeting
    base: FloatArray
    """pi: corrected shares of the pool, `(K,)`."""
    target: FloatArray | None
    """tau, `(K,)`; None when nothing is steered."""
    arms: Arms
    """Makes their models."""
    extractors: tuple[FeatureExtractor, ...]
    """What quality is measured on."""

    @classmethod
    def of(
        cls,
        config: SweepConfig,
        work: Retargeting,
        guides: tuple[Checkpoint, ...],
        extractors: tuple[FeatureExtractor, ...],
    ) -> Points:
        """Plan what the auxiliaries of the sweep are trained on, from the pool of the run."""
        arms = Arms(config=config, work=work, complement=work.first_plan() if config.steer else None, guides=guides)
        if config.steer:
            base, target = work.goal.base, work.goal.target
        else:
            counts = predicted_counts(label_source(work.pool, work.classifier))
            shares = corrected_shares(work.classifier.attribute.classes, counts, work.confusions[0]).share
            base, target = np.array(shares), None
        return cls(config=config, work=work, base=base, target=target, arms=arms, extractors=extractors)

    @property
    def focus(self) -> np.ndarray:
        """The classes that have to grow, `(K,)` booleans; none when nothing is steered."""
        return np.zeros(len(self.base), dtype=bool) if self.target is None else np.asarray(self.target > self.base)

    @property
    def target_share(self) -> float | None:
        """The share that the classes which have to grow are to reach together."""
        return None if self.target is None else float(self.target[self.focus].sum())

    @cached_property
    def weights(self) -> tuple[np.ndarray | None, str | None]:
        """What weighs the reference's images to the target, and whose labels they rest on."""
        if self.work.reference is None or self.target is None:
            return None, None
        return reference_weights(self.work.reference, [(self.work.classifier, self.target)])

    @cached_property
    def quality(self) -> SweepQuality | None:
        """What measures quality against the real data; None when there is none."""
        if self.work.reference is None:
            return None
        return SweepQuality(
            work=self.work,
            reference=self.work.reference,
            weights=self.weights[0],
            extractors=self.extractors,
            training=other_training_data(self.work),
        )

    def measure(self, points: Sequence[Point], into: Path, use: str, n: int) -> dict[Point, Row]:
        """Rows of the points, of `n` images each on the seeds of a use in `into`."""
        run = self.work.run
        with engine.main_first():
            wanted = [p for p in points if not row_file(into, p).exists()]
        for point in wanted:
            model, size = self.arms.model(point)
            started, fresh = time.perf_counter(), not (into / point.name).exists()
            images = self.work.images(into / point.name, model, use, n, facts=None if size is None else {"size": size})
            # Of a point that a kill cut in two the time is not known.
            seconds = round(time.perf_counter() - started, 2) if fresh else None
            with self.work.features(images, extractors=self.extractors) as store:
                if run.main:
                    row = self._row(point, images, store) | {"size": size, "seconds": seconds}
                    write_json(row_file(into, point), row)
                    if use == "calibration":
                        write_table(run.folder, [self._read(into, p) for p in points if row_file(into, p).exists()])
        engine.barrier()
        return {p: self._read(into, p) for p in points}

    def _row(self, point: Point, images: Pool, store: Path) -> Row:
        """Every column of a point; its auxiliary, where that is measured by itself, comes before it."""
        classifier = self.work.classifier
        classes, confusion = classifier.attribute.classes, classifier.confusions[classifier.default_split]
        found = corrected_shares(classes, predicted_counts(label_source(images, classifier)), confusion)
        row: Row = {"point": point.name, "mode": point.mode, "budget_kimg": point.budget, "strength": point.omega}
        row |= {"size": None, "interval": interval_name(point.interval)}
        row |= {"blocks": interval_name(point.blocks)} if point.blocks else {}
        row |= {"guide": self.config.guides[point.guide]} if point.guide is not None else {}
        for k, c in enumerate(classes):
            row |= {f"share.{c}": found.share[k], f"low.{c}": found.low[k], f"high.{c}": found.high[k]}
        if self.target is not None:
            row["share"] = float(np.array(found.share)[self.focus].sum())
            # Of the auxiliary itself the rule says the mix it was trained on: omega is -1 there.
            row["linear"] = self._linear(self._trained_on, point.omega)
            row["linear_measured"] = self._linear(self._auxiliary_shares(point), point.omega)
        if self.quality is not None:
            row |= self.quality.row(images, store)
        return row | {"nfe": images.meta["evaluations_per_image"], "images": len(images)}

    def _read(self, into: Path, point: Point) -> Row:
        """A finished point's row."""
        row = read_json(row_file(into, point))
        row = {EARLIER.get(k, k): v for k, v in row.items()}
        # Its auxiliary may have been measured after it.
        if self.target is not None and row["linear_measured"] is None:
            row["linear_measured"] = self._linear(self._auxiliary_shares(point), point.omega)
        return row

    @property
    def _trained_on(self) -> FloatArray:
        """rho: shares in the auxiliaries' training set, `(K,)`."""
        return self.base if self.arms.complement is None else np.array(self.arms.complement.complement)

    def _auxiliary_shares(self, point: Point) -> FloatArray | None:
        """Shares that the point's auxiliary makes by itself, `(K,)`, where that was measured."""
        auxiliary = Point(mode="auxiliary", size=point.size, budget=point.budget, omega=-1.0)
        path = row_file(self.work.run.folder / "points", auxiliary)
        if point.mode not in SIMS or not path.exists():
            return None
        row = read_json(path)
        return np.array([row[f"share.{c}"] for c in self.work.classifier.attribute.classes])

    def _linear(self, auxiliary: FloatArray | None, omega: float) -> float | None:
        """The share of the classes that have to grow, as the linear rule promises it."""
        return None if auxiliary is None else float(linear_rule(self.base, auxiliary, omega)[self.focus].sum())


def linear_rule(base: FloatArray, auxiliary: FloatArray, omega: float) -> FloatArray:
    """(1 + omega) pi - omega a, `(K,)`: shares promised by those of the base and of the auxiliary.

    With the mix that the auxiliary was trained on it is the plan; with its measured shares, the plan at the fraction
    kappa of the way that its training took it. Not cut to [0, 1].
    """
    return np.asarray((1 + omega) * base - omega * auxiliary)


def best_points(rows: Mapping[Point, Row], target: float | None, tolerance: float) -> dict[str, Point]:
    """`quality`: the point of best quality; with a target `at_target`: the best within `tolerance` of it, else the
    nearest; without one the best of every mode, under its name.

    Quality is the distance to the reference in the target's mix, to the reference as given without a target; on several
    feature spaces the one that, as a part of the base's, is the largest: what gains on one alone is no gain. Only what
    could be measured is there. The control, a base that was trained on, is not the best of all.
    """
    measure = "fd_reference" if target is None else "fd_target"
    base = next((r for p, r in rows.items() if p.mode == "base"), {})
    spaces = [k for k, v in base.items() if v and (k == measure or k.endswith(f".{measure}"))]

    def off(row: Row) -> float:
        return max(float(row[k] / base[k]) for k in spaces) if len(spaces) > 1 else float(row[measure])

    arms = {p: r for p, r in rows.items() if p.mode in ARMS}
    combined = {p: r for p, r in arms.items() if p.mode != "longer"}
    found: dict[str, Point] = {}
    if all(r.get(measure) is not None for r in arms.values()):
        if combined:
            found["quality"] = min(combined, key=lambda p: off(combined[p]))
        if target is None:
            for mode in dict.fromkeys(p.mode for p in arms):
                found[mode] = min((p for p in arms if p.mode == mode), key=lambda p: off(arms[p]))
    if target is not None and combined:
        error = {p: abs(r["share"] - target) for p, r in combined.items()}
        near = [p for p in combined if error[p] <= max(tolerance, min(error.values()))]
        measured = all(r.get(measure) is not None for r in combined.values())
        found["at_target"] = min(near, key=lambda p: off(combined[p]) if measured else error[p])
    return found


def row_file(folder: Path, point: Point) -> Path:
    """Where a finished point's row is, beside its images."""
    return folder / f"{point.name}.json"


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """`sweep.parquet`: a row per point."""
    with atomic(folder / "sweep.parquet") as temporary:
        pd.DataFrame(rows).astype({"size": "Int64", "seconds": "float64"}).to_parquet(temporary, index=False)
