"""Which images a classifier learned from, kept beside its weights: nobody measures it on them by mistake."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairsims.classifiers.base import AttributeClassifier
from fairsims.classifiers.labelled import Labelled
from fairsims.classifiers.networks import box_reduced
from fairsims.errors import InputError
from fairsims.files import atomic, read_json

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
