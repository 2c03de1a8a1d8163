"""What the commands call: single stages put together from the rooms, and a whole retargeting with its report."""

from __future__ import annotations

import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from fairsims.audit.command import shares_of
from fairsims.audit.joint import Cells
from fairsims.audit.result import AuditResult, load_audit
from fairsims.audit.sources import label_source
from fairsims.audit.targets import Target, as_mapping, describe, parse_target
from fairsims.classifiers import AttributeClassifier
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.pools import Pool
from fairsims.report.publish import publish
from fairsims.retarget.compare import compare
from fairsims.retarget.complement import ComplementPlan, draw_complement, plan_complement
from fairsims.retarget.config import check_complement
from fairsims.retarget.grid import SweepConfig
from fairsims.retarget.job import Job, combine_networks
from fairsims.retarget.pipeline import most_rounds, retarget
from fairsims.retarget.plan import seed_ranges
from fairsims.retarget.stages import write_set
from fairsims.retarget.sweep import sweep
from fairsims.run import Progress, Run, new_run_folder
from fairsims.seeds import noise_for


def _has_columns(path: Path, columns: list[str]) -> bool:
    """Whether a file is a Parquet table of these columns."""
    try:
        return list(pq.read_schema(path).names) == columns
    except (OSError, ValueError):
        return False


def complement_positions(pool: Pool, table: Path) -> np.ndarray:
    """Positions in the pool of the seeds in a `complement.parquet`. Raises InputError when one is not in the pool."""
    if not table.is_file():
        raise InputError(f"{table} is missing; make it with `fairsims complement`")
    try:
        seeds = pd.read_parquet(table)["seed"].to_numpy()
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{table} is no table of seeds ({e}); make it with `fairsims complement`") from None
    place = {int(s): i for i, s in enumerate(pool.seeds)}
    missing = [int(s) for s in seeds if int(s) not in place]
    if missing:
        raise InputError(
            f"{table} names seed {missing[0]}, which is not in {pool.folder}; use the pool it was drawn from"
        )
    return np.array([place[int(s)] for s in seeds])


def make_complement(
    pool: Pool, classifier: AttributeClassifier, target: str, out: Path, *, omega: float | None, cap: float,
    floor: float, size: int | None, seed: int,
) -> tuple[ComplementPlan, dict[str, Any]]:  # fmt: skip
    """Plan the complement of a target and draw it from a labelled pool into a Parquet table.

    Raises ValueError as `check_complement`, InputError where `out` is anything but a complement of the same attribute.
    """
    check_complement(omega=omega, cap=cap, floor=floor, size=size)
    if out.exists() and not _has_columns(out, ["seed", classifier.attribute.name, "probability"]):
        raise InputError(
            f"{out} is no earlier complement of {classifier.attribute.name}; it is not written over, give a new name"
        )
    classes = classifier.attribute.classes
    parsed = parse_target(target, classifier.attribute)
    pi = np.array(shares_of(pool, classifier).share)
    tau = parsed.resolve(pi)
    plan = plan_complement(pi, tau, classes, omega=omega, cap=cap)
    cells, of = Cells(attributes=(classifier.attribute,)), [label_source(pool, classifier)]
    chosen = draw_complement(
        cells.probabilities(of), np.array(plan.complement), size=size, floor=floor, seed=seed, names=classes
    )
    write_set(out, pool, cells, of, chosen)
    facts = {"base": as_mapping(pi, classes), "target": as_mapping(tau, classes), "size": len(chosen)}
    return plan, facts | asdict(plan) | {"complement": as_mapping(plan.complement, classes)}


def find_run(job: Job, root: Path) -> Path:
    """The run under `root` that these settings began, else a new numbered folder."""
    for folder in sorted(root.glob(f"[0-9][0-9][0-9][0-9][0-9]-{job.config.label}")):
        path = folder / "config.json"
        if not path.exists() or read_json(path) == job.settings:
            return folder
    return new_run_folder(root, job.config.label)


def run_retarget(job: Job, run: Path, *, report: Progress, command: str) -> AuditResult:
    """A whole retargeting with its report. A finished run is read, not repeated.

    Raises ChangedSettings when the folder holds a run with other settings.
    """
    if Run.is_finished(run, job.settings):
        return load_audit(run)
    return retarget(job, run, progress=report, publish=partial(publish, reference=job.reference), command=command)


def run_compare(job: Job, out: Path, *, report: Progress, command: str) -> dict[str, Any]:
    """A whole comparison with its table and figure. A finished one is read, not repeated."""
    # Drawing imports seaborn.
    from fairsims.report.comparison import write_comparison

    if Run.is_finished(out, job.settings):
        return read_json(out / "compare.json")
    return compare(job, out, progress=report, publish=write_comparison, command=command)


def run_sweep(config: SweepConfig, out: Path, *, report: Progress, command: str) -> dict[str, Any]:
    """A whole sweep with its figures."""
    # Drawing imports seaborn, which takes longer than all else here.
    from fairsims.report.sweep_figures import sweep_figures

    return sweep(config, out, progress=report, publish=sweep_figures, command=command)


def dry_run(job: Job) -> dict[str, Any]:
    """The resolved plan and what it will cost, from a short measurement of the network on this machine."""
    config = job.config
    x, sigma = noise_for(range(config.sample_batch), job.base.shape).to(job.device), torch.ones(1, device=job.device)
    with torch.inference_mode():
        job.base(x, sigma)
        start = time.perf_counter()
        for _ in range(3):
            job.base(x, sigma)
    rate = 3 * len(x) / (time.perf_counter() - start)
    nfe = job.sampler.evaluations(job.base)
    # The base stands in for the auxiliary: their networks are the same.
    after = job.sampler.evaluations(combine_networks(job, job.base, 1.0, mode=config.mode, interval=config.interval))
    # Of more than one round only the measured error tells whether they are needed: counted as if they were.
    rounds = most_rounds(job)
    forwards = {
        "pool": config.pool * nfe,
        # A training step costs about three forwards: one forward, and a backward of twice its work.
        "auxiliary": rounds * round(config.budget * 1000) * 3,
        "calibration": rounds * sum(config.pilots) * after,
        "before": config.audit * nfe,
        "after": config.audit * after,
    }
    wanted = [_wanted(t) for t in job.targets] + ["as it is"] * len(config.hold)
    return {
        "settings": job.settings,
        **(
            {"classifier": job.classifier.name, "target": wanted[0]}
            if len(wanted) == 1
            else {
                "classifiers": [c.name for c in job.classifiers],
                "targets": {t.attribute.name: w for t, w in zip(job.targets, wanted, strict=False)},
                "held": list(config.hold),
                "cells": job.cells.size,
            }
        ),
        "seeds": seed_ranges(config),
        "rounds_at_most": rounds,
        "forwards": forwards,
        "forwards_per_second": round(rate),
        "estimated_seconds": {k: round(v / rate) for k, v in forwards.items()},
        "estimated_total_seconds": round(sum(forwards.values()) / rate),
    }


def _wanted(target: Target) -> str:
    """A target in words, before the base's shares are known."""
    if target.shares is not None:
        return describe(target.shares, target.attribute.classes)
    return "uniform" if target.number is None else f"{target.number:g} of the rarer class"
