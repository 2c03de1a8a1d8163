"""One posterior of shares, and what is read off it: intervals, marginals, changes, pooled and worst conditions.

Counts of calls with held-out errors (`counted`), images that were selected by their calls (`selected`) and labels by
people (`Labelled.posterior`) are its sources. P is the number of conditions (prompts, classes), K of classes or joint
cells. Two classes have closed forms beside it, which are exact where 4,000 draws are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairsims.audit import intervals
from fairsims.audit.intervals import (
    LEVEL,
    confusion_draws,
    kronecker,
    left_inverse,
    on_simplex,
    percentiles,
    share_draws,
    solutions,
)
from fairsims.audit.joint import Cells
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Worst:
    """The share that is furthest from its target, among all conditions and classes."""

    condition: int
    cls: int
    gap: float
    """`|share - target|`."""
    low: float
    high: float
    """95% interval of the largest gap there is, whichever share has it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """Shares, or changes of them: the estimate `(P, K)` and draws about it `(D, P, K)`.

    Draws sum to 1 (changes to 0) but are not cut to the simplex: where a true share is 0 half of them are below, and
    cutting them would move the others.
    """

    point: FloatArray
    values: FloatArray

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.shape[1:] != self.point.shape:
            raise InputError(f"got draws {self.values.shape} about {self.point.shape}; expected (D, P, K) about (P, K)")

    def interval(self) -> tuple[FloatArray, FloatArray]:
        """95% equal-tailed interval of each share by itself, two `(P, K)`."""
        return percentiles(self.values)

    def simultaneous(self) -> tuple[FloatArray, FloatArray]:
        """Intervals that hold all P x K shares at once in 95% of cases, two `(P, K)`.

        As many standard deviations about the mean for each as keep the draws whole (max-t; Montiel Olea &
        Plagborg-Møller 2019, J. Appl. Econometrics 34:1). A share without any spread is left out of the count.
        """
        mean, deviation = self.values.mean(axis=0), self.values.std(axis=0)
        away = np.divide(np.abs(self.values - mean), deviation, out=np.zeros_like(self.values), where=deviation > 0)
        reach = np.quantile(away.max(axis=(1, 2)), LEVEL) * deviation
        return mean - reach, mean + reach

    def marginal(self, cells: Cells, attribute: int) -> Draws:
        """Shares of one attribute's classes from those over joint cells."""
        return Draws(point=cells.marginal(self.point, attribute), values=cells.marginal(self.values, attribute))

    def minus(self, before: Draws) -> Draws:
        """The change from `before`. Errors that both rest on cancel when both drew them by the same name."""
        return Draws(point=self.point - before.point, values=self.values - before.values)

    def pooled(self, weights: npt.ArrayLike | None = None) -> Draws:
        """All conditions together, one condition: their mean, or weighted by `(P,)` weights >= 0."""
        size = len(self.point)
        w = np.ones(size) if weights is None else np.asarray(weights, dtype=np.float64)
        if w.shape != (size,) or not (np.isfinite(w).all() and (w >= 0).all() and w.sum() > 0):
            raise InputError(f"got the weights {w.tolist()} for {size} conditions; expected numbers >= 0, not all 0")
        w = w / w.sum()
        return Draws(point=(w @ self.point)[None], values=np.einsum("p,dpk->dk", w, self.values)[:, None])

    def worst(self, target: npt.ArrayLike) -> Worst:
        """The share furthest from `target`, `(K,)` for every condition or `(P, K)`.

        Its interval is read off the simultaneous ones, so that looking for the worst of many costs what it has to.
        """
        wanted = np.broadcast_to(np.asarray(target, dtype=np.float64), self.point.shape)
        gap, (low, high) = np.abs(self.point - wanted), self.simultaneous()
        condition, cls = np.unravel_index(int(gap.argmax()), gap.shape)
        near = np.maximum(np.maximum(low - wanted, wanted - high), 0.0)
        far = np.maximum(np.abs(low - wanted), np.abs(high - wanted))
        least, most = float(near.max()), float(far.max())
        found = float(gap.max())
        return Worst(condition=int(condition), cls=int(cls), gap=found, low=min(least, found), high=max(most, found))


def counted(counts: npt.ArrayLike, confusions: Sequence[Confusion], *name: str) -> Draws:
    """Shares over the joint cells of attributes from images counted by predicted cell, `(cells,)` or `(P, cells)`.

    `min ||C p - q||` over the simplex with C the Kronecker product of the confusions (their errors are taken as
    independent; none: the calls are taken as true); drawn over the held-out counts and the images. All conditions are
    judged by the same errors, and so are two sets of counts whatever their names.
    """
    table = np.atleast_2d(np.asarray(counts, dtype=np.float64))
    inverses = [left_inverse(confusion_draws(c, *([str(k)] if k else []))) for k, c in enumerate(confusions)]
    points, values = [], []
    for condition, row in enumerate(table):
        q = share_draws(row, *name, *([str(condition)] if condition else []))
        values.append(solutions(q, inverses) if inverses else q)
        share = row / row.sum()
        points.append(on_simplex(kronecker(confusions), share) if inverses else share)
    return Draws(point=np.stack(points), values=np.stack(values, axis=1))


def selected(candidates: npt.ArrayLike, kept: npt.ArrayLike, confusions: Sequence[Confusion]) -> Draws:
    """Shares over the joint cells among images kept by their predicted cell, where `counted` would be wrong.

    Selection changes P(predicted | true), so the confusions hold for the `candidates` only (counts by predicted cell,
    `(cells,)`): they give P(true | predicted), which the mix of `kept` then weighs.
    """
    before, after = np.asarray(candidates, dtype=np.float64), np.asarray(kept, dtype=np.float64)
    generator = numpy_generator("shares", "selected")
    each, rates = [confusion_draws(c, "selected", str(k)) for k, c in enumerate(confusions)], np.ones((1, 1, 1))
    for drawn in each:
        # The Kronecker product, draw by draw.
        size = rates.shape[1] * drawn.shape[1]
        rates = np.einsum("dij,dkl->dikjl", np.broadcast_to(rates, (len(drawn), *rates.shape[1:])), drawn)
        rates = rates.reshape(len(drawn), size, size)
    q = generator.dirichlet(before + 0.5, intervals.DRAWS)
    p = np.clip(solutions(q, [left_inverse(drawn) for drawn in each]), 1e-9, None)
    mix = generator.dirichlet(after + 0.5, intervals.DRAWS)
    values = _after_selection(rates, p / p.sum(axis=1, keepdims=True), mix)
    plain = kronecker(confusions)
    share = on_simplex(plain, before / before.sum())
    return Draws(point=_after_selection(plain[None], share[None], after[None] / after.sum()), values=values[:, None])


def _after_selection(rates: FloatArray, p: FloatArray, mix: FloatArray) -> FloatArray:
    """sum_j mix_j P(true c | predicted j): rates `(D, K, K)`, p and mix `(D, K)` -> `(D, K)`."""
    joint = rates * p[:, None, :]
    total = joint.sum(axis=2, keepdims=True)
    posterior = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)
    return np.asarray(np.einsum("dj,djc->dc", mix, posterior))
