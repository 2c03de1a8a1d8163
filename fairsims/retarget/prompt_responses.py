"""How far each prompt has gone its way at a strength, and what the next round's mixes have to ask for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fairsims.audit.joint import FloatArray

MOST = 3.0
"""Times that a prompt's way is lengthened, or shortened, at most."""


def along(
    before: FloatArray, shares: Mapping[float, FloatArray], images: Mapping[float, FloatArray], strength: float
) -> tuple[FloatArray, FloatArray]:
    """Shares `(P, K)` at a strength, and as good as how many images of each prompt `(P,)` they are.

    On the line through the base's shares `before` that fits those found at other strengths best, each by its images of
    a prompt `(P,)`: with few images at several strengths all of them tell the chosen one's shares.
    """
    weight = np.sum([images[w] * w**2 for w in shares], axis=0)
    slope = np.sum([(images[w] * w)[:, None] * (found - before) for w, found in shares.items()], axis=0)
    slope = slope / weight[:, None]
    return np.asarray(before + strength * slope), np.asarray(weight / strength**2)


def responses(pi: FloatArray, target: FloatArray, shares: FloatArray, n: FloatArray | int) -> FloatArray:
    """The part of its way that each prompt has gone, `(P,)`; 1 is at the target.

    pi, target, shares `(P, K)`: of the base, wanted, and found in `n` images of a prompt, one number or `(P,)`. What
    few images tell is drawn towards what the prompts have in common, as far as chance explains their spread (empirical
    Bayes, normal).
    """
    grows = target > pi
    way = np.where(grows, target - pi, 0).sum(axis=1)
    there = np.where(grows, shares, 0).sum(axis=1).clip(0, 1)
    moved = np.where(grows, shares - pi, 0).sum(axis=1)
    found = np.ones(len(pi))
    far = way > 1e-9
    if not far.any():
        return found
    # Half an image more of each kind: no share is certain.
    images = np.broadcast_to(np.asarray(n, dtype=np.float64), len(pi))[far]
    smooth = (there[far] * images + 0.5) / (images + 1)
    noise = smooth * (1 - smooth) / images / way[far] ** 2
    seen = moved[far] / way[far]
    weight = 1 / noise
    mean = float((seen * weight).sum() / weight.sum())
    # DerSimonian and Laird 1986: a prompt that has hardly a way to go tells next to nothing of the spread.
    spread = weight.sum() - (weight**2).sum() / weight.sum()
    excess = float((weight * (seen - mean) ** 2).sum()) - (len(seen) - 1)
    between = max(excess / spread, 0.0) if len(seen) > 1 else 0.0
    found[far] = mean + between / (between + noise) * (seen - mean)
    return found


def gains(found: FloatArray) -> FloatArray:
    """How many times longer each prompt's way has to be asked for, `(P,)`, from the parts that were gone."""
    return np.asarray(1 / np.clip(found, 1 / MOST, MOST))
