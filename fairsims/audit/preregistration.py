"""The pre-registration: what is going to be measured, and how, as `plan.json` fixes it before anything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsims.audit.intervals import LEVEL
from fairsims.audit.targets import Target, as_mapping
from fairsims.classifiers import AttributeClassifier
from fairsims.data import ImageDataset
from fairsims.data.attributes import Attribute
from fairsims.files import sha256_file


def planned_attribute(
    attribute: Attribute, *, target: Target | None, text: str | None, tolerance: float, drift: float | None
) -> dict[str, Any]:
    """An attribute's target and tolerance, or the drift it is allowed; `text` is the target as it was asked for.

    A target that depends on which class the base has less of is not known before: then it is null.
    """
    found: dict[str, Any] = {"classes": list(attribute.classes), "target": None}
    if target is not None:
        known = as_mapping(target.known, attribute.classes) if target.known is not None else None
        return found | {"target": known, "target_text": text, "tolerance": tolerance}
    return found | ({"target_text": "none: measured only"} if drift is None else {"drift": drift})


def planned_shares(
    classifier: AttributeClassifier, split: str | None = None, labelled: Mapping[str, bool] | None = None
) -> str:
    """How an attribute's shares will be estimated; `labelled` says of which sides people labelled images."""
    called = f"tier C, what {classifier.name} calls them, uncorrected"
    if classifier.confusions:
        by = split or classifier.default_split
        called = f"tier B, calls of {classifier.name} corrected for its errors on the held-out split {by!r}"
    people = "tier A, labels by people together with the classifier's calls"
    ways = {side: people if by else called for side, by in (labelled or {"": False}).items()}
    same = len(set(ways.values())) == 1
    how = next(iter(ways.values())) if same else "; ".join(f"{side}: {way}" for side, way in ways.items())
    return f"shares of {classifier.attribute.name} ({how})"


def planned_reference(reference: ImageDataset | Path | None) -> dict[str, str] | None:
    """Name and digest of what quality will be measured against."""
    if isinstance(reference, Path):
        return {"name": reference.name, "digest": sha256_file(reference)}
    return None if reference is None else {"name": reference.name, "digest": reference.digest}


def planned_metrics(
    shares: Sequence[str],
    *,
    targets: bool,
    change: bool,
    held: bool,
    distances: Sequence[str],
    reference: ImageDataset | Path | None,
) -> list[str]:
    """Everything that will be measured, in words; `distances` are the names of the Fréchet distances."""
    found = [f"{s}, with {LEVEL:.0%} intervals" for s in shares]
    if change:
        found.append("change of every share from before to after, with intervals")
    if targets:
        found.append(
            "reached: every interval of a share inside target ± tolerance; not reached: one wholly outside; else open"
        )
        found.append(
            "distance of the shares from the target (total variation, Jensen–Shannon, fairness discrepancy, ratios)"
        )
    if held:
        found.append(
            "held: every share's change, with its interval, inside ± drift; not held: one wholly outside; else open"
        )
    if len(shares) > 1:
        found.append("shares of every pair of attributes together")
    if reference is None:
        return found
    images = isinstance(reference, ImageDataset)
    both = " and re-weighted to the target" if targets and images else ""
    found += [f"{distance} to the reference as given{both}" for distance in distances]
    if images:
        found.append("kernel distance, precision, recall, density, coverage, authenticity, nearest real images")
    return found
