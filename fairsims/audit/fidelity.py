"""Quality of images against a real data set on an extractor's features: Fréchet and kernel distances, how they lie
among the real images, what they repeat of them, and all that per group where a number allows it."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairsims.audit.blocks import subsample
from fairsims.audit.facts import ExtractorFacts, Neighbourhood, Pair, QualityResult, ReferenceFacts
from fairsims.audit.features import FeatureExtractor, FeatureTable, stored_features
from fairsims.audit.groups import FEW, KERNEL_SAMPLE, GroupCalls, group_distances
from fairsims.audit.kernel import REPLICATES, kernel_distance
from fairsims.audit.neighbours import (
    K_DENSITY,
    K,
    Nearest,
    authenticity,
    leave_one_out_distances,
    manifold,
    nearest_pairs,
    nearest_training,
)
from fairsims.audit.quality import (
    FloatArray,
    FrechetReference,
    frechet_distance,
    frechet_infinity,
    moments_of,
)
from fairsims.audit.references import read_statistics, reference_calls, reference_weights, stored_reference
from fairsims.classifiers.base import AttributeClassifier
from fairsims.data import ImageDataset
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import sha256_file
from fairsims.seeds import numpy_generator

NEIGHBOUR_SAMPLE = 10_000
"""Images a side that are compared with each other pair by pair; of more, a sample."""
PAIRS = 8
"""Nearest training images that an audit names, for a gallery."""
NO_GROUP_FD = (
    "the Fréchet distance falls with the number of images, by how much depends on the model, and below 2,048 it does "
    "not describe Inception's features at all: a smaller group would look worse; see the kernel distance"
)
NEED_IMAGES = (
    "fd_target",
    "kid",
    "precision",
    "recall",
    "density",
    "coverage",
    "auth_pct",
    "nearest_pairs",
    "group_kid",
)
ONLY_STATISTICS = "the reference is a file of means and covariances, without images"


@dataclass(frozen=True, kw_only=True)
class QualityReference:
    """A real data set as images are measured against it; what costs time is computed once."""

    features: FeatureTable
    """`(N, d)`, in memory or in a file."""
    weights: FloatArray | None
    """`(N,)`: give the images the target's mix; None when there is no target."""
    files: tuple[Path, Path] | None = field(default=None, repr=False)
    """Where the moments as given and at the target are kept."""

    @cached_property
    def as_given(self) -> FrechetReference:
        return stored_reference(self.files and self.files[0], self.features)

    @cached_property
    def at_target(self) -> FrechetReference | None:
        if self.weights is None:
            return None
        return stored_reference(self.files and self.files[1], self.features, self.weights)

    @cached_property
    def nearest(self) -> Nearest:
        """Distances between the real images themselves, each to its nearest other."""
        positions = subsample(len(self.features), NEIGHBOUR_SAMPLE)
        return Nearest.of(leave_one_out_distances(self.features, positions))

    @property
    def effective_n(self) -> float | None:
        """Images that the re-weighted reference is worth, `(sum w)^2 / sum w^2` (Kish)."""
        return None if self.weights is None else float(self.weights.sum() ** 2 / (self.weights**2).sum())

    def distances(self, features: FeatureTable) -> dict[str, float]:
        """Fréchet distances of generated images' features `(n, d)`: as given, and with a target re-weighted to it."""
        moments = moments_of(features)
        found = {"fd_reference": frechet_distance(self.as_given, moments)}
        if self.at_target is not None:
            found["fd_target"] = frechet_distance(self.at_target, moments)
        return found

    def repeats(self, features: FeatureTable) -> Repeats:
        """Each generated image's nearest real one, for `NEIGHBOUR_SAMPLE` of features `(n, d)` at most."""
        drawn = subsample(len(features), NEIGHBOUR_SAMPLE)
        distances, places = nearest_training(features[drawn], self.features)
        return Repeats(drawn=drawn, distances=distances, places=places)

    def measure(self, features: FeatureTable, size: int, *, repeats: Repeats | None = None) -> dict[str, float]:
        """The numbers that every point of a sweep has, for generated images' features `(n, d)`.

        Numbers that depend on how many images there are take `size` of both sides: positions drawn from a fixed seed.
        The Fréchet distances are over all of them, those to the nearest training image as `repeats` has them.
        Raises InputError when there are too few images.
        """
        real, fake = (x[subsample(len(x), size)] for x in (self.features, features))
        near = repeats or self.repeats(features)
        summary = Nearest.of(near.distances)
        return (
            self.distances(features)
            | asdict(manifold(real, fake))
            | {"auth_pct": authenticity(near.distances, near.places, self.features)}
            | {"nearest_median": summary.median, "nearest_low": summary.low, "n": len(features)}
        )

    def facts(self) -> dict[str, Any]:
        """What the numbers of images are to be read against."""
        found = {"n": len(self.features), "nearest_median": self.nearest.median, "nearest_low": self.nearest.low}
        return found | ({} if self.effective_n is None else {"effective_n": self.effective_n})


