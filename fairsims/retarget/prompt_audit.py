"""The audit of a prompt retargeting: each prompt before and after, what was to stay, and other guidance scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairsims.audit.intervals import ALPHA
from fairsims.audit.joint import FloatArray
from fairsims.audit.prompts import METRICS, PromptShares, metrics
from fairsims.classifiers.base import Confusion
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
        "classifiers": {c.attribute.name: {"name": c.name, "digest": c.digest} for c in work.classifiers},
        "sampler": work.model.facts()["sampler"],
        "mode": config.mode,
        "positive": config.positive,
        "cap": config.cap,
        "budget_kimg": config.budget,
    }


def audit_prompts(work: PromptRetargeting, strength: float) -> dict[str, Any]:
    """Shares of every prompt on the audit seeds before and after, JSON."""
    texts = tuple(p.text for p in work.prompts.items)
    folder, after_model = work.run.folder, work.at(strength)
    sides = {"before": work.model.asking(prompts=texts), "after": after_model.asking(prompts=texts)}
    pools = {side: work.images(folder / side, model, "audit", work.config.audit) for side, model in sides.items()}
    classifier = work.classifiers[0]
    confusion = classifier.confusions[classifier.default_split]
    shares = {side: PromptShares.of(texts, work.counts(pool), confusion) for side, pool in pools.items()}
    target = {
        t: work.targets[t].resolve(row)
        for t, row in zip(texts, shares["before"].draws.point, strict=True)
        if t in work.targets
    }
    same = _same_seed(work, pools)
    rows = [
        {"prompt": text, "kind": work.prompts.by_text[text].kind, "says": work.prompts.by_text[text].says}
        | {"target": target[text].tolist() if text in target else None, **same[text]}
        | {side: {k: v for k, v in shares[side].rows()[p].items() if k != "prompt"} for side in pools}
        for p, text in enumerate(texts)
    ]
    return {
        "model": work.config.model,
        "attribute": classifier.attribute.name,
        "classes": list(work.classes),
        "mode": work.config.mode,
        "tolerance": work.config.tolerance,
        "sampler": work.model.facts()["sampler"],
        "prompts": rows,
        "summary": {
            kind: {side: _summary(shares[side], target, texts, kind, work, confusion) for side in pools}
            for kind in ("neutral", "held-out")
            if work.prompts.of(kind)
        },
        "kept": _kept(work, shares, texts),
        "guidance": [_at_scale(work, strength, part, confusion) for part in SCALES],
        "cost": _cost(work, pools, after_model),
    }


def _summary(
    found: PromptShares,
    target: dict[str, FloatArray],
    texts: tuple[str, ...],
    kind: str,
    work: PromptRetargeting,
    confusion: Confusion,
) -> dict[str, Any]:
    """Metrics of the prompts of a kind."""
    chosen = [k for k, text in enumerate(texts) if work.prompts.by_text[text].kind == kind]
    part = PromptShares.of([texts[k] for k in chosen], found.counts[chosen], confusion)
    return part.summary(np.stack([target[texts[k]] for k in chosen]), confusion)


def _same_seed(work: PromptRetargeting, pools: dict[str, Pool]) -> dict[str, dict[str, float]]:
    """How images of a seed differ between the sides, by prompt: mean grey levels, and the share of same calls."""
    before, after = pools["before"], pools["after"]
    parts = [range(i, min(i + BATCH, len(before))) for i in range(0, len(before), BATCH)]
    differences = [(before.read(part).int() - after.read(part).int()).abs().float() for part in parts]
    moved = np.concatenate([d.mean(dim=(1, 2, 3)).numpy() for d in differences])
    same = work.predicted(before) == work.predicted(after)
    return {
        text: {
            "grey_levels_moved": float(moved[before.positions == p].mean()),
            "same_call": float(same[before.positions == p].mean()),
        }
        for p, text in enumerate(before.conditions)
    }


def _kept(work: PromptRetargeting, shares: dict[str, PromptShares], texts: tuple[str, ...]) -> dict[str, Any] | None:
    """Of explicit prompts the mean share of the class that they name, before and after."""
    said = [
        (k, work.classes.index(says)) for k, t in enumerate(texts) if (says := work.prompts.by_text[t].says) is not None
    ]
    if not said:
        return None
    return {side: float(np.mean([s.draws.point[k, c] for k, c in said])) for side, s in shares.items()}


def _at_scale(work: PromptRetargeting, strength: float, part: float, confusion: Confusion) -> dict[str, Any]:
    """Shares of the neutral prompts at another guidance scale, with the strength that was calibrated at the user's."""
    scale = work.model.settings.guidance * part
    people = tuple(name for name in work.trained if name)
    model = work.at(strength).asking(prompts=people, guidance_scale=scale)
    pool = work.images(work.run.folder / f"guidance-{part:g}", model, "audit", work.config.audit)
    found = PromptShares.of(people, work.counts(pool), confusion).draws.point
    target = np.stack([work.targets[t].resolve(row) for t, row in zip(people, found, strict=True)])
    return {"guidance_scale": scale, "metrics": metrics(found, target), "shares": found.tolist()}


def _cost(work: PromptRetargeting, pools: dict[str, Pool], after: PipelineModel) -> dict[str, Any]:
    """Network evaluations of an image on both sides, and thousands of images trained on."""
    adapters = 1 if work.plan.positive is None else 2
    return {
        "evaluations_per_image": {side: pool.meta["evaluations_per_image"] for side, pool in pools.items()},
        "trained_kimg": adapters * work.config.budget,
        "seconds": dict(work.run.seconds),
    }
