"""Carry out the runs of an audit recipe and tabulate what they reached.

    python audits/run.py emoji-people-gender [--runs runs/audits]

Reads `audits/NAME/recipe.toml`, resumes what is unfinished and writes `audits/NAME/results.csv`. Runs of one seed share
their base pool, so it is generated once and copied.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims import jobs
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.pipeline import prepare

HERE = Path(__file__).parent


def row(config: RetargetConfig, result: dict[str, Any]) -> dict[str, Any]:
    section = result["attributes"][config.attr]
    focus = section["focus"]
    before, after, q = section["before"][focus], section["after"][focus], result["quality"]
    concept = section["by_split"].get("concept", section["by_split"][section["split"]])
    seconds = {s["stage"]: s["seconds"] for s in result["cost"]["stages"]}
    return {
        "mode": config.mode, "target": section["target"][focus], "seed": config.seed,
        "before": before["share"], "after": after["share"], "low": after["low"], "high": after["high"],
        "raw": after["raw"], "concept": concept["after"][focus]["share"],
        "strength": result["method"]["strength"],
        "fd_target_before": q["before"]["fd_target"], "fd_target_after": q["after"]["fd_target"],
        "fd_train_before": q["before"]["fd_reference"], "fd_train_after": q["after"]["fd_reference"],
        "evaluations": result["cost"]["after"]["evaluations_per_image"],
        "seconds": sum(seconds.values()), **{f"seconds_{k}": v for k, v in seconds.items()},
        "peak_memory_gb": result["cost"]["peak_memory_gb"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--runs", type=Path, default=Path("runs/audits"))
    args = parser.parse_args()
    recipe = tomllib.loads((HERE / args.name / "recipe.toml").read_text(encoding="utf-8"))
    shared: dict[tuple[str, int, int], Path] = {}
    rows = []
    for options in recipe["runs"]:
        settings = {"precision": jobs.resolve_precision("auto")} | recipe["defaults"] | options
        settings |= {"pilots": tuple(settings["pilots"])} if "pilots" in settings else {}
        config = RetargetConfig(**settings)
        run = args.runs / args.name / f"{config.mode}-{config.label}-seed{config.seed}"
        for part, size in (("pool", config.pool), ("before", config.audit)):
            earlier = shared.setdefault((part, config.seed, size), run)
            if earlier != run and not (run / part).exists():
                shutil.copytree(earlier / part, run / part)
        print(f"{run}", file=sys.stderr, flush=True)
        command = f"python audits/run.py {args.name}"
        rows.append(row(config, jobs.run_retarget(prepare(config), run, report=lambda *_: None, command=command)))
        pd.DataFrame(rows).to_csv(HERE / args.name / "results.csv", index=False, float_format="%.4f")
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)


if __name__ == "__main__":
    main()
