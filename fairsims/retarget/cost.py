"""What a retargeting costs: measured, stage by stage, and estimated before it begins."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims import engine
from fairsims.audit.facts import Cost, StageCost
from fairsims.audit.joint import joint_shares, smoothed
from fairsims.audit.power import power_sentence
from fairsims.audit.targets import Target, describe, resampling_cost
from fairsims.errors import InfeasibleTarget
from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.retarget.goal import Goal
from fairsims.retarget.preregistration import seed_ranges
from fairsims.retarget.retargeting import Retargeting
from fairsims.retarget.selection import selection_for
from fairsims.run import Run
from fairsims.seeds import noise_for


def stage_costs(run: Run) -> Cost:
    """Images, network evaluations and seconds of every stage but the audit."""
    import resource

    config, folder = run.settings, run.folder
    before, after = (read_json(folder / side / "pool.json")["evaluations_per_image"] for side in ("before", "after"))
    candidates = folder / "candidates"
    trained = round(config["budget"] * 1000 / (2 if (folder / "positive").exists() else 1))
    images = {
        "pool": (config["pool"], before),
        "before": (len(Pool(folder / "before")), before),
        "after": (len(Pool(candidates if candidates.exists() else folder / "after")), after),
        "auxiliary": (trained, None),
        "positive": (trained, None),
    }
    # The audit itself is still running when this is written, except in a run killed just after it.
    spent = {stage: seconds for stage, seconds in run.seconds.items() if stage != "audit"}
    stages = []
    for name, seconds in spent.items():
        # Later rounds are called calibration-2, auxiliary-2, ...
        made, each = images.get(name.split("-")[0], (None, None))
        if name.startswith("calibration"):
            made, each = sum(len(Pool(p.parent)) for p in (folder / name).glob("*/pool.json")), after
        evaluations = None if made is None or each is None else made * each
        stages.append(StageCost(stage=name, seconds=seconds, images=made, evaluations=evaluations))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Cost(stages=tuple(stages), seconds=round(sum(spent.values()), 1), peak_memory_gb=round(peak, 2))


def images_per_kept(goal: Goal, predicted: np.ndarray) -> float:
    """Images per kept one, were those predicted to be of these cells `(N,)` resampled to the target."""
    cells = goal.cells
    have = joint_shares(cells, np.bincount(predicted, minlength=cells.size), goal.confusions)
    if len(cells.attributes) == 1:
        return resampling_cost(have, goal.target)
    # A class that is rare may be measured as absent; its target can not be raked onto nothing.
    have = smoothed(cells, have, len(predicted))
    return resampling_cost(0.999 * have + 0.001 * goal.target, goal.mended(have))


def resampling_advice(work: Retargeting) -> str | None:
    """How resampling the base to all of several targets compares with what this run is going to cost.

    Known once the pool is labelled, before anything is trained. Per kept image: the base's images that plain classifier
    resampling generates, against one of the retargeted model, or more where the plan lies beyond the strength cap and
    selection has to finish. None for a single attribute, and where resampling cannot do it.
    """
    if len(work.classifiers) == 1:
        return None
    kept = images_per_kept(work.goal, work.predicted(work.pool))
    if not np.isfinite(kept):
        return None
    plan, own, planned = work.first_plan(), _evaluations(work), 1.0
    if plan.least_strength is None or plan.least_strength > work.config.cap:
        with contextlib.suppress(InfeasibleTarget):
            planned = max(1.0, selection_for(work.goal, np.array(plan.reachable)).images_per_kept)
    base, run = kept * work.model.evaluations_per_image, planned * own
    said = (
        f"resampling the base to all of it costs {base:.3g} evaluations a kept image ({kept:.3g} images), "
        f"the retargeted model {run:.3g}"
    )
    if base <= run:
        return f"{said}: resampling is cheaper, and moves nothing else"
    forwards = planned_forwards(work)
    once = sum(forwards[stage] for stage in ("pool", "auxiliary", "calibration"))
    many = f"{math.ceil(once / (base - run)):,}"
    return (
        f"{said}: it pays from {many} images on; resampling is cheaper for fewer, and where one strength cannot serve "
        f"all shares, so that selection has to generate more than {base / own:.2g} images a kept one"
    )


def planned_forwards(work: Retargeting) -> dict[str, int]:
    """Network forwards of each stage, before it begins."""
    config, before, after = work.config, work.model.evaluations_per_image, _evaluations(work)
    # Of more than one round only the measured error tells whether they are needed: counted as if they were.
    return {
        "pool": config.pool * before,
        # A training step costs about three forwards: one forward, and a backward of twice its work.
        "auxiliary": work.most_rounds * round(config.budget * 1000) * 3,
        "calibration": work.most_rounds * config.calibration * after,
        "before": work.shown * before,
        "after": work.power.n * after,
    }


def _evaluations(work: Retargeting) -> int:
    """Network evaluations of an image of the retargeted model. The base stands in for the auxiliaries."""
    stand_in = Path(work.model.spec.base)
    paired = stand_in if work.config.paired else None
    return work.retargeted(stand_in, 1.0, paired).evaluations_per_image


def dry_run(work: Retargeting) -> dict[str, Any]:
    """The resolved plan and what it will cost, from a short measurement of the network on this machine."""
    config, rate, forwards = work.config, _forwards_per_second(work), planned_forwards(work)
    wanted = {t.attribute.name: _wanted(t) for t in work.targets}
    if len(work.classifiers) == 1:
        asked: dict[str, Any] = {"classifier": work.classifier.name, "target": wanted[work.classifier.attribute.name]}
    else:
        asked = {"classifiers": [c.name for c in work.classifiers], "targets": wanted, "preserved": list(config.hold)}
        asked["cells"] = work.cells.size
    return {
        "settings": work.settings,
        **asked,
        "seeds": seed_ranges(work),
        "audit": power_sentence(work.power),
        "rounds_at_most": work.most_rounds,
        "forwards": forwards,
        "forwards_per_second": round(rate),
        "estimated_seconds": {k: round(v / rate) for k, v in forwards.items()},
        "estimated_total_seconds": round(sum(forwards.values()) / rate),
    }


def _forwards_per_second(work: Retargeting) -> float:
    """Images that the base denoises in a second, in batches as they are sampled."""
    device = engine.device()
    x = noise_for(range(work.config.sample_batch), work.model.noise_shape).to(device)
    sigma = torch.ones(1, device=device)
    with torch.inference_mode():
        work.model.own(x, sigma)
        start = time.perf_counter()
        for _ in range(3):
            work.model.own(x, sigma)
    return 3 * len(x) / (time.perf_counter() - start)


def _wanted(target: Target) -> str:
    """A target in words, before the base's shares are known."""
    if target.shares is not None:
        return describe(target.shares, target.attribute.classes)
    return "uniform" if target.number is None else f"{target.number:g} of the rarer class"
