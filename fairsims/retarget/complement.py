"""The complement rule: which mix the auxiliary is trained on, and how its images are drawn from the pool.

pi = shares in the base's pool, tau = target, rho = shares in the auxiliary's training set. Under the deterministic
sampler the guided share follows `tau = (1 + omega) pi - omega rho` closely, so `rho = ((1 + omega) pi - tau) / omega`.
The rule is this project's derivation; SIMS (arXiv 2408.16333) states the idea without a formula.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.joint import Cells, rake
from fairsims.errors import InfeasibleTarget, InputError
from fairsims.seeds import numpy_generator

FLOOR = 0.9
"""Least class probability of an image that enters the complement set."""
LEAST = 0.25
"""Smallest omega planned: less moves the shares by less than pilots can tell."""
GAIN = 0.7
"""Part of a measured error that the next round's complement sets out to mend: the whole of it tends to overshoot."""
RESPONSE = (0.5, 1.0)
"""How strongly shares may be taken to answer the complement, of what the rule promises: below it noise is blown up."""


@dataclass(frozen=True, kw_only=True)
class ComplementPlan:
    """The planned mix of the auxiliary's training set."""

    omega: float
    least_omega: float | None
    """Smallest omega at which no share of the complement is negative; None where no omega makes it so."""
    complement: tuple[float, ...]
    reachable: tuple[float, ...]
    """Shares that the linear rule promises at `omega`: the target, unless the cap cuts it short."""
    reason: str


def least_omega(pi: np.ndarray, tau: np.ndarray) -> float:
    """Smallest omega that makes every rho_c >= 0: max_c tau_c / pi_c - 1. Infinite when a wanted class is absent."""
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
) -> ComplementPlan:
    """Plan at the least feasible omega, `LEAST` or more; beyond `cap` the farthest mix that the cap allows.

    There the neediest class is not in the complement at all. A larger omega, which the rule allows too, keeps some of
    it, and then takes more strength than in proportion.

    With joint `cells` omega has to be feasible for the shares of every attribute's classes. Single cells that would
    still go negative stay out of the complement, and the others are raked so that every class keeps the rule's share:
    the targets are of classes, and a larger omega for the sake of a rare cell would weaken the complement in all.

    Raises InfeasibleTarget when the target wants a class that the base never makes, InputError when the base already
    has the target or omega is not positive.
    """
    pairs = zip(_views(pi, cells), _views(tau, cells), strict=True)
    least, of_cells = max(least_omega(p, t) for p, t in pairs), least_omega(pi, tau)
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
        reason = f"omega = {omega:g} as asked"
    else:
        reason = f"omega = {chosen:.2f}: the least feasible is {least:.2f}"
        if least > 1:
            reason = f"omega = 1 would need a negative share of {_named(classes, complement_shares(pi, tau, 1.0))} in "
            reason += f"the complement; the least feasible is {least:.2f}"
        if least > cap:
            reason += f", above the cap of {cap:g}"
    rho = complement_shares(pi, tau, chosen)
    if rho.min() < -1e-9:
        reason += f"; no {_named(classes, rho)} in the complement"
        short = chosen < least - 1e-9
        reason += ", so strength alone may fall short of the target" if short else f" (single cells: {of_cells:.2f})"
    mix = _without_negatives(rho, cells)
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


def _views(shares: np.ndarray, cells: Cells | None) -> list[np.ndarray]:
    """The shares that have to be feasible: of joint cells those of every attribute's classes."""
    return [shares] if cells is None else cells.marginals(shares)


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


def _plan(omega: float, least: float | None, mix: np.ndarray, reachable: np.ndarray, reason: str) -> ComplementPlan:
    return ComplementPlan(
        omega=float(omega),
        least_omega=least,
        complement=tuple(map(float, mix)),
        reachable=tuple(map(float, reachable / reachable.sum())),
        reason=reason,
    )


def _named(classes: tuple[str, ...], rho: np.ndarray) -> str:
    """The classes with a negative share, the most negative first and five at most."""
    negative = [classes[k] for k in np.argsort(rho) if rho[k] < -1e-9]
    more = f" and {len(negative) - 5} more" if len(negative) > 5 else ""
    return ", ".join(negative[:5]) + more


def draw_complement(
    probabilities: np.ndarray,
    shares: np.ndarray,
    *,
    size: int | None = None,
    floor: float = FLOOR,
    seed: int = 0,
    scarce: int = 0,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Positions in the pool that make the complement set, `(size,)` int64, sorted.

    probabilities `(N, K)`, shares `(K,)`. Stratified: class c gets its share of `size` (largest remainders). Candidates
    are the images whose most probable class is c with at least `floor`; they are drawn with that probability as
    weight, without replacement while they last, then again from the start. With the same seed a smaller set lies inside
    a larger one; of three classes or more, but for one image a class, which rounding may take away as the size grows.
    `size` None takes as many as there are without replacement; only the images of a class with fewer than `scarce`
    candidates may repeat, lest a rare joint cell make the set small. With `scarce`, a class without a candidate gives
    its share to the others.
    Raises InputError when a class that the complement needs has no candidate; `names` are those of the classes.
    """
    winner, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    candidates = [np.flatnonzero((winner == c) & (confidence >= floor)) for c in range(len(shares))]
    if scarce:
        shares = np.where([len(found) > 0 for found in candidates], shares, 0.0)
        if shares.sum() == 0:
            raise InputError(
                f"no image in the pool has probabilities of {floor:g} or more for what the complement needs; "
                "lower --floor, make the pool larger or use better classifiers"
            )
        shares = shares / shares.sum()
    for c, (found, share) in enumerate(zip(candidates, shares, strict=True)):
        if share > 0 and len(found) == 0:
            name = names[c] if names else f"class {c}"
            raise InputError(
                f"no image of {name} in the pool has a probability of {floor:g} or more; "
                "lower --floor, make the pool larger or use a better classifier"
            )
    if size is None:
        needed = [(len(f), s) for f, s in zip(candidates, shares, strict=True) if s > 0]
        plenty = [(n, s) for n, s in needed if n >= scarce] or needed
        size = int(min(n / s for n, s in plenty))
    if size < 1:
        raise InputError(f"the complement set would have {size} images; expected at least 1")
    rng = numpy_generator(seed, "complement")
    # A class with a share has keys drawn even where it gets no image: those of the classes after it are then the same
    # at every size. One without a share has none at any size.
    drawn = [
        _weighted_draw(found, confidence[found], int(n), rng)
        for found, n, share in zip(candidates, largest_remainders(shares, size), shares, strict=True)
        if share > 0
    ]
    return np.sort(np.concatenate(drawn))


def largest_remainders(shares: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers that sum to `size` and follow `shares` as closely as possible, `(K,)` int64."""
    exact = shares / shares.sum() * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return np.asarray(counts)


def _weighted_draw(items: np.ndarray, weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    whole, rest = divmod(n, len(items))
    # The largest of u**(1/w) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    keys = np.log(rng.random(len(items))) / weights
    return np.concatenate([np.repeat(items, whole), items[np.argsort(-keys)[:rest]]])
