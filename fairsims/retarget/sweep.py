"""The sweep behind `fairsims sweep`: share and quality over budgets, strengths and synthetic set sizes, a row a point.

One fine-tune per size serves every budget, by the states on its way. The pool, its labels and the reference's features
are made once. What is finished is read, not repeated: the same call goes on where a killed one stopped.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import __version__, engine
from fairsims.audit.neighbours import K
from fairsims.audit.shares import corrected_shares
from fairsims.audit.sources import label_source, predicted_counts
from fairsims.audit.targets import as_mapping
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.models import Denoiser
from fairsims.pools import Pool
from fairsims.retarget.complement import draw_complement
from fairsims.retarget.config import MODES, RetargetConfig
from fairsims.retarget.grid import Point, SweepConfig, size_name
from fairsims.retarget.job import Job, check_interval, finetune_settings, prepare
from fairsims.retarget.rows import Bench, Row, SweepPlan, best_points, linear_rule, row_file
from fairsims.retarget.stages import (
    base_facts,
    fine_tune,
    first_plan,
    labels,
    load_auxiliary,
    retargeting,
    retargeting_facts,
    sample,
    write_set,
)
from fairsims.run import Progress, Run, silent
from fairsims.training.folder import snapshot_folder

FORMAT = "fairsims-sweep/1"
UNUSED = ("mode", "interval", "budget", "complement_size", "pilots", "audit", "rounds", "tolerance", "drift")
"""Settings of a run that the grid has, or that a sweep does not use."""


Publish = Callable[[Path], object]
"""(folder): makes figures of its `sweep.json` and `sweep.parquet`."""


def sweep(
    config: SweepConfig,
    folder: Path,
    *,
    progress: Progress = silent,
    publish: Publish = lambda _: None,
    command: str = "",
) -> dict[str, Any]:
    """Measure every point of the grid into `folder`; returns the content of its `sweep.json`.

    `sweep.parquet` has a row per point. Other strengths, sizes, modes and intervals may be asked for on the same
    folder: points that are there are read, the others made. Raises ChangedSettings when anything else has changed,
    InputError when a size is larger than the pool or there is nothing to measure quality against.
    """
    job = prepare(config.run)
    for interval in config.intervals:
        check_interval(job, interval)
    if not config.steer and job.reference is None:
        raise InputError(
            "without a target there is quality alone to measure, and no real data for it; give --reference"
        )
    settings = {k: v for k, v in job.settings.items() if k not in UNUSED}
    settings |= {"images": config.images, "budgets": list(config.budgets)} | (
        {} if config.steer else {"target": "base"}
    )
    with engine.main_first():
        run = Run(folder, settings, progress=progress, main=engine.is_main())
    with run:
        with run.stage("points"):
            result = _measured(config, job, folder, settings, progress) | {"command": command}
            if engine.is_main():
                write_json(folder / "sweep.json", result)
                publish(folder)
        run.finish()
    engine.barrier()
    return result


def _measured(
    config: SweepConfig, job: Job, folder: Path, settings: dict[str, Any], progress: Progress
) -> dict[str, Any]:
    """Every point, the best of them again where that is asked for, and what `sweep.json` says."""
    pool = sample(folder / "pool", job.base, job, "pool", config.run.pool, base_facts(job), progress, "pool")
    plan = _plan(config, job, pool)
    bench = Bench(folder, job, plan)

    def read(into: Path, point: Point) -> Row:
        """A finished point's row."""
        row = read_json(row_file(into, point))
        # Its auxiliary may have been measured after it.
        if point.mode in MODES and plan.target is not None and row["linear_measured"] is None:
            auxiliary = row_file(folder / "points", Point(mode="auxiliary", size=point.size, budget=point.budget))
            if auxiliary.exists():
                of_auxiliary = read_json(auxiliary)
                shares = np.array([of_auxiliary[f"share.{c}"] for c in job.classifier.attribute.classes])
                row["linear_measured"] = float(linear_rule(plan.base, shares, point.omega)[plan.focus].sum())
        return row

    def measure(points: Sequence[Point], into: Path, use: str, n: int) -> dict[Point, Row]:
        """Rows of the points, those there are and those that have to be made: images of `use` seeds in `into`."""
        with engine.main_first():
            wanted = [p for p in points if not row_file(into, p).exists()]
        for point, denoiser, facts in _models(config, job, folder, plan, pool, wanted, progress):
            started, fresh = time.perf_counter(), not (into / point.name).exists()
            images = sample(into / point.name, denoiser, job, use, n, facts, progress, point.name)
            # Of a point that a kill cut in two the time is not known.
            seconds = round(time.perf_counter() - started, 2) if fresh else None
            if engine.is_main():
                write_json(row_file(into, point), bench.row(point, images, size=facts.get("size"), seconds=seconds))
                if use == "calibration":
                    write_table(folder, {p: read(into, p) for p in points if row_file(into, p).exists()})
        engine.barrier()
        return {p: read(into, p) for p in points}

    rows = measure(list(config.points()), folder / "points", "calibration", config.images)
    best = best_points(rows, plan.target_share, config.run.tolerance)
    again = list(dict.fromkeys([Point(mode="base"), *best.values()])) if config.confirm else []
    # A folder per number of images: another number is another measurement.
    confirmed = measure(again, folder / f"confirmed-{config.confirm}", "audit", config.confirm)
    if engine.is_main():
        write_table(folder, rows)
    return _result(config, job, plan, bench, settings, rows) | {
        "best": {name: rows[p] for name, p in best.items()},
        "confirmed": {p.name: row for p, row in confirmed.items()},
    }


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
        write_json(run / "auxiliary" / "training.json", settings)
    return chosen


