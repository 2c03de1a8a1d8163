"""Closed-loop calibration: the strength (omega or w) whose measured share is the target.

The linear rule plans; a finite budget leaves the auxiliary short of its training mix, and merging has a response of its
own. So the response is measured: a few pilots on calibration seeds (the later ones contain the seeds of the earlier,
so the noise is common across strengths), a monotone fit that weighs each by its uncertainty, and the root of the fit.
Far out the response may turn: a merged network leaves what its base knows, and the share falls again. What lies beyond
the turn is not fitted.

The controlled number is the *focus share*: the total share of the classes that have to grow. For two classes it is the
share of the rarer one; in general its distance to the target is the total variation between shares and target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from fairsims.audit.intervals import left_inverse
from fairsims.errors import NoResponse
from fairsims.retarget.config import RetargetConfig

Measure = Callable[[float, int], np.ndarray]
"""(strength, n) -> values `(n,)` whose mean estimates the focus share on the first n calibration seeds."""
MORE = 4
"""Pilots at most beyond the planned ones."""
NEAR = 0.1
"""Shares measured at a strength not further off than by this part of it tell those of the chosen one."""
RISE = 2.5
"""A share is clearly above the base's by so many standard errors: among seven pilots by chance once in 23 times."""
AS_MUCH = 0.01
"""Where the target is out of reach, so much more of the share is not worth more strength: it costs quality."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """The focus share measured at one strength."""

    strength: float
    share: float
    se: float
    """Standard error of `share`: sampling of n images through the classifier."""
    n: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The chosen strength and what it rests on."""

    strength: float
    share: float
    """Focus share that the fit promises at `strength`."""
    pilots: tuple[Pilot, ...]
    at_cap: bool
    """True when the target lies beyond the cap or the turn: what is missing has to come from resampling."""


class ResponseFit:
    """logit share = a + b s + c s**2 by weighted least squares through the pilots, rising over [0, cap].

    Measured responses of guiding and merging are near linear in this scale. c is used only with three pilots or more
    and given up where it would bend the curve down inside the range.
    """

    def __init__(self, pilots: Sequence[Pilot], cap: float) -> None:
        s = np.array([p.strength for p in pilots])
        share = np.array([np.clip(p.share, 0.5 / p.n, 1 - 0.5 / p.n) for p in pilots])
        se = np.array([max(p.se, 0.5 / p.n) for p in pilots])
        y, weight = np.log(share / (1 - share)), share * (1 - share) / se
        distinct = len(np.unique(s))
        self.coefficients = self._solve(s, y, weight, 3 if distinct >= 3 else 2)
        if distinct >= 3 and min(self._slope(0.0), self._slope(cap)) <= 0:
            self.coefficients = self._solve(s, y, weight, 2)

    @staticmethod
    def _solve(s: np.ndarray, y: np.ndarray, weight: np.ndarray, terms: int) -> np.ndarray:
        design = s[:, None] ** np.arange(terms)
        solution = np.linalg.lstsq(design * weight[:, None], y * weight, rcond=None)[0]
        return np.pad(solution, (0, 3 - terms))

    def _slope(self, s: float) -> float:
        return float(self.coefficients[1] + 2 * self.coefficients[2] * s)

    @property
    def rises(self) -> bool:
        return self._slope(0.0) > 0

    def share(self, strength: float) -> float:
        """Focus share at a strength."""
        a, b, c = self.coefficients
        return float(expit(a + b * strength + c * strength**2))

    def strength(self, share: float, cap: float) -> float:
        """The strength in [0, cap] with that focus share, by bisection on the rising curve."""
        low, high = 0.0, cap
        if self.share(high) <= share:
            return high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self.share(middle) < share else (low, middle)
        return (low + high) / 2


