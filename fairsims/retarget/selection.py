"""Classifier resampling: what reaches a target that the strength cap cannot, and the baseline of every claim."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairsims.audit.shares import ShareEstimate, corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.errors import InfeasibleTarget
from fairsims.seeds import derive, numpy_generator

DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Keep an image predicted j with probability `keep[j]`."""

    keep: tuple[float, ...]
    images_per_kept: float


def plan_selection(shares: np.ndarray, confusion: np.ndarray, target: np.ndarray) -> Selection:
    """Acceptance rates after which the *true* shares are the target, as the confusion matrix has it.

    shares `(K,)` true shares of what is generated, confusion `(K, K)` with P(predicted i | true j) in row i, column j.
    Of the images predicted j a share P(true c | predicted j) = C_jc p_c / q_j is c; the mix k over predicted classes
    with sum_j k_j P(c | j) = tau_c is solved for; class j is accepted with k_j / q_j, scaled so that the largest is 1.
    Raises InfeasibleTarget when the classifier errs too much to select that pure a mix.
    """
    q = confusion @ shares
    posterior = (confusion * shares[None, :] / q[:, None]).T
    mix = np.linalg.solve(posterior, target)
    if mix.min() < -1e-9:
        best = posterior.max(axis=1)
        raise InfeasibleTarget(
            f"the classifier cannot select the target: kept images are at best {np.round(best, 3).tolist()} pure by "
            "class; use a more accurate classifier or a target nearer to what the model reaches"
        )
    rates = np.clip(mix, 0, None) / q
    keep = rates / rates.max()
    return Selection(keep=tuple(map(float, keep)), images_per_kept=float(1 / (keep @ q)))


def accept(seeds: np.ndarray, predicted: np.ndarray, selection: Selection) -> np.ndarray:
    """Which images are kept, `(N,)` booleans: a function of each seed and its predicted class alone."""
    uniform = np.array([derive("accept", int(s)) / 2**63 for s in seeds])
    return np.asarray(uniform < np.asarray(selection.keep)[predicted])


def selected_shares(
    classes: tuple[str, ...], candidates: np.ndarray, kept: np.ndarray, confusion: Confusion, *, level: float = 0.95
) -> ShareEstimate:
    """Shares of images kept by their predicted class, where plain correction would be wrong.

    Selection changes P(predicted | true), so the confusion matrix holds for the `candidates` only (counts `(K,)` of
    predicted classes): they give P(true | predicted), which the mix of `kept` then weighs. Interval by Dirichlet Monte
    Carlo over the matrix's columns, the candidates and the kept.
    """
    generator = numpy_generator("shares", "selected")
    columns = [generator.dirichlet(np.asarray(row, dtype=float) + 0.5, DRAWS) for row in confusion.counts]
    rates = np.stack(columns, axis=2)
    q = generator.dirichlet(candidates + 0.5, DRAWS)
    p = np.clip(np.linalg.solve(rates, q[:, :, None])[:, :, 0], 1e-9, None)
    mix = generator.dirichlet(kept + 0.5, DRAWS)
    draws = _after_selection(rates, p / p.sum(axis=1, keepdims=True), mix)
    point_p = np.array(corrected_shares(classes, candidates, confusion).share)
    share = _after_selection(confusion.rates()[None], point_p[None], kept[None] / kept.sum())[0]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return ShareEstimate(
        classes=classes,
        n=int(kept.sum()),
        raw=tuple(map(float, kept / kept.sum())),
        share=tuple(map(float, share)),
        low=tuple(map(float, np.minimum(low, share))),
        high=tuple(map(float, np.maximum(high, share))),
        method="P(true | predicted) of the candidates weighted by the kept mix, Dirichlet Monte Carlo",
        warnings=("the after pool was selected by the classifier that measures it; its shares rest on the candidates",),
    )


def _after_selection(rates: np.ndarray, p: np.ndarray, mix: np.ndarray) -> np.ndarray:
    """sum_j mix_j P(true c | predicted j): rates `(D, K, K)`, p and mix `(D, K)` -> `(D, K)`."""
    joint = rates * p[:, None, :]
    posterior = joint / joint.sum(axis=2, keepdims=True)
    return np.asarray(np.einsum("dj,djc->dc", mix, posterior))
