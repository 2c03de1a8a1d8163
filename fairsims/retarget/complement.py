"""The complement rule: which mix the auxiliary is trained on.

pi = shares in the base's pool, tau = target, rho = shares in the auxiliary's training set. Under the deterministic
sampler the guided share follows `tau = (1 + omega) pi - omega rho` closely, so `rho = ((1 + omega) pi - tau) / omega`.
The rule is this project's derivation; SIMS (arXiv 2408.16333) states the idea without a formula.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import numpy as np

from fairsims.audit.joint import Cells, rake
from fairsims.errors import InfeasibleTarget, InputError

FLOOR = 0.9
"""Least class probability of an image that enters the complement set."""
LEAST = 0.25
"""Smallest strength planned: less moves the shares by less than calibration can tell."""
GAIN = 0.7
"""Part of a measured error that the next round's complement sets out to mend: the whole of it tends to overshoot."""
RESPONSE = (0.5, 1.0)
"""How strongly shares may be taken to answer the complement, of what the rule promises: below it noise is blown up."""


@dataclass(frozen=True, kw_only=True)
class ComplementPlan:
    """The planned mix of the auxiliary's training set."""

    strength: float
    least_strength: float | None
    """Smallest strength at which no share of the complement is negative; None where none makes it so."""
    complement: tuple[float, ...]
    reachable: tuple[float, ...]
    """Shares that the linear rule promises at this strength: the target, unless the cap cuts it short."""
    reason: str


def least_strength(pi: np.ndarray, tau: np.ndarray) -> float:
    """Smallest strength that makes every rho_c >= 0: max_c tau_c / pi_c - 1. Infinite when a wanted class is absent."""
    wanted = tau > 0
    if (pi[wanted] <= 0).any():
        return float("inf")
    return max(0.0, float((tau[wanted] / pi[wanted]).max() - 1))


def complement_shares(pi: np.ndarray, tau: np.ndarray, omega: float) -> np.ndarray:
    """rho = ((1 + omega) pi - tau) / omega, `(K,)`; entries may be negative when omega is too small."""
    if not omega > 0:
        raise InputError(f"omega is {omega}; expected a positive number")
    return np.asarray(((1 + omega) * pi - tau) / omega)


def plan_complement(
    pi: np.ndarray,
    tau: np.ndarray,
    classes: tuple[str, ...],
    *,
    omega: float | None = None,
    cap: float = 2.0,
    cells: Cells | None = None,
    conditions: int = 1,
) -> ComplementPlan:
    """Plan at the least feasible strength, `LEAST` or more; beyond `cap` the farthest mix that the cap allows.

    There the neediest class is not in the complement at all. A larger strength, which the rule allows too, keeps some
    of it, and then more strength is needed than in proportion.

    With joint `cells` the strength has to be feasible for the shares of every attribute's classes. Single cells that
    would still go negative stay out of the complement, and the others are raked so that every class keeps the rule's
    share: the targets are of classes, and a larger strength for the sake of a rare cell would weaken the complement in
    all.

    With several `conditions` shares are over the cells by condition, the condition changing fastest (`split` in
    `fairsims.retarget.each`): the rule holds in each, and the strength has to be feasible in all of them.

    Raises InfeasibleTarget when the target wants a class that the base never makes, InputError when the base already
    has the target or omega is not positive.
    """
    pairs = zip(_views(pi, cells, conditions), _views(tau, cells, conditions), strict=True)
    least, of_cells = max(least_strength(p, t) for p, t in pairs), least_strength(pi, tau)
    if not np.isfinite(of_cells):
        absent = [c for c, p, t in zip(classes, pi, tau, strict=True) if t > 0 and p <= 0]
        raise InfeasibleTarget(
            f"the base makes no {' or '.join(absent)} at all; retargeting moves shares inside the base's domain, "
            "so every wanted class has to occur in its images"
        )
    if np.abs(pi - tau).max() < 1e-9:
        raise InputError("the base's shares are the target already; there is nothing to retarget")
    chosen = min(max(least, LEAST), cap) if omega is None else omega
    if omega is not None:
        reason = f"strength {omega:g} as asked"
    else:
        reason = f"strength {chosen:.2f}: the least feasible is {least:.2f}"
        if least > 1:
            reason = f"strength 1 would need a negative share of {_named(classes, complement_shares(pi, tau, 1.0))} in "
            reason += f"the complement; the least feasible is {least:.2f}"
        if least > cap:
            reason += f", above the cap of {cap:g}"
    rho = complement_shares(pi, tau, chosen)
    if rho.min() < -1e-9:
        reason += f"; no {_named(classes, rho)} in the complement"
        short = chosen < least - 1e-9
        reason += ", so strength alone may fall short of the target" if short else f" (single cells: {of_cells:.2f})"
    rows = rho.reshape(-1, conditions).T
    mix = np.stack([row.sum() * _without_negatives(row / row.sum(), cells) for row in rows]).T.reshape(-1)
    return _plan(chosen, least, mix, np.clip((1 + chosen) * pi - chosen * mix, 0, 1), reason)


