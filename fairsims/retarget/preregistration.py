"""Pre-registration of a retargeting or a comparison: written before the first image is sampled, never after."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from fairsims import engine
from fairsims.audit.features import classifier_features
from fairsims.audit.intervals import ALPHA
from fairsims.audit.preregistration import planned_attribute, planned_metrics, planned_reference, planned_shares
from fairsims.audit.records import to_json
from fairsims.errors import InputError
from fairsims.files import sha256_json
from fairsims.retarget.retargeting import Retargeting
from fairsims.run import PLAN, Progress, Run, read_plan, write_plan

READY_MADE = ("pool", "auxiliary", "positive")
"""What a run may take over from an earlier one or from a sweep before it begins."""
DECIDED = (
    *("mode", "interval", "pool", "complement_size", "omega", "cap", "floor", "calibration"),
    *("solver", "steps", "precision"),
)
"""Settings that a plan names one by one; the digest of all of them is there too."""


def begin(
    work: Retargeting, folder: Path, progress: Progress, *, beside: Collection[str] = (), **changes: Any
) -> dict[str, str]:
    """Begin or resume a run in `folder`; the file, digest and time of what is pre-registered, for its result.

    `beside` is what the folder may hold before, `changes` what another kind of run plans otherwise. Raises
    ChangedSettings or InputError where the folder holds other settings or another plan, one that was changed, or a run
    that has come further without one.
    """
    with engine.main_first():
        work.run = Run(folder, work.settings, beside=beside, progress=progress, main=engine.is_main())
        if (folder / PLAN).exists():
            taken = read_plan(folder)["plan"].get("taken_over", [])
        elif (folder / "complement.parquet").exists():
            raise InputError(
                f"{folder} has a complement set and no {PLAN}, which is written before all else: an earlier version "
                "began it, or the file was removed; restore it, or begin again in another folder"
            )
        else:
            taken = [name for name in READY_MADE if (folder / name).exists()]
        # Images that are older than the plan are said to be.
        return write_plan(folder, retarget_plan(work) | changes | ({"taken_over": taken} if taken else {}))


def retarget_plan(work: Retargeting) -> dict[str, Any]:
    """What is decided before a retargeting begins, JSON."""
    config = work.config
    texts = dict(zip(config.attrs, config.targets, strict=True))
    targets = {t.attribute.name: t for t in work.targets}
    return {
        "when": "before generating",
        "model": {"name": config.model, "digest": work.settings["base_digest"]},
        "attributes": {
            c.attribute.name: planned_attribute(
                c.attribute,
                target=targets.get(c.attribute.name),
                text=texts.get(c.attribute.name),
                tolerance=config.tolerance,
                drift=config.drift,
            )
            for c in work.classifiers
        },
        **({} if work.asked is None else {"target_for": "each", "conditions": list(work.asked.classes)}),
        "others": {"attributes": [c.attribute.name for c in work.watched], "drift": config.drift},
        "metrics": _retarget_metrics(work),
        "alpha": ALPHA,
        "n": work.power.n,
        "before": f"the {config.pool:,} images of the pool; the base's on the first {work.shown} audit seeds are shown",
        "power": to_json(work.power),
        "seeds": seed_ranges(work),
        "classifiers": {c.attribute.name: {"name": c.name, "digest": c.digest} for c in work.classifiers},
        "reference": planned_reference(work.reference),
        "budget_kimg": config.budget,
        **{name: getattr(config, name) for name in DECIDED},
        "settings_sha256": sha256_json(work.settings),
    }


def comparison_metrics(work: Retargeting) -> list[str]:
    """What will be measured of every arm of a comparison, in words."""
    found = [
        f"{planned_shares(work.classifier)}, with {1 - ALPHA:.0%} intervals, of every arm",
        "how far the worst share is off its target, with its interval",
        "network evaluations and images generated per kept one; images, kimg and seconds of training and calibration",
    ]
    if work.reference is not None:
        found.append(f"{_distance(work)} to the reference as given and re-weighted to the target; precision and recall")
    return found


def seed_ranges(work: Retargeting) -> dict[str, list[int]]:
    """First and last seed of every use; where resampling is needed the audit goes on beyond its last."""
    config = work.config
    sizes = {"pool": config.pool, "calibration": config.calibration, "audit": work.power.n}
    return {use: [seeds[0], seeds[-1]] for use, n in sizes.items() for seeds in [config.seeds(use, n)]}


def _retarget_metrics(work: Retargeting) -> list[str]:
    found = planned_metrics(
        [planned_shares(c) for c in work.classifiers],
        targets=True,
        change=True,
        held=bool(work.config.hold),
        distances=[_distance(work)],
        reference=work.reference,
    )
    if work.reference is not None:
        found.append("all numbers of quality on the first images of each side, as many as both have")
        found.append(f"{_distance(work)} at every strength that the calibration tries, at one number of images")
    return [*found, "network evaluations of an image, and per kept one were the base resampled; seconds of every stage"]


def _distance(work: Retargeting) -> str:
    return classifier_features(work.classifier).metric
