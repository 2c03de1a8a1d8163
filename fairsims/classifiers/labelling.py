"""The labels that a classifier gives a source of images, made once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairsims import engine
from fairsims.classifiers.base import AttributeClassifier, Tally, batch_size, label_batches
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.pools import Part, PartTask, Pool

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class LabelTask(PartTask):
    """The labels of one shard of a pool."""

    classifier: str
    """Its `label_key`."""

    @property
    def makes(self) -> str:
        return f"the labels by {self.classifier}"


def label_source(
    source: ImageSource, classifier: AttributeClassifier, store: Path | None = None, progress: Tally = lambda *_: None
) -> FloatArray:
    """Probabilities `(N, K)` of all images, computed once per classifier.

    A pool keeps them beside its shards, which the processes of the engine label by turns; any other source keeps them
    in `store` when there is one. Labels that people or another tool made are looked up each time. Raises InputError
    when a probability is not finite.
    """
    if classifier.by_identity:
        return _finite(classifier.label(source), source.ids, source.name, classifier)
    if isinstance(source, Pool):
        return label_pool(source, classifier, progress)
    if store is None:
        return _finite(classifier.label(source, progress), source.ids, source.name, classifier)
    if (known := known_labels(source, classifier, store)) is not None:
        return known
    found = classifier.label(source, progress)
    keep_labels(source, classifier, store, found)
    return found


def known_labels(source: ImageSource, classifier: AttributeClassifier, store: Path) -> FloatArray | None:
    """The labels of a source that is no pool, if they are kept."""
    path = _file(source, classifier, store)
    if path.exists():
        table = pd.read_parquet(path)
        if np.array_equal(table["id"].astype(str), source.ids.astype(str)):
            return table[label_columns(classifier)].to_numpy()
    return None


def keep_labels(source: ImageSource, classifier: AttributeClassifier, store: Path, found: FloatArray) -> None:
    """Write the labels `(N, K)` where `known_labels` reads them. Raises InputError when one is not finite."""
    found = _finite(found, source.ids, source.name, classifier)
    _write(_file(source, classifier, store), "id", source.ids, label_columns(classifier), found)


def _file(source: ImageSource, classifier: AttributeClassifier, store: Path) -> Path:
    # One digest may stand for the same images at several sizes.
    return store / f"{label_key(classifier)}-{source.digest[:12]}-{source.shape[1]}px.parquet"


def label_pool(pool: Pool, classifier: AttributeClassifier, progress: Tally = lambda *_: None) -> FloatArray:
    """`label_source` of a pool: what is missing is labelled shard by shard."""
    key = label_key(classifier)
    if key not in pool.label_names:
        label_missing(pool, classifier, progress)
    return pool.labels(key)[label_columns(classifier)].to_numpy()


def label_missing(pool: Pool, classifier: AttributeClassifier, progress: Tally = lambda *_: None) -> None:
    """Label the shards of a pool that have no labels yet, or what of them is this process's of an array of jobs."""
    key, done = label_key(classifier), 0
    tasks = [
        LabelTask(path=pool.label_file(key, shard), pool=pool.folder, shard=shard, classifier=key)
        for shard in pool.parts
    ]
    for step in engine.current().map(partial(_opened, pool.folder, classifier), label_shard, tasks):
        progress(done + step.rows, len(pool))
        done += step.rows if step.finished else 0


def _opened(folder: Path, classifier: AttributeClassifier) -> tuple[Pool, AttributeClassifier]:
    return Pool(folder), classifier


def label_shard(opened: tuple[Pool, AttributeClassifier], task: LabelTask) -> Iterator[int]:
    """Label one shard and write its table; yields the number of images that are labelled."""
    pool, classifier = opened
    if label_key(classifier) != task.classifier:
        raise InputError(
            f"the classifier is {label_key(classifier)} here and {task.classifier} where labelling was begun; put the "
            "same one on every machine"
        )
    part = Part(pool, pool.parts[task.shard])
    rows: list[FloatArray] = []
    for batch in part.batches(batch_size(pool)):
        rows.append(label_batches(classifier, [batch]))
        yield sum(map(len, rows))
    found = _finite(np.concatenate(rows), part.ids, pool.name, classifier)
    _write(task.path, "seed", part.ids, label_columns(classifier), found)


def label_columns(classifier: AttributeClassifier) -> list[str]:
    """The columns of its tables: `gender.man`, `gender.woman`."""
    return [f"{classifier.attribute.name}.{c}" for c in classifier.attribute.classes]


def label_key(classifier: AttributeClassifier) -> str:
    """Name of a classifier's label table: its name and the start of its digest, so that versions never mix."""
    return f"{classifier.name}-{classifier.digest[:8]}"


def predicted_counts(probabilities: FloatArray) -> np.ndarray:
    """Images per most probable class, `(K,)`."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def _write(path: Path, by: str, ids: np.ndarray, columns: Sequence[str], probabilities: FloatArray) -> None:
    table = pd.DataFrame(probabilities.astype(np.float32), columns=list(columns))
    table.insert(0, by, ids)
    with atomic(path, shared=True) as temporary:
        table.to_parquet(temporary, index=False)


def _finite(found: FloatArray, ids: np.ndarray, name: str, classifier: AttributeClassifier) -> FloatArray:
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(
            f"{classifier.name} gave no finite probabilities for {len(broken)} of {len(found)} images of {name} "
            f"(first: {ids[broken[0]]}); mend the classifier or its table"
        )
    return found