@dataclass(frozen=True, kw_only=True)
class Repeats:
    """What generated images take from the training images."""

    drawn: npt.NDArray[np.int64]
    """Positions of the generated images that were looked at."""
    distances: FloatArray
    places: npt.NDArray[np.int64]
    """Nearest training image of each, and how far it is."""

    def pairs(self, count: int = PAIRS) -> list[Pair]:
        """The images nearest to a training image, nearest first."""
        found = nearest_pairs(self.distances, self.places, count=count)
        return [replace(p, generated=int(self.drawn[p.generated])) for p in found]


def open_reference(
    reference: ImageDataset,
    extractor: FeatureExtractor,
    targets: Sequence[tuple[AttributeClassifier, np.ndarray]],
    folder: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> tuple[QualityReference, str | None]:
    """A real data set to measure against, its features and moments kept in `folder`; and whose labels weigh it.

    Raises InputError when it lacks a class that the targets want.
    """
    features = stored_features(reference, extractor, folder, progress)
    weights, labelled_by = reference_weights(reference, targets) if targets else (None, None)
    key = f"{reference.digest[:16]}-{extractor.digest[:16]}"
    mix = "" if weights is None else hashlib.sha256(weights.tobytes()).hexdigest()[:16]
    files = folder / f"moments-{key}.npz", folder / f"moments-{key}-{mix}.npz"
    return QualityReference(features=features, weights=weights, files=files), labelled_by


def quality(
    sources: Mapping[str, ImageSource],
    extractor: FeatureExtractor,
    reference: ImageDataset | Path,
    targets: Sequence[tuple[AttributeClassifier, np.ndarray]] = (),
    *,
    groups: Mapping[str, GroupCalls] | None = None,
    images: int | None = None,
    store: Path | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> QualityResult:
    """What one extractor says of the quality of images.

    `sources` are what is measured, by side or any other name. `reference` is a real data set, or an EDM `.npz` of its
    statistics, which leaves what needs images under `unavailable`, with the reason. `targets` re-weight the real
    images; `groups` say which class of an attribute every image is called. The first `images` of every source count,
    all of them when not given. `store` keeps features and moments: the
    same images are never run twice. Beside the extractor's network, memory stays below 1 GB at d = 2048, whatever the
    number of images. `progress` gets (images done, of how many) of every
    source in turn.

    Raises InputError for a source without images or with as few as the neighbours asked for, features that are not
    finite, or a reference that lacks what the targets want.
    """
    with ExitStack() as stack:
        folder = store or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fairsims-")))
        features = {side: stored_features(s, extractor, folder, progress)[:images] for side, s in sources.items()}
        named = QualityResult(metric=extractor.metric, extractor=ExtractorFacts(**extractor.facts()))
        if isinstance(reference, Path):
            return _against_statistics(named, reference, features)
        real, labelled_by = open_reference(reference, extractor, targets, folder, progress)
        facts = ReferenceFacts(name=reference.name, digest=reference.digest, labels=labelled_by, **real.facts())
        groups = {name: g.first(images) for name, g in (groups or {}).items()}
        calls = {name: reference_calls(reference, g.classifier, folder) for name, g in groups.items()}
        return _against_images(replace(named, reference=facts), real, features, groups, calls)


def _against_images(
    named: QualityResult,
    real: QualityReference,
    features: Mapping[str, FeatureTable],
    groups: Mapping[str, GroupCalls],
    calls: Mapping[str, npt.NDArray[np.int64]],
) -> QualityResult:
    """`named` says what is measured with, against what; `calls` are the reference's classes by attribute, `(N,)`."""
    size = min(NEIGHBOUR_SAMPLE, len(real.features), *map(len, features.values()))
    pairs, unavailable, numbers = {}, {"group_fd": NO_GROUP_FD}, {}
    for side, f in features.items():
        near = real.repeats(f)
        numbers[side] = real.measure(f, size, repeats=near)
        numbers[side] |= of_any_number(real, f, side, unavailable)
        pairs[side] = tuple(near.pairs())
    how = "equal numbers, drawn from a fixed seed"
    return replace(
        named,
        precision_recall=Neighbourhood(k=K, k_density=K_DENSITY, n=size, sampling=how),
        numbers=numbers,
        groups={name: group_distances(real.features, calls[name], features, g) for name, g in groups.items()},
        nearest_pairs=pairs,
        unavailable=unavailable,
        warnings=_warnings(features, real.features.shape[1], real.effective_n),
    )


def _against_statistics(named: QualityResult, path: Path, features: Mapping[str, FeatureTable]) -> QualityResult:
    """Only what needs the reference's moments alone."""
    real = read_statistics(path)
    unavailable = {"group_fd": NO_GROUP_FD} | dict.fromkeys(NEED_IMAGES, ONLY_STATISTICS)
    numbers: dict[str, dict[str, float]] = {
        side: {"fd_reference": frechet_distance(real, moments_of(f)), "n": len(f)}
        | _infinity(real, f, side, unavailable)
        for side, f in features.items()
    }
    holds = "mean and covariance of features"
    return replace(
        named,
        reference=ReferenceFacts(name=path.name, digest=sha256_file(path), holds=holds),
        numbers=numbers,
        unavailable=unavailable,
        warnings=_warnings(features, len(real.mean), None),
    )


def _infinity(
    real: FrechetReference, features: FeatureTable, side: str, unavailable: dict[str, str]
) -> dict[str, float]:
    order = numpy_generator("frechet infinity", 0).permutation(len(features))
    try:
        return {"fd_infinity": frechet_infinity(real, features, order)}
    except InputError as e:
        unavailable["fd_infinity"] = f"{side}: {e}"
        return {}


def of_any_number(
    real: QualityReference,
    features: FeatureTable,
    side: str,
    unavailable: dict[str, str],
    *,
    replicates: int = REPLICATES,
) -> dict[str, float]:
    """Numbers that do not fall with the number of images: FD infinity, and KID with an interval of `replicates`.

    `unavailable` is told why there is none.
    """
    x, y = (f[subsample(len(f), KERNEL_SAMPLE)] for f in (real.features, features))
    found = kernel_distance(x, y, replicates=replicates)
    infinity = _infinity(real.as_given, features, side, unavailable)
    return infinity | {"kid": found.kid, "kid_low": found.low, "kid_high": found.high}


def _warnings(features: Mapping[str, FeatureTable], width: int, effective_n: float | None) -> tuple[str, ...]:
    """What makes the numbers weaker than they look."""
    found = []
    for side, f in features.items():
        if len(f) < FEW:
            found.append(f"{side} has {len(f)} images; quality numbers of fewer than {FEW} say little")
        elif len(f) < width:
            found.append(
                f"{side} has {len(f)} images for {width} features: its Fréchet distances are mostly their number; "
                "read the kernel distance (KID)"
            )
    sizes = {side: len(f) for side, f in features.items()}
    if len(set(sizes.values())) > 1:
        numbers = ", ".join(f"{side} has {n:,}" for side, n in sizes.items())
        found.append(f"{numbers} images: Fréchet distances fall with the number; compare KID or FD infinity instead")
    if effective_n is not None and effective_n < max(FEW, width):
        found.append(
            f"re-weighted to the target, the reference is worth {effective_n:.0f} images for {width} features: "
            "fd_target rests on few"
        )
    return tuple(found)
