"""What a retargeting cost, stage by stage."""

from __future__ import annotations

from typing import Any

from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.run import Run


def stage_costs(run: Run) -> dict[str, Any]:
    """Images, network evaluations and seconds of every stage but the audit, for `audit.json`."""
    import resource

    config, folder = run.settings, run.folder
    nfe = {side: read_json(folder / side / "pool.json")["evaluations_per_image"] for side in ("before", "after")}
    candidates = folder / "candidates"
    images = {
        "pool": (config["pool"], nfe["before"]),
        "before": (config["audit"], nfe["before"]),
        "after": (len(Pool(candidates)) if candidates.exists() else config["audit"], nfe["after"]),
    }
    # The audit itself is still running when this is written, except in a run killed just after it.
    spent = {stage: seconds for stage, seconds in run.seconds.items() if stage != "audit"}
    stages = []
    for name, seconds in spent.items():
        # Later rounds are called calibration-2, auxiliary-2, ...
        kind, stage = name.split("-")[0], {"stage": name, "seconds": seconds}
        if kind == "calibration":
            made = sum(len(Pool(p.parent)) for p in (folder / name).glob("*/pool.json"))
            stage |= {"images": made, "evaluations": made * nfe["after"]}
        elif kind in images:
            stage |= {"images": images[kind][0], "evaluations": images[kind][0] * images[kind][1]}
        elif kind == "auxiliary":
            stage |= {"images": round(config["budget"] * 1000)}
        stages.append(stage)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"stages": stages, "seconds": round(sum(spent.values()), 1), "peak_memory_gb": round(peak, 2)}
