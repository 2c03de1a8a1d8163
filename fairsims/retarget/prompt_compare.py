"""The comparison behind `fairsims compare --prompts`: each prompt brought to its target in several ways.

Pool, plan, adapters and audit are those of a retargeting over prompts; `fairsims.retarget.prompt_arms` says what the
arms are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import engine
from fairsims.audit.features import classifier_features, stored_features
from fairsims.audit.fidelity import QualityReference
from fairsims.audit.joint import FloatArray
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.pools import Pool
from fairsims.retarget.prompt_arms import ADAPTERS, ArmsWork, PromptArm, chosen_arms
from fairsims.retarget.prompt_audit import agreement, audit_facts, explicit_kept, registered, summary_of, targets_of
from fairsims.retarget.prompt_run import PromptRetargeting
from fairsims.run import Progress, Run, silent, write_plan

FORMAT = "fairsims-prompt-compare/1"
RESULT = "prompt-compare.json"
QUALITY = ("fd_target", "fd_reference", "precision", "recall", "n")
Publish = Callable[[Path, dict[str, Any]], object]
"""(folder, result)"""


def compare_prompts(
    work: PromptRetargeting,
    folder: Path,
    arms: Sequence[str] | None = None,
    *,
    progress: Progress = silent,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Carry out a comparison over prompts in `folder`; returns the content of its `prompt-compare.json`.

    `arms` are some of `PROMPT_ARMS`, all that are possible by default. `publish` makes pages of the result before the
    run counts as finished. A finished comparison is read, not repeated; one that was killed goes on. Raises as `Run`
    and `chosen_arms`, InputError and Diverged.
    """
    if work.config.mode != "merged":
        raise InputError(f"--mode is {work.config.mode}; a comparison over prompts is of merged adapters; leave it out")
    # Every arm is trained once.
    config = replace(work.config, rounds=1)
    work = replace(work, config=config, settings=work.settings | {"rounds": 1})
    names, left_out = chosen_arms(work, arms)
    settings = work.settings | {"arms": list(names)}
    if Run.is_finished(folder, settings):
        return read_json(folder / RESULT)
    with engine.main_first():
        work.run = Run(folder, settings, progress=progress, main=engine.is_main())
        plan = write_plan(folder, registered(work) | {"arms": list(names), "left_out": left_out})
    with work.run as run:
        rows = work.feasibility()
        made = ArmsWork(work=work, names=names)
        made.train()
        found, failed = made.make()
        with run.stage("audit"):
            result = _result(work, found, command)
            result |= {"plan": plan, "feasibility": rows, "left_out": left_out | failed}
        if run.main:
            write_json(folder / RESULT, result)
            with atomic(folder / "prompt-compare.parquet") as temporary:
                pd.DataFrame(_shares_table(result)).to_parquet(temporary, index=False)
            publish(folder, result)
            run.finish()
    engine.barrier()
    return read_json(folder / RESULT)


def _result(work: PromptRetargeting, arms: Mapping[str, PromptArm], command: str) -> dict[str, Any]:
    """What all arms share, and a row for each. JSON."""
    base = arms["base"].shares
    target = targets_of(work, base)
    quality = _quality(work, arms) if work.run.main else None
    return audit_facts(work) | {
        "format": FORMAT,
        "command": command,
        "images_of_each_prompt": {use: getattr(work.config, use) for use in ("pool", "calibration", "audit")},
        "targets": {text: row.tolist() for text, row in target.items()},
        "kinds": {text: work.prompts.by_text[text].kind for text in base.names},
        "quality": quality and {k: v for k, v in quality.items() if k != "numbers"},
        "arms": [
            _row(work, arm, arms["base"], target) | {"quality": quality and quality["numbers"][name]}
            for name, arm in arms.items()
        ],
        "seconds": dict(work.run.seconds),
    }


