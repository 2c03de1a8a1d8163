"""The pipeline behind `fairsims retarget`: pool, complement, auxiliary, calibration, audit pools, audit.

Each stage leaves whole files; the same call on the same folder goes on where a killed one stopped. Where one strength
cannot serve all shares, complement, auxiliary and calibration have further rounds: `complement-2.json`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fairsims import engine
from fairsims.audit.compare import Aim, audit
from fairsims.audit.joint import joint_shares, rake, smoothed
from fairsims.audit.result import AuditResult, load_audit, save_audit
from fairsims.audit.targets import as_mapping, resampling_cost
from fairsims.errors import NoResponse
from fairsims.models import Denoiser, checkpoint_digest, checkpoint_recipe, merge, save_checkpoint, save_guided
from fairsims.pools import Pool
from fairsims.retarget.calibration import Calibration, Pilot, as_pilot, focus_values
from fairsims.retarget.complement import ComplementPlan, correct_complement
from fairsims.retarget.cost import stage_costs
from fairsims.retarget.goal import Goal
from fairsims.retarget.job import Job, prepare
from fairsims.retarget.pilots import pilot_quality
from fairsims.retarget.plan import READY_MADE, fix_plan
from fairsims.retarget.selection import Selection
from fairsims.retarget.stages import (
    Auxiliary,
    base_facts,
    calibrate_strength,
    draw_set,
    fine_tune,
    first_plan,
    kept_images,
    load_auxiliary,
    numbered,
    pilot_pools,
    predicted,
    remainder,
    retargeting,
    sample,
    selected_shares,
    shares_at,
)
from fairsims.run import Progress, Run, silent

__all__ = ["Job", "prepare", "retarget"]

Publish = Callable[[Path, AuditResult, Pool, Pool], None]
"""(run, audit, before, after)"""


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A round after the first whose auxiliary moves the shares nowhere; the earlier ones stand."""

    number: int
    plan: ComplementPlan
    size: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Round:
    """A complement, the auxiliary trained on it, and what its calibration measured."""

    number: int
    plan: ComplementPlan
    size: int
    """Images in the complement set."""
    aux: Auxiliary
    calibration: Calibration
    shares: np.ndarray
    """Shares over the cells at the chosen strength, from the largest pilot, `(cells,)`."""
    noise: list[np.ndarray]
    """Standard errors of each attribute's shares, `(K,)`."""
    error: float
    """The worst marginal share's distance from its target, in units of what it may be off."""


