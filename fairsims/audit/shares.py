"""Shares of an attribute among generated images, corrected for the classifier's errors, with intervals.

q = share predicted, C[i, j] = P(predicted i | true j) from held-out images, p = true share: q = C p. The correction
assumes that errors on generated images are those on the held-out ones. P(predicted | true) may be carried to a pool of
another mix, P(true | predicted) may not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls
from scipy.stats import norm

from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]

BINARY = "Rogan-Gladen point, Lang-Reiczigel interval"
MULTICLASS = "simplex-constrained inversion, Dirichlet Monte Carlo"
UNCORRECTED = "uncorrected classifier counts, Wilson (sampling error only)"

DRAWS = 4000
SMALL_CELL, SMALL_SAMPLE, SMALL_YOUDEN, LARGE_CONDITION = 30, 50, 0.5, 10.0
SINGULAR = 1e8


@dataclass(frozen=True, kw_only=True)
class ShareEstimate:
    """Share per class with an interval that always contains it."""

    classes: tuple[str, ...]
    n: int
    """Images counted."""
    raw: tuple[float, ...]
    """Shares as the classifier predicts them."""
    share: tuple[float, ...]
    """Corrected shares; they sum to 1."""
    low: tuple[float, ...]
    high: tuple[float, ...]
    method: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShareDifference:
    """Change of the share per class (after - before) with an interval that always contains it."""

    classes: tuple[str, ...]
    delta: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def corrected_shares(
    classes: Sequence[str],
    predicted_counts: Sequence[int] | FloatArray,
    confusion: Confusion | None,
    *,
    level: float = 0.95,
) -> ShareEstimate:
    """Shares of `classes` among images of which the classifier put `predicted_counts[k]` into class k.

    Two classes: Rogan & Gladen 1978, interval of Lang & Reiczigel 2014. More: `min ||C p - q||` over the simplex
    (Bunse 2022), interval by Monte Carlo. Without a confusion: the raw shares, Wilson intervals.

    Raises InputError when the counts are no counts, do not match the classes or the confusion, or when the confusion
    cannot tell the classes apart.
    """
    counts = _checked(classes, predicted_counts, confusion, level)
    n, q = int(counts.sum()), counts / counts.sum()
    if confusion is None:
        share, method = q, UNCORRECTED
        low, high = _wilson(q, n, level)
    elif len(counts) == 2:
        share, method = _rogan_gladen(q, confusion), BINARY
        low, high = _lang_reiczigel(q, n, confusion, level)
    else:
        share, method = on_simplex(confusion.rates(), q), MULTICLASS
        low, high = _percentiles(_draws(counts, _confusion_draws(confusion)), level)
    return ShareEstimate(
        classes=tuple(classes),
        n=n,
        raw=_floats(q),
        share=_floats(share),
        low=_floats(np.minimum(low, share)),
        high=_floats(np.maximum(high, share)),
        method=method,
        warnings=_warnings(tuple(classes), q, n, confusion),
    )


def share_difference(
    classes: Sequence[str],
    before_counts: Sequence[int] | FloatArray,
    after_counts: Sequence[int] | FloatArray,
    confusion: Confusion | None,
    *,
    level: float = 0.95,
) -> ShareDifference:
    """Change of the corrected shares between two pools judged by one classifier.

    Both pools share the held-out images, so their errors largely cancel; two intervals taken as independent would be
    twice as wide. Pools of the same seeds are positively correlated, which is left out: their interval errs on the
    wide side. Two classes: `d = (q_after - q_before)/J` with its delta-method variance; more: Monte Carlo with one
    confusion matrix per draw; without a confusion: Newcombe 1998.

    Raises InputError as `corrected_shares` does.
    """
    before = _checked(classes, before_counts, confusion, level)
    after = _checked(classes, after_counts, confusion, level)
    delta = np.subtract(
        corrected_shares(classes, after_counts, confusion, level=level).share,
        corrected_shares(classes, before_counts, confusion, level=level).share,
    )
    if confusion is None:
        low, high = _newcombe(before, after, level)
    elif len(before) == 2:
        low, high = _binary_difference(before, after, confusion, level)
    else:
        rates = _confusion_draws(confusion)
        low, high = _percentiles(_draws(after, rates, "after") - _draws(before, rates, "before"), level)
    return ShareDifference(
        classes=tuple(classes),
        delta=_floats(delta),
        low=_floats(np.minimum(low, delta)),
        high=_floats(np.maximum(high, delta)),
    )


def independent_difference(before: ShareEstimate, after: ShareEstimate) -> ShareDifference:
    """Change between two estimates taken as independent: their intervals combined in quadrature, as Newcombe 1998 does.

    For estimates that `share_difference` has no counts for. Too wide rather than too narrow: both share a classifier.
    """
    delta = np.subtract(after.share, before.share)
    low = delta - np.hypot(np.subtract(after.share, after.low), np.subtract(before.high, before.share))
    high = delta + np.hypot(np.subtract(after.high, after.share), np.subtract(before.share, before.low))
    return ShareDifference(classes=after.classes, delta=_floats(delta), low=_floats(low), high=_floats(high))


def held(difference: ShareDifference, drift: float) -> bool | None:
    """Whether no share has moved by more than `drift`, as equivalence: every interval inside +- drift.

    False when some interval lies wholly outside, None when neither can be said.
    """
    low, high = np.array(difference.low), np.array(difference.high)
    if ((low >= -drift) & (high <= drift)).all():
        return True
    return False if ((high < -drift) | (low > drift)).any() else None


def reached(
    estimate: ShareEstimate, target: Mapping[str, float] | Sequence[float], tolerance: float | Mapping[str, float]
) -> bool | None:
    """Whether the target is reached, as equivalence: every class's interval inside target +- tolerance.

    False when some interval lies wholly outside, None when neither can be said. Raises InputError when the target
    does not give every class a share in [0, 1] that sum to 1.
    """
    if isinstance(target, Mapping):
        if set(target) != set(estimate.classes):
            raise InputError(
                f"the target names {', '.join(map(str, target))}; expected a share for each of "
                f"{', '.join(estimate.classes)}"
            )
        target = [target[c] for c in estimate.classes]
    shares = np.asarray(target, dtype=np.float64)
    widths = np.asarray(
        [tolerance[c] for c in estimate.classes] if isinstance(tolerance, Mapping) else tolerance, dtype=np.float64
    )
    if shares.shape != (len(estimate.classes),) or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(
            f"the target is {list(target)}; expected {len(estimate.classes)} shares between 0 and 1, "
            f"one for each of {', '.join(estimate.classes)}"
        )
    if abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"the target {list(target)} sums to {shares.sum():g}; expected shares that sum to 1")
    if not (widths > 0).all():
        raise InputError(f"the tolerance is {tolerance}; expected a positive number, e.g. 0.03")
    # Rounding in target +- tolerance must not decide an interval that ends exactly there.
    bottom, top = shares - widths - 1e-12, shares + widths + 1e-12
    low, high = np.asarray(estimate.low), np.asarray(estimate.high)
    if ((low >= bottom) & (high <= top)).all():
        return True
    return False if ((high < bottom) | (low > top)).any() else None


def _checked(
    classes: Sequence[str], counts: Sequence[int] | FloatArray, confusion: Confusion | None, level: float
) -> FloatArray:
    values = np.asarray(counts, dtype=np.float64)
    if len(classes) < 2 or values.shape != (len(classes),):
        raise InputError(
            f"got {values.size} predicted counts for {len(classes)} classes; expected one per class, 2 classes or more"
        )
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise InputError(f"the predicted counts are {list(counts)}; expected whole numbers of images, 0 or more")
    if values.sum() == 0:
        raise InputError("no image was counted; expected at least one")
    if not 0 < level < 1:
        raise InputError(f"the level is {level}; expected a probability such as 0.95")
    if confusion is None:
        return values
    if len(confusion.counts) != len(classes):
        raise InputError(
            f"the confusion has {len(confusion.counts)} classes, the counts have {len(classes)} "
            f"({', '.join(classes)}); use the classifier that made the predictions"
        )
    rates = confusion.rates()
    separates = (
        _shrunken(confusion)[0] > 0 and _youden(rates) > 0 if len(classes) == 2 else _condition(rates) < SINGULAR
    )
    if not separates:
        raise InputError(
            f"the {confusion.split!r} confusion {[list(r) for r in confusion.counts]} does not tell the classes apart; "
            "use a classifier that is better than chance"
        )
    return values


def _warnings(classes: tuple[str, ...], q: FloatArray, n: int, confusion: Confusion | None) -> tuple[str, ...]:
    found = []
    if n < SMALL_SAMPLE:
        found.append(f"only {n} images were counted; below {SMALL_SAMPLE} the intervals are rough")
    if confusion is None:
        return tuple(found)
    rates = confusion.rates()
    small = [f"{c} {int(t)}" for c, t in zip(classes, confusion.totals, strict=True) if t < SMALL_CELL]
    if small:
        found.append(f"few held-out images ({', '.join(small)}); {SMALL_CELL} per class are wanted")
    if len(classes) == 2:
        bottom, top = rates[0, 1], rates[0, 0]
        if not bottom <= q[0] <= top:
            found.append(
                f"the predicted share of {classes[0]}, {q[0]:.3f}, lies outside [{bottom:.3f}, {top:.3f}], which the "
                "held-out errors allow; errors on these images may differ"
            )
        if _youden(rates) < SMALL_YOUDEN:
            found.append(
                f"sensitivity + specificity - 1 is {_youden(rates):.2f}; below {SMALL_YOUDEN} the correction is weak"
            )
        return tuple(found)
    if (np.linalg.solve(rates, q) < 0).any():
        found.append(
            "the predicted shares lie outside what the held-out errors allow; errors on these images may differ"
        )
    if _condition(rates) > LARGE_CONDITION:
        found.append(
            f"the confusion's condition number is {_condition(rates):.1f}; above 10 the correction is unstable"
        )
    return tuple(found)


def _rogan_gladen(q: FloatArray, confusion: Confusion) -> FloatArray:
    """`(q + Sp - 1)/(Se + Sp - 1)`, clipped to [0, 1]; class 0 counts as positive."""
    rates = confusion.rates()
    share = float(np.clip((q[0] - rates[0, 1]) / _youden(rates), 0.0, 1.0))
    return np.array([share, 1 - share])


def _lang_reiczigel(q: FloatArray, n: int, confusion: Confusion, level: float) -> tuple[FloatArray, FloatArray]:
    """Lang & Reiczigel 2014, eq. 3-5, with (1 - pi')^2 where the paper prints (1 - pi^2)."""
    z = float(norm.ppf((1 + level) / 2))
    j, se, sp, n1, n0 = _shrunken(confusion)
    n_ = n + z * z
    q_ = (n * q[0] + z * z / 2) / n_
    pi = (q_ + sp - 1) / j
    v1, v0 = se * (1 - se) / n1, sp * (1 - sp) / n0
    shift = 2 * z * z * (pi * v1 - (1 - pi) * v0)
    half = z * math.sqrt(q_ * (1 - q_) / n_ + pi * pi * v1 + (1 - pi) ** 2 * v0) / j
    low, high = np.clip([pi + shift - half, pi + shift + half], 0.0, 1.0)
    return np.array([low, 1 - high]), np.array([high, 1 - low])


def _binary_difference(
    before: FloatArray, after: FloatArray, confusion: Confusion, level: float
) -> tuple[FloatArray, FloatArray]:
    """Delta method; a success and a failure are added to every proportion in the variance, as Agresti & Caffo 2000."""
    z = float(norm.ppf((1 + level) / 2))
    j = _youden(confusion.rates())
    j_, se, sp, n1, n0 = _shrunken(confusion)
    delta = (after[0] / after.sum() - before[0] / before.sum()) / j
    sampling = 0.0
    for counts in (before, after):
        n = counts.sum() + 2
        q = (counts[0] + 1) / n
        sampling += q * (1 - q) / n
    half = z * math.sqrt(sampling + delta**2 * (se * (1 - se) / n1 + sp * (1 - sp) / n0)) / j_
    low, high = np.clip([delta - half, delta + half], -1.0, 1.0)
    return np.array([low, -high]), np.array([high, -low])


def _wilson(q: FloatArray, n: int, level: float) -> tuple[FloatArray, FloatArray]:
    z = float(norm.ppf((1 + level) / 2))
    centre = (q + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(q * (1 - q) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return np.clip(centre - half, 0.0, 1.0), np.clip(centre + half, 0.0, 1.0)


def _newcombe(before: FloatArray, after: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Newcombe 1998, method 10: the two Wilson intervals, combined in quadrature."""
    q0, q1 = before / before.sum(), after / after.sum()
    (l0, u0), (l1, u1) = _wilson(q0, int(before.sum()), level), _wilson(q1, int(after.sum()), level)
    return q1 - q0 - np.hypot(q1 - l1, u0 - q0), q1 - q0 + np.hypot(u1 - q1, q0 - l0)


def _confusion_draws(confusion: Confusion) -> FloatArray:
    """Matrices C from the posterior of the held-out counts (Jeffreys prior), `(DRAWS, K, K)`."""
    generator = numpy_generator("shares", "confusion")
    columns = [generator.dirichlet(np.asarray(row, dtype=np.float64) + 0.5, DRAWS) for row in confusion.counts]
    return np.stack(columns, axis=2)


def _draws(counts: FloatArray, rates: FloatArray, name: str = "pool") -> FloatArray:
    """Solutions p of q = C p on the simplex for draws of q and C, `(DRAWS, K)`."""
    q = numpy_generator("shares", name).dirichlet(counts + 0.5, DRAWS)
    p = np.linalg.solve(rates, q[:, :, None])[:, :, 0]
    for i in np.flatnonzero((p < 0).any(axis=1)):
        p[i] = on_simplex(rates[i], q[i])
    return np.asarray(p)


def on_simplex(rates: FloatArray, q: FloatArray) -> FloatArray:
    """`min ||C p - q||` over p >= 0, sum p = 1, exactly.

    There C p - q = A p with A = C - q 1'; scaling u = s p in `min ||A u||^2 + (1 - sum u)^2, u >= 0` and solving for s
    leaves `||A p||^2/(1 + ||A p||^2)`, which grows with ||A p||.
    """
    size = len(q)
    system = np.vstack([rates - q[:, None], np.ones(size)])
    u = nnls(system, np.append(np.zeros(size), 1.0), maxiter=100 * size)[0]
    return np.asarray(u / u.sum())


def _percentiles(draws: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def _youden(rates: FloatArray) -> float:
    """Sensitivity + specificity - 1 of a two-class confusion."""
    return float(rates[0, 0] + rates[1, 1] - 1)


def _shrunken(confusion: Confusion) -> tuple[float, float, float, float, float]:
    """J', Se', Sp', n1', n0' of Lang & Reiczigel: one success and one failure added per class."""
    (a, b), (c, d) = confusion.counts
    n1, n0 = a + b + 2.0, c + d + 2.0
    se, sp = (a + 1) / n1, (d + 1) / n0
    return se + sp - 1, se, sp, n1, n0


def _condition(rates: FloatArray) -> float:
    return float(np.linalg.cond(rates))


def _floats(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)
