"""Before against after: shares with intervals and quality, as one `audit.json`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims import __version__
from fairsims.audit.fidelity import quality
from fairsims.audit.shares import (
    ShareEstimate,
    corrected_shares,
    held,
    independent_difference,
    reached,
    share_difference,
)
from fairsims.classifiers.base import AttributeClassifier, label_batches
from fairsims.datasets import ImageDataset
from fairsims.errors import InputError
from fairsims.pools import Pool
from fairsims.runs import sha256_json, write_json

FORMAT = "fairsims-audit/1"

ShareRule = Callable[[AttributeClassifier, str], ShareEstimate]
"""(classifier, split name) -> shares of an after pool where counting would be wrong: it was selected by its labels."""


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """What is measured of one attribute, fixed before anything is."""

    target: np.ndarray | None
    """None for an attribute that is held: its shares are to stay."""
    tolerance: float = 0.03
    """The target counts as reached when every interval lies inside target +- tolerance."""
    drift: float = 0.03
    """An attribute counts as held when every share's change, with its interval, lies inside +- this."""
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
    others: Sequence[tuple[AttributeClassifier, AuditPlan]] = (),
    reference: ImageDataset | None = None,
    after_shares: ShareRule | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of `audit.json`, before and (optionally) after.

    `classifier` and `plan` are the first attribute's, which needs a target, `others` those of further ones. `reference`
    is the real data set: as given, and re-weighted to the targets. `facts` are merged in at the top level.
    Raises InputError when the pools' images differ in shape.
    """
    if after is not None and before.meta.get("shape") != after.meta.get("shape"):
        raise InputError(f"before has images of shape {before.meta.get('shape')}, after of {after.meta.get('shape')}")
    pools = {"before": before} | ({"after": after} if after is not None else {})
    audited = [(classifier, plan), *others]
    sections, warnings = {}, []
    for c, p in audited:
        sections[c.attribute.name], found = _section(c, p, pools, after_shares)
        warnings += [f"{c.attribute.name}: {w}" if others else w for w in found]
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fairsims": __version__,
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        "attributes": sections,
        "classifier": _classifier_facts(classifier),
        "pools": {when: _pool_facts(pool) for when, pool in pools.items()},
        "warnings": list(dict.fromkeys(warnings)),
    }
    if others:
        result["classifiers"] = {c.attribute.name: _classifier_facts(c) for c, _ in audited}
    if reference is not None:
        targeted = [(c, p.target) for c, p in audited if p.target is not None]
        result["quality"] = quality(pools, classifier, reference, targeted[0][1], others=targeted[1:])
    return result | dict(facts or {})


def _section(
    classifier: AttributeClassifier, plan: AuditPlan, pools: Mapping[str, Pool], after_shares: ShareRule | None
) -> tuple[dict[str, Any], list[str]]:
    """`attributes.<name>` of the audit and the warnings of its estimates."""
    classes, split = classifier.attribute.classes, plan.split or classifier.default_split
    counts = {when: predicted_counts(label_pool(pool, classifier)) for when, pool in pools.items()}

    def estimate(when: str, by: str) -> ShareEstimate:
        if when == "after" and after_shares is not None:
            return after_shares(classifier, by)
        return corrected_shares(classes, counts[when], classifier.confusions[by])

    estimates = {by: {when: estimate(when, by) for when in pools} for by in classifier.confusions}
    chosen = estimates[split]
    last = chosen["after" if "after" in pools else "before"]
    change = np.subtract(last.share if plan.target is None else plan.target, chosen["before"].share)
    section: dict[str, Any] = {
        "classes": list(classes),
        "focus": classes[int(np.argmax(np.abs(change) if plan.target is None else change))],
        "split": split,
        **{when: _share_table(e, counts[when]) for when, e in chosen.items()},
        "by_split": {by: {when: _share_table(e, None) for when, e in es.items()} for by, es in estimates.items()},
        "method": last.method,
    }
    if plan.target is not None:
        section |= {
            "target": dict(zip(classes, map(float, plan.target), strict=True)),
            "tolerance": plan.tolerance,
            "reached": reached(last, plan.target.tolist(), plan.tolerance),
        }
    if "after" in pools:
        if after_shares is None:
            d = share_difference(classes, counts["before"], counts["after"], classifier.confusions[split])
        else:
            d = independent_difference(chosen["before"], chosen["after"])
        if after_shares is None or plan.target is None:
            section["difference"] = {
                c: {"delta": d.delta[k], "low": d.low[k], "high": d.high[k]} for k, c in enumerate(classes)
            }
        if plan.target is None:
            section["drift"] = {
                "limit": plan.drift,
                "largest": float(np.abs(d.delta).max()),
                "held": held(d, plan.drift),
            }
    return section, [w for e in chosen.values() for w in e.warnings]


def _classifier_facts(classifier: AttributeClassifier) -> dict[str, Any]:
    return {
        "name": classifier.name,
        "digest": classifier.digest,
        "attribute": classifier.attribute.name,
        "confusions": {name: c.to_json() for name, c in classifier.confusions.items()},
    }


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
