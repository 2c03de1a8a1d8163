"""Before against after: shares with intervals, Fréchet distances to two references, as one `audit.json`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims import __version__
from fairsims.audit.quality import FrechetReference, Moments, frechet_distance, target_weights
from fairsims.audit.shares import ShareEstimate, corrected_shares, reached, share_difference
from fairsims.classifiers.base import AttributeClassifier, features_of, label_batches
from fairsims.datasets import ImageDataset
from fairsims.errors import InputError
from fairsims.pools import Pool
from fairsims.runs import sha256_json, write_json

FORMAT = "fairsims-audit/1"

ShareRule = Callable[[str], ShareEstimate]
"""Split name -> shares of the after pool, where plain counting would be wrong (a pool selected by its own labels)."""


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """What is measured, fixed before anything is."""

    target: np.ndarray
    tolerance: float = 0.03
    """The target counts as reached when every interval lies inside target +- tolerance."""
    split: str | None = None
    """Held-out split whose confusion corrects the shares; the classifier's default when None."""


def label_pool(pool: Pool, classifier: AttributeClassifier, *, batch_size: int = 256) -> np.ndarray:
    """Probabilities `(N, K)` of all images, computed once and stored with the pool under the classifier's name."""
    key = label_key(classifier)
    classes = classifier.attribute.classes
    if key not in pool.label_names:
        probabilities = label_batches(classifier, pool.batches(batch_size))
        pool.write_labels(key, classifier.attribute.name, classes, probabilities)
    columns = [f"{classifier.attribute.name}.{c}" for c in classes]
    return pool.labels(key)[columns].to_numpy()


def label_key(classifier: AttributeClassifier) -> str:
    """Name of a classifier's label table: its name and the start of its digest, so that versions never mix."""
    return f"{classifier.name}-{classifier.digest[:8]}"


def predicted_counts(probabilities: np.ndarray) -> np.ndarray:
    """Images per most probable class, `(K,)` int64."""
    return np.bincount(probabilities.argmax(axis=1), minlength=probabilities.shape[1])


def audit(
    before: Pool,
    after: Pool | None,
    classifier: AttributeClassifier,
    plan: AuditPlan,
    *,
    reference: ImageDataset | None = None,
    after_shares: ShareRule | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `audit.json` for one attribute, before and (optionally) after.

    `reference` is the real data set: as given, and re-weighted to the target. `facts` are merged in at the top level.
    Raises InputError when the pools' images differ in shape.
    """
    if after is not None and before.meta.get("shape") != after.meta.get("shape"):
        raise InputError(f"before has images of shape {before.meta.get('shape')}, after of {after.meta.get('shape')}")
    attribute, split = classifier.attribute, plan.split or classifier.default_split
    pools = {"before": before} | ({"after": after} if after is not None else {})
    counts = {when: predicted_counts(label_pool(pool, classifier)) for when, pool in pools.items()}

    def estimate(when: str, by: str) -> ShareEstimate:
        if when == "after" and after_shares is not None:
            return after_shares(by)
        return corrected_shares(attribute.classes, counts[when], classifier.confusions[by])

    estimates = {by: {when: estimate(when, by) for when in pools} for by in classifier.confusions}
    chosen = estimates[split]
    last = chosen["after" if after is not None else "before"]
    grows = plan.target - np.array(chosen["before"].share)
    section: dict[str, Any] = {
        "classes": list(attribute.classes),
        "focus": attribute.classes[int(np.argmax(grows))],
        "target": dict(zip(attribute.classes, map(float, plan.target), strict=True)),
        "tolerance": plan.tolerance,
        "split": split,
        **{when: _share_table(e, counts[when]) for when, e in chosen.items()},
        "by_split": {by: {when: _share_table(e, None) for when, e in es.items()} for by, es in estimates.items()},
        "method": last.method,
        "reached": reached(last, plan.target.tolist(), plan.tolerance),
    }
    if after is not None and after_shares is None:
        d = share_difference(attribute.classes, counts["before"], counts["after"], classifier.confusions[split])
        section["difference"] = {
            c: {"delta": d.delta[k], "low": d.low[k], "high": d.high[k]} for k, c in enumerate(d.classes)
        }
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fairsims": __version__,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "attributes": {attribute.name: section},
        "classifier": {
            "name": classifier.name,
            "digest": classifier.digest,
            "attribute": attribute.name,
            "confusions": {name: c.to_json() for name, c in classifier.confusions.items()},
        },
        "pools": {when: _pool_facts(pool) for when, pool in pools.items()},
        "warnings": list(dict.fromkeys(w for e in chosen.values() for w in e.warnings)),
    }
    if reference is not None:
        result["quality"] = quality(pools, classifier, reference, plan.target)
    return result | dict(facts or {})


def quality(
    pools: Mapping[str, Pool], classifier: AttributeClassifier, reference: ImageDataset, target: np.ndarray
) -> dict[str, Any]:
    """Fréchet distances on the classifier's features: to the reference as given and re-weighted to the target.

    Raises InputError when the reference lacks the attribute or a class the target wants.
    """
    name, classes = classifier.attribute.name, classifier.attribute.classes
    if name not in reference.attributes:
        raise InputError(f"the reference {reference.name} has no labels for {name}; give a labelled one")
    theirs = reference.attributes[name].classes
    place = np.array([classes.index(c) if c in classes else -1 for c in theirs] + [-1])
    labels = place[reference.class_indices(name)]
    features = features_of(
        classifier, (reference.read(range(i, min(i + 256, len(reference)))) for i in range(0, len(reference), 256))
    )
    as_given = FrechetReference.of(Moments().update(features))
    at_target = FrechetReference.of(Moments().update(features, target_weights(labels, target)))
    found: dict[str, Any] = {
        "metric": f"FD ({classifier.name} features)",
        "reference": {"name": reference.name, "digest": reference.digest, "n": len(reference)},
    }
    for when, pool in pools.items():
        moments = Moments()
        for batch in pool.batches():
            moments.update(features_of(classifier, [batch]))
        found[when] = {
            "fd_reference": frechet_distance(as_given, moments),
            "fd_target": frechet_distance(at_target, moments),
            "n": len(pool),
        }
    return found


def write_audit(folder: Path, result: Mapping[str, Any]) -> Path:
    """Write `audit.json` and return its path."""
    write_json(folder / "audit.json", dict(result))
    return folder / "audit.json"


def _share_table(estimate: ShareEstimate, counts: Sequence[int] | np.ndarray | None) -> dict[str, dict[str, float]]:
    return {
        c: {"share": estimate.share[k], "low": estimate.low[k], "high": estimate.high[k], "raw": estimate.raw[k]}
        | ({} if counts is None else {"count": int(counts[k])})
        for k, c in enumerate(estimate.classes)
    }


def _pool_facts(pool: Pool) -> dict[str, Any]:
    made_by = pool.meta.get("made_by", {})
    return {
        "n": len(pool),
        "seeds": pool.meta.get("seeds"),
        "evaluations_per_image": pool.meta.get("evaluations_per_image"),
        "precision": pool.meta.get("precision"),
        "made_by": made_by,
        "checkpoint": made_by.get("digest") or sha256_json(made_by),
    }
