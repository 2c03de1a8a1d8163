"""Images whose class is known, and which of them must not be on both sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.data.base import ImageDataset
from fairsims.errors import InputError, closest

IntArray = npt.NDArray[np.int64]
THUMBNAIL = 16


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """The images of a data set that have a class of the attribute, or are known to show none of them."""

    dataset: ImageDataset
    attribute: Attribute
    """The classes that images are called; never `undetermined`."""
    indices: IntArray
    """Positions in the data set, `(N,)`."""
    labels: IntArray
    """Class of each, `(N,)`; K for `undetermined`."""

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def counts(self) -> dict[str, int]:
        """Images per class, and of none where there are any."""
        names = (*self.attribute.classes, UNDETERMINED)
        found = {name: int((self.labels == k).sum()) for k, name in enumerate(names)}
        return {name: n for name, n in found.items() if n or name != UNDETERMINED}

    def facts(self) -> dict[str, object]:
        """What a record says of the data."""
        return {"name": self.dataset.name, "digest": self.dataset.digest, "images": self.counts}


def labelled(
    dataset: ImageDataset, attribute: str, classes: Sequence[str] = (), undetermined: Sequence[str] = ()
) -> Labelled:
    """The images of `classes` (default: all that the attribute has), those of `undetermined` labels as such.

    Images with other labels or none are left out. Raises InputError when the data set has no such labels or a class
    has no image.
    """
    if attribute not in dataset.table.columns:
        hint = closest(attribute, dataset.attributes) or "; label the images first, e.g. in metadata.csv"
        raise InputError(f"{dataset.name} has no column {attribute!r}{hint}")
    values = dataset.table[attribute]
    known = dataset.attributes[attribute].classes if attribute in dataset.attributes else tuple(set(values.dropna()))
    nameless = {UNDETERMINED, *undetermined}
    unknown = next((v for v in (*classes, *undetermined) if v not in known and v != UNDETERMINED), None)
    if unknown is not None:
        raise InputError(f"{dataset.name} has no {attribute} {unknown!r}{closest(unknown, known)}")
    wanted = tuple(c for c in (classes or known) if c not in nameless)
    if len(wanted) < 2:
        raise InputError(f"{attribute} has classes {list(wanted)} in {dataset.name}; expected two or more; name them")
    place = {c: k for k, c in enumerate(wanted)} | {v: len(wanted) for v in nameless}
    every = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    indices = np.flatnonzero(every >= 0)
    found = Labelled(
        dataset=dataset,
        attribute=Attribute(name=attribute, classes=wanted),
        indices=indices,
        labels=every[indices],
    )
    empty = next((c for c in wanted if not found.counts[c]), None)
    if empty is not None:
        raise InputError(f"{dataset.name} has no image of {attribute} {empty!r}; expected some of every class")
    return found


def groups_of(data: Labelled, group_by: Sequence[str], near_duplicates: float) -> IntArray:
    """Group of each image `(N,)`: those that agree in all `group_by` columns, have the same pixels, or are alike.

    Alike: thumbnails of at most 16 x 16, as they are or mirrored, differ by at most `near_duplicates` grey levels (root
    mean square); 0 asks for identical pixels only. Raises InputError when a column is missing.
    """
    dataset = data.dataset
    missing = [c for c in group_by if c not in dataset.table.columns]
    if missing:
        raise InputError(
            f"{dataset.name} has no column {missing[0]!r} to hold out by{closest(missing[0], dataset.table.columns)}"
        )
    keys: list[list[object]] = []
    thumbnails = []
    for start in range(0, len(data), 512):
        images = dataset.read(data.indices[start : start + 512])
        keys += [[image.numpy().tobytes()] for image in images]
        if near_duplicates:
            thumbnails.append(_thumbnails(images))
    if group_by:
        rows = dataset.table.iloc[data.indices][list(group_by)].astype(str).itertuples(index=False, name=None)
        for key, row in zip(keys, rows, strict=True):
            key.append(row)
    if near_duplicates:
        for i, j in _alike(torch.cat(thumbnails), near_duplicates):
            keys[i].append((i, j))
            keys[j].append((i, j))
    return joined(keys)


def _thumbnails(images: Tensor) -> Tensor:
    side = min(THUMBNAIL, images.shape[-1])
    return F.interpolate(images.float(), size=(side, side), mode="area")


def _alike(thumbnails: Tensor, limit: float) -> list[tuple[int, int]]:
    """Pairs i < j at a root mean square distance of at most `limit`, j as it is or mirrored."""
    # Around zero the matrix products below lose less to rounding.
    both = [(t - 128).flatten(1) for t in (thumbnails, thumbnails.flip(-1))]
    radius = limit * both[0].shape[1] ** 0.5
    pairs = set()
    for start in range(0, len(thumbnails), 1024):
        for other in both:
            near = torch.cdist(both[0][start : start + 1024], other, compute_mode="use_mm_for_euclid_dist")
            for i, j in (near <= radius).nonzero().tolist():
                if start + i < j:
                    pairs.add((start + i, j))
    return sorted(pairs)


def joined(keys: Sequence[Sequence[object]]) -> IntArray:
    """Number of the connected component of each item; items are connected by any common key."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[object, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            parent[root(i)] = root(first.setdefault(key, i))
    roots = [root(i) for i in range(len(keys))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
