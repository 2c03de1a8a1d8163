"""The sweep behind `fairsims sweep`: share and quality over budgets, strengths and synthetic set sizes, a row a point.

One fine-tune per size serves every budget, by the states on its way. The pool, its labels and the reference's features
are made once. What is finished is read, not repeated: the same call goes on where a killed one stopped.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import __version__, distributed
from fairsims.audit.compare import label_pool, predicted_counts
from fairsims.audit.shares import corrected_shares
from fairsims.denoisers import Denoiser, checkpoint_digest, load_network
from fairsims.errors import InputError
from fairsims.pools import Pool, pool_dataset, write_pool
from fairsims.retarget.complement import draw_complement, plan_complement
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.goal import set_goal
from fairsims.retarget.grid import Point, SweepConfig, size_name
from fairsims.retarget.job import Job, Report, combine_networks, finetune_settings, prepare
from fairsims.retarget.rows import Bench, Row, SweepPlan, best_points, row_file
from fairsims.retarget.targets import as_mapping
from fairsims.runs import atomic, read_json, settle_settings, write_json
from fairsims.training.folder import snapshot_folder, train_folder

FORMAT = "fairsims-sweep/1"
UNUSED = ("mode", "interval", "budget", "complement_size", "pilots", "audit", "rounds", "tolerance", "drift")
"""Settings of a run that the grid has, or that a sweep does not use."""


def sweep(config: SweepConfig, folder: Path, *, report: Report = lambda *_: None, command: str = "") -> dict[str, Any]:
    """Measure every point of the grid into `folder`; returns the content of its `sweep.json`.

    `sweep.parquet` has a row per point. Other strengths, sizes, modes and intervals may be asked for on the same
    folder: points that are there are read, the others made. Raises ChangedSettings when anything else has changed,
    InputError when a size is larger than the pool or there is nothing to measure quality against.
    """
    job = prepare(config.run)
    if not config.steer and job.reference is None:
        raise InputError(
            "without a target there is quality alone to measure, and no real data for it; give --reference"
        )
    settings = {k: v for k, v in job.settings.items() if k not in UNUSED}
    settings |= {"images": config.images, "budgets": list(config.budgets)} | (
        {} if config.steer else {"target": "base"}
    )
    with distributed.main_first():
        settle_settings(folder / "config.json", settings)
    pool = _sample(folder / "pool", job.base, job, "pool", config.run.pool, _base_facts(job), report, "pool")
    with distributed.main_first():
        probabilities = label_pool(pool, job.classifier)
    plan = _plan(config, job, probabilities)
    bench = Bench(folder, job, plan)

    def measure(points: Sequence[Point], into: Path, use: str, n: int) -> dict[Point, Row]:
        """Rows of the points, those there are and those that have to be made: images of `use` seeds in `into`."""
        with distributed.main_first():
            wanted = [p for p in points if not row_file(into, p).exists()]
        for point, denoiser, facts in _models(config, job, folder, plan, pool, probabilities, wanted, report):
            started, fresh = time.perf_counter(), not (into / point.name).exists()
            images = _sample(into / point.name, denoiser, job, use, n, facts, report, point.name)
            # Of a point that a kill cut in two the time is not known.
            seconds = round(time.perf_counter() - started, 2) if fresh else None
            if distributed.is_main():
                write_json(row_file(into, point), bench.row(point, images, size=facts.get("size"), seconds=seconds))
                if use == "calibration":
                    write_table(folder, {p: read_json(f) for p in points if (f := row_file(into, p)).exists()})
        distributed.barrier()
        return {p: read_json(row_file(into, p)) for p in points}

    rows = measure(list(config.points()), folder / "points", "calibration", config.images)
    best = best_points(rows, plan.target_share, config.run.tolerance)
    again = list(dict.fromkeys([Point(mode="base"), *best.values()])) if config.confirm else []
    confirmed = measure(again, folder / "confirmed", "audit", config.confirm)
    result = _result(config, job, plan, bench, settings, rows) | {
        "command": command,
        "best": {name: rows[p] for name, p in best.items()},
        "confirmed": {p.name: row for p, row in confirmed.items()},
    }
    if distributed.is_main():
        write_table(folder, rows)
        write_json(folder / "sweep.json", result)
    distributed.barrier()
    return result


def write_table(folder: Path, rows: Mapping[Point, Row]) -> None:
    """`sweep.parquet`: a row per point."""
    with atomic(folder / "sweep.parquet") as temporary:
        table = pd.DataFrame(list(rows.values())).astype({"size": "Int64", "seconds": "float64"})
        table.to_parquet(temporary, index=False)


def begin_run(config: SweepConfig, folder: Path, point: Point, run: Path) -> RetargetConfig:
    """A retargeting of a point of the sweep in `folder`: its configuration, with pool and auxiliary copied into `run`.

    The strength of the point is left to the run's calibration, which its audit then tests on seeds of their own.
    """
    chosen = config.of(point)
    if not (run / "config.json").exists():
        shutil.copytree(folder / "pool", run / "pool", dirs_exist_ok=True)
        size = size_name(point.size)
        state = snapshot_folder(folder / f"auxiliary-{size}", point.budget)
        shutil.copytree(state, run / "auxiliary", dirs_exist_ok=True)
        earlier = read_json(folder / f"auxiliary-{size}" / "training.json")
        # What the run would train is that state: the rate is constant, so a longer budget does not change it.
        settings = {k: v for k, v in earlier.items() if k != "snapshots"}
        settings["train"] = asdict(finetune_settings(chosen, point.budget))
        settle_settings(run / "auxiliary" / "training.json", settings)
    return chosen


def _models(
    config: SweepConfig, job: Job, folder: Path, plan: SweepPlan, pool: Pool, probabilities: np.ndarray,
    points: Iterable[Point], report: Report,
) -> Iterator[tuple[Point, Denoiser, dict[str, Any]]]:  # fmt: skip
    """Each point with its denoiser and what identifies that; auxiliaries are fine-tuned when first needed."""
    aux, loaded, facts = job.base, None, _base_facts(job)
    for point in points:
        if point.mode == "base":
            yield point, job.base, _base_facts(job)
            continue
        if loaded != (point.size, point.budget):
            chosen = _synthetic_set(config, job, folder, plan, pool, probabilities, point.size)
            state = _fine_tune(config, job, folder, pool, chosen, point, report)
            aux, loaded = load_network(state).to(job.device), (point.size, point.budget)
            aux.precision = config.run.precision
            facts = {"digest": job.settings["base_digest"], "aux": checkpoint_digest(state), "size": len(chosen)}
        if point.mode == "auxiliary":
            yield point, aux, {"kind": "auxiliary", **facts}
        else:
            inside = {"interval": list(point.interval)} if point.interval else {}
            denoiser = combine_networks(job, aux, point.omega, mode=point.mode, interval=point.interval)
            yield point, denoiser, {"kind": point.mode, **facts, "strength": point.omega, **inside}


def _plan(config: SweepConfig, job: Job, probabilities: np.ndarray) -> SweepPlan:
    classifier = job.classifier
    if not config.steer:
        confusion = classifier.confusions[classifier.default_split]
        shares = corrected_shares(classifier.attribute.classes, predicted_counts(probabilities), confusion).share
        return SweepPlan(base=np.array(shares), target=None, complement=None)
    goal = set_goal(
        job.cells, [probabilities.argmax(axis=1)], job.confusions, job.targets,
        tolerance=config.run.tolerance, drift=config.run.drift,
    )  # fmt: skip
    complement = plan_complement(goal.base, goal.target, goal.cells.names, omega=config.run.omega, cap=config.run.cap)
    return SweepPlan(base=goal.base, target=goal.target, complement=complement)


def _synthetic_set(
    config: SweepConfig, job: Job, folder: Path, plan: SweepPlan, pool: Pool, probabilities: np.ndarray,
    size: int | None,
) -> np.ndarray:  # fmt: skip
    """Positions in the pool of a synthetic set of this size, and its table; smaller sets lie inside larger ones."""
    if plan.complement is not None:
        chosen = draw_complement(probabilities, plan.rho, size=size, floor=config.run.floor, seed=config.run.seed)
    elif size is not None and size > len(pool):
        raise InputError(f"the size {size} was asked for and the pool has {len(pool)} images; give a larger --pool")
    else:
        chosen = np.arange(len(pool) if size is None else size)
    classes = job.classifier.attribute.classes
    table = pd.DataFrame(
        {
            "seed": pool.seeds[chosen],
            job.classifier.attribute.name: [classes[k] for k in probabilities[chosen].argmax(axis=1)],
            "probability": probabilities[chosen].max(axis=1),
        }
    )
    path = folder / f"set-{size_name(size)}.parquet"
    with distributed.main_first():
        if not path.exists():
            with atomic(path) as temporary:
                table.to_parquet(temporary, index=False)
    return chosen


def _fine_tune(
    config: SweepConfig, job: Job, folder: Path, pool: Pool, chosen: np.ndarray, point: Point, report: Report
) -> Path:
    """The checkpoint of a point's auxiliary: the state after its budget of the one fine-tune on its set."""
    name = f"auxiliary-{size_name(point.size)}"
    settings = finetune_settings(config.run, config.budgets[-1])
    recipe = {"kind": "auxiliary", "base_digest": job.settings["base_digest"]}
    network = load_network(config.run.model).to(job.device)
    data = pool_dataset(pool).subset(chosen, name="complement")
    for tick in train_folder(network, data, settings, folder / name, recipe=recipe, snapshots=config.budgets):
        report(name, tick.nimg, settings.steps * settings.batch_size)
    return snapshot_folder(folder / name, point.budget)