def retarget(
    job: Job,
    folder: Path,
    *,
    progress: Progress = silent,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> AuditResult:
    """Carry out a retargeting in `folder`; returns its audit.

    `publish` makes figures and pages of the result, before the manifest is written and the run counts as finished.

    Under torchrun every process samples and trains its part, rank 0 alone labels, audits and writes.
    Raises ChangedSettings when the folder holds a run with other settings or another plan, InfeasibleTarget or
    InputError when the target or the pool cannot serve, InputError when an earlier version began the run.
    """
    config = job.config
    with engine.main_first():
        run = Run(folder, job.settings, beside=READY_MADE, progress=progress, main=engine.is_main())
        fixed = fix_plan(folder, job, rounds=most_rounds(job))
    with run:
        with run.stage("pool"):
            pool = sample(folder / "pool", job.base, job, "pool", config.pool, base_facts(job), progress, "pool")
        goal, rounds, lost = _rounds(run, job, pool)
        best = min(rounds, key=lambda r: r.error)
        with run.stage("before"):
            before = kept_images(folder / "before", job.base, job, base_facts(job), None, progress, "before")
        with run.stage("after"):
            with engine.main_first():
                retargeted, facts = _retargeted(folder, job, best)
            # What classifier resampling then keeps of more seeds.
            selection = remainder(goal, best.calibration, best.shares, best.noise)
            after = kept_images(folder / "after", retargeted, job, facts, selection, progress, "after")
        with run.stage("audit"):
            if engine.is_main():
                said = {"model": config.model, "command": command, "plan": fixed}
                said |= {"method": _method(job, goal, best, selection)} | _calibration_facts(goal, rounds, lost, best)
                result = _audit(run, job, goal, best, pool, before, after, selection, said)
            progress("audit", 1, 1)
        if engine.is_main():
            publish(folder, result, before, after)
            run.finish()
        engine.barrier()
    return load_audit(folder)


def _rounds(run: Run, job: Job, pool: Pool) -> tuple[Goal, list[Round], Lost | None]:
    """Plan, train and calibrate, again from the measured error while that is too large and rounds are left."""
    rounds: list[Round] = []
    with run.stage("complement"):
        goal, plan = first_plan(job, pool)
        chosen = draw_set(run.folder, job, goal, pool, plan)
    for number in range(1, most_rounds(job) + 1):
        if number > 1:
            last = rounds[-1]
            with run.stage(f"complement-{number}"):
                # Not to the cells of the first plan: the targets are marginal, and single cells are noisy.
                plan = correct_complement(
                    goal.base, goal.mended(last.shares), np.array(last.plan.complement), last.shares,
                    strength=last.calibration.strength,
                )  # fmt: skip
                chosen = draw_set(run.folder, job, goal, pool, plan, number)
        with run.stage(numbered("auxiliary", number)):
            aux = _auxiliary(run, job, pool, chosen, number)
        pilots = run.folder / numbered("calibration", number)
        with run.stage(pilots.name):
            try:
                calibration = calibrate_strength(job, goal, aux, plan.omega, pool, pilots, run.progress)
            except NoResponse as e:
                if not rounds:
                    raise
                return goal, rounds, Lost(number=number, plan=plan, size=len(chosen), why=str(e))
            shares, noise = shares_at(job, goal, calibration, pilots)
        rounds.append(
            Round(
                number=number, plan=plan, size=len(chosen), aux=aux, calibration=calibration, shares=shares,
                noise=noise, error=goal.error(shares),
            )
        )  # fmt: skip
        if not goal.clearly_off(shares, noise):
            break
    return goal, rounds, None


def most_rounds(job: Job) -> int:
    """Fine-tunes at most: two shares are one number, which one strength serves."""
    return job.config.rounds if job.cells.size > 2 else 1


def _auxiliary(run: Run, job: Job, pool: Pool, chosen: np.ndarray, number: int) -> Auxiliary:
    """A round's auxiliary: trained alike from the base in each, so that what one answered says what the next will."""
    folder = run.folder / numbered("auxiliary", number)
    fine_tune(job, pool, chosen, folder, run.progress, kimg=job.config.budget)
    return load_auxiliary(job, folder)


def _retargeted(run_folder: Path, job: Job, best: Round) -> tuple[Denoiser, dict[str, Any]]:
    """The retargeted model, saved as a checkpoint of the run, and what identifies it."""
    folder, strength = run_folder / job.config.mode, best.calibration.strength
    recipe = {"kind": job.config.mode, "strength": strength, "base_digest": job.settings["base_digest"]}
    recipe["data"] = checkpoint_recipe(job.config.model).get("data")
    if not (folder / "config.json").exists():
        if job.config.mode == "merged":
            save_checkpoint(folder, merge(job.base, best.aux.network, strength), recipe=recipe)
        else:
            given = Path(job.config.model)
            base = str(given.resolve()) if given.exists() else job.config.model
            save_guided(
                folder, base, f"../{best.aux.folder.name}", strength, interval=job.config.interval, recipe=recipe
            )
    facts = {"kind": job.config.mode, "digest": checkpoint_digest(folder), "strength": strength}
    return retargeting(job, best.aux, strength), facts


def _audit(
    run: Run, job: Job, goal: Goal, best: Round, pool: Pool, before: Pool, after: Pool, selection: Selection | None,
    facts: dict[str, Any],
) -> AuditResult:  # fmt: skip
    config = job.config
    rule = None
    if selection is not None:
        candidates = Pool(run.folder / "candidates")
        rule = selected_shares(job, candidates, after)
        facts["method"]["generated"] = _by_attribute(goal, goal.measured(predicted(candidates, job)))
    plans = [
        Aim(
            target=goal.wanted[k] if k < len(job.targets) else None,
            tolerance=config.tolerance, drift=config.drift,
        )
        for k in range(len(job.classifiers))
    ]  # fmt: skip
    if "controlled" in facts and selection is None:
        values = focus_values(predicted(after, job), goal.confusion, goal.focus)
        facts["controlled"]["after"] = _interval(as_pilot(values, best.calibration.strength))
    with TemporaryDirectory(prefix="fairsims-") as store:
        found = audit(
            before,
            after,
            job.classifier,
            plans[0],
            others=list(zip(job.classifiers, plans, strict=True))[1:],
            reference=job.reference,
            after_shares=rule,
            store=Path(store),
        )
        result = found.to_json() | facts
        if job.reference is not None:
            targets = list(zip(job.classifiers, goal.wanted[: len(job.targets)], strict=False))
            pilots = pilot_pools(best.calibration, pool, run.folder / numbered("calibration", best.number))
            measured = pilot_quality(pilots, job.reference, targets, Path(store))
            result["calibration"] = [p | q for p, q in zip(facts["calibration"], measured, strict=True)]
    nfe = {"before": before.meta["evaluations_per_image"], "after": after.meta["evaluations_per_image"]}
    kept_cost = _resampling_cost(job, goal, before)
    result["cost"] = {
        "before": {"evaluations_per_image": nfe["before"]},
        "after": {
            "evaluations_per_image": nfe["after"],
            "images_per_kept": selection.images_per_kept if selection else 1.0,
        },
        **stage_costs(run),
    }
    if np.isfinite(kept_cost):
        result["cost"]["resampling_base"] = {
            "images_per_kept": kept_cost, "evaluations_per_kept": kept_cost * nfe["before"]
        }  # fmt: skip
    whole = AuditResult.from_json(result)
    save_audit(run.folder, whole)
    return whole


def _method(job: Job, goal: Goal, best: Round, selection: Selection | None) -> dict[str, Any]:
    config, plan = job.config, best.plan
    return {
        "mode": config.mode,
        "strength": best.calibration.strength,
        "expected_share": best.calibration.share,
        "planned_omega": plan.omega,
        "least_omega": plan.least_omega,
        "cap": config.cap,
        "complement": as_mapping(plan.complement, goal.cells.names),
        "complement_size": best.size,
        "budget_kimg": config.budget,
        "reason": plan.reason,
        "resampled": selection is not None,
    } | ({"interval": list(config.interval)} if config.interval else {})


def _calibration_facts(goal: Goal, rounds: list[Round], lost: Lost | None, best: Round) -> dict[str, Any]:
    """The pilots of the round that was kept; with more than two shares also what they steer by, and every round."""
    pilots = [{"strength": p.strength} | _interval(p) | {"n": p.n} for p in best.calibration.pilots]
    if goal.cells.size == 2:
        return {"calibration": pilots}
    names, focus = np.array(goal.cells.names), goal.focus
    controlled = {"cells": names[focus].tolist(), "target": float(goal.target[focus].sum())}
    tried = [
        _planned(r, goal)
        | {
            "kept": r is best,
            "strength": r.calibration.strength,
            "error": r.error,
            "shares": _by_attribute(goal, r.shares),
            "reason": r.plan.reason,
        }
        for r in rounds
    ]
    if lost is not None:
        none: dict[str, Any] = {"kept": False, "strength": None, "error": None, "shares": {}}
        tried.append(_planned(lost, goal) | none | {"reason": f"{lost.plan.reason}; not kept: {lost.why}"})
    return {"calibration": pilots, "controlled": controlled, "rounds": tried}


def _planned(of: Round | Lost, goal: Goal) -> dict[str, Any]:
    return {
        "round": of.number,
        "planned_omega": of.plan.omega,
        "complement": as_mapping(of.plan.complement, goal.cells.names),
        "complement_size": of.size,
    }


def _by_attribute(goal: Goal, shares: np.ndarray) -> dict[str, Mapping[str, float]]:
    """Shares over the cells `(cells,)` as those of each attribute's classes."""
    marginals = zip(goal.cells.attributes, goal.cells.marginals(shares), strict=True)
    return {a.name: as_mapping(marginal, a.classes) for a, marginal in marginals}


def _interval(pilot: Pilot) -> dict[str, float]:
    half = 1.96 * pilot.se
    return {"share": pilot.share, "low": pilot.share - half, "high": pilot.share + half}


def _resampling_cost(job: Job, goal: Goal, before: Pool) -> float:
    """Images of the base per kept one, were its shares over the cells resampled to the target."""
    cells = goal.cells
    have = joint_shares(cells, np.bincount(predicted(before, job), minlength=cells.size), goal.confusions)
    if len(cells.attributes) == 1:
        return resampling_cost(have, goal.target)
    # A class that is rare may be measured as absent; its target can not be raked onto nothing.
    have = 0.999 * smoothed(cells, have, len(before)) + 0.001 * goal.target
    return resampling_cost(have, rake(cells, have, dict(enumerate(goal.wanted))))
