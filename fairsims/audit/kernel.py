"""Kernel distance between features: KID, an unbiased number for any number of images, with a bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.audit.blocks import Features, checked, parts, tile
from fairsims.audit.intervals import LEVEL
from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

REPLICATES = 500


@dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """Unbiased MMD^2 with its interval. It is below 0 about half the time where both sides are drawn alike."""

    kid: float
    low: float
    high: float
    n: int
    """Images on the smaller side."""


def kernel_distance(
    real: npt.ArrayLike, fake: npt.ArrayLike, *, replicates: int = REPLICATES, seed: int = 0
) -> KernelDistance:
    """KID of features `(m, d)` and `(n, d)`: unbiased MMD^2 with `k(x, y) = (x'y / d + 1)^3` (Bińkowski et al. 2018,
    arXiv 1801.01401, eq. 4).

    The interval is the percentile bootstrap over images of both sides. An image drawn twice is not paired with itself,
    which keeps the replicates centred; where both sides are drawn alike the interval is wider than it need be. Tiles
    of the kernel are never all held at once. Raises InputError for fewer than 2 images on a side.
    """
    x, y = checked(real, fake)
    if min(len(x), len(y)) < 2:
        raise InputError(f"got {len(x)} real and {len(y)} generated images; a kernel distance needs 2 of each")
    rng = numpy_generator("kernel distance", seed)
    u, v = (_counts(rng, len(f), replicates) for f in (x, y))
    found = (_within(x, u) + _within(y, v) - 2 * _between(x, u, y, v)).cpu().numpy()
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return KernelDistance(kid=float(found[0]), low=float(low), high=float(high), n=min(len(x), len(y)))


def _counts(rng: np.random.Generator, n: int, replicates: int) -> Tensor:
    """How often a replicate draws each image, `(1 + replicates, n)`; the first row is the data themselves."""
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=replicates)
    return tile(np.concatenate([np.ones((1, n)), drawn]), slice(None))


def _within(x: Features, u: Tensor) -> Tensor:
    """Mean kernel over pairs of different images, for every row of counts `u`, `(replicates,)`."""
    total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    for rows in parts(len(x)):
        a = tile(x, rows)
        for columns in parts(len(x)):
            if columns.start < rows.start:
                continue
            values = _kernel(a, tile(x, columns))
            if columns == rows:
                values.fill_diagonal_(0.0)
            total += (1 if columns == rows else 2) * ((u[:, rows] @ values) * u[:, columns]).sum(dim=1)
    return total / (u.sum(dim=1) ** 2 - (u**2).sum(dim=1))


def _between(x: Features, u: Tensor, y: Features, v: Tensor) -> Tensor:
    """Mean kernel over pairs of one image of each side, `(replicates,)`."""
    total = torch.zeros(len(u), dtype=torch.float64, device=u.device)
    for rows in parts(len(x)):
        a = tile(x, rows)
        for columns in parts(len(y)):
            total += ((u[:, rows] @ _kernel(a, tile(y, columns))) * v[:, columns]).sum(dim=1)
    return total / (u.sum(dim=1) * v.sum(dim=1))


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T).div_(a.shape[1]).add_(1.0).pow_(3)
