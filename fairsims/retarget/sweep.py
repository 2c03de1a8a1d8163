"""The sweep behind `fairsims sweep`: share and quality over budgets, strengths and synthetic set sizes, a row a point.

One fine-tune per size serves every budget, by the states on its way. The pool, its labels and the reference's features
are made once. What is finished is read, not repeated: the same call goes on where a killed one stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairsims import __version__, engine
from fairsims.audit.targets import as_mapping
from fairsims.errors import InputError
from fairsims.files import now, read_json, write_json
from fairsims.models import open_checkpoint
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import Point, SweepConfig, size_name
from fairsims.retarget.opening import check_interval, prepare
from fairsims.retarget.points import Points, Row, best_points, write_table
from fairsims.retarget.retargeting import fine_tuning
from fairsims.retarget.sweep_arms import arm_settings, open_arms
from fairsims.retarget.sweep_quality import open_extractors
from fairsims.run import Progress, Run, silent
from fairsims.training.folder import snapshot_folder

FORMAT = "fairsims-sweep/1"
UNUSED = (
    *("mode", "interval", "budget", "complement_size", "calibration", "audit", "power", "rounds"),
    *("tolerance", "drift", "others"),
)
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
    work = prepare(config.run, each=False)
    for interval in config.intervals:
        check_interval(work, interval)
    if not config.steer and work.reference is None:
        raise InputError(
            "without a target there is quality alone to measure, and no real data for it; give --reference"
        )
    guides, extractors = open_arms(config, work), open_extractors(config.features, work)
    settings = {k: v for k, v in work.settings.items() if k not in UNUSED}
    settings |= {"images": config.images, "budgets": list(config.budgets)}
    settings |= ({} if config.steer else {"target": "base"}) | arm_settings(config, guides)
    with engine.main_first():
        work.run = Run(folder, settings, progress=progress, main=engine.is_main())
    with work.run as run:
        _ = work.pool
        with run.stage("points"):
            points = Points.of(config, work, guides, extractors)
            rows = points.measure(list(config.points()), folder / "points", "calibration", config.images)
            best = best_points(rows, points.target_share, config.run.tolerance)
            again = list(dict.fromkeys([Point(mode="base"), *best.values()])) if config.confirm else []
            # A folder per number of images: another number is another measurement.
            confirmed = points.measure(again, folder / f"confirmed-{config.confirm}", "audit", config.confirm)
            result = _result(points, settings, rows) | {
                "best": {name: rows[p] for name, p in best.items()},
                "confirmed": {p.name: row for p, row in confirmed.items()},
                "command": command,
            }
            if run.main:
                write_table(folder, list(rows.values()))
                write_json(folder / "sweep.json", result)
                publish(folder)
        run.finish()
        engine.barrier()
    return result


def begin_run(config: SweepConfig, folder: Path, point: Point, run: Path) -> RetargetConfig:
    """A retargeting of a point of the sweep in `folder`: its configuration, with pool and auxiliary copied into `run`.

    The strength of the point is left to the run's calibration, which its audit then tests on seeds of their own.
    """
    chosen = config.of(point)
    if not (run / "config.json").exists():
        shutil.copytree(folder / "pool", run / "pool", dirs_exist_ok=True)
        trained = folder / f"auxiliary-{size_name(point.size)}"
        shutil.copytree(snapshot_folder(trained, point.budget), run / "auxiliary", dirs_exist_ok=True)
        # What the run would train is that state: the rate is constant, so a longer budget does not change it.
        settings = {k: v for k, v in read_json(trained / "training.json").items() if k != "snapshots"}
        settings["train"] = fine_tuning(chosen, open_checkpoint(chosen.model).recipe, point.budget).as_dict()
        write_json(run / "auxiliary" / "training.json", settings)
    return chosen


def _result(points: Points, settings: Mapping[str, Any], rows: Mapping[Point, Row]) -> dict[str, Any]:
    """What `sweep.json` says about all points together."""
    config, work, plan = points.config, points.work, points.arms.complement
    classes, run = work.classifier.attribute.classes, config.run
    seeds = {"pool": run.seeds("pool", run.pool), "points": run.seeds("calibration", config.images)}
    seeds |= {"confirmed": run.seeds("audit", config.confirm)} if config.confirm else {}
    result: dict[str, Any] = {
        "format": FORMAT,
        "created": now(),
        "fairsims": __version__,
        "settings": settings,
        "grid": config.as_dict(),
        "seeds": {use: [s[0], s[-1]] for use, s in seeds.items()},
        "attribute": work.classifier.attribute.name,
        "classes": list(classes),
        "pool_shares": as_mapping(points.base, classes),
        "target": None if points.target is None else as_mapping(points.target, classes),
        "focus": [c for c, grows in zip(classes, points.focus, strict=True) if grows],
        "target_share": points.target_share,
        "plan": None,
        "quality": None,
        "base": rows[Point(mode="base")],
    }
    if plan is not None:
        mixes = {name: as_mapping(getattr(plan, name), classes) for name in ("complement", "reachable")}
        result["plan"] = asdict(plan) | mixes
    if work.run.main and points.quality is not None:
        result["quality"] = points.quality.facts(config.images)
        result["quality"]["reference"] |= {"labels": points.weights[1]}
    return result