def correct_complement(
    pi: np.ndarray, tau: np.ndarray, rho: np.ndarray, measured: np.ndarray, *, strength: float, gain: float = GAIN
) -> ComplementPlan:
    """The complement of the next round, from the shares `measured` at `strength` with the mix `rho`; all `(K,)`.

    Shares answer the complement in proportion, log(share_c / pi_c) = a - s kappa log(rho_c / pi_c), to first order what
    the rule says. kappa is fitted to the classes in the complement, and for an auxiliary trained as the last one was

        log(rho'_c / pi_c) = s / s' log(rho_c / pi_c) + gain / (s' kappa) log(measured_c / tau_c) + const.

    A class that the complement lacks stays out of it: the response is steepest there, and little of it takes a good
    part of the effect. Together such classes answer the strength, log(share / pi) in proportion to s, and s' is where
    they should have their target (s, where they do not answer); calibration starts there.
    """
    # A class that the base never makes has no part in it.
    made = pi > 0
    pi, tau, rho, measured = (x[made] for x in (pi, tau, rho, measured))
    seen, wanted = (np.clip(x, 1e-3 * pi, None) for x in (measured, tau))
    there = rho > 0
    left_out = np.log(rho[there] / pi[there])
    kappa = _response(-strength * left_out, np.log(seen[there] / pi[there]), seen[there])
    turn = 1.0
    if not there.all():
        found, asked = (float(np.log(x[~there].sum() / pi[~there].sum())) for x in (seen, wanted))
        # At most by a factor: further out nothing has been measured.
        turn = float(np.clip(asked / found, 0.5, 2)) ** gain if min(found, asked) > 0 else 1.0
    step = np.clip(gain / (strength * turn * kappa) * np.log(seen / wanted)[there], -1, 1)
    mix, reachable = np.zeros(len(made)), np.zeros(len(made))
    mix[np.flatnonzero(made)[there]] = pi[there] * np.exp(left_out / turn + step)
    reachable[made] = seen ** (1 - gain) * wanted**gain
    reason = f"shares at strength {strength:.2f} are taken to answer the complement by a factor of {kappa:.2f}"
    if turn != 1:
        reason += f"; for the classes out of it the strength is to be {strength * turn:.2f}"
    return _plan(strength * turn, None, mix / mix.sum(), reachable, reason)


def _response(promised: np.ndarray, found: np.ndarray, weight: np.ndarray) -> float:
    """Slope of the line through logarithms of shares, `(K,)`; 1, the rule's, where they do not tell."""
    weight = weight / weight.sum()
    x, y = promised - weight @ promised, found - weight @ found
    spread = float(weight @ x**2)
    return float(np.clip(weight @ (x * y) / spread, *RESPONSE)) if spread > 1e-6 else 1.0


def _views(shares: np.ndarray, cells: Cells | None, conditions: int) -> list[np.ndarray]:
    """The shares that have to be feasible: of joint cells those of every attribute's classes, in every condition."""
    if cells is None:
        return [shares]
    return [row for rows in cells.marginals(shares.reshape(-1, conditions).T) for row in rows]


def _without_negatives(rho: np.ndarray, cells: Cells | None) -> np.ndarray:
    """The mix nearest to `rho` that has no negative share."""
    mix = np.where(rho < 1e-12, 0.0, rho)
    if rho.min() < -1e-9:
        mix = mix / mix.sum()
        if cells is not None:
            wanted = [np.clip(m, 0, None) / np.clip(m, 0, None).sum() for m in cells.marginals(rho)]
            # The cells left may not be able to have these shares.
            with contextlib.suppress(InfeasibleTarget):
                mix = rake(cells, mix, dict(enumerate(wanted)))
    return mix


def _plan(strength: float, least: float | None, mix: np.ndarray, reachable: np.ndarray, reason: str) -> ComplementPlan:
    return ComplementPlan(
        strength=float(strength),
        least_strength=least,
        complement=tuple(map(float, mix)),
        reachable=tuple(map(float, reachable / reachable.sum())),
        reason=reason,
    )


def _named(classes: tuple[str, ...], rho: np.ndarray) -> str:
    """The classes with a negative share, the most negative first and five at most."""
    negative = [classes[k] for k in np.argsort(rho) if rho[k] < -1e-9]
    more = f" and {len(negative) - 5} more" if len(negative) > 5 else ""
    return ", ".join(negative[:5]) + more
