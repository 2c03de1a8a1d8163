"""The audit of a prompt retargeting: each prompt before and after, what was to stay, and other guidance scales."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fairsims import __version__
from fairsims.audit.conditions import condition_counts
from fairsims.audit.draws import counted
from fairsims.audit.intervals import ALPHA
from fairsims.audit.joint import Cells, FloatArray
from fairsims.audit.prompt_agreement import TextAgreement
from fairsims.audit.prompts import METRICS, PromptShares, metrics, named_class
from fairsims.classifiers import AttributeClassifier
from fairsims.classifiers.base import features_of
from fairsims.classifiers.labelling import label_source
from fairsims.files import now
from fairsims.models import PipelineModel
from fairsims.pools import Pool
from fairsims.retarget.prompt_run import PromptRetargeting

SCALES = (0.5, 1.5)
"""Parts of the user's guidance scale at which shares are measured, too."""
BATCH = 64


def registered(work: PromptRetargeting) -> dict[str, Any]:
    """What is decided before the first image, JSON."""
    config, prompts = work.config, work.prompts
    return {
        "when": "before generating",
        "model": {"name": config.model, "digest": work.settings["base_digest"]},
        "prompts": {kind: list(prompts.of(kind)) for kind in ("neutral", "held-out", "explicit", "unrelated")},
        "source": prompts.source,
        "targets": {text: target.number or target.shares for text, target in work.targets.items()},
        "tolerance": config.tolerance,
        "metrics": METRICS,
        "alpha": ALPHA,
        "images_of_each_prompt": {"pool": config.pool, "calibration": config.calibration, "audit": config.audit},
        "classifiers": {
            c.attribute.name: {"name": c.name, "digest": c.digest} for c in (*work.classifiers, *work.watched)
        },
        "agreement": None if work.agreement is None else work.agreement.name,
        "sampler": work.model.facts()["sampler"],
        "mode": config.mode,
        "positive": config.positive,
        "cap": config.cap,
        "rounds": config.rounds,
        "budget_kimg": config.budget,
    }


def audit_prompts(work: PromptRetargeting, after: PipelineModel, *, rounds: int) -> dict[str, Any]:
    """Shares of every prompt on the audit seeds before and after, JSON; adapters were trained in so many rounds."""
    texts = tuple(p.text for p in work.prompts.items)
    folder = work.run.folder
    sides = {"before": work.model.asking(prompts=texts), "after": after.asking(prompts=texts)}
    pools = {side: work.images(folder / side, model, "audit", work.config.audit) for side, model in sides.items()}
    shares = {side: PromptShares.of(texts, work.counts(pool), work.confusion) for side, pool in pools.items()}
    target = targets_of(work, shares["before"])
    same, agreed = _same_seed(work, pools), agreement(work, pools)
    rows = [
        {"prompt": text, "kind": work.prompts.by_text[text].kind, "says": work.prompts.by_text[text].says}
        | {"target": target[text].tolist() if text in target else None, **same[text], **agreed.get(text, {})}
        | {side: {k: v for k, v in shares[side].rows()[p].items() if k != "prompt"} for side in pools}
        for p, text in enumerate(texts)
    ]
    return audit_facts(work) | {
        "mode": work.config.mode,
        "prompts": rows,
        "summary": {
            kind: {side: summary_of(work, shares[side], target, kind) for side in pools}
            for kind in ("neutral", "held-out")
            if work.prompts.of(kind)
        },
        "kept": explicit_kept(work, shares["before"], shares["after"]),
        "others": [_other(work, other, pools) for other in (*work.classifiers[1:], *work.watched)],
        "guidance": _at_scales(work, after, shares["after"], target),
        "cost": _cost(work, pools, rounds),
    }


def audit_facts(work: PromptRetargeting) -> dict[str, Any]:
    """What results over prompts say of how they were made, JSON."""
    classifier = work.classifiers[0]
    return {
        "created": now(),
        "fairsims": __version__,
        "model": work.config.model,
        "base_digest": work.model.digest,
        "prompts_from": {"name": work.prompts.name, "source": work.prompts.source},
        "attribute": classifier.attribute.name,
        "classes": list(work.classes),
        "classifier": {"name": classifier.name, "digest": classifier.digest, "split": classifier.default_split},
        "agreement_by": None if work.agreement is None else work.agreement.name,
        "agreement_as": agreement_as(work),
        "tolerance": work.config.tolerance,
        "sampler": work.model.facts()["sampler"],
    }


