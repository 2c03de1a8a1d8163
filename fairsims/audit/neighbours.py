"""What nearest neighbours among features say: precision and recall, density and coverage, nearest training images.

Distances are exact and in float64, computed in tiles: below 0.3 GB at d = 2048, whatever the number of images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.audit.blocks import Features, checked, parts, squared_distances, tile
from fairsims.audit.facts import Pair
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

K = 3
"""Neighbours whose distance is the radius of an image's ball for precision and recall, as their paper takes them."""
K_DENSITY = 5
"""The same for density and coverage."""


@dataclass(frozen=True, kw_only=True)
class Manifold:
    """How generated images lie among real ones, by balls that reach to an image's k-th nearest on its own side."""

    precision: float
    """Share of generated images inside the ball of any real one: how realistic."""
    recall: float
    """Share of real images inside the ball of any generated one: how varied."""
    density: float
    """Real balls that a generated image lies in, over k; 1 is expected, and an outlier among the real adds little."""
    coverage: float
    """Share of real images whose ball holds a generated one: how varied, and not misled by scattered images."""


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


def manifold(real: npt.ArrayLike, fake: npt.ArrayLike, *, k: int = K, k_density: int = K_DENSITY) -> Manifold:
    """Precision and recall of features `(n, d)` (Kynkäänniemi et al. 2019, arXiv 1904.06991, eq. 1-3), density and
    coverage (Naeem et al. 2020, arXiv 2002.09797, eq. 3-4).

    All depend on how many images there are, hence the demand for equal numbers. Raises InputError when they differ or
    there are no more than the larger k.
    """
    a, b = checked(real, fake)
    most = max(k, k_density)
    if len(a) != len(b) or len(a) <= most:
        raise InputError(f"got {len(a)} real and {len(b)} generated images; expected equal numbers above k = {most}")
    centre = _mean(a)
    real_balls, fake_balls = _others(a, most, centre), _others(b, k, centre)[:, k - 1]
    balls, wide = real_balls[:, k - 1], real_balls[:, k_density - 1]
    precise, recalled, covered = (torch.zeros(len(a), dtype=torch.bool, device=balls.device) for _ in range(3))
    inside_balls = 0
    for rows in parts(len(b)):
        points = tile(b, rows, centre)
        for columns in parts(len(a)):
            squared = squared_distances(points, tile(a, columns, centre))
            precise[rows] |= (squared <= balls[columns]).any(dim=1)
            recalled[columns] |= (squared <= fake_balls[rows, None]).any(dim=0)
            inside = squared <= wide[columns]
            covered[columns] |= inside.any(dim=0)
            inside_balls += int(inside.sum())
    return Manifold(
        precision=float(precise.double().mean()),
        recall=float(recalled.double().mean()),
        density=inside_balls / (k_density * len(b)),
        coverage=float(covered.double().mean()),
    )


def nearest_training(images: npt.ArrayLike, training: npt.ArrayLike) -> tuple[FloatArray, IntArray]:
    """Distance from each row of `images` `(n, d)` to its nearest row of `training` `(m, d)`, and its place, `(n,)`."""
    a, b = checked(images, training)
    centre = _mean(b)
    distances, places = [], []
    for rows in parts(len(a)):
        points = tile(a, rows, centre)
        best = torch.full((len(points),), torch.inf, dtype=torch.float64, device=points.device)
        place = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        for columns in parts(len(b)):
            least, where = squared_distances(points, tile(b, columns, centre)).min(dim=1)
            place = torch.where(least < best, where + columns.start, place)
            best = torch.minimum(least, best)
        distances.append(best.sqrt())
        places.append(place)
    return _numpy(torch.cat(distances)), np.asarray(torch.cat(places).cpu().numpy(), dtype=np.int64)


def nearest_pairs(distances: FloatArray, places: IntArray, *, count: int) -> list[Pair]:
    """The `count` images nearest to a training image, nearest first, of what `nearest_training` found."""
    chosen = np.argsort(distances, kind="stable")[:count]
    return [Pair(generated=int(i), training=int(places[i]), distance=float(distances[i])) for i in chosen]


def leave_one_out_distances(training: npt.ArrayLike, positions: IntArray | None = None) -> FloatArray:
    """Distance from each row of `training` `(m, d)`, or from those at `positions`, to its nearest other row.

    What `nearest_training` would find for images that are new but drawn like the training images. Raises InputError
    for a single row.
    """
    x, _ = checked(training, training)
    return _numpy(_others(x, 1, _mean(x), positions)[:, 0].sqrt())


def authenticity(distances: FloatArray, places: IntArray, training: npt.ArrayLike) -> float:
    """AuthPct in percent (Alaa et al. 2022, arXiv 2102.08921): generated images that are no copy of a training image.

    `distances` and `places` are what `nearest_training` found. An image is authentic when its nearest training image
    x* has another training image nearer to it than the generated one is. Images that are new but drawn like the
    training images come out below 100 too: half in few dimensions, most in many.
    """
    used, back = np.unique(places, return_inverse=True)
    return float(100 * (leave_one_out_distances(training, used)[back] < distances).mean())


def _others(x: Features, k: int, centre: FloatArray, positions: IntArray | None = None) -> Tensor:
    """Squared distances from rows, by default all, to their k nearest other rows, ascending `(rows, k)`.

    Raises InputError for k rows or fewer.
    """
    if len(x) <= k:
        raise InputError(f"got {len(x)} images; expected more than k = {k}")
    wanted = np.arange(len(x)) if positions is None else positions
    found = []
    for part in parts(len(wanted)):
        rows = wanted[part]
        points = tile(x, rows, centre)
        best = torch.full((len(rows), k), torch.inf, dtype=torch.float64, device=points.device)
        for columns in parts(len(x)):
            squared = squared_distances(points, tile(x, columns, centre))
            own = np.flatnonzero((rows >= columns.start) & (rows < columns.stop))
            squared[own, rows[own] - columns.start] = torch.inf
            best = torch.cat([best, squared], dim=1).topk(k, dim=1, largest=False).values
        found.append(best)
    return torch.cat(found)


def _mean(x: Features) -> FloatArray:
    """Distances about the mean keep the digits of far-off features."""
    return np.asarray(sum(tile(x, part).cpu().numpy().sum(axis=0) for part in parts(len(x))) / len(x))


def _numpy(values: Tensor) -> FloatArray:
    return np.asarray(values.cpu().numpy())
