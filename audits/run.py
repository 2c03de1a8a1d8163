"""Carry out the runs of an audit recipe and tabulate what they reached.

    python audits/run.py emoji-people-gender [--runs runs/audits] [--seed 0 --seed 1]

Reads `audits/NAME/recipe.toml`, resumes what is unfinished and writes `audits/NAME/results.csv` from every finished
run. Runs of one seed share their base pool and, where they train it on the same complement, their auxiliary: each is
made once and copied. `--seed` carries out part of a recipe, so that several processes can share the work.
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
from fairsims.errors import ChangedSettings
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.pipeline import prepare
from fairsims.runs import read_json

HERE = Path(__file__).parent


def row(config: RetargetConfig, result: dict[str, Any]) -> dict[str, Any]:
    section = result["attributes"][config.attrs[0]]
    focus = section["focus"]
    before, after, q = section["before"][focus], section["after"][focus], result["quality"]
    concept = section["by_split"].get("concept", section["by_split"][section["split"]])
    seconds = {s["stage"]: s["seconds"] for s in result["cost"]["stages"]}
    wrong = [abs(section["after"][c]["share"] - t) for c, t in section["target"].items()]
    return {
        "mode": config.mode, "interval": config.interval, "target": section["target"][focus], "seed": config.seed,
        "before": before["share"], "after": after["share"], "low": after["low"], "high": after["high"],
        "raw": after["raw"], "concept": concept["after"][focus]["share"], "worst_error": max(wrong),
        "strength": result["method"]["strength"], "images_per_kept": result["cost"]["after"]["images_per_kept"],
        **{
            f"{name}_{when}": q[when][name]
            for name in ("fd_target", "fd_reference", "precision", "recall", "nearest_median")
            for when in ("before", "after") if name in q[when]
        },
        "evaluations": result["cost"]["after"]["evaluations_per_image"],
        "seconds": sum(seconds.values()), **{f"seconds_{k}": v for k, v in seconds.items()},
        "peak_memory_gb": result["cost"]["peak_memory_gb"],
    } | (several(config, result) if len(config.names) > 1 else {})  # fmt: skip


def several(config: RetargetConfig, result: dict[str, Any]) -> dict[str, Any]:
    """How far each attribute's worst share is from its target, or has drifted, and every share after."""
    found: dict[str, Any] = {"attributes": config.label, "rounds": len(result["rounds"])}
    for name, section in result["attributes"].items():
        after = {c: section["after"][c]["share"] for c in section["classes"]}
        if "target" in section:
            found[f"{name}_worst"] = max(abs(after[c] - t) for c, t in section["target"].items())
            found[f"{name}_reached"] = section["reached"]
        else:
            found[f"{name}_drift"], found[f"{name}_held"] = section["drift"]["largest"], section["drift"]["held"]
        found |= {f"{name}.{c}": share for c, share in after.items()}
    return found


def configs(name: str) -> list[RetargetConfig]:
    """The runs of a recipe, in order."""
    recipe = tomllib.loads((HERE / name / "recipe.toml").read_text(encoding="utf-8"))
    found = []
    for options in recipe["runs"]:
        settings = {"precision": jobs.resolve_precision("auto")} | recipe["defaults"]
        settings |= recipe.get(options.get("mode", "merged"), {}) | options
        settings |= {k: tuple(settings[k]) for k in ("pilots", "interval") if k in settings}
        found.append(RetargetConfig(**settings))
    return found


def folder_of(runs: Path, name: str, config: RetargetConfig) -> Path:
    inside = f"-{config.interval[0]:g}-{config.interval[1]:g}" if config.interval else ""
    return runs / name / f"{config.mode}{inside}-{config.label}-seed{config.seed}"


def carry_out(config: RetargetConfig, run: Path, earlier: list[tuple[RetargetConfig, Path]], command: str) -> None:
    """One run, with what an earlier one of the same seed has made already."""
    for other, folder in earlier:
        if other.seed != config.seed:
            continue
        parts = [p for p, n in (("pool", "pool"), ("before", "audit")) if getattr(other, n) == getattr(config, n)]
        if (other.budget, other.lr, other.batch_size) == (config.budget, config.lr, config.batch_size):
            parts.append("auxiliary")
        for part in parts:
            if not (run / part).exists() and (folder / part).exists():
                shutil.copytree(folder / part, run / part)
    job = prepare(config)
    try:
        jobs.run_retarget(job, run, report=lambda *_: None, command=command)
    except ChangedSettings as e:
        if str(run / "auxiliary") not in str(e):
            raise
        # The copied auxiliary was trained on another complement.
        shutil.rmtree(run / "auxiliary")
        jobs.run_retarget(job, run, report=lambda *_: None, command=command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("--runs", type=Path, default=Path("runs/audits"))
    parser.add_argument("--seed", type=int, action="append", help="Carry out the runs of this seed only.")
    args = parser.parse_args()
    planned = [(c, folder_of(args.runs, args.name, c)) for c in configs(args.name)]
    for i, (config, run) in enumerate(planned):
        if args.seed is None or config.seed in args.seed:
            print(f"{run}", file=sys.stderr, flush=True)
            # The nearest first: the run just before has most often the same complement.
            carry_out(config, run, planned[:i][::-1], f"python audits/run.py {args.name}")
        finished = [(c, r / "audit" / "audit.json") for c, r in planned if (r / "status.json").exists()]
        rows = [row(c, read_json(path)) for c, path in finished if path.exists()]
        if rows:
            pd.DataFrame(rows).to_csv(HERE / args.name / "results.csv", index=False, float_format="%.4f")
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
