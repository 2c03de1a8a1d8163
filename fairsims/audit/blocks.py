"""Features in tiles: what needs every pair of images takes bounded memory, whatever their number and wherever they lie.

Features are `(N, d)` arrays, in memory or in a file; a tile of them is in float64, on the GPU where there is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import give_back
from fairsims.seeds import numpy_generator

Features = npt.NDArray[np.floating[Any]]

TILE = 2048
"""Rows of a tile: 34 MB at d = 2048, and as much for the pairs of two tiles."""


def parts(n: int) -> Iterator[slice]:
    """The tiles' slices of 0..n-1, in order."""
    for start in range(0, n, TILE):
        yield slice(start, min(start + TILE, n))


def tile(features: Features, part: slice | npt.NDArray[np.int64], centre: npt.ArrayLike = 0.0) -> Tensor:
    """Rows of features less `centre` `(d,)`, float64 `(rows, d)`."""
    rows = np.asarray(features[part], dtype=np.float64) - np.asarray(centre)
    give_back(features)
    return torch.from_numpy(rows).to("cuda" if torch.cuda.is_available() else "cpu")


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Of every row of `a` to every row of `b`, `(len(a), len(b))`."""
    scale = (a**2).sum(dim=1)[:, None] + (b**2).sum(dim=1)
    squared = torch.addmm(scale, a, b.T, alpha=-2)
    # Equal rows have to come out at 0: what is left of them in this form is rounding.
    return squared.masked_fill_(squared < 1e-12 * scale, 0.0)


def checked(a: npt.ArrayLike, b: npt.ArrayLike) -> tuple[Features, Features]:
    """Both as arrays. Raises InputError when they are no features of one extractor, or not finite."""
    x, y = np.asanyarray(a), np.asanyarray(b)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"got features {x.shape} and {y.shape}; expected (n, d) and (m, d) of one feature extractor")
    if not all(_finite(f, part) for f in (x, y) for part in parts(len(f))):
        raise InputError("features are NaN or infinite; check the images they come from")
    return x, y


def _finite(features: Features, part: slice) -> bool:
    found = bool(np.isfinite(features[part]).all())
    give_back(features)
    return found


def subsample(n: int, size: int) -> npt.NDArray[np.int64]:
    """`size` of the positions 0..n-1, the same ones for the same n and size; all of them, in order, when they are n."""
    if size >= n:
        return np.arange(n)
    return np.sort(numpy_generator("subsample", n, size).choice(n, size, replace=False)).astype(np.int64)