def _row(work: PromptRetargeting, arm: PromptArm, base: PromptArm, target: Mapping[str, FloatArray]) -> dict[str, Any]:
    """One arm: shares by prompt, how far they are off, what was to stay, and cost. JSON."""
    evaluations = float(arm.images.meta["evaluations_per_image"])
    adapters = len(ADAPTERS.get(arm.name, ()))
    return {
        "arm": arm.name,
        "note": arm.note,
        "strength": arm.strength,
        "calibration": arm.calibration,
        "summary": {
            kind: summary_of(work, arm.shares, target, kind)
            for kind in ("neutral", "held-out")
            if work.prompts.of(kind)
        },
        "kept": explicit_kept(work, base.shares, arm.shares),
        "agreement": _agreement(work, arm),
        "prompts": arm.shares.rows(),
        "cost": {
            "evaluations_per_image": evaluations,
            "images_per_kept": arm.images_per_kept,
            "evaluations_per_kept": evaluations * arm.images_per_kept,
            "trained_kimg": adapters * work.config.budget,
            "calibration_images": sum(
                len(Pool(path.parent)) for path in (work.run.folder / arm.name / "calibration").rglob("pool.json")
            ),
            "seconds": {
                stage: seconds
                for stage, seconds in work.run.seconds.items()
                if stage in ADAPTERS.get(arm.name, ()) or stage.partition("/")[0] == arm.name
            },
        },
    }


def _agreement(work: PromptRetargeting, arm: PromptArm) -> dict[str, float] | None:
    """`agreement` over the prompts of a kind that name something."""
    found = agreement(work, {"arm": arm.images})
    if not found:
        return None
    of: dict[str, list[float]] = {}
    for text, row in found.items():
        of.setdefault(work.prompts.by_text[text].kind, []).append(row["agreement"]["arm"])
    return {kind: float(np.mean(values)) for kind, values in of.items()}


def _quality(work: PromptRetargeting, arms: Mapping[str, PromptArm]) -> dict[str, Any] | None:
    """How the images of neutral prompts lie among the base's own of other seeds, re-weighted to the targets.

    Those are what an arm would make that moves the shares and nothing else. None where the classifier has no features.
    """
    classifier = work.classifiers[0]
    if not classifier.has_features:
        return None
    extractor, store = classifier_features(classifier), work.run.folder / "features"
    neutral = work.prompts.of("neutral")

    def of(pool: Pool) -> tuple[Any, np.ndarray]:
        places = np.flatnonzero(np.isin(pool.positions, [pool.conditions.index(text) for text in neutral]))
        return np.asarray(stored_features(pool, extractor, store))[places], places

    features, places = of(work.pool)
    reference = QualityReference(features=features, weights=_weights(work, places))
    measured = {name: of(arm.images)[0] for name, arm in arms.items()}
    size = min(len(features), *map(len, measured.values()))
    numbers = {name: reference.measure(rows, size) for name, rows in measured.items()}
    return {
        "metric": extractor.metric,
        "extractor": extractor.facts(),
        "reference": {"n": len(features), "effective_n": reference.effective_n},
        "n": size,
        "numbers": {name: {k: float(found[k]) for k in QUALITY} for name, found in numbers.items()},
    }


def _weights(work: PromptRetargeting, places: np.ndarray) -> FloatArray:
    """Weights `(n,)` that give each prompt's images of the pool its target's mix, as the classifier calls them."""
    predicted, of = work.predicted(work.pool)[places], work.pool.positions[places]
    weights = np.zeros(len(places))
    for p in np.unique(of):
        rows = np.flatnonzero(of == p)
        counts = np.bincount(predicted[rows], minlength=len(work.classes))
        wanted = np.where(counts > 0, work.plan.target[p], 0.0)
        # A class that the pool does not have leaves its share to the others.
        weights[rows] = (wanted / wanted.sum() / np.maximum(counts, 1))[predicted[rows]]
    return np.asarray(weights / weights.sum())


def _shares_table(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for every prompt of every arm."""
    return [
        {"arm": arm["arm"], "prompt": row["prompt"], "kind": result["kinds"][row["prompt"]], "images": row["n"]}
        | {
            f"{column}.{c}": row[column][k]
            for column in ("share", "low", "high")
            for k, c in enumerate(result["classes"])
        }
        for arm in result["arms"]
        for row in arm["prompts"]
    ]
