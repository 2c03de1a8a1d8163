"""Fréchet distance between feature distributions, from streamed moments.

Call it "FID" with Inception features only; with any other extractor it is "FD (extractor)".
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas, eigh, lapack

from fairsims.errors import InputError
from fairsims.files import give_back

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

ROWS = 1024
"""Features taken into float64 at once: 16 MB at d = 2048."""
PARTS = 3
"""Parts at most that images are cut into to see how the distance falls with their number."""


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

    def cov_into(self, room: FloatArray) -> FloatArray:
        """`cov` written to `room` `(d, d)` and returned; only where `factor` is empty."""
        self._need_two()
        return np.divide(self._scatter, self._freedom, out=room)

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
    """Moments of a reference, kept with the root that every comparison needs."""

    mean: FloatArray
    """`(d,)`"""
    cov: FloatArray
    """`(d, d)`"""
    root: FloatArray
    """Lower triangular L with `L L' = cov`, `(d, d)`: products with a triangle cost half."""

    @classmethod
    def of(cls, moments: Moments) -> FrechetReference:
        """The reference with these moments. Raises InputError before there are two rows."""
        return cls.from_statistics(moments.mean, moments.cov)

    @classmethod
    def from_statistics(cls, mean: npt.ArrayLike, cov: npt.ArrayLike) -> FrechetReference:
        """The reference with mean `(d,)` and covariance `(d, d)`. Raises InputError when they are no such thing."""
        m, s = np.asarray(mean, dtype=np.float64), np.asarray(cov, dtype=np.float64)
        if m.ndim != 1 or s.shape != (len(m), len(m)) or not (np.isfinite(m).all() and np.isfinite(s).all()):
            raise InputError(
                f"got a mean {m.shape} and a covariance {s.shape}; expected finite numbers (d,) and (d, d)"
            )
        largest = float(np.abs(s).max(initial=0))
        if (np.abs(s - s.T) > 1e-5 * largest).any() or (np.diagonal(s) < 0).any():
            raise InputError("the covariance is not symmetric or has negative variances; compute it again")
        return cls(mean=m, cov=s, root=_triangular_root((s + s.T) / 2))

    @cached_property
    def room(self) -> FloatArray:
        """`(d, d)` that comparisons overwrite: fresh memory of this size can cost a tenth of all their time."""
        return np.empty_like(self.cov)


def frechet_distance(reference: FrechetReference, moments: Moments) -> float:
    """`|m1 - m2|^2 + tr(S1 + S2) - 2 tr (S1 S2)^1/2` (Dowson & Landau 1982), at least 0.

    With `S1 = L L'` the eigenvalues of S1 S2 are those of the symmetric `L' S2 L`, whose roots sum to the last trace;
    S1 S2 itself is not symmetric, and rounding makes its small ones complex. With fewer images than features, `S2 =
    B' B`, the n x n Gram matrix of B L has the same non-zero ones.

    Raises InputError when the feature widths differ or there are fewer than two images.
    """
    if moments.mean.shape != reference.mean.shape:
        raise InputError(
            f"the reference has {len(reference.mean)} features, the images have {len(moments.mean)}; "
            "use one feature extractor for both"
        )
    upper, factor = reference.root.T, moments.factor  # columns first, as LAPACK reads without a copy
    if len(factor):
        trace = float((factor**2).sum())
        half = blas.dtrmm(1.0, upper, factor.T, overwrite_b=True)
        symmetric = half.T @ half
    else:
        cov = moments.cov_into(reference.room)
        trace = float(np.trace(cov))
        symmetric, _ = lapack.dsygst(cov.T, upper, itype=2, overwrite_a=True)
    # `dsygst` fills one triangle, which is all that `eigh` reads.
    eigenvalues = eigh(symmetric, lower=False, eigvals_only=True, driver="evd", overwrite_a=True, check_finite=False)
    gap = reference.mean - moments.mean
    roots = float(np.sqrt(eigenvalues.clip(min=0)).sum())
    return max(0.0, float(gap @ gap) + float(np.trace(reference.cov)) + trace - 2 * roots)


def frechet_infinity(reference: FrechetReference, features: npt.NDArray[np.floating[Any]], order: IntArray) -> float:
    """The Fréchet distance that infinitely many such images would have (Chong & Forsyth 2020, arXiv 1911.07023).

    The distance falls as a + b / N; this is the a of a line through those of all rows of `features` `(N, d)`, of
    halves and of thirds, cut along `order`, a random permutation. What a part shows too much of, the others lack: the
    mean over parts that make up the whole varies twenty times less than random subsets of their size do. Parts have
    2 d images at least, below which the distance is no line in 1 / N. Not cut at 0: near 0 it is as often below. The
    reference's own number of images stays as it is. Raises InputError for fewer than 4 d images.
    """
    n, d = features.shape
    if n < 4 * d:
        raise InputError(f"got {n} images for {d} features; expected {4 * d} or more, from where FD falls as 1 / N")
    cuts = np.arange(1, min(PARTS, n // (2 * d)) + 1)
    found = []
    for k in cuts:
        parts = (moments_of(features, rows=np.sort(part)) for part in np.array_split(order, k))
        found.append(np.mean([frechet_distance(reference, m) for m in parts]))
    line = np.stack([np.ones(len(cuts)), cuts / n], axis=1)
    return float(np.linalg.lstsq(line, np.array(found), rcond=None)[0][0])


def moments_of(
    features: npt.NDArray[np.floating[Any]], weights: FloatArray | None = None, rows: IntArray | None = None
) -> Moments:
    """Moments of features `(N, d)`, or of those at `rows`, that may lie in a file: read `ROWS` at a time."""
    moments = Moments()
    for start in range(0, len(features) if rows is None else len(rows), ROWS):
        part = slice(start, start + ROWS) if rows is None else rows[start : start + ROWS]
        moments.update(features[part], None if weights is None else weights[part])
        give_back(features)
    return moments


def _scatter(x: FloatArray, w: FloatArray) -> FloatArray:
    """`sum w (x - m)(x - m)'` with the batch's own weighted mean m."""
    centred = (x - w @ x / w.sum()) * np.sqrt(w)[:, None]
    return np.asarray(centred.T @ centred)


def _triangular_root(cov: FloatArray) -> FloatArray:
    """Lower triangular L with `L L' = cov`, also where the covariance has no inverse."""
    try:
        return np.asarray(np.linalg.cholesky(cov))
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(cov)
        upper = np.asarray(np.linalg.qr((vectors * np.sqrt(values.clip(min=0))).T, mode="r"))
        return np.ascontiguousarray(upper.T)