def calibrate(
    measure: Measure,
    *,
    target: float,
    base: Pilot,
    start: float,
    cap: float,
    sizes: Sequence[int] = RetargetConfig.pilots,
    confirm: bool = False,
) -> Calibration:
    """Find the strength whose focus share is `target`.

    `base` is the pilot at strength 0 (the labelled pool), `start` the planned strength, `sizes` the images of each
    pilot. Where these leave open whether the share rises, where the target is met or what is the most that strength
    can do, up to `MORE` of the largest size follow. With `confirm` so does one near the answer, unless the last one was
    there: of more shares than the one that is fitted only a pilot tells what they are. Raises NoResponse when the share
    rises at no strength or, with the target out of reach, by less than a standard error: then the auxiliary has not
    learnt the complement, or the classifier cannot see it.
    """
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; expected a share inside (0, 1)")
    cap = _rounded(cap)
    strength = min(start, cap)
    least = _rounded(strength / 8)
    seen = _Seen(pilots=[base], target=target, cap=cap, least=least, largest=max(sizes), confirm=confirm)
    for n in sizes:
        seen.look(measure, strength, n)
        strength = seen.next_planned(strength)
    if not seen.rises():
        # What was not found at first may be chance when it is found later.
        seen.doubtful = True
    for _ in range(MORE):
        open_question = seen.open_question(min(start, cap))
        if open_question is None:
            break
        seen.look(measure, open_question, seen.largest)
    if not seen.rises() or (seen.short and not _below(base, seen.best, 1)):
        told = ", ".join(f"{p.share:.3f} at {p.strength:.3g}" for p in sorted(seen.pilots, key=lambda p: p.strength))
        raise NoResponse(
            f"the share does not rise with the strength ({told}); "
            "give a larger --budget, a larger --pool or a better classifier"
        )
    pilots = tuple(seen.pilots)
    if seen.short:
        return Calibration(strength=seen.best.strength, share=seen.best.share, pilots=pilots, at_cap=True)
    strength = _rounded(seen.wanted)
    return Calibration(strength=strength, share=seen.fit.share(strength), pilots=pilots, at_cap=False)


