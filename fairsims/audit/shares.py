"""Tiers B and C: shares from a classifier's counts, corrected for its held-out errors, or not at all.

The correction assumes that errors on these images are those on the held-out ones. P(predicted | true) may be carried
to a pool of another mix, P(true | predicted) may not.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fairsims.audit.draws import counted
from fairsims.audit.estimates import ShareDifference, ShareEstimate, difference, difference_of, floats, spread
from fairsims.audit.intervals import (
    binary_difference,
    condition,
    lang_reiczigel,
    left_inverse,
    newcombe,
    on_simplex,
    rogan_gladen,
    shrunken,
    wilson,
    youden,
)
from fairsims.audit.result import Sensitivity
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]

BINARY = "Rogan-Gladen point, Lang-Reiczigel interval"
MULTICLASS = "simplex-constrained inversion, Dirichlet Monte Carlo"
UNCORRECTED = "uncorrected classifier counts, Wilson (sampling error only)"
UNCORRECTED_ASSUMPTION = "Uncorrected: the classifier is taken to make no errors, and the interval has none of them."

SMALL_CELL, SMALL_SAMPLE, SMALL_YOUDEN, LARGE_CONDITION = 30, 50, 0.5, 10.0
SINGULAR = 1e8


def corrected_shares(
    classes: Sequence[str], predicted_counts: npt.ArrayLike, confusion: Confusion | None
) -> ShareEstimate:
    """Shares of `classes` among images of which the classifier put `predicted_counts[k]` into class k.

    Two classes: Rogan & Gladen 1978, interval of Lang & Reiczigel 2014. More: `min ||C p - q||` over the simplex
    (Bunse 2022), interval by Monte Carlo over C and q. Without a confusion: the raw shares, Wilson intervals (tier C).
    When no held-out image is `undetermined`, its share is 0 and such calls are spread by the held-out errors.

    Raises InputError when the counts are no counts, do not match the classes or the confusion, or when the confusion
    cannot tell the classes apart.
    """
    counts = checked_counts(classes, predicted_counts, confusion)
    n, q = int(counts.sum()), counts / counts.sum()
    share, strange = _point(counts, confusion), False
    if confusion is None:
        method, (low, high) = UNCORRECTED, wilson(counts)
    elif len(counts) == 2:
        method, (low, high) = BINARY, lang_reiczigel(q, n, confusion)
    else:
        method, (low, high) = MULTICLASS, (end[0] for end in counted(counts, [confusion], "pool").interval())
        strange = bool((high < 0).any())
    return ShareEstimate(
        classes=tuple(classes),
        n=n,
        raw=floats(q),
        **spread(share, low, high),
        method=method,
        tier="C" if confusion is None else "B",
        assumption=assumption(confusion),
        warnings=_warnings(tuple(classes), q, n, share, confusion, strange),
    )


def share_difference(
    classes: Sequence[str], before_counts: npt.ArrayLike, after_counts: npt.ArrayLike, confusion: Confusion | None
) -> ShareDifference:
    """Change of the corrected shares between two pools judged by one classifier.

    Both pools share the held-out images, so their errors largely cancel; two intervals taken as independent would be
    twice as wide. Pools of the same seeds are positively correlated, which is left out: their interval errs on the
    wide side. Two classes: `d = (q_after - q_before)/J` with its delta-method variance; more: Monte Carlo with one
    confusion matrix per draw; without a confusion: Newcombe 1998.

    Raises InputError as `corrected_shares` does.
    """
    before, after = (checked_counts(classes, c, confusion) for c in (before_counts, after_counts))
    if confusion is not None and len(before) > 2:
        return difference_of(
            classes, counted(after, [confusion], "after").minus(counted(before, [confusion], "before"))
        )
    low, high = newcombe(before, after) if confusion is None else binary_difference(before, after, confusion)
    return difference(classes, _point(after, confusion) - _point(before, confusion), low, high)


def sensitivity(estimate: ShareEstimate, confusion: Confusion, *, points: float = 0.02) -> Sensitivity:
    """How far the shares would move if the classifier's recall on these images were another than on the held-out ones.

    `slopes[j][k]`: change of the share of k per unit of the recall of j, what is lost going to the other classes as it
    does now; with two classes `d pi/d Se = -pi/J` and `d pi/d Sp = (1 - pi)/J`. `low`, `high`: the share of each class
    when every recall may be off by `points`, each in the worse direction.
    """
    rates, share = confusion.rates(), np.asarray(estimate.share)
    inverse, size = left_inverse(rates), len(share)
    slopes = np.zeros((size, size))
    for j in np.flatnonzero(confusion.totals):
        wrong = np.delete(rates[:, j], j)
        mix = wrong / wrong.sum() if wrong.sum() > 0 else np.full(size - 1, 1 / (size - 1))
        slopes[j] = -inverse @ np.insert(-mix, j, 1.0) * share[j]
    off = points * np.abs(slopes).sum(axis=0)
    low, high = np.clip(share - off, 0.0, 1.0), np.clip(share + off, 0.0, 1.0)
    names = estimate.classes
    return Sensitivity(
        points=points,
        slopes={names[j]: dict(zip(names, floats(slopes[j]), strict=True)) for j in range(size)},
        low=dict(zip(names, floats(low), strict=True)),
        high=dict(zip(names, floats(high), strict=True)),
    )


def assumption(*confusions: Confusion | None) -> str:
    """The sentence beside a tier B number (tier C for None)."""
    known = [c for c in confusions if c is not None]
    if not known:
        return UNCORRECTED_ASSUMPTION
    where = "; ".join(dict.fromkeys(f"{c.split}: {c.description}" for c in known))
    return (
        "The classifier is taken to err on these images as it does on the held-out ones "
        f"({where}); where it does not, the interval does not hold."
    )


def checked_counts(classes: Sequence[str], counts: npt.ArrayLike, confusion: Confusion | None) -> FloatArray:
    """The counts `(K,)` as floats. Raises InputError as `corrected_shares` does."""
    values = np.asarray(counts, dtype=np.float64)
    if len(classes) < 2 or values.shape != (len(classes),):
        raise InputError(
            f"got {values.size} predicted counts for {len(classes)} classes; expected one per class, 2 classes or more"
        )
    if not np.isfinite(values).all() or (values < 0).any() or (values != np.floor(values)).any():
        raise InputError(f"the predicted counts are {values.tolist()}; expected whole numbers of images, 0 or more")
    if values.sum() == 0:
        raise InputError("no image was counted; expected at least one")
    if confusion is not None:
        check_confusion(classes, confusion)
    return values


def check_confusion(classes: Sequence[str], confusion: Confusion) -> None:
    """Raises InputError for a confusion of other classes, or one that cannot tell them apart."""
    if len(confusion.counts) != len(classes):
        raise InputError(
            f"the confusion has {len(confusion.counts)} classes, the counts have {len(classes)} "
            f"({', '.join(classes)}); use the classifier that made the predictions"
        )
    rates = confusion.rates()
    if confusion.totals[-1] == 0 and classes[-1] != UNDETERMINED:
        raise InputError(
            f"the {confusion.split!r} confusion has no image of class {classes[-1]}; "
            "measure the classifier on images of every class"
        )
    separates = shrunken(confusion)[0] > 0 and youden(rates) > 0 if len(classes) == 2 else condition(rates) < SINGULAR
    if not separates:
        raise InputError(
            f"the {confusion.split!r} confusion {[list(r) for r in confusion.counts]} does not tell the classes apart; "
            "use a classifier that is better than chance"
        )


def _point(counts: FloatArray, confusion: Confusion | None) -> FloatArray:
    q = counts / counts.sum()
    if confusion is None:
        return np.asarray(q)
    return rogan_gladen(q, confusion.rates()) if len(q) == 2 else on_simplex(confusion.rates(), q)


def _warnings(
    classes: tuple[str, ...], q: FloatArray, n: int, share: FloatArray, confusion: Confusion | None, strange: bool
) -> tuple[str, ...]:
    """`strange`: of three classes or more, some share is negative with its whole interval."""
    found = []
    if n < SMALL_SAMPLE:
        found.append(f"only {n} images were counted; below {SMALL_SAMPLE} the intervals are rough")
    if confusion is None:
        return tuple(found)
    rates, totals = confusion.rates(), confusion.totals
    small = [f"{c} {int(t)}" for c, t in zip(classes, totals, strict=True) if 0 < t < SMALL_CELL]
    if small:
        found.append(f"few held-out images ({', '.join(small)}); {SMALL_CELL} per class are wanted")
    if totals[-1] == 0:
        found.append(
            f"no held-out image is {UNDETERMINED}, so its true share is taken as 0: the {q[-1]:.1%} of calls are "
            f"spread over the other classes by the held-out errors, which explain {(rates @ share)[-1]:.1%}"
        )
    if len(classes) == 2:
        bottom, top = rates[0, 1], rates[0, 0]
        if not bottom <= q[0] <= top:
            found.append(
                f"the predicted share of {classes[0]}, {q[0]:.3f}, lies outside [{bottom:.3f}, {top:.3f}], which the "
                "held-out errors allow; errors on these images may differ"
            )
        if youden(rates) < SMALL_YOUDEN:
            found.append(
                f"sensitivity + specificity - 1 is {youden(rates):.2f}; below {SMALL_YOUDEN} the correction is weak"
            )
        return tuple(found)
    if strange:
        found.append(
            "the predicted shares lie outside what the held-out errors allow; errors on these images may differ"
        )
    if condition(rates) > LARGE_CONDITION:
        found.append(f"the confusion's condition number is {condition(rates):.1f}; above 10 the correction is unstable")
    return tuple(found)
