"""Temperature, calibration error, and intervals of both that respect groups of images held out together."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.base import IntArray

RESAMPLES = 500


def fit_temperature(logits: Tensor, labels: IntArray, *, bounds: tuple[float, float] = (0.2, 5.0)) -> float:
    """T that minimises the cross-entropy of `softmax(logits / T)` (Guo et al. 2017), within `bounds`."""
    target = torch.from_numpy(labels)
    found = minimize_scalar(
        lambda log_t: float(F.cross_entropy(logits.double() / float(np.exp(log_t)), target)),
        bounds=(np.log(bounds[0]), np.log(bounds[1])),
        method="bounded",
    )
    return float(np.exp(found.x))


def calibration_error(probabilities: Tensor, labels: IntArray, bins: int = 10) -> float:
    """Expected calibration error: mean over images of |accuracy - confidence| in bins of confidence."""
    confidence, predicted = probabilities.max(dim=1)
    right = predicted.numpy() == labels
    place = np.minimum((confidence.numpy() * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].sum() - confidence.numpy()[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def accuracy_interval(right: npt.NDArray[np.bool_], groups: IntArray) -> tuple[float, float]:
    """95% Wilson interval for the share of True among `right` `(N,)`, whose images come in `groups` `(N,)`.

    N is divided by the design effect (Kish 1965) of the groups, estimated from the linearised variance of the mean
    over groups and never taken below 1. Where all or none are right it cannot be estimated: N becomes the groups.
    """
    n, p = len(right), float(right.mean())
    sizes, count = np.bincount(groups), int(groups.max()) + 1
    if 0 < p < 1 and count > 1:
        residuals = np.bincount(groups, weights=right - p)
        variance = count / (count - 1) * float((residuals**2).sum()) / n**2
        effective = n / max(1.0, variance / (p * (1 - p) / n))
    else:
        effective = float((sizes > 0).sum())
    z2 = 1.959964**2
    centre = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(z2 * (p * (1 - p) / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(statistic: Callable[[IntArray], float], groups: IntArray, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of `statistic(positions)`, whole groups `(N,)` drawn with replacement 500 times."""
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
