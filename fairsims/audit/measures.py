"""How far shares are from a target: ratios and distances, and what the distances would be were the target met."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from fairsims.audit.estimates import ShareEstimate, target_shares
from fairsims.audit.intervals import DRAWS, LEVEL, confusion_draws, left_inverse, solutions
from fairsims.audit.result import Measures
from fairsims.classifiers.base import Confusion
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]

NO_SHIFT = 1e-9


def measures(
    estimate: ShareEstimate,
    target: Mapping[str, float] | Sequence[float],
    *,
    before: ShareEstimate | None = None,
    null: FloatArray | None = None,
) -> Measures:
    """Everything that compares shares p with a target t.

    `representation_ratio` p_k/t_k by class (None where t_k = 0) and the `least_ratio`; `min_over_max` of p;
    `total_variation`, half the sum of |p - t|: the share of images that would have to change class;
    `jensen_shannon`, the root of the divergence with base 2; `fairness_discrepancy`, |p - t| as a vector's length;
    `largest_gap`. With `before`, by class the `achieved_shift` (p - p_before)/(t - p_before), None where nothing was to
    change. Estimated distances are above 0 even when the target is met: `null` are shares `(D, K)` as they would be
    measured then (`null_shares`, `labelled_null`), and `null.<distance>` is what 95% of them stay below.

    Raises InputError when the target is none for these classes.
    """
    p, t = np.asarray(estimate.share), target_shares(estimate.classes, target)
    ratio = [float(a / b) if b > 0 else None for a, b in zip(p, t, strict=True)]
    shift: dict[str, float | None] = {}
    if before is not None:
        for c, a, b, wanted in zip(estimate.classes, p, before.share, t, strict=True):
            shift[c] = float((a - b) / (wanted - b)) if abs(wanted - b) > NO_SHIFT else None
    met = {} if null is None else {name: float(np.quantile(d, LEVEL)) for name, d in distances(null, t).items()}
    return Measures(
        representation_ratio=dict(zip(estimate.classes, ratio, strict=True)),
        least_ratio=min(r for r in ratio if r is not None),
        min_over_max=float(p.min() / p.max()),
        **{name: float(d) for name, d in distances(p, t).items()},
        achieved_shift=shift,
        null={"level": LEVEL} | met if met else {},
    )


def distances(p: npt.ArrayLike, t: npt.ArrayLike) -> dict[str, FloatArray]:
    """Distances of shares p `(..., K)` from shares t `(K,)`, each `(...)`; 0 when they are equal."""
    shares, target = np.asarray(p, dtype=np.float64), np.asarray(t, dtype=np.float64)
    gap = np.abs(shares - target)
    middle = (shares + target) / 2
    divergence = (_against(shares, middle) + _against(np.broadcast_to(target, shares.shape), middle)) / 2
    return {
        "total_variation": gap.sum(axis=-1) / 2,
        "jensen_shannon": np.sqrt(np.clip(divergence, 0.0, 1.0)),
        "fairness_discrepancy": np.sqrt((gap**2).sum(axis=-1)),
        "largest_gap": gap.max(axis=-1),
    }


def null_shares(target: npt.ArrayLike, n: int, confusions: Sequence[Confusion]) -> FloatArray:
    """Shares `(DRAWS, cells)` that would be measured of n images were the true ones `target`, by tier B (or C).

    The target is over the classes of one attribute or the joint cells of several, one confusion for each (none: the
    calls are taken as true). The errors vary as far as their held-out images leave open.
    """
    t = np.asarray(target, dtype=np.float64)
    rates = [confusion_draws(c, *([str(k)] if k else [])) for k, c in enumerate(confusions)] or [np.eye(len(t))[None]]
    points = [left_inverse(c.rates()[None]) for c in confusions] or rates
    # The Kronecker product of C with t is the same as of inverses with q.
    q = solutions(np.broadcast_to(t, (DRAWS, len(t))), rates)
    counts = numpy_generator("shares", "null").multinomial(n, q / q.sum(axis=1, keepdims=True))
    p = np.clip(solutions(counts / n, points), 0.0, None)
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def _against(p: FloatArray, middle: FloatArray) -> FloatArray:
    """KL(p | middle) in bits, `(...)`; an empty class adds nothing."""
    ratio = np.divide(p, middle, out=np.ones_like(middle), where=(middle > 0) & (p > 0))
    return np.asarray((p * np.log2(ratio)).sum(axis=-1))
