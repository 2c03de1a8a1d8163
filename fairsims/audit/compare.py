"""Before against after, or one source alone: shares with intervals and quality, as one result."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from fairsims import __version__
from fairsims.audit.facts import ClassifierFacts, QualityResult, Side, SourceFacts, by_side
from fairsims.audit.features import FeatureExtractor, classifier_features
from fairsims.audit.fidelity import quality
from fairsims.audit.groups import GroupCalls
from fairsims.audit.joint import MOST_CELLS
from fairsims.audit.onepass import read_once
from fairsims.audit.pairs import joint_section
from fairsims.audit.reading import Aim, Reading, ShareRule, read_attribute, section
from fairsims.audit.records import from_json
from fairsims.audit.result import AuditResult
from fairsims.audit.screened import screening_notes, stored_screening
from fairsims.classifiers.base import AttributeClassifier
from fairsims.data import ImageDataset
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import now, sha256_json
from fairsims.pools import Pool
from fairsims.run import Progress, silent

__all__ = ["Aim", "ShareRule", "audit", "check_pair", "source_facts"]

RETARGETED = ("merged", "guided")
"""What a retargeting's pools say made them."""


def audit(
    before: ImageSource,
    after: ImageSource | None,
    attributes: Sequence[tuple[AttributeClassifier, Aim]],
    *,
    others: Sequence[tuple[AttributeClassifier, Aim]] = (),
    reference: ImageDataset | Path | None = None,
    extractors: Sequence[FeatureExtractor] = (),
    after_shares: ShareRule | None = None,
    store: Path | None = None,
    alike: bool = False,
    progress: Progress = silent,
) -> AuditResult:
    """Shares and quality, before and (optionally) after.

    `attributes` are what is measured, each by the classifier that labels it; of several the first is the headline's,
    and pairs are measured together. `others` are watched: their shares and how they changed, nothing more. They are
    taken as counted, also where `after_shares` says how else to estimate those of images that were selected: their
    errors are taken as independent of what selected.

    `reference` are real images, or an EDM `.npz` of Inception statistics; quality is measured against them as given and
    re-weighted to the targets, with each of `extractors` (the first classifier's features when there are none). With
    `alike` it is that of the first images of each side, as many as both have, for it falls with their number. `store`
    keeps the labels of sources that are no pools, and features.

    Raises InputError without attributes, and when the sources differ in shape, are the same images or look swapped.
    """
    if not attributes:
        raise InputError("there is no attribute to measure; give one with its classifier")
    sources = by_side(before, after)
    check_pair(sources)
    if store is not None:
        named = [c for c, _ in (*attributes, *others)]
        measured = () if reference is None else (extractors or [classifier_features(named[0])])
        for side, source in sources.items():
            read_once(source, named, measured, store, partial(progress, f"read {side}"))
    screened = {side: stored_screening(s, store, partial(progress, f"screen {side}")) for side, s in sources.items()}
    readings = [
        read_attribute(c, p, sources, store=store, after_shares=after_shares, progress=progress) for c, p in attributes
    ]
    beside = [read_attribute(c, a, sources, store=store, progress=progress) for c, a in others]
    found, several = {r.name: section(r) for r in (*readings, *beside)}, len(readings) + len(beside) > 1
    warnings = [f"{name}: {w}" if several else w for name, a in found.items() for w in a.warnings]
    warnings += [w for side, s in screened.items() for w in screening_notes(side, s)]
    classifiers = {r.name: _classifier_facts(r.classifier) for r in (*readings, *beside)}
    pairs = [p for p in combinations(readings, 2) if _size(p) <= MOST_CELLS]
    against = None if reference is None else partial(_quality, sources, readings, reference)
    return AuditResult(
        created=now(),
        fairsims=__version__,
        versions=_versions(),
        attributes=found,
        classifier=classifiers[readings[0].name],
        classifiers=classifiers if several else {},
        pools={side: replace(source_facts(s), screening=screened[side]) for side, s in sources.items()},
        warnings=tuple(dict.fromkeys(warnings)),
        joint=tuple(joint_section(*p) for p in pairs),
        quality=None if against is None else against(extractors, store, alike, progress),
    )


def _versions() -> dict[str, str]:
    """What the numbers were made with: rounding differs between machines and releases."""
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "system": platform.system(),
        "device": where,
    }


def source_facts(source: ImageSource) -> SourceFacts:
    """What the images are, and of a pool what made them."""
    facts = SourceFacts(
        n=len(source),
        name=source.name,
        digest=source.digest,
        shape=source.shape,
        kind="pool" if isinstance(source, Pool) else "images",
    )
    if not isinstance(source, Pool):
        return replace(facts, found=source.found if isinstance(source, ImageDataset) else None)
    made_by = source.meta.get("made_by", {})
    if not source.asked.unconditional:
        balanced = source.asked.drawn_after is None
        facts = replace(facts, conditions=len(source.conditions), labels="balanced" if balanced else "random")
    return replace(
        facts,
        seeds=source.meta.get("seeds"),
        evaluations_per_image=source.meta.get("evaluations_per_image"),
        precision=source.meta.get("precision"),
        made_by=made_by,
        marked=source.meta.get("marked"),
        checkpoint=made_by.get("digest") or sha256_json(made_by),
    )


def check_pair(sources: Mapping[Side, ImageSource]) -> None:
    """Raises InputError when before and after differ in shape, are the same images or look swapped."""
    if len(sources) == 1:
        return
    before, after = sources["before"], sources["after"]
    if before.shape != after.shape:
        raise InputError(
            f"before has images of shape {list(before.shape)}, after of {list(after.shape)}; expected the same; "
            "resize one"
        )
    if before.digest == after.digest:
        raise InputError(f"before and after are the same images ({before.name}); give two sources, or --before alone")
    kinds = [s.meta.get("made_by", {}).get("kind") if isinstance(s, Pool) else None for s in (before, after)]
    if kinds[0] in RETARGETED and kinds[1] == "base":
        raise InputError(
            f"before was made by a retargeted model ({kinds[0]}), after by a base; they look swapped: give the base's "
            "images as --before"
        )


def _size(pair: Sequence[Reading]) -> int:
    return int(np.prod([len(r.classifier.attribute.classes) for r in pair]))


def _classifier_facts(classifier: AttributeClassifier) -> ClassifierFacts:
    facts = classifier.facts() | {
        "name": classifier.name,
        "digest": classifier.digest,
        "attribute": classifier.attribute.name,
        "confusions": {name: c.to_json() for name, c in classifier.confusions.items()},
    }
    return from_json(ClassifierFacts, facts, place=classifier.name)


def _quality(
    sources: Mapping[Side, ImageSource],
    readings: Sequence[Reading],
    reference: ImageDataset | Path,
    extractors: Sequence[FeatureExtractor],
    store: Path | None,
    alike: bool,
    progress: Progress,
) -> QualityResult:
    """What the first extractor says, with the others under `further`."""
    targets = [(r.classifier, r.known_target) for r in readings if r.known_target is not None]
    groups = {
        r.name: GroupCalls(classifier=r.classifier, calls={str(s): p for s, p in r.predicted.items()}) for r in readings
    }
    images = {str(side): source for side, source in sources.items()}
    first, *further = [
        quality(
            images,
            e,
            reference,
            targets,
            groups=groups,
            images=min(map(len, sources.values())) if alike else None,
            store=store,
            progress=partial(progress, e.name),
        )
        for e in extractors or [classifier_features(readings[0].classifier)]
    ]
    return replace(first, further=tuple(further))
