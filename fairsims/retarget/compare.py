"""The comparison behind `fairsims compare`: a target reached in several ways, at equal evaluations per kept image.

Pool, complement and auxiliary are those of a retargeting, made once; `fairsims.retarget.arms` says what the arms are.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import __version__, engine
from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.extractors import classifier_features
from fairsims.audit.facts import QualityResult
from fairsims.audit.fidelity import quality
from fairsims.audit.records import to_json
from fairsims.audit.shares import corrected_shares
from fairsims.audit.sources import predicted_counts
from fairsims.audit.targets import as_mapping
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.pools import Pool
from fairsims.retarget.arms import ARMS, Arm, Ground
from fairsims.retarget.complement import draw_complement
from fairsims.retarget.goal import Goal
from fairsims.retarget.job import Job
from fairsims.retarget.plan import comparison_metrics, fix_plan
from fairsims.retarget.stages import (
    base_facts,
    draw_set,
    fine_tune,
    first_plan,
    labels,
    load_auxiliary,
    sample,
    selected_shares,
    selection_for,
    write_set,
)
from fairsims.run import Progress, Run, silent

FORMAT = "fairsims-compare/1"

Publish = Callable[[Path, dict[str, Any]], None]
"""(folder, result)"""
Row = dict[str, Any]


def compare(
    job: Job, folder: Path, *, progress: Progress = silent, publish: Publish = lambda *_: None, command: str = ""
) -> dict[str, Any]:
    """Carry out a comparison in `folder`; returns the content of its `compare.json`.

    The job is of one attribute and of the guided mode; as many images as its audit has are kept of every arm, on the
    audit seeds. `publish` makes table and figure of the result. What is finished is read: the same call goes on after
    a kill. Under torchrun every process samples and trains its part. Raises ChangedSettings when the folder was begun
    with other settings, InputError or InfeasibleTarget as `retarget`.
    """
    config = job.config
    if config.mode != "guided" or len(job.classifiers) != 1:
        raise InputError(f"found {config.mode} for {', '.join(config.names)}; expected guided for one attribute")
    with engine.main_first():
        run = Run(folder, job.settings, progress=progress, main=engine.is_main())
        fixed = fix_plan(folder, job, rounds=1, arms=list(ARMS), metrics=comparison_metrics(job))
    with run:
        with run.stage("pool"):
            pool = sample(folder / "pool", job.base, job, "pool", config.pool, base_facts(job), progress, "pool")
        with run.stage("complement"):
            goal, plan = first_plan(job, pool)
            complement = draw_set(folder, job, goal, pool, plan)
            mix = _draw_target_mix(folder, job, goal, pool)
            # Refused before anything is trained where the classifier cannot do it.
            resampling = selection_for(goal, goal.base)
        sets = {"auxiliary": complement, "target-mix": mix}
        for name, chosen in sets.items():
            with run.stage(name):
                fine_tune(job, pool, chosen, folder / name, progress, kimg=config.budget, kind=name)
        ground = Ground(
            run=run, job=job, goal=goal, omega=plan.omega, resampling=resampling, pool=pool,
            auxiliary=load_auxiliary(job, folder / "auxiliary"), finetuned=load_auxiliary(job, folder / "target-mix"),
        )  # fmt: skip
        arms = ground.arms()
        with run.stage("audit"):
            if engine.is_main():
                sizes = {name: len(chosen) for name, chosen in sets.items()}
                result = _result(ground, arms, sizes, command) | {"plan": fixed, "complement": asdict(plan)}
                write_json(folder / "compare.json", result)
                with atomic(folder / "compare.parquet") as temporary:
                    pd.DataFrame(result["arms"]).to_parquet(temporary, index=False)
                publish(folder, result)
            progress("audit", 1, 1)
        if engine.is_main():
            run.finish()
        engine.barrier()
    return read_json(folder / "compare.json")


def _draw_target_mix(folder: Path, job: Job, goal: Goal, pool: Pool) -> np.ndarray:
    """Positions of the pool's images that make a set in the target's mix, drawn as the complement is; its table."""
    config, of = job.config, labels(pool, job)
    chosen = draw_complement(
        job.cells.probabilities(of), goal.target, size=config.complement_size, floor=config.floor, seed=config.seed,
        names=job.cells.names,
    )  # fmt: skip
    if engine.is_main():
        write_set(folder / "target-mix.parquet", pool, job.cells, of, chosen)
    return chosen


def _result(ground: Ground, arms: dict[str, Arm], sizes: dict[str, int], command: str) -> dict[str, Any]:
    """What `compare.json` says: what all arms share, and a row for each."""
    job, goal = ground.job, ground.goal
    classes = job.classifier.attribute.classes
    measured = QualityResult()
    if job.reference is not None:
        measured = quality(
                {n: a.images for n, a in arms.items()}, classifier_features(job.classifier), job.reference,
                [(job.classifier, goal.target)],
            )  # fmt: skip
    return {
        "format": FORMAT,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fairsims": __version__,
        "command": command,
        "settings": job.settings,
        "attribute": job.classifier.attribute.name,
        "classes": list(classes),
        "target": as_mapping(goal.target, classes),
        "tolerance": job.config.tolerance,
        "split": job.classifier.default_split,
        "pool_shares": as_mapping(goal.base, classes),
        "evaluations_per_kept": arms["guided"].evaluations_per_kept,
        "quality": None if job.reference is None else to_json(replace(measured, numbers={})),
        "arms": [_row(ground, arm, sizes) | _numbers(measured.numbers.get(name, {})) for name, arm in arms.items()],
    }  # fmt: skip


def _row(ground: Ground, arm: Arm, sizes: dict[str, int]) -> Row:
    """An arm's shares and what it costs; where training or calibration is none of its own, 0 and no strength."""
    goal, config, seconds = ground.goal, ground.job.config, ground.run.seconds
    shares, classes = _shares(ground.job, arm), ground.job.classifier.attribute.classes
    off = np.subtract(shares.share, goal.target)
    # The worst share; of two, whose errors mirror each other, the one that has to grow.
    k = int(np.argmax(np.abs(off) + 1e-9 * goal.focus))
    row: Row = {"arm": arm.name}
    for c, share, low, high in zip(classes, shares.share, shares.low, shares.high, strict=True):
        row |= {f"share.{c}": share, f"low.{c}": low, f"high.{c}": high}
    trained = {"finetuned": "target-mix", "merged": "auxiliary", "guided": "auxiliary"}.get(arm.name)
    pilots = arm.calibration.pilots[1:] if arm.calibration else ()
    return row | {
        "worst": classes[k],
        "error": float(off[k]),
        "error_low": shares.low[k] - float(goal.target[k]),
        "error_high": shares.high[k] - float(goal.target[k]),
        "images": len(arm.images),
        "steps": arm.sampler.steps,
        "evaluations_per_image": arm.evaluations_per_image,
        "images_per_kept": arm.images_per_kept,
        "evaluations_per_kept": arm.evaluations_per_kept,
        "sampling_seconds": seconds[arm.name],
        "training_kimg": config.budget if trained else 0.0,
        "training_images": sizes[trained] if trained else 0,
        "training_seconds": seconds[trained] if trained else 0.0,
        "calibration_images": sum(p.n for p in pilots),
        "calibration_seconds": seconds.get(f"calibration {arm.name}", 0.0),
        "strength": arm.calibration.strength if arm.calibration else None,
    }


def _shares(job: Job, arm: Arm) -> ShareEstimate:
    """Corrected for the classifier's errors; of images that it selected, from what they were selected from."""
    classifier = job.classifier
    if arm.candidates is not None:
        return selected_shares(job, arm.candidates, arm.images)(classifier, classifier.default_split)
    counts = predicted_counts(labels(arm.images, job)[0])
    return corrected_shares(classifier.attribute.classes, counts, job.confusions[0])


def _numbers(section: Mapping[str, float]) -> Row:
    """An arm's measures of quality, as columns."""
    return {k: v for k, v in section.items() if k != "n"}
