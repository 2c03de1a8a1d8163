"""The complement rule prompt by prompt: what each has, needs, and how far the complement alone can take it.

rho_p = ((1 + omega) pi_p - tau_p) / omega, row by row. With a positive part the strength w acts on a contrast:
pi_p + w (rho_positive - rho_negative), where a prompt that does not need it has its own mix pi_p as the positive one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairsims.audit.intervals import left_inverse
from fairsims.audit.joint import FloatArray
from fairsims.retarget.complement import LEAST, least_strength


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptPlan:
    """The mixes that adapters are trained on; arrays `(P, K)`, or `(P,)` where said."""

    pi: FloatArray
    """Shares of the base, shrunk towards what prompts have in common."""
    target: FloatArray
    least: FloatArray
    """Least strength of each prompt's complement `(P,)`; infinite where a wanted class was not seen."""
    strength: float
    """The planned one."""
    negative: FloatArray
    positive: FloatArray | None
    """None where no positive part is used."""
    needs: np.ndarray
    """Whether the complement alone cannot reach a prompt's target under the cap, `(P,)` booleans."""
    joined: np.ndarray
    """Whether a prompt has a positive part of its own, `(P,)` booleans."""

    @property
    def reachable(self) -> FloatArray:
        """Shares that the linear rule promises at the planned strength."""
        other = self.pi if self.positive is None else self.positive
        found = np.clip(self.pi + self.strength * (other - self.negative), 0, None)
        return np.asarray(found / found.sum(axis=1, keepdims=True))


def plan_prompts(
    pi: FloatArray,
    target: FloatArray,
    *,
    cap: float,
    omega: float | None = None,
    positive: str = "auto",
    gain: FloatArray | None = None,
) -> PromptPlan:
    """Plan the negative mix of each prompt and, where needed, a positive one. pi, target `(P, K)`.

    Without `omega` it is what the hardest prompt needs; the cap, where that is more and no positive part helps, so that
    this prompt comes as far as it can; and 1 or more with a positive part, which then reaches every target.
    `gain` `(P,)` lengthens the way that each prompt's mixes ask for, as far as shares allow.
    """
    least = np.array([least_strength(p, t) for p, t in zip(pi, target, strict=True)])
    needs = least > cap
    contrast = positive == "always" or (positive == "auto" and bool(needs.any()))
    if omega is None:
        served = least[~needs] if contrast else least
        omega = float(np.clip(served.max(initial=0.0), LEAST, cap))
        if contrast:
            omega = max(omega, min(1.0, cap))
    step = (target - pi) / omega * (1.0 if gain is None else gain[:, None])
    negative = _mix(pi - step)
    joined = needs | (positive == "always") if contrast else np.zeros_like(needs)
    return PromptPlan(
        pi=pi,
        target=target,
        least=least,
        strength=omega,
        negative=negative,
        positive=np.where(joined[:, None], _mix(negative + step), pi) if contrast else None,
        needs=needs,
        joined=joined,
    )


def _mix(shares: FloatArray) -> FloatArray:
    found = np.where(shares < 1e-12, 0.0, shares)
    return np.asarray(found / found.sum(axis=1, keepdims=True))


@dataclass(frozen=True, kw_only=True, eq=False)
class Focus:
    """What a calibration over prompts steers by, as one share: in each prompt the classes that have to grow.

    A prompt weighs as much as it has to move, so that for two classes the share is met exactly where the prompts
    together, by least squares, have gone their whole way.
    """

    classes: np.ndarray
    """`(P, K)` booleans."""
    weights: FloatArray
    """`(P,)`, sum 1."""
    target: float
    """The share where every prompt meets its target."""

    @classmethod
    def of(cls, pi: FloatArray, target: FloatArray) -> Focus:
        """From the base's shares and the targets, `(P, K)` each."""
        way = np.clip(target - pi, 0, None)
        weights = way.sum(axis=1) / way.sum()
        return cls(
            classes=way > 0, weights=weights, target=float((weights * np.where(way > 0, target, 0).sum(1)).sum())
        )

    def values(self, predicted: np.ndarray, prompts: np.ndarray, confusion: FloatArray) -> FloatArray:
        """Per-image values `(N,)` whose mean is the share, corrected as `focus_values`; as many images of each prompt.

        predicted, prompts `(N,)`; confusion `(K, K)` with P(predicted = i | true = j) in row i and column j.
        """
        each = np.where(self.classes[prompts].T, left_inverse(confusion)[:, predicted], 0).sum(axis=0)
        return np.asarray(each * self.weights[prompts] * len(self.weights))