def targets_of(work: PromptRetargeting, base: PromptShares) -> dict[str, FloatArray]:
    """The target shares of each prompt that has some, by the base's shares where one number says them."""
    rows = zip(base.names, base.draws.point, strict=True)
    return {text: work.targets[text].resolve(row) for text, row in rows if text in work.targets}


def summary_of(
    work: PromptRetargeting, found: PromptShares, target: Mapping[str, FloatArray], kind: str
) -> dict[str, Any]:
    """Metrics of the prompts of a kind, JSON."""
    part = found.part([k for k, text in enumerate(found.names) if work.prompts.by_text[text].kind == kind])
    return part.summary(np.stack([target[text] for text in part.names]), work.confusion, work.config.tolerance)


def _same_seed(work: PromptRetargeting, pools: dict[str, Pool]) -> dict[str, dict[str, float]]:
    """How images of a seed differ between the sides, by prompt: mean grey levels, and the share of same calls.

    Where the classifier has features, also the cosine of theirs.
    """
    before, after = pools["before"], pools["after"]
    classifier, pairs = work.classifiers[0], []
    for i in range(0, len(before), BATCH):
        two = [pool.read(range(i, min(i + BATCH, len(pool)))) for pool in (before, after)]
        columns = [(two[0].int() - two[1].int()).abs().float().mean(dim=(1, 2, 3)).numpy()]
        if classifier.has_features:
            a, b = (features_of(classifier, [images]) for images in two)
            columns.append(
                (a * b).sum(axis=1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-9)
            )
        pairs.append(np.stack(columns, axis=1))
    found = np.concatenate([np.concatenate(pairs), (work.predicted(before) == work.predicted(after))[:, None]], axis=1)
    names = ("grey_levels_moved", *(("similarity",) if classifier.has_features else ()), "same_call")
    return {
        text: dict(zip(names, found[before.positions == p].mean(axis=0).tolist(), strict=True))
        for p, text in enumerate(before.conditions)
    }


def agreement_as(work: PromptRetargeting) -> str | None:
    """What the numbers of `agreement` are: a share of images, or a cosine."""
    if work.agreement is None:
        return None
    return "cosine" if isinstance(work.agreement, TextAgreement) else "share"


def agreement(work: PromptRetargeting, pools: Mapping[str, Pool]) -> dict[str, dict[str, Any]]:
    """Share of images that show what their prompt names, by prompt that names a class of the classifier of that.

    With CLIP the mean cosine of images and prompt instead, of all prompts.
    """
    if work.agreement is None:
        return {}
    if isinstance(work.agreement, TextAgreement):
        scores = {side: work.agreement.scores(pool, work.run.folder / "features") for side, pool in pools.items()}
        return {
            text: {"agreement": {side: float(scores[side][pool.positions == p].mean()) for side, pool in pools.items()}}
            for p, text in enumerate(next(iter(pools.values())).conditions)
        }
    calls = {side: label_source(pool, work.agreement).argmax(axis=1) for side, pool in pools.items()}
    found = {}
    for p, text in enumerate(next(iter(pools.values())).conditions):
        k = named_class(text, work.agreement.attribute.classes)
        if k is not None:
            shown = {side: float((calls[side][pool.positions == p] == k).mean()) for side, pool in pools.items()}
            found[text] = {"names": work.agreement.attribute.classes[k], "agreement": shown}
    return found


def explicit_kept(work: PromptRetargeting, before: PromptShares, after: PromptShares) -> dict[str, Any] | None:
    """Of explicit prompts the mean share of the class that they name, before and after, by class too."""
    said = [
        (k, work.classes.index(says))
        for k, text in enumerate(before.names)
        if (says := work.prompts.by_text[text].says) is not None
    ]
    if not said:
        return None
    change = after.draws.minus(before.draws).values

    def mean(chosen: list[tuple[int, int]]) -> dict[str, Any]:
        sides = {"before": before, "after": after}
        found = {side: float(np.mean([s.draws.point[k, c] for k, c in chosen])) for side, s in sides.items()}
        of = np.mean([change[:, k, c] for k, c in chosen], axis=0)
        return found | {"low": float(np.quantile(of, ALPHA / 2)), "high": float(np.quantile(of, 1 - ALPHA / 2))}

    by_class = {
        name: mean([(k, c) for k, c in said if c == of])
        for of, name in enumerate(work.classes)
        if of in {c for _, c in said}
    }
    return mean(said) | {"by_class": by_class}


