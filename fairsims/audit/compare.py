"""Before against after, or one source alone: shares with intervals and quality, as one `audit.json`."""

from __future__ import annotations

import datetime as dt
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims import __version__
from fairsims.audit.extractors import FeatureExtractor, classifier_features
from fairsims.audit.fidelity import quality
from fairsims.audit.groups import GroupCalls
from fairsims.audit.joint import MOST_CELLS
from fairsims.audit.pairs import joint_section
from fairsims.audit.reading import AuditPlan, Reading, Report, ShareRule, read_attribute, section, warnings_of
from fairsims.audit.sources import ImageSource
from fairsims.classifiers.base import AttributeClassifier
from fairsims.data import ImageDataset
from fairsims.errors import InputError
from fairsims.files import sha256_json, write_json
from fairsims.pools import Pool

__all__ = ["AuditPlan", "ShareRule", "audit", "check_pair", "source_facts", "write_audit"]

FORMAT = "fairsims-audit/2"

RETARGETED = ("merged", "guided")
"""What a retargeting's pools say made them."""


def audit(
    before: ImageSource,
    after: ImageSource | None,
    classifier: AttributeClassifier,
    plan: AuditPlan,
    *,
    others: Sequence[tuple[AttributeClassifier, AuditPlan]] = (),
    reference: ImageDataset | Path | None = None,
    extractors: Sequence[FeatureExtractor] = (),
    after_shares: ShareRule | None = None,
    store: Path | None = None,
    report: Report = lambda *_: None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `audit.json`, before and (optionally) after.

    `classifier` and `plan` are the first attribute's, `others` those of further ones. `reference` are real images, or
    an EDM `.npz` of Inception statistics; quality is measured against them as given and re-weighted to the targets,
    with each of `extractors` (the first classifier's features when there are none). `store` keeps the labels of
    sources that are no pools, and features. `facts` are merged in at the top level.
    Raises InputError when the sources differ in shape, are the same images or look swapped.
    """
    sources = {"before": before} | ({"after": after} if after is not None else {})
    check_pair(sources)
    readings = [
        read_attribute(c, p, sources, store=store, after_shares=after_shares, report=report)
        for c, p in [(classifier, plan), *others]
    ]
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fairsims": __version__,
        "versions": _versions(),
        "attributes": {r.name: section(r) for r in readings},
        "classifier": _classifier_facts(classifier),
        "pools": {when: source_facts(s) for when, s in sources.items()},
        "warnings": list(dict.fromkeys(_warnings(readings))),
    }
    if others:
        result["classifiers"] = {r.name: _classifier_facts(r.classifier) for r in readings}
        pairs = [p for p in combinations(readings, 2) if _size(p) <= MOST_CELLS]
        result["joint"] = [joint_section(*p) for p in pairs]
    if reference is not None:
        result["quality"] = _quality(
            sources, readings, reference, extractors or [classifier_features(classifier)], store, report
        )  # fmt: skip
    return result | dict(facts or {})


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


def write_audit(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write `audit.json` and return its path."""
    write_json(folder / "audit.json", dict(result))
    return folder / "audit.json"


def source_facts(source: ImageSource) -> dict[str, Any]:
    """`pools.<side>` of the audit: what the images are, and of a pool what made them."""
    found: dict[str, Any] = {
        "n": len(source),
        "name": source.name,
        "digest": source.digest,
        "shape": list(source.shape),
        "kind": "pool" if isinstance(source, Pool) else "images",
    }
    if isinstance(source, Pool):
        made_by = source.meta.get("made_by", {})
        found |= {k: source.meta.get(k) for k in ("seeds", "evaluations_per_image", "precision")}
        found |= {"made_by": made_by, "checkpoint": made_by.get("digest") or sha256_json(made_by)}
    return found


def check_pair(sources: Mapping[str, ImageSource]) -> None:
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


def _warnings(readings: Sequence[Reading]) -> list[str]:
    several = len(readings) > 1
    return [f"{r.name}: {w}" if several else w for r in readings for w in warnings_of(r)]


def _size(pair: Sequence[Reading]) -> int:
    return int(np.prod([len(r.classifier.attribute.classes) for r in pair]))


def _classifier_facts(classifier: AttributeClassifier) -> dict[str, Any]:
    return classifier.facts() | {
        "name": classifier.name,
        "digest": classifier.digest,
        "attribute": classifier.attribute.name,
        "confusions": {name: c.to_json() for name, c in classifier.confusions.items()},
    }


def _quality(
    sources: Mapping[str, ImageSource], readings: Sequence[Reading], reference: ImageDataset | Path,
    extractors: Sequence[FeatureExtractor], store: Path | None, report: Report,
) -> dict[str, Any]:  # fmt: skip
    """The section of the first extractor, with those of the others under `further`."""
    targets = [(r.classifier, r.known_target) for r in readings if r.known_target is not None]
    groups = {r.name: GroupCalls(classifier=r.classifier, calls=r.predicted) for r in readings}
    first, *further = [
        quality(sources, e, reference, targets, groups=groups, store=store, report=partial(report, e.name))
        for e in extractors
    ]
    return first | ({"further": further} if further else {})
