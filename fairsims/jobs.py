"""What the commands call: single stages put together from the rooms, and a whole retargeting with its report."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from fairsims import engine
from fairsims.audit.command import shares_of
from fairsims.audit.joint import Cells
from fairsims.audit.result import AuditResult, load_audit
from fairsims.audit.sources import label_source
from fairsims.audit.targets import Target, as_mapping, describe, parse_target
from fairsims.classifiers import AttributeClassifier
from fairsims.data import ImageDataset, open_dataset, to_float
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.models import (
    Denoiser,
    EDMDenoiser,
    NetworkDenoiser,
    checkpoint_digest,
    checkpoint_recipe,
    load_checkpoint,
    load_network,
    merge,
    save_checkpoint,
    save_guided,
)
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool, pool_dataset, write_pool
from fairsims.report.publish import publish
from fairsims.retarget.compare import compare
from fairsims.retarget.complement import ComplementPlan, draw_complement, plan_complement
from fairsims.retarget.config import check_complement
from fairsims.retarget.grid import SweepConfig
from fairsims.retarget.job import Job, combine_networks, learnt_mirrored
from fairsims.retarget.pipeline import most_rounds, retarget
from fairsims.retarget.plan import seed_ranges
from fairsims.retarget.stages import write_set
from fairsims.retarget.sweep import sweep
from fairsims.run import Progress, Run, new_run_folder, refuse_foreign
from fairsims.seeds import derive, noise_for
from fairsims.training import Tick, TrainConfig, finetune_config, train_folder
from fairsims.training.augmentation import AUGMENT_DIM
from fairsims.training.presets import preset


def train_base(
    out: Path, *, preset_name: str | None = None, data: str | None = None, resolution: int | None = None,
    init: str | None = None, network: Mapping[str, Any] | None = None, settings: Mapping[str, Any] | None = None,
    compiled: bool = False,
) -> Iterator[Tick]:  # fmt: skip
    """Train a base into a checkpoint folder, resuming what a killed run left.

    From a preset, or on any `data`; `network` (arguments of EDMDenoiser) and `settings` (fields of TrainConfig) change
    what the preset says. With `init` training starts from that checkpoint's network.
    Raises InputError when something needed is not given or does not fit.
    """
    recipe = preset(preset_name) if preset_name else None
    data = data or (recipe.data if recipe else None)
    if data is None:
        raise InputError(
            f"no data for preset {preset_name!r}; give --data"
            if recipe
            else "nothing to train on; give --preset or --data"
        )
    settings, network = dict(settings or {}), dict(network or {})
    if recipe is None and "kimg" not in settings:
        raise InputError("no budget; give --kimg, thousands of images")
    if init is not None:
        # A ramp is for weights that start at random; an inherited one would starve a short training.
        settings = {"warmup_kimg": 0.0} | settings
    config = replace(recipe.train, **settings) if recipe else TrainConfig(**(_rhythm(settings["kimg"]) | settings))
    dataset = open_dataset(data, resolution=resolution or (recipe.resolution if recipe else None))
    facts: dict[str, Any] = ({"preset": preset_name} if recipe else {}) | {"data": data}
    if init is not None:
        if network:
            raise InputError(f"found {', '.join(network)} beside --init; its network is taken as it is, give only one")
        denoiser, facts["init_digest"] = load_on_device(init), checkpoint_digest(init)
    else:
        if network or recipe is None:
            facts["network"] = network
        network = (recipe.network if recipe else {}) | network
        torch.manual_seed(derive(config.seed, "init"))
        denoiser = new_network(dataset, config, network).to(engine.device())
    if compiled:
        compile_networks(denoiser)
    yield from train_folder(denoiser, dataset, config, out, recipe=facts)


def _rhythm(kimg: float) -> dict[str, float]:
    """How often a training without a preset reports and saves its state."""
    return {"tick_kimg": max(0.05, min(4, kimg / 40)), "state_kimg": max(0.05, min(16, kimg / 8), kimg / 1000)}


def new_network(dataset: ImageDataset, config: TrainConfig, network: Mapping[str, Any]) -> EDMDenoiser:
    """An untrained network for a data set. Raises InputError when the arguments do not fit each other or the images."""
    arguments = {"img_resolution": dataset.resolution, "img_channels": dataset.channels, **network}
    if config.augment:
        arguments["augment_dim"] = AUGMENT_DIM
    if "sigma_data" not in arguments:
        # The deviation of the pixels from evenly spaced images; rounded, since it ends up in a configuration.
        sample = np.unique(np.linspace(0, len(dataset) - 1, 2048).astype(int))
        arguments["sigma_data"] = max(0.05, round(float(to_float(dataset.read(sample)).std()), 2))
    try:
        return EDMDenoiser(**arguments)
    except (TypeError, ValueError) as e:
        raise InputError(f"the options make no network ({e}); change them") from None


def finetune_pool(
    model: str, pool: Pool, complement: Path | None, out: Path, *, budget: float, settings: Mapping[str, Any],
    compiled: bool = False,
) -> Iterator[Tick]:  # fmt: skip
    """Fine-tune a copy of `model` on a pool, or on the part of it that a complement table names.

    `settings` (fields of TrainConfig) change the defaults of `finetune_config`.
    """
    data = pool_dataset(pool)
    if complement is not None:
        data = data.subset(complement_positions(pool, complement), name="complement")
    config = finetune_config(budget, **({"xflip": learnt_mirrored(model)} | dict(settings)))
    aux = load_on_device(model)
    if compiled:
        compile_networks(aux)
    yield from train_folder(
        aux, data, config, out, recipe={"kind": "auxiliary", "base_digest": checkpoint_digest(model)}
    )


def load_on_device(model: str) -> NetworkDenoiser:
    """A single network on this process's device; under torchrun rank 0 fills the cache of imported ones first."""
    with engine.main_first():
        return load_network(model).to(engine.device())