def _models(
    config: SweepConfig,
    job: Job,
    folder: Path,
    plan: SweepPlan,
    pool: Pool,
    points: Iterable[Point],
    progress: Progress,
) -> Iterator[tuple[Point, Denoiser, dict[str, Any]]]:
    """Each point with its denoiser and what identifies that; auxiliaries are fine-tuned when first needed."""
    loaded: tuple[int | None, float] | None = None
    for point in points:
        if point.mode == "base":
            yield point, job.base, base_facts(job)
            continue
        if loaded != (point.size, point.budget):
            chosen = _synthetic_set(config, job, folder, plan, pool, point.size)
            trained = folder / f"auxiliary-{size_name(point.size)}"
            fine_tune(job, pool, chosen, trained, progress, kimg=config.budgets[-1], snapshots=config.budgets)
            aux = load_auxiliary(job, snapshot_folder(trained, point.budget))
            loaded = (point.size, point.budget)
        of_set = {"size": len(chosen)}
        if point.mode == "auxiliary":
            yield point, aux.network, base_facts(job) | {"kind": "auxiliary", "aux": aux.digest} | of_set
        else:
            own = replace(job, config=config.of(point))
            facts = retargeting_facts(own, aux, point.omega) | of_set
            yield point, retargeting(own, aux, point.omega), facts


def _plan(config: SweepConfig, job: Job, pool: Pool) -> SweepPlan:
    if config.steer:
        goal, complement = first_plan(job, pool)
        return SweepPlan(base=goal.base, target=goal.target, complement=complement)
    counts = predicted_counts(label_source(pool, job.classifier))
    shares = corrected_shares(job.classifier.attribute.classes, counts, job.confusions[0]).share
    return SweepPlan(base=np.array(shares), target=None, complement=None)


def _synthetic_set(
    config: SweepConfig, job: Job, folder: Path, plan: SweepPlan, pool: Pool, size: int | None
) -> np.ndarray:
    """Positions in the pool of a synthetic set of this size, and its table; nested as `draw_complement` says."""
    of = labels(pool, job)
    if plan.complement is not None:
        chosen = draw_complement(
            job.cells.probabilities(of), plan.rho, size=size, floor=config.run.floor, seed=config.run.seed,
            names=job.cells.names,
        )  # fmt: skip
    elif size is not None and size > len(pool):
        raise InputError(f"the size {size} was asked for and the pool has {len(pool)} images; give a larger --pool")
    else:
        chosen = np.arange(len(pool) if size is None else size)
    path = folder / f"set-{size_name(size)}.parquet"
    with engine.main_first():
        if not path.exists():
            write_set(path, pool, job.cells, of, chosen)
    return chosen


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
    real = bench.reference if engine.is_main() else None
    if real is not None and job.reference is not None:
        named = {"name": job.reference.name, "digest": job.reference.digest, "labels": bench.labelled_by}
        result["quality"] = {
            "metric": f"FD ({job.classifier.name} features)",
            "reference": named | real.facts(),
            "precision_recall": {"k": K, "n": min(config.images, len(real.features))},
        }
    return result