def _result(
    config: SweepConfig, job: Job, plan: SweepPlan, bench: Bench, settings: dict[str, Any], rows: Mapping[Point, Row]
) -> dict[str, Any]:
    """What `sweep.json` says about all points together."""
    classes, run = job.classifier.attribute.classes, config.run
    seeds = {"pool": run.seeds("pool", run.pool), "points": run.seeds("calibration", config.images)}
    seeds |= {"confirmed": run.seeds("audit", config.confirm)} if config.confirm else {}
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "fairsims": __version__,
        "settings": settings,
        "grid": config.as_dict(),
        "seeds": {use: [s[0], s[-1]] for use, s in seeds.items()},
        "attribute": job.classifier.attribute.name,
        "classes": list(classes),
        "pool_shares": as_mapping(plan.base, classes),
        "target": None if plan.target is None else as_mapping(plan.target, classes),
        "focus": [c for c, grows in zip(classes, plan.focus, strict=True) if grows],
        "target_share": plan.target_share,
        "plan": None,
        "quality": None,
        "base": rows[Point(mode="base")],
    }
    if plan.complement is not None:
        result["plan"] = asdict(plan.complement) | {
            "complement": as_mapping(plan.complement.complement, classes),
            "reachable": as_mapping(plan.complement.reachable, classes),
        }
    real = bench.reference if distributed.is_main() else None
    if real is not None and job.reference is not None:
        named = {"name": job.reference.name, "digest": job.reference.digest, "labels": bench.labelled_by}
        result["quality"] = {
            "metric": f"FD ({job.classifier.name} features)",
            "reference": named | real.facts(),
            "precision_recall": {"k": real.k, "n": min(config.images, len(real.features))},
        }
    return result


def _sample(
    folder: Path, denoiser: Denoiser, job: Job, use: str, n: int, facts: dict[str, Any], report: Report, stage: str
) -> Pool:
    seeds = job.config.seeds(use, n)
    for done in write_pool(
        folder, denoiser, seeds, made_by=facts, sampler=job.sampler, batch_size=job.config.sample_batch
    ):
        report(stage, done, n)
    return Pool(folder)


def _base_facts(job: Job) -> dict[str, Any]:
    return {"kind": "base", "digest": job.settings["base_digest"]}
