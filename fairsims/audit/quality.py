"""Fréchet distance between feature distributions, from streamed moments.

Call it "FID" with Inception features only; with any other extractor it is "FD (extractor)".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]


class Moments:
    """Mean and covariance of features that arrive in batches, in float64, optionally weighted.

    Batches are merged as Chan, Golub & LeVeque 1983 do, which keeps the digits that sums of squares lose.
    """

    def __init__(self) -> None:
        self.count = 0
        """Rows with a positive weight."""
        self._weight = 0.0
        self._squares = 0.0
        self._mean: FloatArray = np.zeros(0)
        self._scatter: FloatArray = np.zeros((0, 0))
        # Fewer rows than features describe the covariance in less space than its matrix, and more cheaply.
        self._rows: list[tuple[FloatArray, FloatArray]] = []

    def update(self, features: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Self:
        """Add features `(n, d)`, each counted `weights[i]` times (`(n,)`, once when left out).

        Raises InputError when a value is not finite, the width changes or a weight is negative.
        """
        x = np.asarray(features, dtype=np.float64)
        w = np.ones(len(x)) if weights is None else np.asarray(weights, dtype=np.float64)
        if x.ndim != 2 or w.shape != (len(x),):
            raise InputError(f"got features {x.shape} and weights {w.shape}; expected (n, d) and (n,)")
        if self.count and x.shape[1] != len(self._mean):
            raise InputError(f"got features {x.shape[1]} wide after {len(self._mean)}; use one feature extractor")
        if not np.isfinite(x).all() or not np.isfinite(w).all() or (w < 0).any():
            raise InputError("features or weights are NaN, infinite or negative; check the images they come from")
        x, w = x[w > 0], w[w > 0]
        if not len(x):
            return self
        if not self.count:
            self._mean, self._scatter = np.zeros(x.shape[1]), np.zeros((0, 0))
        gap = w @ x / w.sum() - self._mean
        earlier, self._weight = self._weight, self._weight + float(w.sum())
        if len(self._scatter):
            self._scatter += _scatter(x, w) + np.outer(gap, gap) * (earlier * w.sum() / self._weight)
        else:
            self._rows.append((x, w))
        self._mean = self._mean + gap * (w.sum() / self._weight)
        self._squares += float(w @ w)
        self.count += len(x)
        if self._rows and self.count >= x.shape[1]:
            self._scatter = _scatter(*self._stacked())
            self._rows = []
        return self

    @property
    def mean(self) -> FloatArray:
        """Weighted mean, `(d,)`. Raises InputError before there are two rows."""
        self._need_two()
        return self._mean

    @property
    def cov(self) -> FloatArray:
        """Covariance `sum w (x-m)(x-m)' / (sum w - sum w^2 / sum w)`, `(d, d)`."""
        self._need_two()
        return self._scatter / self._freedom if not self._rows else self.factor.T @ self.factor

    @property
    def factor(self) -> FloatArray:
        """`(n, d)` B with `cov = B' B`; only while there are fewer rows than features, else `(0, d)`."""
        self._need_two()
        if not self._rows:
            return np.zeros((0, len(self._mean)))
        x, w = self._stacked()
        return np.asarray((x - self._mean) * np.sqrt(w / self._freedom)[:, None])

    @property
    def _freedom(self) -> float:
        return self._weight - self._squares / self._weight

    def _stacked(self) -> tuple[FloatArray, FloatArray]:
        return np.concatenate([x for x, _ in self._rows]), np.concatenate([w for _, w in self._rows])

    def _need_two(self) -> None:
        if self.count < 2:
            raise InputError(f"moments need features of at least 2 images; got {self.count}")


@dataclass(frozen=True, kw_only=True)
class FrechetReference:
    """Moments of a reference, kept with the symmetric root that every comparison needs."""

    mean: FloatArray
    """`(d,)`"""
    cov: FloatArray
    """`(d, d)`"""

    @classmethod
    def of(cls, moments: Moments) -> FrechetReference:
        """The reference with these moments."""
        return cls(mean=moments.mean, cov=moments.cov)

    @cached_property
    def root(self) -> FloatArray:
        """Symmetric R with `R R = cov`, `(d, d)`."""
        values, vectors = np.linalg.eigh(self.cov)
        return np.asarray((vectors * np.sqrt(values.clip(min=0))) @ vectors.T)


def frechet_distance(reference: FrechetReference, moments: Moments) -> float:
    """`|m1 - m2|^2 + tr(S1 + S2) - 2 tr (S1^1/2 S2 S1^1/2)^1/2` (Dowson & Landau 1982), at least 0.

    The root's trace comes from the eigenvalues of the symmetric form: those of S1 S2 are no eigenvalues of a symmetric
    matrix and turn negative. With fewer images than features the n x n Gram matrix has the same non-zero ones.

    Raises InputError when the feature widths differ or there are fewer than two images.
    """
    if moments.mean.shape != reference.mean.shape:
        raise InputError(
            f"the reference has {len(reference.mean)} features, the images have {len(moments.mean)}; "
            "use one feature extractor for both"
        )
    factor = moments.factor
    if len(factor):
        half = factor @ reference.root
        symmetric, trace = half @ half.T, float((factor**2).sum())
    else:
        cov = moments.cov
        symmetric, trace = reference.root @ cov @ reference.root, float(np.trace(cov))
    # eigvalsh reads one triangle; averaging both removes the product's rounding from the choice.
    eigenvalues = np.linalg.eigvalsh((symmetric + symmetric.T) / 2).clip(min=0)
    gap = reference.mean - moments.mean
    distance = float(gap @ gap) + float(np.trace(reference.cov)) + trace - 2 * float(np.sqrt(eigenvalues).sum())
    return max(0.0, distance)


def target_weights(class_indices: npt.ArrayLike, tau: npt.ArrayLike) -> FloatArray:
    """Weights `tau_k / p_k`, `(N,)`, that give images of class k the share `tau[k]`; mean 1 over labelled images.

    `class_indices` `(N,)` holds the class of each image, -1 for none (weight 0); p are the shares among the labelled.
    Raises InputError when tau is no distribution or asks for a class without images.
    """
    classes, target = np.asarray(class_indices), np.asarray(tau, dtype=np.float64)
    valid = np.isfinite(target).all() and (target >= 0).all() and abs(target.sum() - 1) <= 1e-6
    if target.ndim != 1 or not valid:
        raise InputError(f"the target shares are {target.tolist()}; expected numbers >= 0 that sum to 1")
    if classes.ndim != 1 or (classes < -1).any() or (classes >= len(target)).any():
        raise InputError(f"class indices must lie in 0..{len(target) - 1}, or be -1 for no label")
    counts = np.bincount(classes[classes >= 0], minlength=len(target)).astype(np.float64)
    missing = np.flatnonzero((counts == 0) & (target > 0))
    if len(missing):
        raise InputError(
            f"class {missing[0]} has the target share {target[missing[0]]:g} and no image in the reference; "
            "use a reference that shows every class"
        )
    factors = np.divide(target * counts.sum(), counts, out=np.zeros_like(target), where=counts > 0)
    return np.where(classes >= 0, factors[classes], 0.0)


def _scatter(x: FloatArray, w: FloatArray) -> FloatArray:
    """`sum w (x - m)(x - m)'` with the batch's own weighted mean m."""
    centred = x - w @ x / w.sum()
    return np.asarray((centred * w[:, None]).T @ centred)
