"""What nearest neighbours among features say: improved precision and recall, distance to the nearest training image.

Distances are exact and in float64, computed in blocks, so that memory stays bounded whatever the number of images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]

K = 3
"""Neighbours whose distance is the radius of an image's ball, as the paper takes them."""
BLOCK = 2**22
"""Distances held at once: 32 MB."""


@dataclass(frozen=True, kw_only=True)
class PrecisionRecall:
    """Two shares of images that lie in the other side's manifold."""

    precision: float
    """Share of generated images inside the ball of any real one: how realistic."""
    recall: float
    """Share of real images inside the ball of any generated one: how varied."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Distances from images to their nearest training image."""

    median: float
    low: float
    """1% quantile: near 0 where images repeat training images."""

    @classmethod
    def of(cls, distances: npt.ArrayLike) -> Nearest:
        """Summary of distances `(N,)`."""
        values = np.asarray(distances, dtype=np.float64)
        return cls(median=float(np.median(values)), low=float(np.quantile(values, 0.01)))


def precision_recall(real: npt.ArrayLike, fake: npt.ArrayLike, *, k: int = K) -> PrecisionRecall:
    """Improved precision and recall of features `(n, d)` (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1-3).

    An image's ball reaches to its k-th nearest neighbour on its own side. Both numbers depend on how many images there
    are, hence the demand for equal numbers. Raises InputError when they differ or there are no more than k.
    """
    a, b = _checked(real, fake)
    if len(a) != len(b) or len(a) <= k:
        raise InputError(f"got {len(a)} real and {len(b)} generated images; expected equal numbers above k = {k}")
    return PrecisionRecall(precision=_inside(b, a, k), recall=_inside(a, b, k))


def nearest_distances(images: npt.ArrayLike, training: npt.ArrayLike) -> FloatArray:
    """Distance from each row of `images` `(n, d)` to its nearest row of `training` `(m, d)`, `(n,)`."""
    a, b = _checked(images, training)
    return _numpy(torch.cat([squared.amin(dim=1) for _, squared in _blocks(a, b)]).sqrt())


def leave_one_out_distances(training: npt.ArrayLike) -> FloatArray:
    """Distance from each row of `training` `(m, d)` to its nearest other row, `(m,)`.

    What `nearest_distances` would be for images that are new but drawn like the training images.
    """
    return _numpy(_kth_squared(_checked(training, training)[0], 1).sqrt())


def _inside(points: Tensor, manifold: Tensor, k: int) -> float:
    """Share of `points` that lie in the ball of any row of `manifold`."""
    radii = _kth_squared(manifold, k)
    return float(torch.cat([(squared <= radii).any(dim=1) for _, squared in _blocks(points, manifold)]).double().mean())


def _kth_squared(x: Tensor, k: int) -> Tensor:
    """Squared distance from each row to its k-th nearest other row, `(n,)`. Raises InputError for k rows or fewer."""
    if len(x) <= k:
        raise InputError(f"got {len(x)} images; expected more than k = {k}")
    found = []
    for rows, squared in _blocks(x, x):
        squared[torch.arange(len(squared)), torch.arange(rows.start, rows.stop)] = torch.inf
        found.append(squared.topk(k, dim=1, largest=False).values[:, -1])
    return torch.cat(found)


def _blocks(a: Tensor, b: Tensor) -> Iterator[tuple[range, Tensor]]:
    """Row numbers of `a` and their squared distances to all of `b`, `(rows, len(b))`, a block at a time."""
    a_norms, b_norms = (a**2).sum(dim=1), (b**2).sum(dim=1)
    step = max(1, BLOCK // len(b))
    for start in range(0, len(a), step):
        rows = range(start, min(start + step, len(a)))
        chunk = slice(rows.start, rows.stop)
        scale = a_norms[chunk, None] + b_norms
        squared = torch.addmm(scale, a[chunk], b.T, alpha=-2)
        # Equal rows have to come out at 0: what is left of them in this form is rounding.
        yield rows, torch.where(squared < 1e-12 * scale, 0.0, squared)


def _checked(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Tensor, Tensor]:
    """Both as float64 about the mean of the second, which keeps the digits of far-off features."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"got features {x.shape} and {y.shape}; expected (n, d) and (m, d) of one feature extractor")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        raise InputError("features are NaN or infinite; check the images they come from")
    centre, device = y.mean(axis=0), "cuda" if torch.cuda.is_available() else "cpu"
    return torch.from_numpy(x - centre).to(device), torch.from_numpy(y - centre).to(device)


def _numpy(values: Tensor) -> FloatArray:
    return np.asarray(values.cpu().numpy())
