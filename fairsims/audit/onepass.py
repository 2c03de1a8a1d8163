"""Images of a source that is no pool, decoded once: whatever is not kept yet is made of each batch as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairsims.audit.features import FeatureExtractor, kept_features, known_features
from fairsims.audit.screened import keep_screening, known_screening
from fairsims.classifiers.base import AttributeClassifier, batch_size, label_batches
from fairsims.classifiers.labelling import keep_labels, known_labels
from fairsims.data.screening import Screener
from fairsims.data.sources import ImageSource
from fairsims.pools import Pool

Tally = Callable[[int, int], None]


class _Regrouped:
    """Hands images on in batches of one size: what is computed of them may round by the batch."""

    def __init__(self, size: int, use: Callable[[Tensor], object]) -> None:
        self.size, self.use = size, use
        self._waiting: list[Tensor] = []

    def add(self, batch: Tensor) -> None:
        self._waiting.append(batch)
        while sum(map(len, self._waiting)) >= self.size:
            whole = torch.cat(self._waiting) if len(self._waiting) > 1 else self._waiting[0]
            self.use(whole[: self.size])
            self._waiting = [whole[self.size :]] if len(whole) > self.size else []

    def finish(self) -> None:
        if self._waiting:
            self.use(torch.cat(self._waiting))


def read_once(
    source: ImageSource,
    classifiers: Sequence[AttributeClassifier],
    extractors: Sequence[FeatureExtractor],
    store: Path,
    progress: Tally = lambda *_: None,
) -> None:
    """Screening, labels and features of a source, those of them that `store` has not, in one pass over its images.

    Nothing is done for a pool, which is labelled and measured shard by shard, nor where at most one thing is missing.
    Memory does not grow with the number of images beyond what is kept of each. Raises InputError naming an image that
    cannot be decoded, and as the classifiers and extractors do.
    """
    if isinstance(source, Pool):
        return
    unlabelled = [c for c in classifiers if not c.by_identity and known_labels(source, c, store) is None]
    unmeasured = [e for e in extractors if not known_features(source, e, store)]
    unscreened = known_screening(source, store) is None
    if len(unlabelled) + len(unmeasured) + unscreened < 2:
        return
    size, done = batch_size(source), 0
    rows: list[list[np.ndarray]] = [[] for _ in unlabelled]
    screener = Screener(source) if unscreened else None
    with ExitStack() as files:
        users = [
            _Regrouped(size, lambda batch, c=c, found=found: found.append(label_batches(c, [batch])))  # type: ignore[misc]
            for c, found in zip(unlabelled, rows, strict=True)
        ]
        users += [_Regrouped(*files.enter_context(kept_features(source, e, store))) for e in unmeasured]
        users += [] if screener is None else [_Regrouped(size, screener.add)]
        for batch in source.batches(size):
            for user in users:
                user.add(batch)
            done += len(batch)
            progress(done, len(source))
        for user in users:
            user.finish()
    for classifier, found in zip(unlabelled, rows, strict=True):
        keep_labels(source, classifier, store, np.concatenate(found))
    if screener is not None:
        keep_screening(source, store, screener.result())
