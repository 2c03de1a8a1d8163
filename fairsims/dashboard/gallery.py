"""Images of pools for a viewer: which ones, in which order, and a pair from the same seed as one picture."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairsims.errors import InputError
from fairsims.pools import Pool

IntArray = npt.NDArray[np.int64]

ORDERS = ("seed", "least certain first", "most changed first")
GAP = 6
"""Pixels between the images of a pair."""


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What a classifier says about the images of one pool."""

    classes: tuple[str, ...]
    probabilities: npt.NDArray[np.float32]
    """`(N, K)`"""

    @cached_property
    def winners(self) -> IntArray:
        """Most probable class of each image, `(N,)`."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @cached_property
    def confidence(self) -> npt.NDArray[np.float32]:
        """Its probability, `(N,)`."""
        return np.asarray(self.probabilities.max(axis=1))


def attributes_of(pool: Pool) -> dict[str, str]:
    """Attribute to the label table that holds it; the first one where several do. A broken table holds none."""
    import pyarrow.parquet as pq

    found: dict[str, str] = {}
    for name in pool.label_names:
        try:
            columns = pq.read_schema(pool.label_files(name)[0]).names
        except (OSError, ValueError):
            continue
        for attribute in dict.fromkeys(c.split(".")[0] for c in columns if "." in c):
            found.setdefault(attribute, name)
    return found


def calls_of(pool: Pool, table: str, attribute: str) -> Calls:
    """One attribute of a label table. Raises InputError when the table is broken."""
    labels = pool.labels(table)
    columns = [c for c in labels.columns if c.startswith(f"{attribute}.")]
    classes = tuple(c.removeprefix(f"{attribute}.") for c in columns)
    return Calls(classes=classes, probabilities=labels[columns].to_numpy(dtype=np.float32))


def shared_seeds(pools: Mapping[str, Pool]) -> npt.NDArray[np.int64]:
    """Seeds that every pool has, ascending: images with one seed start from the same noise."""
    first, *others = [p.seeds for p in pools.values()]
    shared = np.sort(first)
    for seeds in others:
        shared = shared[np.isin(shared, seeds)]
    return np.asarray(shared)


def positions_of(pool: Pool, seeds: Iterable[int]) -> IntArray:
    """Places of seeds in the pool. Raises InputError naming one that it does not hold."""
    wanted = np.asarray(list(seeds), dtype=np.int64)
    order = np.argsort(pool.seeds, kind="stable")
    place = np.searchsorted(pool.seeds, wanted, sorter=order)
    found = order[np.minimum(place, len(order) - 1)]
    strange = wanted[pool.seeds[found] != wanted]
    if len(strange):
        raise InputError(f"seed {strange[0]} is not in {pool.folder}; it is another pool than the seeds are of")
    return np.asarray(found, dtype=np.int64)


def chosen_rows(
    calls: Mapping[str, Calls], wanted: Mapping[str, str | None], confidence: tuple[float, float], order: str
) -> IntArray:
    """Rows `(n,)` of calls that go by side and lie in the same order: filtered by class and confidence, then sorted.

    `wanted` is a class by side, None for all. An image is as certain as the least certain of its sides.
    """
    sides = list(calls.values())
    certainty = np.min([c.confidence for c in sides], axis=0)
    keep = (certainty >= confidence[0]) & (certainty <= confidence[1])
    for side, label in wanted.items():
        if label is not None:
            keep &= calls[side].winners == calls[side].classes.index(label)
    rows = np.flatnonzero(keep)
    if order == "least certain first":
        rows = rows[np.argsort(certainty[rows], kind="stable")]
    elif order == "most changed first" and len(sides) == 2:
        moved = np.abs(sides[1].probabilities[rows] - sides[0].probabilities[rows]).sum(axis=1)
        rows = rows[np.argsort(-moved, kind="stable")]
    return np.asarray(rows)


def picture(images: npt.NDArray[np.uint8], height: int) -> bytes:
    """Images `(n, C, H, W)` side by side as one PNG, each `height` high; small ones keep their sharp pixels."""
    n, channels, high, wide = images.shape
    width = round(height * wide / high)
    how = Image.Resampling.NEAREST if height >= high else Image.Resampling.LANCZOS
    canvas = Image.new("RGBA", (n * width + (n - 1) * GAP, height), (0, 0, 0, 0))
    for k, image in enumerate(images):
        array = image[0] if channels == 1 else image.transpose(1, 2, 0)
        canvas.paste(Image.fromarray(array).convert("RGB").resize((width, height), how), (k * (width + GAP), 0))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
