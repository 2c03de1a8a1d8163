"""The comparison behind `fairsims compare`: a target reached in several ways, at equal evaluations per kept image.

Pool, complement and auxiliary are those of a retargeting, made once; `fairsims.retarget.arms` says what the arms are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import __version__, engine
from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.facts import QualityResult
from fairsims.audit.features import classifier_features
from fairsims.audit.fidelity import quality
from fairsims.audit.records import to_json
from fairsims.audit.shares import corrected_shares
from fairsims.audit.targets import as_mapping
from fairsims.classifiers.labelling import predicted_counts
from fairsims.errors import InputError
from fairsims.files import atomic, now, read_json, write_json
from fairsims.retarget.arms import ARMS, Arm, Trained, make_arms
from fairsims.retarget.config import REPLACED
from fairsims.retarget.preregistration import begin, comparison_metrics
from fairsims.retarget.retargeting import Retargeting
from fairsims.retarget.rounds import draw_complement_set, draw_positive_set
from fairsims.retarget.selection import selection_for
from fairsims.run import Progress, Run, silent

FORMAT = "fairsims-compare/1"

TRAINED = {
    "finetuned": ("target-mix",),
    "merged": ("auxiliary",),
    "guided": ("auxiliary",),
    "paired": ("negative", "positive"),
}
"""The fine-tunes behind an arm."""
Publish = Callable[[Path, dict[str, Any]], object]
"""(folder, result)"""
Row = dict[str, Any]


def compare(
    work: Retargeting,
    folder: Path,
    *,
    progress: Progress = silent,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Carry out a comparison in `folder`; returns the content of its `compare.json`.

    The retargeting is of one attribute and of the guided mode; as many images as its audit has are kept of every arm,
    on the audit seeds. `publish` makes table and figure of the result. A finished comparison is read, not repeated; one
    that was killed goes on. Under torchrun every process samples and trains its part. Raises ChangedSettings when the
    folder was begun with other settings, InputError or InfeasibleTarget as `retarget`.
    """
    config = work.config
    if config.mode != "guided" or len(work.classifiers) != 1:
        raise InputError(f"found {config.mode} for {', '.join(config.names)}; expected guided for one attribute")
    if Run.is_finished(folder, work.settings, replaced=REPLACED):
        return read_json(folder / "compare.json")
    own: dict[str, Any] = {"arms": list(ARMS), "power": None, "before": None, "metrics": comparison_metrics(work)}
    fixed = begin(work, folder, progress, rounds=1, **own)
    with work.run as run:
        _ = work.pool
        with run.stage("complement"):
            plan = work.first_plan()
            sets = {"auxiliary": draw_complement_set(work, plan, "complement")}
            sets["negative"] = work.draw_set("negative", plan.complement, config.complement_size, raked=True)
            contrast = draw_positive_set(work, sets["negative"], plan, "positive")
            sets["positive"] = contrast.chosen
            sets["target-mix"] = work.draw_set("target-mix", work.goal.target, config.complement_size)
            # Refused before anything is trained where the classifier cannot do it.
            resampling = selection_for(work.goal, work.goal.base)
        for name, chosen in sets.items():
            with run.stage(name):
                half = 2 if name in TRAINED["paired"] else 1
                work.fine_tune(folder / name, chosen, kimg=config.budget / half, kind=name)
        auxiliary, negative, positive, finetuned = (folder / name for name in sets)
        trained = Trained(
            omega=plan.strength,
            auxiliary=auxiliary,
            contrast=(negative, positive),
            paired_start=plan.strength / contrast.scale,
            finetuned=finetuned,
            resampling=resampling,
        )
        arms = make_arms(work, trained)
        with run.stage("audit"), work.features(*(arm.images for arm in arms.values())) as store:
            if run.main:
                sizes = {name: len(chosen) for name, chosen in sets.items()}
                result = _result(work, arms, sizes, command, store) | {"plan": fixed, "complement": asdict(plan)}
                write_json(folder / "compare.json", result)
                with atomic(folder / "compare.parquet") as temporary:
                    pd.DataFrame(result["arms"]).to_parquet(temporary, index=False)
                publish(folder, result)
            progress("audit", 1, 1)
        run.finish()
        engine.barrier()
    return read_json(folder / "compare.json")


def _result(
    work: Retargeting, arms: Mapping[str, Arm], sizes: Mapping[str, int], command: str, store: Path
) -> dict[str, Any]:
    """What `compare.json` says: what all arms share, and a row for each."""
    classifier, goal = work.classifier, work.goal
    classes = classifier.attribute.classes
    measured = QualityResult()
    if work.reference is not None:
        images = {name: arm.images for name, arm in arms.items()}
        target = [(classifier, goal.target)]
        measured = quality(images, classifier_features(classifier), work.reference, target, store=store)
    return {
        "format": FORMAT,
        "created": now(),
        "fairsims": __version__,
        "command": command,
        "settings": work.settings,
        "attribute": classifier.attribute.name,
        "classes": list(classes),
        "target": as_mapping(goal.target, classes),
        "tolerance": work.config.tolerance,
        "split": classifier.default_split,
        "pool_shares": as_mapping(goal.base, classes),
        "evaluations_per_kept": arms["guided"].evaluations_per_kept,
        "quality": None if work.reference is None else to_json(replace(measured, numbers={})),
        "arms": [_row(work, arm, sizes) | _numbers(measured.numbers.get(name, {})) for name, arm in arms.items()],
    }


def _row(work: Retargeting, arm: Arm, sizes: Mapping[str, int]) -> Row:
    """An arm's shares and what it costs; where training or calibration is none of its own, 0 and no strength."""
    goal, config, seconds = work.goal, work.config, work.run.seconds
    shares, classes = _shares(work, arm), work.classifier.attribute.classes
    off = np.subtract(shares.share, goal.target)
    # The worst share; of two, whose errors mirror each other, the one that has to grow.
    k = int(np.argmax(np.abs(off) + 1e-9 * goal.focus))
    row: Row = {"arm": arm.name}
    for c, share, low, high in zip(classes, shares.share, shares.low, shares.high, strict=True):
        row |= {f"share.{c}": share, f"low.{c}": low, f"high.{c}": high}
    trained = TRAINED.get(arm.name, ())
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
        "training_images": max((sizes[name] for name in trained), default=0),
        "training_seconds": sum(seconds[name] for name in trained),
        "calibration_images": sum(p.n for p in pilots),
        "calibration_seconds": seconds.get(f"calibration {arm.name}", 0.0),
        "strength": arm.calibration.strength if arm.calibration else None,
    }


def _shares(work: Retargeting, arm: Arm) -> ShareEstimate:
    """Corrected for the classifier's errors; of images that it selected, from what they were selected from."""
    classifier = work.classifier
    if arm.candidates is not None:
        return work.selected_shares(arm.candidates, arm.images)(classifier, classifier.default_split)
    counts = predicted_counts(work.labels(arm.images)[0])
    return corrected_shares(classifier.attribute.classes, counts, work.confusions[0])


def _numbers(section: Mapping[str, float]) -> Row:
    """An arm's measures of quality, as columns."""
    return {k: v for k, v in section.items() if k != "n"}
