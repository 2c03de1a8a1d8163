"""The labels that a classifier gives a source of images, computed once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairsims.classifiers.base import AttributeClassifier
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.pools import Pool

FloatArray = npt.NDArray[np.floating[Any]]


def label_source(
    source: ImageSource,
    classifier: AttributeClassifier,
    store: Path | None = None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> FloatArray:
    """Probabilities `(N, K)` of all images, computed once per classifier.

    A pool keeps them in its `labels/`, any other source in `store` when there is one. Labels that people or another
    tool made are looked up each time. `report` gets (images done, of how many). Raises InputError when a
    probability is not finite.
    """
    if classifier.by_identity:
        return _finite(classifier.label(source), source, classifier)
    classes, name = classifier.attribute.classes, classifier.attribute.name
    columns = [f"{name}.{c}" for c in classes]
    key = label_key(classifier)
    if isinstance(source, Pool):
        if key not in source.label_names:
            source.write_labels(key, name, classes, _finite(classifier.label(source, report), source, classifier))
        return source.labels(key)[columns].to_numpy()
    path = None if store is None else store / f"{key}-{source.digest[:12]}.parquet"
    if path is not None and path.exists():
        table = pd.read_parquet(path)
        if np.array_equal(table["id"].astype(str), source.ids.astype(str)):
            return table[columns].to_numpy()
    found = _finite(classifier.label(source, report), source, classifier)
    if path is not None:
        table = pd.DataFrame(found, columns=columns)
        table.insert(0, "id", source.ids)
        with atomic(path) as temporary:
            table.to_parquet(temporary, index=False)
    return found


def label_key(classifier: AttributeClassifier) -> str:
    """Name of a classifier's label table: its name and the start of its digest, so that versions never mix."""
    return f"{classifier.name}-{classifier.digest[:8]}"


def predicted_counts(probabilities: FloatArray) -> np.ndarray:
    """Images per most probable class, `(K,)`."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def _finite(found: FloatArray, source: ImageSource, classifier: AttributeClassifier) -> FloatArray:
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(
            f"{classifier.name} gave no finite probabilities for {len(broken)} of {len(found)} images of "
            f"{source.name} (first: {source.ids[broken[0]]}); mend the classifier or its table"
        )
    return found
