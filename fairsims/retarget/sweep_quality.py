"""What a sweep measures of a point's quality: the same numbers on every feature space that was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairsims.audit.features import FeatureExtractor, FeatureTable, open_extractor, stored_features
from fairsims.audit.fidelity import QualityReference, of_any_number
from fairsims.audit.joint import FloatArray
from fairsims.audit.neighbours import K, authenticity
from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import InputError
from fairsims.pools import Pool
from fairsims.retarget.retargeting import Retargeting

KERNEL = ("kid_low", "kid_high")
"""The kernel distance's interval is not made: points on the same seeds do not differ independently."""


@dataclass(kw_only=True)
class SweepQuality:
    """The real data as points are measured against it, on several extractors' features; made once a sweep."""

    work: Retargeting
    reference: ImageDataset
    weights: FloatArray | None
    """`(N,)`: give the reference's images the target's mix; None without a target."""
    extractors: tuple[FeatureExtractor, ...]
    """The first one's numbers have their plain names, the others' their own before it."""
    training: ImageDataset | None
    """The base's training data, where the reference is other data: what repeats are looked for in."""
    _real: dict[str, QualityReference] = field(default_factory=dict, init=False)

    def row(self, images: Pool, store: Path) -> dict[str, Any]:
        """Columns of a point, of features kept in `store`."""
        found: dict[str, Any] = {}
        for k, extractor in enumerate(self.extractors):
            numbers = self._numbers(extractor, stored_features(images, extractor, store))
            found |= numbers if k == 0 else {f"{extractor.name}.{name}": v for name, v in numbers.items()}
        return found

    def facts(self, n: int) -> dict[str, Any]:
        """For `sweep.json`, of the first extractor; `n` images a point."""
        first = self.extractors[0]
        named = {"name": self.reference.name, "digest": self.reference.digest}
        real = self._against(first, self.reference)
        found = {
            "metric": first.metric,
            "reference": named | real.facts(),
            "precision_recall": {"k": K, "n": min(n, len(real.features))},
        }
        if len(self.extractors) > 1:
            found["also"] = [e.facts() for e in self.extractors[1:]]
        return found | ({"training": self.training.name} if self.training is not None else {})

    def _numbers(self, extractor: FeatureExtractor, features: FeatureTable) -> dict[str, Any]:
        real = self._against(extractor, self.reference)
        numbers = real.measure(features, min(len(features), len(real.features)))
        numbers |= of_any_number(real, features, "", {}, replicates=1)
        if self.training is not None:
            known = self._against(extractor, self.training)
            near = known.repeats(features)
            numbers["train_auth_pct"] = authenticity(near.distances, near.places, known.features)
            numbers["train_nearest_median"] = float(sorted(near.distances)[len(near.distances) // 2])
        return {k: v for k, v in numbers.items() if k not in ("n", *KERNEL)}

    def _against(self, extractor: FeatureExtractor, data: ImageDataset) -> QualityReference:
        key = f"{extractor.digest} {data.digest}"
        if key not in self._real:
            features = stored_features(data, extractor, self.work.run.folder)
            weights = self.weights if data is self.reference else None
            self._real[key] = QualityReference(features=features, weights=weights)
        return self._real[key]


def open_extractors(names: Sequence[str], work: Retargeting) -> tuple[FeatureExtractor, ...]:
    """What `features` names. Raises InputError as `open_extractor`."""
    return tuple(open_extractor(name, classifier=work.classifier) for name in names)


def other_training_data(work: Retargeting) -> ImageDataset | None:
    """The base's training data where the reference is other data; None where it is the same, or not at hand."""
    named, reference = work.model.recipe.get("data"), work.reference
    if named is None or reference is None or work.model.latent:
        return None
    try:
        data = open_dataset(str(named), resolution=reference.resolution)
    except InputError:
        return None
    return None if data.digest == reference.digest or data.shape != reference.shape else data