def compile_networks(denoiser: Denoiser) -> None:
    """Have torch.compile translate the raw networks at their first use; names of weights stay as they are.

    Raises InputError without a C++ compiler, which it needs for GPUs too.
    """
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise InputError("found no C++ compiler, which torch.compile needs; install g++, or leave --compile out")
    for part in denoiser.modules():
        if isinstance(part, NetworkDenoiser):
            part.get_submodule("model").compile()


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


def generate_pool(
    model: str, out: Path, seeds: range, *, sampler: SamplerConfig, batch_size: int, precision: str,
    compiled: bool = False,
) -> Iterator[int]:  # fmt: skip
    """Sample a checkpoint's images into a pool; yields the number finished."""
    with engine.main_first():
        denoiser = load_checkpoint(model).to(engine.device())
    denoiser.precision = precision
    made_by: dict[str, Any] = {"kind": "checkpoint", "digest": checkpoint_digest(model)}
    if compiled:
        compile_networks(denoiser)
        made_by["compiled"] = True  # rounds differently
    yield from write_pool(out, denoiser, seeds, made_by=made_by, sampler=sampler, batch_size=batch_size)


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


def combine(model: str, aux: Path, strength: float, out: Path, *, mode: str) -> str:
    """Write the merged network or the guided pair as a checkpoint folder; returns its digest.

    Raises InputError when `out` holds anything but the outcome of the same call.
    """
    if not np.isfinite(strength) or strength < 0:
        raise InputError(f"strength is {strength}; expected 0 or more")
    recipe = {"kind": mode, "strength": strength, "base_digest": checkpoint_digest(model)}
    recipe |= {"aux_digest": checkpoint_digest(aux), "data": checkpoint_recipe(model).get("data")}
    config = out / "config.json"
    if config.is_file() and read_json(config).get("recipe") == recipe:
        return checkpoint_digest(out)
    refuse_foreign(out)
    base, auxiliary = load_network(model), load_network(aux)
    if mode == "merged":
        save_checkpoint(out, merge(base, auxiliary, strength), recipe=recipe)
    else:
        where = str(Path(model).resolve()) if Path(model).exists() else model
        save_guided(out, where, str(aux.resolve()), strength, recipe=recipe)
    return checkpoint_digest(out)


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
