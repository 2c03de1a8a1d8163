"""How far raters agree beyond chance: Cohen's kappa for two, Fleiss' kappa for more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

DRAWS = 2000


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of raters on the images that all of them labelled."""

    name: str
    """Cohen's kappa or Fleiss' kappa."""
    n: int
    """Images."""
    raters: int
    observed: float
    """Share of pairs of labels of one image that are the same."""
    kappa: float | None
    """(observed - by chance)/(1 - by chance); None where all labels are of one class, so that chance explains all."""
    low: float | None
    high: float | None
    """95% interval: percentiles over draws of the images with replacement."""


def agreement(labels: npt.ArrayLike, classes: int) -> Agreement:
    """Of labels `(images, raters)`, class numbers.

    Cohen 1960 takes each of two raters' own class shares for chance, Fleiss 1971 the shares of all labels together.
    Raises InputError without two raters and an image.
    """
    table = np.asarray(labels, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise InputError(f"got labels of shape {table.shape}; expected at least one image and two raters")
    n, raters = table.shape
    patterns, times = np.unique(table, axis=0, return_counts=True)
    observed, kappa = (values[0] for values in _kappa(patterns, times[None] / n, classes))
    drawn = numpy_generator("agreement", n).multinomial(n, times / n, DRAWS) / n
    draws = _kappa(patterns, drawn, classes)[1]
    draws = draws[np.isfinite(draws)]
    known = bool(np.isfinite(kappa))
    low, high = np.quantile(draws, [0.025, 0.975]) if known and len(draws) > DRAWS // 2 else (None, None)
    return Agreement(
        name="Cohen's kappa" if raters == 2 else "Fleiss' kappa",
        n=n,
        raters=raters,
        observed=float(observed),
        kappa=float(kappa) if known else None,
        low=None if low is None else min(float(low), float(kappa)),
        high=None if high is None else max(float(high), float(kappa)),
    )


def _kappa(patterns: IntArray, weights: FloatArray, classes: int) -> tuple[FloatArray, FloatArray]:
    """Observed agreement and kappa (NaN where chance explains all), `(D,)` each.

    patterns `(P, raters)`: the different rows of labels; weights `(D, P)`: their shares, a row for each draw.
    """
    raters = patterns.shape[1]
    said = np.eye(classes)[patterns]
    counts = said.sum(axis=1)
    observed = weights @ ((counts * (counts - 1)).sum(axis=1) / (raters * (raters - 1)))
    if raters == 2:
        chance = ((weights @ said[:, 0]) * (weights @ said[:, 1])).sum(axis=1)
    else:
        chance = ((weights @ counts / raters) ** 2).sum(axis=1)
    left = np.where(chance > 1 - 1e-12, np.nan, 1 - chance)
    return observed, (observed - chance) / left