def _other(work: PromptRetargeting, other: AttributeClassifier, pools: dict[str, Pool]) -> dict[str, Any]:
    """Another attribute over the neutral prompts before and after, and its joint cells with the targeted one."""
    confusion, own = other.confusions[other.default_split], work.confusion
    cells = Cells(attributes=(work.classifiers[0].attribute, other.attribute))
    names = pools["before"].conditions
    chosen = [k for k, name in enumerate(names) if work.prompts.by_text[name].kind == "neutral"]
    draws, joint = {}, {}
    for side, pool in pools.items():
        calls = label_source(pool, other).argmax(axis=1)
        counts = condition_counts(calls, pool.positions, (len(names), len(other.attribute.classes)))
        draws[side] = counted(counts[chosen], [confusion], "other")
        people = np.isin(pool.positions, chosen)
        joint[side] = counted(cells.counts([work.predicted(pool)[people], calls[people]]), [own, confusion], "joint")
    change = draws["after"].minus(draws["before"])
    pooled, worst = change.pooled(), change.worst(np.zeros(len(other.attribute.classes)))
    low, high = pooled.interval()
    ends = {side: joint[side].interval() for side in joint}
    return {
        "attribute": other.attribute.name,
        "preserved": other.attribute.name in work.config.hold,
        "classes": [
            {"class": c, "change": float(pooled.point[0, k]), "low": float(low[0, k]), "high": float(high[0, k])}
            | {side: float(d.pooled().point[0, k]) for side, d in draws.items()}
            for k, c in enumerate(other.attribute.classes)
        ],
        "worst": {"prompt": names[chosen[worst.condition]], "class": other.attribute.classes[worst.cls]}
        | {"change": float(change.point[worst.condition, worst.cls])},
        "joint": [
            {"cell": name}
            | {
                side: {
                    "share": float(joint[side].point[0, k]),
                    "low": float(ends[side][0][0, k].clip(0)),
                    "high": float(ends[side][1][0, k].clip(0, 1)),
                }
                for side in joint
            }
            for k, name in enumerate(cells.names)
        ],
    }


def _at_scales(
    work: PromptRetargeting, retargeted: PipelineModel, after: PromptShares, target: dict[str, FloatArray]
) -> list[dict[str, Any]]:
    """Shares of the neutral prompts at half, once and 1.5 times the guidance scale that the strength is calibrated at.

    None where the prompt acts alone, at scales up to 1.
    """
    own = work.model.settings.guidance
    if work.model.pipeline.row.guidance == "classifier-free" and own <= 1:
        return []
    people = tuple(name for name in work.trained if name)
    wanted = np.stack([target[name] for name in people])
    found = {own: after.draws.point[[after.names.index(name) for name in people]]}
    for part in SCALES:
        model = retargeted.asking(prompts=people, guidance_scale=own * part)
        pool = work.images(work.run.folder / f"guidance-{part:g}", model, "audit", work.config.audit, stage="audit")
        found[own * part] = PromptShares.of(people, work.counts(pool), work.confusion).draws.point
    return [
        {"guidance_scale": scale, "metrics": metrics(found[scale], wanted), "shares": found[scale].tolist()}
        for scale in sorted(found)
    ]


def _cost(work: PromptRetargeting, pools: dict[str, Pool], rounds: int) -> dict[str, Any]:
    """Network evaluations of an image on both sides, and thousands of images trained on in all rounds."""
    adapters = 1 if work.plan.positive is None else 2
    return {
        "evaluations_per_image": {side: pool.meta["evaluations_per_image"] for side, pool in pools.items()},
        "trained_kimg": rounds * adapters * work.config.budget,
        "seconds": dict(work.run.seconds),
    }
