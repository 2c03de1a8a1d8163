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

Measure = Callable[[float, int], np.ndarray]
"""(strength, n) -> values `(n,)` whose mean estimates the focus share on the first n calibration seeds."""


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
    measure: Measure, *, target: float, base: Pilot, start: float, cap: float, sizes: Sequence[int] = (512, 1024, 3072)
) -> Calibration:
    """Find the strength whose focus share is `target`.

    `base` is the pilot at strength 0 (the labelled pool), `start` the planned strength, `sizes` the images of each
    pilot. Where these find no rise, others follow at a half and a quarter of the smallest. Raises NoResponse when the
    share rises at none: then the auxiliary has not learnt the complement, or the classifier cannot see it.
    """
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; expected a share inside (0, 1)")
    pilots, strength = [base], min(start, cap)

    def look(strength: float, n: int) -> tuple[ResponseFit, float]:
        """The fit with one more pilot, and the largest strength that it may be used for."""
        pilots.append(as_pilot(measure(strength, n), strength))
        before = _before_the_turn(pilots)
        return ResponseFit(before, cap), cap if len(before) == len(pilots) else max(p.strength for p in before)

    def clear() -> bool:
        return any(_falls(p, base) for p in _before_the_turn(pilots))

    for n in sizes:
        fit, limit = look(strength, n)
        rises = fit.rises and (limit == cap or clear())
        if rises:
            # One pilot says little about far-off strengths: no step beyond twice what has been seen.
            strength = min(fit.strength(target, limit), 2 * max(p.strength for p in pilots))
        elif strength < cap and not _falls(base, pilots[-1]):
            # A weak pilot may be lost in noise: look again, further out and with more images.
            strength = min(2 * strength, cap)
        else:
            strength = _inward(pilots)
    # What does not rise, or not by more than chance and not far enough, may have turned before the first pilot.
    while (not rises or (fit.share(limit) < target and not clear())) and _inward(pilots) >= min(start, cap) / 4:
        fit, limit = look(_inward(pilots), max(sizes))
        rises = fit.rises and (rises and limit == cap or clear())
        strength = fit.strength(target, limit)
    if not rises:
        seen = ", ".join(f"{p.share:.3f} at {p.strength:.3g}" for p in sorted(pilots, key=lambda p: p.strength))
        raise NoResponse(
            f"the share does not rise with the strength ({seen}); "
            "give a larger --budget, a larger --pool or a better classifier"
        )
    at_cap = fit.share(limit) < target
    if at_cap and not any(p.strength == limit and p.n == max(sizes) for p in pilots):
        # What resampling has to add rests on the share at the cap: measured there, not extrapolated.
        fit, limit = look(limit, max(sizes))
        strength, at_cap = fit.strength(target, limit), fit.share(limit) < target
    return Calibration(strength=strength, share=fit.share(strength), pilots=tuple(pilots), at_cap=at_cap)


def focus_values(predicted: np.ndarray, confusion: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """Per-image values `(n,)` whose mean is the error-corrected share of the focus classes.

    predicted `(n,)` class indices, confusion `(K, K)` with P(predicted = i | true = j) in row i and column j, focus
    `(K,)` booleans. The corrected shares are C^-1 q (Rogan and Gladen 1978 for two classes), so an image predicted i
    adds column i of C^-1.
    """
    return np.asarray(left_inverse(confusion)[focus].sum(axis=0)[predicted])


def _falls(first: Pilot, last: Pilot) -> bool:
    """Whether the last share lies below the first by more than three standard errors."""
    return bool(last.share - first.share < -3 * np.hypot(first.se, last.se))


def _before_the_turn(pilots: Sequence[Pilot]) -> list[Pilot]:
    """The pilots but those whose share has clearly fallen below that of a smaller strength above 0."""
    weaker = [p for p in pilots if p.strength > 0]
    return [p for p in pilots if not any(w.strength < p.strength and _falls(w, p) for w in weaker)]


def _inward(pilots: Sequence[Pilot]) -> float:
    """Half the smallest strength that was tried."""
    return min(p.strength for p in pilots if p.strength > 0) / 2


def as_pilot(values: np.ndarray, strength: float) -> Pilot:
    """The pilot that measured these per-image values `(n,)`."""
    n = len(values)
    return Pilot(strength=strength, share=float(values.mean()), se=float(values.std(ddof=1) / np.sqrt(n)), n=n)
