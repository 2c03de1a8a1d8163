"""How far a generation is from the data: closed forms for Gaussians, estimates from points, intervals over repeats."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from fairsims.audit.neighbours import manifold

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over repeats with its 95% interval; both ends None with fewer than two repeats, or infinite ones."""

    mean: float
    low: float | None
    high: float | None

    @classmethod
    def over(cls, values: npt.ArrayLike, level: float = 0.95) -> Interval:
        """Student's interval of the mean of `values` `(R,)`, one per independent repeat."""
        x = np.asarray(values, dtype=np.float64)
        mean = float(x.mean())
        if len(x) < 2 or not np.isfinite(x).all():
            return cls(mean=mean, low=None, high=None)
        half = float(stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
        return cls(mean=mean, low=mean - half, high=mean + half)

    def as_dict(self) -> dict[str, float | None]:
        """JSON values: None where a number is infinite."""
        return {k: v if v is not None and np.isfinite(v) else None for k, v in asdict(self).items()}


def gaussian_w2(mean: FloatArray, cov: FloatArray, mean0: FloatArray, cov0: FloatArray) -> FloatArray:
    """Wasserstein-2 distance of Gaussians `(..., d)`, `(..., d, d)` from one (Givens & Shortt 1984, prop. 7), `(...)`.

    Its square is the Fréchet distance.
    """
    # The trace of (S0^1/2 S S0^1/2)^1/2, whose square has the eigenvalues of S0 S.
    cross = np.sqrt(np.linalg.eigvals(cov0 @ cov).real.clip(min=0)).sum(axis=-1)
    trace = np.trace(cov + cov0, axis1=-2, axis2=-1) - 2 * cross
    return np.asarray(np.sqrt((((mean - mean0) ** 2).sum(axis=-1) + trace).clip(min=0)))


def gaussian_kl(mean: FloatArray, cov: FloatArray, mean0: FloatArray, cov0: FloatArray) -> FloatArray:
    """KL(N(mean, cov) || N(mean0, cov0)), `(...)`."""
    precision = np.linalg.inv(cov0)
    gap = mean - mean0
    square = np.einsum("...i,ij,...j->...", gap, precision, gap)
    trace = np.trace(precision @ cov, axis1=-2, axis2=-1)
    return np.asarray((trace + square - len(mean0) - np.linalg.slogdet(cov)[1] + np.linalg.slogdet(cov0)[1]) / 2)


def gaussian_chi2(mean: FloatArray, cov: FloatArray, mean0: FloatArray, cov0: FloatArray) -> FloatArray:
    """chi2(N(mean, cov) || N(mean0, cov0)), `(...)`; infinite unless 2 cov0 - cov is positive definite.

    1 + chi2 is the integral of N(mean, cov)^2 / N(mean0, cov0), again a Gaussian one: with
    A = 2 cov^-1 - cov0^-1 and the gap g, sqrt(|cov0| / |A|) / |cov| exp(g' (2 cov0 - cov)^-1 g).
    """
    left = 2 * cov0 - cov
    finite = np.linalg.eigvalsh(left)[..., 0] > 0
    safe = np.where(finite[..., None, None], left, cov0)
    gap = mean - mean0
    exponent = np.einsum("...i,...ij,...j->...", gap, np.linalg.inv(safe), gap)
    # |A| = |2 cov^-1 - cov0^-1| = |2 cov0 - cov| / (|cov| |cov0|)
    log = np.linalg.slogdet(cov0)[1] - (np.linalg.slogdet(safe)[1] + np.linalg.slogdet(cov)[1]) / 2 + exponent
    return np.where(finite, np.expm1(log), np.inf)


def sliced_w2(a: FloatArray, b: FloatArray, rng: np.random.Generator, directions: int = 64) -> float:
    """Sliced Wasserstein-2 distance of equally many points `(n, d)` (Bonneel et al. 2015), exact in each direction."""
    if a.shape != b.shape:
        raise ValueError(f"points is {a.shape} and {b.shape}; expected equally many")
    unit = rng.standard_normal((a.shape[1], directions))
    unit /= np.linalg.norm(unit, axis=0)
    return float(np.sqrt(np.mean((np.sort(a @ unit, axis=0) - np.sort(b @ unit, axis=0)) ** 2)))


def exact_w2(a: FloatArray, b: FloatArray) -> float:
    """Wasserstein-2 distance of equally many points `(n, d)` by optimal assignment: cubic in n, for a thousand."""
    if a.shape != b.shape:
        raise ValueError(f"points is {a.shape} and {b.shape}; expected equally many")
    cost = cdist(a, b, "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    return float(np.sqrt(cost[rows, columns].mean()))


def moments(points: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Mean and maximum-likelihood covariance of points `(..., n, d)`."""
    mean = points.mean(axis=-2)
    centred = points - mean[..., None, :]
    return mean, np.swapaxes(centred, -1, -2) @ centred / points.shape[-2]


def point_measures(
    points: FloatArray, real: FloatArray, centres: FloatArray, rng: np.random.Generator
) -> dict[str, float | None]:
    """Measures of points `(n, d)` against equally many fresh real ones; `centres` `(K, d)` are the modes.

    Distances between two samples of one law are not 0: `real` against itself sets the level.
    """
    (mean, cov), (mean0, cov0) = moments(points), moments(real)
    few = min(len(points), 512)
    inside = manifold(real[: 2 * few], points[: 2 * few])
    found: dict[str, float | None] = {
        "sliced_w2": sliced_w2(points, real, rng),
        "w2": exact_w2(points[:few], real[:few]),
        "frechet": float(gaussian_w2(mean, cov, mean0, cov0)) ** 2,
        "mean_drift": float(np.linalg.norm(mean - mean0)),
        "cov_drift": float(np.linalg.norm(cov - cov0) / np.linalg.norm(cov0)),
        "precision": inside.precision,
        "recall": inside.recall,
    }
    return found | mode_shares(points, centres)


def mode_shares(points: FloatArray, centres: FloatArray) -> dict[str, float]:
    """Share of the points `(n, d)` that are nearest to each of the centres `(K, d)`."""
    nearest = cdist(points, centres).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(centres)) / len(points)
    return {f"share.{k}": float(s) for k, s in enumerate(shares)}
