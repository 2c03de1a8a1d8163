"""Images whose class is known, which of them belong on one side of a split, and which a classifier learned from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from fairsims.classifiers.base import AttributeClassifier, IntArray
from fairsims.classifiers.networks import box_reduced
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.data.base import ImageDataset
from fairsims.errors import InputError, closest
from fairsims.files import atomic, read_json

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
    def determined(self) -> npt.NDArray[np.bool_]:
        """Whether each image has a class, `(N,)`."""
        return np.asarray(self.labels < len(self.attribute.classes))

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
    place = {c: k for k, c in enumerate(wanted)} | dict.fromkeys(nameless, len(wanted))
    every = np.array([place.get(value, -1) for value in values], dtype=np.int64)
    indices = np.flatnonzero(every >= 0)
    named = Attribute(name=attribute, classes=wanted)
    found = Labelled(dataset=dataset, attribute=named, indices=indices, labels=every[indices])
    empty = next((c for c in wanted if not found.counts[c]), None)
    if empty is not None:
        raise InputError(f"{dataset.name} has no image of {attribute} {empty!r}; expected some of every class")
    return found


def groups_of(data: Labelled, group_by: Sequence[str], near_duplicates: float) -> IntArray:
    """Group of each image `(N,)`: those that agree in all `group_by` columns, have the same pixels, or are alike.

    Alike: thumbnails of at most 16 x 16, as they are or mirrored, differ by at most `near_duplicates` grey levels (root
    mean square); 0 asks for identical pixels only. Raises InputError when a column is missing.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from sklearn.neighbors import NearestNeighbors

    dataset, n = data.dataset, len(data)
    missing = next((c for c in group_by if c not in dataset.table.columns), None)
    if missing is not None:
        raise InputError(
            f"{dataset.name} has no column {missing!r} to hold out by{closest(missing, dataset.table.columns)}"
        )
    first: dict[object, int] = {}
    pairs, thumbnails = [], []
    side = min(THUMBNAIL, dataset.resolution)
    for start in range(0, n, 512):
        images = dataset.read(data.indices[start : start + 512])
        pairs += [(i, first.setdefault(image.numpy().tobytes(), i)) for i, image in enumerate(images, start)]
        thumbnails.append(F.interpolate(images.float(), size=(side, side), mode="area"))
    if group_by:
        rows = dataset.table.iloc[data.indices][list(group_by)].astype(str).itertuples(index=False, name=None)
        pairs += [(i, first.setdefault(row, i)) for i, row in enumerate(rows)]
    alike = coo_array((np.ones(len(pairs)), np.array(pairs).T), shape=(n, n))
    if near_duplicates:
        small = torch.cat(thumbnails)
        as_it_is, mirrored = (t.flatten(1).numpy() for t in (small, small.flip(-1)))
        near = NearestNeighbors(radius=near_duplicates * as_it_is.shape[1] ** 0.5, algorithm="brute").fit(as_it_is)
        alike = alike + near.radius_neighbors_graph(as_it_is) + near.radius_neighbors_graph(mirrored)
    return np.asarray(connected_components(alike, directed=False)[1], dtype=np.int64)


SEEN = "seen.npy"


def write_seen(folder: Path, data: Labelled, size: int) -> None:
    """Record the images of `data` that a classifier of input size `size` learned from (0: images of any size)."""
    learned = data.indices[data.determined]
    with atomic(folder / SEEN) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.unique(_fingerprints(data, learned, size)))


def seen_by(classifier: AttributeClassifier, data: Labelled) -> npt.NDArray[np.bool_]:
    """Whether the classifier learned from each image `(N,)`; none where it has no folder to tell.

    Told by the pixels at its input size; a folder without the record is taken at its word on the data set's digest.
    Raises InputError when the record is corrupt.
    """
    folder = classifier.card.folder
    if folder is None or not (folder / SEEN).exists():
        config = read_json(folder / "config.json") if folder else {}
        return np.full(len(data), config.get("data", {}).get("digest") == data.dataset.digest)
    try:
        seen = np.load(folder / SEEN, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise InputError(f"{folder / SEEN} is corrupt ({e}); restore it or train the classifier again") from None
    return np.isin(_fingerprints(data, data.indices, classifier.input_size), seen)


def _fingerprints(data: Labelled, indices: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.uint64]:
    """First 8 bytes of SHA-256 of the pixels at the classifier's size, `(n,)`."""
    factor = data.dataset.resolution // size if size and data.dataset.resolution % size == 0 else 1
    found = []
    for start in range(0, len(indices), 512):
        images = box_reduced(data.dataset.read(indices[start : start + 512]), factor)
        found += [hashlib.sha256(image.numpy().tobytes()).digest()[:8] for image in images]
    return np.frombuffer(b"".join(found), dtype="<u8").astype(np.uint64)