@dataclass(kw_only=True)
class _Seen:
    """The pilots so far and what they say."""

    pilots: list[Pilot]
    """The first is the base."""
    target: float
    cap: float
    least: float
    """The smallest strength: at 0, where a fit may end that starts above the target, nothing would be retargeted."""
    largest: int
    confirm: bool
    doubtful: bool = False
    """Whether only a clear rise counts."""

    def look(self, measure: Measure, strength: float, n: int) -> None:
        # Rounded, lest the last bits, which differ between processors, tell a resumed run that its settings changed.
        strength = _rounded(strength)
        self.pilots.append(as_pilot(measure(strength, n), strength))

    @property
    def before_the_turn(self) -> list[Pilot]:
        """The pilots but those whose share has clearly fallen below that of a smaller strength above 0."""
        return [p for p in self.pilots if not any(0 < w.strength < p.strength and _below(p, w, 3) for w in self.pilots)]

    @property
    def fit(self) -> ResponseFit:
        return ResponseFit(self.before_the_turn, self.limit)

    @property
    def turned(self) -> bool:
        return len(self.before_the_turn) < len(self.pilots)

    @property
    def limit(self) -> float:
        """The largest strength that the fit may be used for."""
        return max(p.strength for p in self.before_the_turn) if self.turned else self.cap

    @property
    def tried(self) -> list[float]:
        return [p.strength for p in self.pilots if p.strength > 0]

    @property
    def wanted(self) -> float:
        """The strength that the fit says meets the target, or the largest that it may be used for."""
        return max(self.fit.strength(self.target, self.limit), self.least)

    @property
    def short(self) -> bool:
        """Whether no strength reaches the target."""
        return self.fit.share(self.limit) < self.target

    @property
    def best(self) -> Pilot:
        """The weakest strength that does as much as any, of those measured on the most images."""
        pilots = [p for p in self.pilots if p.strength > 0]
        most = max(p.n for p in pilots)
        pilots = sorted((p for p in pilots if p.n == most), key=lambda p: p.strength)
        return next(p for p in pilots if p.share >= max(q.share for q in pilots) - AS_MUCH)

    @property
    def on_most(self) -> set[float]:
        """Strengths measured on the most images; 0, of which nothing more is to be learnt, with them."""
        return {0.0} | {p.strength for p in self.pilots if p.n == self.largest}

    @property
    def largest_on_few(self) -> float | None:
        """The strength of the largest share, where that is above the base's and was not measured on the most images."""
        top = max(self.pilots, key=lambda p: p.share).strength
        return None if top in self.on_most else top

    @property
    def contenders(self) -> list[float]:
        """Strengths that may turn out the best and were not measured on the most images.

        The one of the largest share, and the weakest whose share is not clearly below it.
        """
        pilots = sorted((p for p in self.pilots if p.strength > 0), key=lambda p: (p.strength, -p.n))
        top = max(pilots, key=lambda p: p.share)
        near = next(p for p in pilots if not _below(p, top, 2))
        return [p.strength for p in (top, near) if p.strength not in self.on_most]

    def rises(self) -> bool:
        clear = any(_below(self.pilots[0], p, RISE) for p in self.before_the_turn)
        return self.fit.rises and (clear or not (self.turned or self.doubtful))

    def next_planned(self, last: float) -> float:
        """Where the next of the planned pilots looks, the last one having looked at `last`."""
        if self.rises():
            # One pilot says little about far-off strengths: no step beyond twice what has been seen.
            found = min(self.wanted, 2 * max(self.tried))
            # The most that strength can do is not told by one strength.
            return found / 2 if found == self.limit and set(self.tried) == {found} else found
        if last < self.cap and not _below(self.pilots[-1], self.pilots[0], 3):
            # A weak pilot may be lost in noise: look again, further out and with more images.
            return min(2 * last, self.cap)
        return min(self.tried) / 2

    def open_question(self, start: float) -> float | None:
        """A strength that has to be looked at before there is an answer; None when there is one."""
        smallest = min(self.tried)
        inward = smallest / 2 if smallest / 2 >= start / 4 - 1e-6 else None
        if not self.rises():
            # A rise on few images, before the turn, is the likeliest there is.
            return self.largest_on_few if self.largest_on_few is not None else inward
        wanted, furthest = self.wanted, max(self.tried)
        if wanted > 2 * furthest:
            return 2 * furthest
        if self.short:
            if self.limit not in self.tried:
                return self.limit
            # What resampling has to add rests on the share there: from as many images as there are.
            if self.contenders:
                return self.contenders[0]
            return inward if self.best.strength == smallest else None
        near = [p for p in self.pilots if p.n == self.largest and abs(p.strength - wanted) <= NEAR * wanted]
        return wanted if (self.turned or self.confirm) and not near else None


def focus_values(predicted: np.ndarray, confusion: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """Per-image values `(n,)` whose mean is the error-corrected share of the focus classes.

    predicted `(n,)` class indices, confusion `(K, K)` with P(predicted = i | true = j) in row i and column j, focus
    `(K,)` booleans. The corrected shares are C^-1 q (Rogan and Gladen 1978 for two classes), so an image predicted i
    adds column i of C^-1.
    """
    return np.asarray(left_inverse(confusion)[focus].sum(axis=0)[predicted])


def _below(low: Pilot, high: Pilot, errors: float) -> bool:
    """Whether a share lies below another by more than so many standard errors of their difference."""
    return bool(low.share - high.share < -errors * np.hypot(low.se, high.se))


def _rounded(strength: float) -> float:
    return round(float(strength), 6)


def as_pilot(values: np.ndarray, strength: float) -> Pilot:
    """The pilot that measured these per-image values `(n,)`."""
    n = len(values)
    return Pilot(strength=strength, share=float(values.mean()), se=float(values.std(ddof=1) / np.sqrt(n)), n=n)
