"""Quality at every strength that a calibration tried, from the images that it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fairsims.audit.extractors import classifier_features
from fairsims.audit.fidelity import open_reference
from fairsims.audit.references import FeatureTable
from fairsims.classifiers.base import AttributeClassifier, batch_size, features_of
from fairsims.data import ImageDataset
from fairsims.pools import Pool


def pilot_quality(
    pools: Sequence[Pool],
    reference: ImageDataset,
    targets: Sequence[tuple[AttributeClassifier, np.ndarray]],
    store: Path,
) -> list[dict[str, float]]:
    """`fd_reference`, `fd_target` and `quality_n` of each pool, on the first target's classifier's features.

    Fréchet distances fall with the number of images, so all are of the same: the first n of every pool, n being the
    size of the smallest. `store` keeps what is computed of the reference. Raises InputError as `quality` does.
    """
    classifier, n = targets[0][0], min(map(len, pools))
    real, _ = open_reference(reference, classifier_features(classifier), targets, store)
    return [real.distances(_first_features(pool, classifier, n)) | {"quality_n": n} for pool in pools]


def _first_features(pool: Pool, classifier: AttributeClassifier, n: int) -> FeatureTable:
    size = batch_size(pool)
    return features_of(classifier, (pool.read(range(i, min(i + size, n))) for i in range(0, n, size)))
