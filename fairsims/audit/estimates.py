"""What an estimate of shares holds, how two of them differ, and when a target counts as reached."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairsims.audit.draws import Draws
from fairsims.audit.facts import Tier
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]


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
    tier: Tier
    assumption: str
    """The sentence to say beside the number: what has to hold for it to be right."""
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ShareDifference:
    """Change of the share per class (after - before) with an interval that always contains it."""

    classes: tuple[str, ...]
    delta: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def spread(share: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike) -> dict[str, tuple[float, ...]]:
    """`share, low, high` as an estimate holds them: in [0, 1], the share inside."""
    point = np.asarray(share, dtype=np.float64)
    bottom, top = np.minimum(np.clip(low, 0.0, 1.0), point), np.maximum(np.clip(high, 0.0, 1.0), point)
    return {"share": floats(point), "low": floats(bottom), "high": floats(top)}


def difference(
    classes: Sequence[str], delta: npt.ArrayLike, low: npt.ArrayLike, high: npt.ArrayLike
) -> ShareDifference:
    """A difference in [-1, 1] whose interval holds `delta`."""
    point = np.asarray(delta, dtype=np.float64)
    bottom, top = np.minimum(np.clip(low, -1.0, 1.0), point), np.maximum(np.clip(high, -1.0, 1.0), point)
    return ShareDifference(classes=tuple(classes), delta=floats(point), low=floats(bottom), high=floats(top))


def difference_of(classes: Sequence[str], change: Draws) -> ShareDifference:
    """The change that draws of a single condition give."""
    low, high = change.interval()
    return difference(classes, change.point[0], low[0], high[0])


def independent_difference(before: ShareEstimate, after: ShareEstimate) -> ShareDifference:
    """Change between two estimates taken as independent: their intervals combined in quadrature, as Newcombe 1998 does.

    For estimates of different tiers, or that there are no counts for. Of one classifier's held-out errors it is too
    wide rather than too narrow: both share them.
    """
    delta = np.subtract(after.share, before.share)
    low = delta - np.hypot(np.subtract(after.share, after.low), np.subtract(before.high, before.share))
    high = delta + np.hypot(np.subtract(after.high, after.share), np.subtract(before.share, before.low))
    return difference(after.classes, delta, low, high)


def preserved(difference: ShareDifference, drift: float) -> bool | None:
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
    shares = target_shares(estimate.classes, target)
    widths = np.asarray(
        [tolerance[c] for c in estimate.classes] if isinstance(tolerance, Mapping) else tolerance, dtype=np.float64
    )
    if not (widths > 0).all():
        raise InputError(f"the tolerance is {tolerance}; expected a positive number, e.g. 0.03")
    # Rounding in target +- tolerance must not decide an interval that ends exactly there.
    bottom, top = shares - widths - 1e-12, shares + widths + 1e-12
    low, high = np.asarray(estimate.low), np.asarray(estimate.high)
    if ((low >= bottom) & (high <= top)).all():
        return True
    return False if ((high < bottom) | (low > top)).any() else None


def target_shares(classes: Sequence[str], target: Mapping[str, float] | Sequence[float]) -> FloatArray:
    """The target as shares `(K,)`. Raises InputError when they are no shares of these classes that sum to 1."""
    if isinstance(target, Mapping):
        if set(target) != set(classes):
            raise InputError(
                f"the target names {', '.join(map(str, target))}; expected a share for each of {', '.join(classes)}"
            )
        target = [target[c] for c in classes]
    shares = np.asarray(target, dtype=np.float64)
    if shares.shape != (len(classes),) or not ((shares >= 0) & (shares <= 1)).all():
        raise InputError(
            f"the target is {list(target)}; expected {len(classes)} shares between 0 and 1, "
            f"one for each of {', '.join(classes)}"
        )
    if abs(shares.sum() - 1) > 1e-6:
        raise InputError(f"the target {list(target)} sums to {shares.sum():g}; expected shares that sum to 1")
    return shares


def floats(values: npt.ArrayLike) -> tuple[float, ...]:
    """An array's values as a tuple."""
    return tuple(float(v) for v in np.asarray(values))
