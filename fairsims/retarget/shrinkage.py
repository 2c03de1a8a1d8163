"""Shares of conditions (classes, prompts) that few images tell, drawn towards what the conditions have in common."""

from __future__ import annotations

import numpy as np

from fairsims.audit.joint import FloatArray


def shrunk(shares: FloatArray, n: FloatArray | int) -> FloatArray:
    """Shares `(P, K)` measured on `n` images each, drawn towards their mean as far as chance explains their spread.

    `n` is one number or `(P,)`. A Dirichlet prior about the mean whose concentration is what the variance between
    conditions leaves over the variance of n images (method of moments); conditions that truly differ much are hardly
    moved, a share of 0 never stays 0 where others have the class.
    """
    images = np.broadcast_to(np.asarray(n, dtype=np.float64), (len(shares),))[:, None]
    p = np.clip(shares, 0, None)
    p = np.divide(p, p.sum(axis=1, keepdims=True), out=np.zeros_like(p), where=images > 0)
    if len(p) < 2:
        # One condition has nothing in common with others; half an image of each class keeps its shares above 0.
        return np.asarray((images * p + 0.5) / (images + 0.5 * p.shape[1]))
    mean = (images * p).sum(axis=0) / images.sum()
    seen = images[:, 0] > 0
    within = float(((p * (1 - p)).sum(axis=1)[seen] / images[seen, 0]).mean())
    between = max(float(p[seen].var(axis=0, ddof=min(1, int(seen.sum()) - 1)).sum()) - within, 1e-6)
    most = float((mean * (1 - mean)).sum())
    strength = float(np.clip(most / between - 1, 1.0, 4 * images.mean()))
    return np.asarray((images * p + strength * mean) / (images + strength))
