"""What images are held against: real images in the target's mix, moments of their features kept in files, statistics of
others.

A file that is broken, or cut off, is made again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairsims.audit.joint import Cells, raked_weights
from fairsims.audit.quality import FloatArray, FrechetReference, moments_of
from fairsims.classifiers.base import AttributeClassifier
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError
from fairsims.files import atomic

BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, InputError)
"""What reading a file raises that was cut off or overwritten."""


def stored_reference(
    path: Path | None, features: npt.NDArray[np.float32], weights: FloatArray | None = None
) -> FrechetReference:
    """Moments and root of features `(N, d)`, optionally weighted, from the file where it holds them."""
    if path is not None:
        try:
            return _load(path, features.shape[1])
        except BROKEN:
            pass
    reference = FrechetReference.of(moments_of(features, weights))
    if path is not None:
        with atomic(path) as temporary, temporary.open("wb") as f:
            np.savez(f, mu=reference.mean, sigma=reference.cov, root=reference.root)
    return reference


def _load(path: Path, width: int) -> FrechetReference:
    with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
        mean, cov, root = (np.asarray(z[k], dtype=np.float64) for k in ("mu", "sigma", "root"))
    if mean.shape != (width,) or cov.shape != (width, width) or root.shape != cov.shape:
        raise InputError(f"{path} has statistics of another extractor")
    return FrechetReference(mean=mean, cov=cov, root=root)


def read_statistics(path: Path) -> FrechetReference:
    """The reference that an EDM `.npz` file holds: `mu` `(d,)` and `sigma` `(d, d)` of features.

    Raises InputError when the file is missing or holds something else.
    """
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
            mean, cov = z["mu"], z["sigma"]
    except FileNotFoundError:
        raise InputError(f"found no reference {path}; expected a data set, or an .npz file with mu and sigma") from None
    except (*BROKEN, AttributeError, TypeError) as e:
        raise InputError(f"{path} is no reference ({e}); expected an .npz file with mu (d,) and sigma (d, d)") from None
    try:
        return FrechetReference.from_statistics(mean, cov)
    except (InputError, TypeError, ValueError) as e:
        raise InputError(f"{path} is no reference: {e}") from None


IntArray = npt.NDArray[np.int64]


def reference_weights(
    reference: ImageDataset, targets: Sequence[tuple[AttributeClassifier, np.ndarray]]
) -> tuple[FloatArray, str]:
    """Weights `(N,)` that give the real images the target shares of every attribute; and whose labels they rest on.

    Where no real image is `undetermined`, the other classes keep their proportions and have the whole. Raises
    InputError when the reference lacks another class, or a combination of classes, that the targets want.
    """
    labels = [reference_labels(reference, c) for c, _ in targets]
    labelled_by = "; ".join(dict.fromkeys(by for _, by in labels))
    places = [p for p, _ in labels]
    wanted = [_of_shown(c.attribute, t, p, reference) for (c, t), p in zip(targets, places, strict=True)]
    return raked_weights(Cells(attributes=tuple(c.attribute for c, _ in targets)), places, wanted), labelled_by


def _of_shown(attribute: Attribute, target: np.ndarray, places: IntArray, reference: ImageDataset) -> np.ndarray:
    """The target shares among the classes that the reference shows."""
    shown = np.bincount(places[places >= 0], minlength=len(target)) > 0
    lacking = [c for c, share, has in zip(attribute.classes, target, shown, strict=True) if share > 0 and not has]
    if lacking and (lacking != [UNDETERMINED] or not shown.any()):
        raise InputError(
            f"the reference {reference.name} has no image of {attribute.name} {lacking[0]}, which the target wants; "
            "give a --reference that shows every class"
        )
    kept = np.where(shown, target, 0.0)
    return np.asarray(kept / kept.sum())


def reference_labels(reference: ImageDataset, classifier: AttributeClassifier) -> tuple[IntArray, str]:
    """Place of each image in the classifier's classes, `(N,)`, -1 for none; and whose labels they are.

    Where the data set has no labels for the attribute, the classifier's own calls stand in for them.
    """
    attribute = classifier.attribute
    if attribute.name not in reference.attributes:
        return label_source(reference, classifier).argmax(axis=1), f"called by {classifier.name}"
    theirs, classes = reference.attributes[attribute.name].classes, attribute.classes
    place = np.array([classes.index(c) if c in classes else -1 for c in theirs] + [-1])
    return place[reference.class_indices(attribute.name)], "its own"


def reference_calls(reference: ImageDataset, classifier: AttributeClassifier, store: Path | None) -> IntArray:
    """What the classifier calls each image, `(N,)`: groups of generated images are called too, with the same errors.

    Labels that people made of single images know no others: then the data set's own are taken.
    """
    if classifier.by_identity and classifier.attribute.name in reference.attributes:
        return reference_labels(reference, classifier)[0]
    return np.asarray(label_source(reference, classifier, store).argmax(axis=1))
