"""Quality of pools against a real data set, on a classifier's features: Fréchet distances, precision and recall, and
the distance to the nearest training image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fairsims.audit.joint import Cells, raked_weights
from fairsims.audit.neighbours import K, Nearest, leave_one_out_distances, nearest_distances, precision_recall
from fairsims.audit.quality import FloatArray, FrechetReference, Moments, frechet_distance, target_weights
from fairsims.classifiers.base import AttributeClassifier, features_of, label_batches
from fairsims.datasets import ImageDataset
from fairsims.pools import Pool
from fairsims.seeds import numpy_generator


@dataclass(frozen=True, kw_only=True)
class QualityReference:
    """A real data set as pools are measured against it; what costs time is computed once."""

    features: npt.NDArray[np.float32]
    """`(N, d)`"""
    weights: FloatArray | None
    """`(N,)`: give the images the target's mix; None when there is no target."""
    k: int = K

    @cached_property
    def as_given(self) -> FrechetReference:
        return FrechetReference.of(Moments().update(self.features))

    @cached_property
    def at_target(self) -> FrechetReference | None:
        return None if self.weights is None else FrechetReference.of(Moments().update(self.features, self.weights))

    @cached_property
    def nearest(self) -> Nearest:
        """Distances between the real images themselves, each to its nearest other."""
        return Nearest.of(leave_one_out_distances(self.features))

    def measure(self, features: npt.NDArray[np.float32], size: int) -> dict[str, float]:
        """Every number for generated images' features `(n, d)`.

        Precision and recall depend on the number of images, so both sides are cut to `size` of them: positions drawn
        from a fixed seed. The Fréchet distances and nearest training images are over all of them.
        Raises InputError when there are too few images.
        """
        moments = Moments().update(features)
        found = {"fd_reference": frechet_distance(self.as_given, moments)}
        if self.at_target is not None:
            found["fd_target"] = frechet_distance(self.at_target, moments)
        real, fake = (x[subsample(len(x), size)] for x in (self.features, features))
        near = Nearest.of(nearest_distances(features, self.features))
        return (
            found
            | asdict(precision_recall(real, fake, k=self.k))
            | {"nearest_median": near.median, "nearest_low": near.low, "n": len(features)}
        )

    def facts(self) -> dict[str, float]:
        """What the numbers of pools are to be read against."""
        return {"n": len(self.features), "nearest_median": self.nearest.median, "nearest_low": self.nearest.low}


def quality(
    pools: Mapping[str, Pool],
    classifier: AttributeClassifier,
    reference: ImageDataset,
    target: np.ndarray,
    *,
    others: Sequence[tuple[AttributeClassifier, np.ndarray]] = (),
) -> dict[str, Any]:
    """The `quality` section of an audit: each pool against the reference as given and re-weighted to the target.

    On the features of `classifier`, whose attribute `target` is for; `others` are further attributes' classifiers and
    targets. Raises InputError when the reference lacks a class, or a combination of classes, that the targets want.
    """
    weights, labelled_by = reference_weights(reference, [(classifier, target), *others])
    real = QualityReference(features=features_of(classifier, dataset_batches(reference)), weights=weights)
    size = min([len(real.features), *map(len, pools.values())])
    found: dict[str, Any] = {
        "metric": f"FD ({classifier.name} features)",
        "reference": {"name": reference.name, "digest": reference.digest, "labels": labelled_by, **real.facts()},
        "precision_recall": {"k": real.k, "n": size, "sampling": "equal numbers, drawn from a fixed seed"},
    }
    for when, pool in pools.items():
        found[when] = real.measure(features_of(classifier, pool.batches()), size)
    return found


def reference_weights(
    reference: ImageDataset, targets: Sequence[tuple[AttributeClassifier, np.ndarray]]
) -> tuple[FloatArray, str]:
    """Weights `(N,)` that give the real images the target shares of every attribute; and whose labels they rest on.

    Raises InputError when the reference lacks a class, or a combination of classes, that the targets want.
    """
    labels = [reference_labels(reference, c) for c, _ in targets]
    labelled_by = "; ".join(dict.fromkeys(by for _, by in labels))
    places = [p for p, _ in labels]
    if len(targets) == 1:
        return target_weights(places[0], targets[0][1]), labelled_by
    cells = Cells(attributes=tuple(c.attribute for c, _ in targets))
    return raked_weights(cells, places, [t for _, t in targets]), labelled_by


def reference_labels(reference: ImageDataset, classifier: AttributeClassifier) -> tuple[npt.NDArray[np.int64], str]:
    """Place of each image in the classifier's classes, `(N,)`, -1 for none; and whose labels they are.

    Where the data set has no labels for the attribute, the classifier's own calls stand in for them.
    """
    attribute = classifier.attribute
    if attribute.name not in reference.attributes:
        return label_batches(classifier, dataset_batches(reference)).argmax(axis=1), f"called by {classifier.name}"
    theirs, classes = reference.attributes[attribute.name].classes, attribute.classes
    place = np.array([classes.index(c) if c in classes else -1 for c in theirs] + [-1])
    return place[reference.class_indices(attribute.name)], "its own"


def dataset_batches(dataset: ImageDataset, size: int = 256) -> Iterator[Tensor]:
    """All images of a data set in order, `(<=size, C, H, W)` uint8 at a time."""
    for start in range(0, len(dataset), size):
        yield dataset.read(range(start, min(start + size, len(dataset))))


def subsample(n: int, size: int) -> npt.NDArray[np.int64]:
    """`size` of the positions 0..n-1, the same ones for the same n and size; all of them, in order, when they are n."""
    if size >= n:
        return np.arange(n)
    return np.sort(numpy_generator("subsample", n, size).choice(n, size, replace=False)).astype(np.int64)
