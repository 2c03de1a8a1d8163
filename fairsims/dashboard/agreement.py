"""How far raters agree beyond chance: Cohen's kappa, with more raters than two the mean over all pairs of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import cohen_kappa_score

from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

DRAWS = 400


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of raters on the images that all of them labelled."""

    name: str
    """What the number is called."""
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

    Cohen 1960 takes each rater's own class shares for chance; of several pairs of raters it is their mean (Light 1971).
    Raises InputError without two raters and an image.
    """
    table = np.asarray(labels, dtype=np.int64)
    if table.ndim != 2 or table.shape[0] < 1 or table.shape[1] < 2:
        raise InputError(f"got labels of shape {table.shape}; expected at least one image and two raters")
    n, raters = table.shape
    pairs = list(combinations(range(raters), 2))
    # Rows of labels that are the same are counted, not repeated.
    rows, times = np.unique(table, axis=0, return_counts=True)
    known = list(range(classes))

    def kappa(weights: npt.NDArray[np.int64]) -> float:
        found = [cohen_kappa_score(rows[:, a], rows[:, b], labels=known, sample_weight=weights) for a, b in pairs]
        return float(np.mean(found))

    with warnings.catch_warnings():
        # It divides by zero where all labels are of one class.
        warnings.simplefilter("ignore")
        value = kappa(times)
        drawn = numpy_generator("agreement", n).multinomial(n, times / n, DRAWS)
        draws = np.array([kappa(w) for w in drawn]) if np.isfinite(value) else np.array([])
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) > DRAWS // 2 else (None, None)
    return Agreement(
        name="Cohen's kappa" if raters == 2 else "Mean Cohen's kappa of all pairs of raters",
        n=n,
        raters=raters,
        observed=float(np.mean([(rows[:, a] == rows[:, b]) @ times / n for a, b in pairs])),
        kappa=value if np.isfinite(value) else None,
        low=None if low is None else min(float(low), value),
        high=None if high is None else max(float(high), value),
    )
