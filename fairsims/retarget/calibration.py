"""Closed-loop calibration: the strength (omega or w) whose measured share is the target.

The linear rule plans; a finite budget leaves the auxiliary short of its training mix, and merging has a response of its
own. So the response is measured, by one rule: the next images are made at the strength where, each, they are expected
to bring the share at the strength that would then be chosen nearest to the target. That ends when the 95% interval of
this share lies near enough to the target, or when the images are spent.

The controlled number is the *focus share*: the total share of the classes that have to grow. For two classes it is the
share of the rarer one; in general its distance to the target is the total variation between shares and target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit, logit

from fairsims.audit.intervals import left_inverse
from fairsims.audit.joint import FloatArray
from fairsims.errors import NoResponse
from fairsims.retarget.config import RetargetConfig

LOOK, LOOKS = 512, 8
"""Images of a look, a multiple of which is made at once; a small budget is at least so many looks."""
STRENGTHS, FINE = 40, 3
"""Strengths that can be tried, evenly up to the cap; the response is followed on so many points between two of them."""
PART = 1 / 2
"""The interval of the share has to lie this part of the tolerance around the target."""
SLOPE, BEND, REACH = 0.8, 0.5, 0.45
"""What is believed of the slope before: its part of the planned one; by how much of that it may change on the way; and
over which part of the cap it does so."""
AS_MUCH = 0.01
"""Where the target is out of reach, so much more of the share is not worth more strength: it costs quality."""
AS_WELL = 1.5
"""How much larger the variance of the share may be there."""
SHORT = 0.5
"""What is missing where the target is out of reach counts by this part of its square: resampling makes it good."""
SURE = 1.35
"""Where the target is out of reach, the share at least rises by so many standard errors."""
Z95 = 1.96
NODES = np.polynomial.hermite_e.hermegauss(9)


@dataclass(frozen=True, kw_only=True)
class Look:
    """Images that are made at once."""

    strength: float
    first: int
    """How many calibration seeds come before theirs: every look has seeds of its own."""
    n: int


Measure = Callable[[Look], np.ndarray]
"""look -> values `(n,)` of its images, whose mean estimates the focus share."""


@dataclass(frozen=True, kw_only=True)
class Pilot:
    """The focus share measured at one strength, by one look or several."""

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
    se: float
    """Its standard error."""
    pilots: tuple[Pilot, ...]
    """One for each strength, in the order of the first look at it; before them the base."""
    looks: tuple[Look, ...]
    weights: FloatArray
    """What each pilot adds to the share at `strength`, `(pilots,)`; they sum to 1."""
    at_cap: bool
    """True when the target lies beyond the cap or the turn: what is missing has to come from resampling."""

    def is_within(self, width: float, target: float) -> bool:
        """Whether the 95% interval of the share is nowhere further from the target than that."""
        return abs(self.share - target) + Z95 * self.se <= width


@dataclass(frozen=True, kw_only=True)
class Belief:
    """What is believed of the response before it is measured: logit share = a + s g(s).

    a is unknown; g, the mean slope from 0 to s, is `slope` give or take `scale`, and changes on the way by `BEND` of
    that: a Gaussian process, whose correlation falls with the distance over `reach`. So what is measured far off,
    beyond a turn, says little of what is near.
    """

    slope: float
    scale: float
    reach: float

    def covariance(self, s: FloatArray, t: FloatArray) -> FloatArray:
        """Of the logit shares at two rows of strengths, `(len(s), len(t))`."""
        product, apart = np.outer(s, t), s[:, None] - t[None, :]
        bend = BEND**2 * np.exp(-0.5 * (apart / self.reach) ** 2)
        return np.asarray(10.0**2 + self.scale**2 * product * (1 + bend))

    def variance(self, s: FloatArray) -> FloatArray:
        """The diagonal of `covariance`."""
        return np.asarray(10.0**2 + self.scale**2 * s**2 * (1 + BEND**2))


class ResponseFit:
    """The logit share at every strength given the pilots, by Gaussian process regression (Rasmussen and Williams 2006).

    The pilots are of different seeds, so their errors are independent.
    """

    def __init__(self, pilots: Sequence[Pilot], belief: Belief) -> None:
        self.belief = belief
        self.s = np.array([p.strength for p in pilots])
        n = np.array([p.n for p in pilots])
        share = np.clip([p.share for p in pilots], 0.5 / n, 1 - 0.5 / n)
        error = np.maximum([p.se for p in pilots], 0.5 / n) / (share * (1 - share))
        self.y = logit(share)
        self.excess = float(np.mean(error**2 * n * share * (1 - share)))
        """How much more an image varies, for the classifier's errors, than its class alone would."""
        self.factor = cho_factor(belief.covariance(self.s, self.s) + np.diag(error**2))

    def weights(self, s: FloatArray) -> FloatArray:
        """What each pilot's logit share adds to that at these strengths, `(len(s), pilots)`."""
        return np.asarray(cho_solve(self.factor, self.belief.covariance(self.s, s)).T)

    def at(self, s: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Means and variances of the logit shares at these strengths, `(len(s),)` each."""
        weights, slope = self.weights(s), self.belief.slope
        mean = slope * s + weights @ (self.y - slope * self.s)
        known = (weights * self.belief.covariance(s, self.s)).sum(axis=1)
        return mean, np.maximum(self.belief.variance(s) - known, 1e-12)

    def between(self, s: FloatArray, t: FloatArray) -> FloatArray:
        """Covariances of the logit shares at two rows of strengths, `(len(s), len(t))`."""
        return np.asarray(self.belief.covariance(s, t) - self.weights(s) @ self.belief.covariance(self.s, t))

    def rise(self, s: float) -> float:
        """By how many standard errors the logit share at a strength is above the base's."""
        two, along = np.array([0.0, s]), np.array([-1.0, 1.0])
        mean, _ = self.at(two)
        return float((along @ mean) / np.sqrt(max(along @ self.between(two, two) @ along, 1e-12)))

    def told_by(self, n: int, at: FloatArray, s: FloatArray) -> FloatArray:
        """By how much n images at each strength of `at` would move the means at `s`, `(len(at), len(s))`.

        In standard deviations of what these images may show, as far as it is known before they are made.
        """
        mean, variance = self.at(at)
        noise = self.excess / (expit(mean) * expit(-mean)) / n
        return np.asarray(self.between(at, s) / np.sqrt(variance + noise)[:, None])


def calibrate(
    measure: Measure,
    *,
    target: float,
    base: Pilot,
    start: float,
    cap: float,
    images: int = RetargetConfig.calibration,
    tolerance: float = RetargetConfig.tolerance,
    rounds_of: int = 1,
) -> Calibration:
    """Find the strength whose focus share is `target`, from `images` images at most.

    `base` is the pilot at strength 0 (the labelled pool), `start` the planned strength. Looks are multiples of
    `rounds_of`, as `images` has to be: with prompts one of each. It ends earlier when the 95%
    interval of the share at the strength that would be chosen lies within `PART` of the tolerance around the target.
    Raises NoResponse when the target is out of reach and the share does not clearly rise: then the auxiliary has not
    learnt the complement, or the classifier cannot see it.
    """
    if not 0 < target < 1:
        raise ValueError(f"target is {target}; expected a share inside (0, 1)")
    seen, left = _Seen(base=base, target=target, start=min(start, cap), cap=cap), images
    unit = rounds_of * -(-min(LOOK, -(-images // LOOKS)) // rounds_of)
    while left > 0 and not (seen.values and seen.chosen.is_within(PART * tolerance, target)):
        strength, n = seen.next_look([min(k * unit, left) for k in (1, 2, 4)])
        # The same seeds again would tell a slope better and the level, which is asked for, worse.
        look = Look(strength=strength, first=images - left, n=n)
        seen.add(look, measure(look))
        left -= n
    found = seen.chosen
    if found.at_cap and seen.fit.rise(found.strength) < SURE:
        told = ", ".join(f"{p.share:.3f} at {p.strength:.3g}" for p in sorted(found.pilots, key=lambda p: p.strength))
        raise NoResponse(
            f"the share does not rise with the strength ({told}); "
            "give a larger --budget, a larger --pool or a better classifier"
        )
    return found


@dataclass(kw_only=True)
class _Seen:
    """The values so far and what they say."""

    base: Pilot
    target: float
    start: float
    cap: float
    looks: list[Look] = field(default_factory=list)
    values: dict[float, np.ndarray] = field(default_factory=dict)
    """Of the images at every strength tried."""

    def __post_init__(self) -> None:
        self.wanted = float(logit(self.target))
        share = np.clip(self.base.share, 0.5 / self.base.n, 1 - 0.5 / self.base.n)
        slope = (self.wanted - float(logit(share))) / self.start
        # A small move is planned with a small slope, which says nothing of what an auxiliary can do.
        self.belief = Belief(slope=SLOPE * slope, scale=max(abs(slope), 1.0), reach=REACH * self.cap)
        # Rounded, lest the last bits, which differ between processors, make another strength of it.
        self.tried = np.array([round(self.cap * k / STRENGTHS, 6) for k in range(1, STRENGTHS + 1)])
        self.grid = np.linspace(0, self.cap, STRENGTHS * FINE + 1)[1:]

    def add(self, look: Look, values: np.ndarray) -> None:
        """`values` are those of the look's images."""
        self.looks.append(look)
        self.values[look.strength] = np.concatenate([self.values.get(look.strength, np.empty(0)), values])

    @property
    def pilots(self) -> tuple[Pilot, ...]:
        return (self.base, *(as_pilot(values, strength) for strength, values in self.values.items()))

    @property
    def fit(self) -> ResponseFit:
        return ResponseFit(self.pilots, self.belief)

    def next_look(self, sizes: Sequence[int]) -> tuple[float, int]:
        """Where the next images tell most, each, and how many of these sizes to make."""
        fit = self.fit
        mean, variance = fit.at(self.grid)
        now, nodes = float(self._loss(mean, variance).min()), NODES
        best, found = -np.inf, (float(self.tried[0]), sizes[0])
        for n in dict.fromkeys(sizes):
            moved = fit.told_by(n, self.tried, self.grid)
            means = mean + moved[:, None, :] * nodes[0][:, None]
            losses = self._loss(means, (variance - moved**2)[:, None, :]).min(axis=2)
            gain = (now - losses @ nodes[1] / nodes[1].sum()) / n
            k = int(gain.argmax())
            if gain[k] > best:
                best, found = float(gain[k]), (float(self.tried[k]), n)
        return found

    def _loss(self, mean: FloatArray, variance: FloatArray) -> FloatArray:
        """Expected squared distance of the logit share from the target's; infinite beyond the turn."""
        beyond = np.arange(mean.shape[-1]) > mean.argmax(axis=-1)[..., None]
        reach = np.minimum(mean.max(axis=-1), self.wanted)[..., None]
        loss = (mean - reach) ** 2 + variance + SHORT * (self.wanted - reach) ** 2
        return np.where(beyond, np.inf, loss)

    @property
    def chosen(self) -> Calibration:
        """The answer as it stands: where the rising response meets the target.

        Where it never does, the weakest strength that does as much as any.
        """
        fit = self.fit
        mean, variance = fit.at(self.grid)
        top, best = int(mean.argmax()), int(self._loss(mean, variance).argmin())
        at_cap = bool(mean[top] < self.wanted)
        if at_cap:
            as_much = expit(mean[: top + 1]) >= expit(mean[best]) - AS_MUCH
            known = variance[: top + 1] <= AS_WELL * variance[best]
            strength = float(self.grid[: top + 1][as_much & known][0])
        else:
            strength = self._root(fit, mean[: top + 1], best)
        strength = round(strength, 6)
        one = np.array([strength])
        (level,), (spread,) = fit.at(one)
        share = float(expit(level))
        return Calibration(
            strength=strength,
            share=share,
            se=float(np.sqrt(spread)) * share * (1 - share),
            pilots=self.pilots,
            looks=tuple(self.looks),
            weights=fit.weights(one)[0],
            at_cap=at_cap,
        )

    def _root(self, fit: ResponseFit, mean: FloatArray, best: int) -> float:
        """Where the mean, up to its largest, comes to the target, nearest to the best point of the grid."""
        (base,), _ = fit.at(np.zeros(1))
        s, y = np.append(0.0, self.grid[: len(mean)]), np.append(base, mean)
        (up,) = np.nonzero((y[:-1] < self.wanted) & (y[1:] >= self.wanted))
        least = float(self.tried[0])
        if len(up) == 0:
            # A base that has more than the target by chance; at strength 0 nothing would be retargeted.
            return least
        k = up[np.abs(up - best).argmin()]
        part = (self.wanted - y[k]) / (y[k + 1] - y[k])
        return max(float(s[k] + part * (s[k + 1] - s[k])), least)


def focus_values(predicted: np.ndarray, confusion: np.ndarray, focus: np.ndarray) -> np.ndarray:
    """Per-image values `(n,)` whose mean is the error-corrected share of the focus classes.

    predicted `(n,)` class indices, confusion `(K, K)` with P(predicted = i | true = j) in row i and column j, focus
    `(K,)` booleans. The corrected shares are C^-1 q (Rogan and Gladen 1978 for two classes), so an image predicted i
    adds column i of C^-1.
    """
    return np.asarray(left_inverse(confusion)[focus].sum(axis=0)[predicted])


def as_pilot(values: np.ndarray, strength: float) -> Pilot:
    """The pilot that measured these per-image values `(n,)`."""
    n = len(values)
    return Pilot(strength=strength, share=float(values.mean()), se=float(values.std(ddof=1) / np.sqrt(n)), n=n)
