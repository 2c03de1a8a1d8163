"""How many images an audit needs, so that it says "reached" where the target is met.

"Reached" is that every 95% interval lies inside target ± tolerance. The estimate of a share scatters about the true one
by the sampling of images through the classifier, which more images make smaller, and by what is not known of the
classifier's errors, which they do not. Both are those of the intervals themselves: of two classes Lang & Reiczigel's
variance, of more the spread of the draws. The scatter is taken as normal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from fairsims.audit.facts import Power
from fairsims.audit.intervals import Z, confusion_draws, left_inverse, shrunken
from fairsims.audit.targets import Target
from fairsims.classifiers.base import Confusion

FloatArray = npt.NDArray[np.float64]

FEWEST, MOST = 1024, 8192
"""Audit images at least, for the numbers of quality, and at most where their number follows from the power."""
STEP = 256
"""Their number is a multiple of this."""
OFF = 3
"""A target is met when no share is off by more than the tolerance over this."""
_ENDLESS = 10**8


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A verdict to come: the shares that are wanted, and the classifier that will judge them."""

    target: FloatArray
    """Shares `(K,)`."""
    tolerance: float
    confusion: Confusion | None
    """Its errors; None: its calls are taken as true."""

    def variances(self, p: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Of estimates of the shares p `(K,)`: for one image, and from the classifier's errors with any number."""
        c = self.confusion
        if c is None:
            return p * (1 - p), np.zeros(len(p))
        if len(p) == 2:
            j, se, sp, n1, n0 = shrunken(c)
            q = p[0] * se + p[1] * (1 - sp)
            errors = (p[0] ** 2 * se * (1 - se) / n1 + p[1] ** 2 * sp * (1 - sp) / n0) / j**2
            return np.full(2, q * (1 - q) / j**2), np.full(2, errors)
        inverse, q = left_inverse(c.rates()), c.rates() @ p
        sampling = np.diag(inverse @ (np.diag(q) - np.outer(q, q)) @ inverse.T)
        return np.asarray(sampling), np.var(left_inverse(confusion_draws(c)) @ q, axis=0)

    @cached_property
    def _spread(self) -> tuple[tuple[FloatArray, FloatArray], ...]:
        """`variances` where the target is just met: of two classes on either side of it, of more at the target."""
        off = self.tolerance / OFF
        shifts = ([off, -off], [-off, off]) if len(self.target) == 2 else (0.0,)
        return tuple(self.variances(np.clip(self.target + shift, 0.0, 1.0)) for shift in shifts)

    @property
    def _bias(self) -> float:
        """How far the interval's middle lies off the share, of two classes: the errors are taken a little larger."""
        c, p = self.confusion, self.target
        if c is None or len(p) > 2:
            return 0.0
        j, _, sp, _, _ = shrunken(c)
        return abs(float((c.rates() @ p)[0] + sp - 1) / j - float(p[0]))

    def power(self, n: float, held_out: float = 1.0) -> float:
        """Probability of "reached" on n images, at least, with one share off by as much as still meets the target.

        `held_out`: were the classifier's errors measured on so many times the images. Of more classes than two the
        share is off at another's expense, and the chances that a class misses are added up.
        """
        found, off = [], self.tolerance / OFF + self._bias
        for each, errors in self._spread:
            # As Lang & Reiczigel add Z² images to the sample.
            scatter = np.sqrt(each / (n + Z * Z) + errors / held_out)
            room = self.tolerance - Z * scatter
            shifted = _misses(room, scatter, off)
            if len(scatter) == 2:
                found.append(1 - shifted[0])
            else:
                on_target = _misses(room, scatter, 0.0)
                found.append(1 - on_target.sum() - np.sort(shifted - on_target)[-2:].sum())
        return float(max(0.0, min(found)))


def _misses(room: FloatArray, scatter: FloatArray, off: float) -> FloatArray:
    """Probability that an estimate of a share that is `off` the target has an interval that reaches beyond, `(K,)`."""
    scatter = np.maximum(scatter, 1e-12)
    return np.asarray(np.where(room > 0, 1 - norm.cdf((room - off) / scatter) + norm.cdf((-room - off) / scatter), 1.0))


def verdicts(target: Target, tolerance: float, confusion: Confusion | None) -> list[Verdict]:
    """The verdict on a target; one for each way that it may turn out where the base's shares decide it."""
    size = len(target.attribute.classes)
    bases = [np.full(size, 1 / size)]
    if target.known is None and target.number is not None:
        # Which class is the rarer one is not known yet; nor what is undetermined, which stays as it is.
        rest = (0.0,) * (size - 2)
        bases = [np.array([low, 1 - low, *rest]) for low in (0.25, 0.75)]
    found = [target.resolve(base) for base in bases]
    return [Verdict(target=t, tolerance=tolerance, confusion=confusion) for t in found]


def planned_power(of: Sequence[Verdict], *, wanted: float, images: int | None, most: int = MOST) -> Power:
    """The number of audit images that gives every verdict the wanted power, `most` at most; or what `images` give."""

    def power(n: float, held_out: float = 1.0) -> float:
        return min(v.power(n, held_out) for v in of)

    needed = _least(power, wanted, STEP)
    n = images or min(most, max(FEWEST, needed or most))
    more = _least(lambda tenths: power(n, tenths / 10), wanted, 1)
    return Power(
        wanted=wanted,
        n=n,
        # Rounded, lest the last bits, which differ between processors, tell a resumed run that its plan changed.
        reached=round(power(n), 4),
        off=min(v.tolerance for v in of) / OFF,
        limit=round(power(_ENDLESS), 4),
        images=needed,
        held_out=None if more is None else max(1.0, more / 10),
    )


def power_sentence(power: Power) -> str:
    """What the number of audit images promises, and what would promise more where that is less than was wanted."""
    p, off = power, f"{100 * power.off:.3g} point{'' if abs(power.off - 0.01) < 1e-9 else 's'}"
    said = (
        f"{p.n:,} audit images: when every true share is within {off} (a third of the tolerance) of its target, "
        f"“reached” comes out with probability {p.reached:.2f} or more"
    )
    if p.reached >= p.wanted:
        return f"{said}."
    ways = [] if p.images is None else [f"{p.images:,} images"]
    if p.held_out is not None:
        ways.append(f"{p.held_out:.2g} times the labelled images that the classifier's errors are known from")
    if not ways:
        why = f"with any number of images it is {p.limit:.2f}, as the classifier's errors are known"
        return f"{said}; {p.wanted:g} was wanted: {why}; more labelled images and more audit images together raise it."
    return f"{said}; {p.wanted:g} was wanted, which would take {', or '.join(ways)}."


def _least(power: Callable[[float], float], wanted: float, step: int) -> int | None:
    """The smallest multiple of `step` with this power, by bisection: power grows; None where none has it."""
    low, high = 0, step
    while power(high) < wanted:
        low, high = high, 2 * high
        if high > _ENDLESS:
            return None
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (middle, high) if power(middle) < wanted else (low, middle)
    return high
