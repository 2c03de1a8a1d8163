"""What a retargeting costs: measured, stage by stage, and estimated before it begins."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from fairsims import engine
from fairsims.audit.facts import Cost, StageCost
from fairsims.audit.power import power_sentence
from fairsims.audit.targets import Target, describe
from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.retarget.preregistration import seed_ranges
from fairsims.retarget.retargeting import Retargeting
from fairsims.run import Run
from fairsims.seeds import noise_for


def stage_costs(run: Run) -> Cost:
    """Images, network evaluations and seconds of every stage but the audit."""
    import resource

    config, folder = run.settings, run.folder
    before, after = (read_json(folder / side / "pool.json")["evaluations_per_image"] for side in ("before", "after"))
    candidates = folder / "candidates"
    images = {
        "pool": (config["pool"], before),
        "before": (len(Pool(folder / "before")), before),
        "after": (len(Pool(candidates if candidates.exists() else folder / "after")), after),
        "auxiliary": (round(config["budget"] * 1000), None),
        "positive": (round(config["budget"] * 1000), None),
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


def dry_run(work: Retargeting) -> dict[str, Any]:
    """The resolved plan and what it will cost, from a short measurement of the network on this machine."""
    config, rate = work.config, _forwards_per_second(work)
    before = work.model.evaluations_per_image
    # The base stands in for the auxiliaries: their networks are the same.
    stand_in, paired = Path(work.model.spec.base), config.direction == "paired"
    after = work.retargeted(stand_in, 1.0, stand_in if paired else None).evaluations_per_image
    # Of more than one round only the measured error tells whether they are needed: counted as if they were.
    forwards = {
        "pool": config.pool * before,
        # A training step costs about three forwards: one forward, and a backward of twice its work.
        "auxiliary": work.most_rounds * (1 + paired) * round(config.budget * 1000) * 3,
        "calibration": work.most_rounds * sum(config.pilots) * after,
        "before": work.shown * before,
        "after": work.power.n * after,
    }
    wanted = {t.attribute.name: _wanted(t) for t in work.targets}
    if len(work.classifiers) == 1:
        asked: dict[str, Any] = {"classifier": work.classifier.name, "target": wanted[work.classifier.attribute.name]}
    else:
        asked = {"classifiers": [c.name for c in work.classifiers], "targets": wanted, "held": list(config.hold)}
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
