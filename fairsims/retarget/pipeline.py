"""The pipeline behind `fairsims retarget`: pool, complement, auxiliary, calibration, audit pools, audit.

Each stage leaves whole files; the same call on the same folder goes on where a killed one stopped. Where one strength
cannot serve all shares, complement, auxiliary and calibration have further rounds: `plan-2.json`, `auxiliary-2/`, ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims import distributed
from fairsims.audit.compare import AuditPlan, audit, label_pool, write_audit
from fairsims.audit.joint import joint_shares, rake, smoothed
from fairsims.audit.shares import ShareEstimate
from fairsims.classifiers import AttributeClassifier
from fairsims.denoisers import (
    Denoiser,
    NetworkDenoiser,
    checkpoint_digest,
    checkpoint_recipe,
    load_network,
    merge,
    save_checkpoint,
    save_guided,
)
from fairsims.pools import Pool, pool_dataset, select_pool, write_pool
from fairsims.retarget.calibration import Calibration, Pilot, as_pilot, calibrate, focus_values
from fairsims.retarget.complement import ComplementPlan, correct_complement, draw_complement, plan_complement
from fairsims.retarget.goal import Goal, set_goal
from fairsims.retarget.job import Job, Report, combine_networks, finetune_settings, prepare
from fairsims.retarget.selection import Selection, accept, plan_selection, selected_joint_shares
from fairsims.retarget.status import Status
from fairsims.retarget.targets import as_mapping, resampling_cost
from fairsims.runs import atomic, read_json, settle_settings, write_json, write_manifest
from fairsims.seeds import derive
from fairsims.training import train_folder

__all__ = ["Job", "prepare", "retarget"]

Publish = Callable[[Path, dict[str, Any], Pool, Pool], None]
"""(run, audit, before, after)"""

SCARCE = 20
"""Joint cells with fewer candidates than this do not limit the size of the complement set."""
SELECTION_SLACK = 0.01


@dataclass(frozen=True, kw_only=True)
class Round:
    """A complement, the auxiliary trained on it, and what its calibration measured."""

    number: int
    plan: ComplementPlan
    size: int
    """Images in the complement set."""
    aux: NetworkDenoiser
    calibration: Calibration
    shares: np.ndarray
    """Shares over the cells at the chosen strength, from the largest pilot, `(cells,)`."""
    error: float
    """The worst marginal share's distance from its target, in units of what it may be off."""


def retarget(
    job: Job,
    run: Path,
    *,
    report: Report = lambda *_: None,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> dict[str, Any]:
    """Carry out a retargeting in the folder `run`; returns the content of its `audit/audit.json`.

    `publish` makes figures and pages of the result, before the manifest is written and the run counts as finished.

    Under torchrun every process samples and trains its part, rank 0 alone labels, audits and writes.
    Raises ChangedSettings when the folder holds a run with other settings, InfeasibleTarget or InputError when the
    target or the pool cannot serve.
    """
    config = job.config
    with distributed.main_first():
        settle_settings(run / "config.json", job.settings)
    status = Status(run)
    try:
        with status.stage("pool"):
            pool = _sample(run / "pool", job.base, job, "pool", config.pool, _base_facts(job), report)
            labels = [label_pool(pool, c) for c in job.classifiers]
        goal, rounds = _rounds(run, job, pool, labels, status, report)
        best = min(rounds, key=lambda r: r.error)
        with status.stage("before"):
            before = _sample(run / "before", job.base, job, "audit", config.audit, _base_facts(job), report, "before")
        with status.stage("after"):
            with distributed.main_first():
                retargeted, facts = _retargeted(run, job, best)
            after, selection = _after(run, job, goal, best, retargeted, facts, report)
        with status.stage("audit"):
            if distributed.is_main():
                result = _audit(run, job, goal, rounds, best, before, after, selection, status, command)
            report("audit", 1, 1)
        if distributed.is_main():
            publish(run, result, before, after)
            write_manifest(run, {k: str(v) for k, v in job.settings.items() if k.endswith("_digest")})
            status.finish()
        distributed.barrier()
    except BaseException as e:
        status.fail(e)
        raise
    return read_json(run / "audit" / "audit.json")


def _rounds(
    run: Path, job: Job, pool: Pool, labels: list[np.ndarray], status: Status, report: Report
) -> tuple[Goal, list[Round]]:
    """Plan, train and calibrate, again from the measured error while that is too large and rounds are left."""
    config, cells = job.config, job.cells
    joint = cells if len(job.classifiers) > 1 else None
    rounds: list[Round] = []
    with status.stage("complement"):
        goal = set_goal(
            cells, [p.argmax(axis=1) for p in labels], job.confusions, job.targets,
            tolerance=config.tolerance, drift=config.drift,
        )  # fmt: skip
        plan = plan_complement(goal.base, goal.target, cells.names, omega=config.omega, cap=config.cap, cells=joint)
        chosen = _complement(run, job, goal, pool, labels, plan, 1)
    # Two shares are one number, which one strength serves.
    most = config.rounds if cells.size > 2 else 1
    for number in range(1, most + 1):
        if number > 1:
            last = rounds[-1]
            with status.stage(f"complement-{number}"):
                # Not to the cells of the first plan: the targets are marginal, and single cells are noisy.
                plan = correct_complement(
                    goal.base, goal.mended(last.shares), np.array(last.plan.complement), last.shares, cells.names,
                    strength=last.calibration.strength, cap=config.cap, cells=joint,
                )  # fmt: skip
                chosen = _complement(run, job, goal, pool, labels, plan, number)
        with status.stage(_numbered("auxiliary", number)):
            aux = _auxiliary(run, job, pool, chosen, number, report)
        with status.stage(_numbered("calibration", number)):
            calibration = _calibrate(run, job, goal, aux, plan, number, report)
            shares, noise = _shares_at(run, job, goal, calibration, number)
        rounds.append(
            Round(
                number=number, plan=plan, size=len(chosen), aux=aux, calibration=calibration, shares=shares,
                error=goal.error(shares),
            )
        )  # fmt: skip
        if not goal.clearly_off(shares, noise):
            break
    return goal, rounds


def _numbered(name: str, number: int) -> str:
    """`name` in the first round, `name-2` in the second."""
    return name if number == 1 else f"{name}-{number}"


def _sample(
    folder: Path, denoiser: Denoiser, job: Job, use: str, n: int, facts: dict[str, Any], report: Report,
    stage: str | None = None,
) -> Pool:  # fmt: skip
    seeds, stage = job.config.seeds(use, n), stage or use
    for done in write_pool(
        folder, denoiser, seeds, made_by=facts, sampler=job.sampler, batch_size=job.config.sample_batch
    ):
        report(stage, done, n)
    pool = Pool(folder)
    with distributed.main_first():
        for classifier in job.classifiers:
            label_pool(pool, classifier)
    return pool


def _base_facts(job: Job) -> dict[str, Any]:
    return {"kind": "base", "digest": job.settings["base_digest"]}


def _complement(
    run: Path, job: Job, goal: Goal, pool: Pool, labels: list[np.ndarray], plan: ComplementPlan, number: int
) -> np.ndarray:
    """Draw the complement set, write its table and its plan; its positions in the pool."""
    config, names, several = job.config, goal.cells.names, len(labels) > 1
    probabilities = goal.cells.probabilities(labels)
    chosen = draw_complement(
        probabilities, np.array(plan.complement), size=config.complement_size, seed=config.seed,
        # Every attribute's class has to be that sure.
        floor=config.floor ** len(labels), scarce=SCARCE if several else 0,
    )  # fmt: skip
    columns: dict[str, Any] = {"seed": pool.seeds[chosen]}
    for classifier, p in zip(job.classifiers, labels, strict=True):
        attribute = classifier.attribute
        columns[attribute.name] = [attribute.classes[k] for k in p[chosen].argmax(axis=1)]
    columns["probability"] = probabilities[chosen].max(axis=1)
    if not distributed.is_main():
        return chosen
    with atomic(run / f"{_numbered('complement', number)}.parquet") as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)
    content = asdict(plan) | {
        "target": as_mapping(goal.target, names),
        "complement": as_mapping(plan.complement, names),
        "reachable": as_mapping(plan.reachable, names),
        "complement_size": len(chosen),
    }
    if several:
        content |= {"base": as_mapping(goal.base, names), "attributes": goal.as_json()}
    write_json(run / f"{_numbered('plan', number)}.json", content)
    return chosen


def _auxiliary(run: Path, job: Job, pool: Pool, chosen: np.ndarray, number: int, report: Report) -> NetworkDenoiser:
    """The auxiliary, fine-tuned from the base in the first round and from the last auxiliary in a later one."""
    config, stage = job.config, _numbered("auxiliary", number)
    data = pool_dataset(pool).subset(chosen, name="complement")
    seed = config.seed if number == 1 else derive(config.seed, "round", number)
    settings = finetune_settings(config, config.budget, seed=seed)
    recipe = {"kind": "auxiliary", "base_digest": job.settings["base_digest"]}
    if number == 1:
        aux = load_network(config.model).to(job.device)
    else:
        earlier = run / _numbered("auxiliary", number - 1)
        aux, recipe["from"] = load_network(earlier).to(job.device), checkpoint_digest(earlier)
    for tick in train_folder(aux, data, settings, run / stage, recipe=recipe):
        report(stage, tick.nimg, settings.steps * settings.batch_size)
    loaded = load_network(run / stage).to(job.device)
    loaded.precision = config.precision
    return loaded


def _retargeting(job: Job, aux: NetworkDenoiser, strength: float) -> Denoiser:
    """Base and auxiliary at a strength, in the mode of the run."""
    return combine_networks(job, aux, strength, mode=job.config.mode, interval=job.config.interval)


def _pilot_folder(run: Path, number: int, pilot: Pilot) -> Path:
    return run / _numbered("calibration", number) / f"{pilot.strength:.6f}-{pilot.n}"


def _predicted(pool: Pool, job: Job) -> np.ndarray:
    """Predicted cell of each image, `(N,)`."""
    return job.cells.place([label_pool(pool, c).argmax(axis=1) for c in job.classifiers])


def _calibrate(
    run: Path, job: Job, goal: Goal, aux: NetworkDenoiser, plan: ComplementPlan, number: int, report: Report
) -> Calibration:
    config, stage = job.config, _numbered("calibration", number)
    aux_digest = checkpoint_digest(run / _numbered("auxiliary", number))
    done_before = 0

    def values(pool: Pool) -> np.ndarray:
        return focus_values(_predicted(pool, job), goal.confusion, goal.focus)

    def measure(strength: float, n: int) -> np.ndarray:
        nonlocal done_before
        facts = {"kind": config.mode, "digest": job.settings["base_digest"], "aux": aux_digest, "strength": strength}
        facts |= {"interval": list(config.interval)} if config.interval else {}
        start = done_before
        folder = _pilot_folder(run, number, Pilot(strength=strength, share=0.0, se=0.0, n=n))
        pool = _sample(
            folder, _retargeting(job, aux, strength), job, "calibration", n, facts,
            lambda _, done, __: report(stage, start + done, sum(config.pilots)),
        )  # fmt: skip
        done_before += n
        return values(pool)

    zero = as_pilot(values(Pool(run / "pool")), 0.0)
    target = float(goal.target[goal.focus].sum())
    found = calibrate(measure, target=target, base=zero, start=plan.omega, cap=config.cap, sizes=config.pilots)
    if distributed.is_main():
        with atomic(run / f"{stage}.parquet") as temporary:
            pd.DataFrame([asdict(p) for p in found.pilots]).to_parquet(temporary, index=False)
    return found


def _shares_at(
    run: Path, job: Job, goal: Goal, calibration: Calibration, number: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Shares over the cells at the chosen strength: those of the largest pilot, moved along the line to the base's.

    Also the standard errors of each attribute's shares.
    """
    # Of several as large, the nearest to the chosen strength says most; at the cap that is the cap itself.
    pilot = max(
        (p for p in calibration.pilots if p.strength > 0),
        key=lambda p: (p.n, -abs(p.strength - calibration.strength)),
    )
    predicted = _predicted(Pool(_pilot_folder(run, number, pilot)), job)
    measured = goal.measured(predicted)
    moved = goal.base + (measured - goal.base) * (calibration.strength / pilot.strength)
    inside = np.clip(moved, 0, None)
    return np.asarray(inside / inside.sum()), goal.noise(predicted)


def _retargeted(run: Path, job: Job, best: Round) -> tuple[Denoiser, dict[str, Any]]:
    """The retargeted model, saved as a checkpoint of the run, and what identifies it."""
    folder, strength = run / job.config.mode, best.calibration.strength
    recipe = {"kind": job.config.mode, "strength": strength, "base_digest": job.settings["base_digest"]}
    recipe["data"] = checkpoint_recipe(job.config.model).get("data")
    if not (folder / "config.json").exists():
        if job.config.mode == "merged":
            save_checkpoint(folder, merge(job.base, best.aux, strength), recipe=recipe)
        else:
            given = Path(job.config.model)
            base = str(given.resolve()) if given.exists() else job.config.model
            aux = f"../{_numbered('auxiliary', best.number)}"
            save_guided(folder, base, aux, strength, interval=job.config.interval, recipe=recipe)
    facts = {"kind": job.config.mode, "digest": checkpoint_digest(folder), "strength": strength}
    return _retargeting(job, best.aux, strength), facts


def _after(
    run: Path, job: Job, goal: Goal, best: Round, denoiser: Denoiser, facts: dict[str, Any], report: Report
) -> tuple[Pool, Selection | None]:
    """The retargeted images on the audit seeds; beyond the cap, what classifier resampling keeps of more seeds."""
    n = job.config.audit
    if not best.calibration.at_cap:
        return _sample(run / "after", denoiser, job, "audit", n, facts, report, "after"), None
    slack = SELECTION_SLACK if len(job.classifiers) > 1 else 0.0
    selection = plan_selection(best.shares, goal.confusion, goal.target, slack=slack)
    wanted = int(np.ceil(n * selection.images_per_kept * 1.08)) + 50
    candidates = _sample(run / "candidates", denoiser, job, "audit", wanted, facts, report, "after")
    kept = np.flatnonzero(accept(candidates.seeds, _predicted(candidates, job), selection))[:n]
    with distributed.main_first():
        if distributed.is_main():
            select_pool(candidates, kept, run / "after", made_by=facts | {"selection": list(selection.keep)})
    return Pool(run / "after"), selection


def _audit(
    run: Path, job: Job, goal: Goal, rounds: list[Round], best: Round, before: Pool, after: Pool,
    selection: Selection | None, status: Status, command: str,
) -> dict[str, Any]:  # fmt: skip
    config, cells = job.config, goal.cells
    rule = None
    if selection is not None:
        candidates, kept = (
            np.bincount(_predicted(p, job), minlength=cells.size) for p in (Pool(run / "candidates"), after)
        )

        def rule(classifier: AttributeClassifier, by: str) -> ShareEstimate:
            own = [c.confusions.get(by, c.confusions[c.default_split]) for c in job.classifiers]
            return selected_joint_shares(cells, candidates, kept, own)[job.classifiers.index(classifier)]

    plans = [
        AuditPlan(
            target=goal.wanted[k] if k < len(job.targets) else None,
            tolerance=config.tolerance, drift=config.drift,
        )
        for k in range(len(job.classifiers))
    ]  # fmt: skip
    facts: dict[str, Any] = {"model": config.model, "command": command, "method": _method(job, goal, best, selection)}
    facts |= _calibration_facts(goal, rounds, best)
    if "controlled" in facts and selection is None:
        values = focus_values(_predicted(after, job), goal.confusion, goal.focus)
        facts["controlled"]["after"] = _interval(as_pilot(values, best.calibration.strength))
    result = audit(
        before, after, job.classifier, plans[0], others=list(zip(job.classifiers, plans, strict=True))[1:],
        reference=job.reference, after_shares=rule, facts=facts,
    )  # fmt: skip
    nfe = {"before": before.meta["evaluations_per_image"], "after": after.meta["evaluations_per_image"]}
    kept_cost = _resampling_cost(job, goal, before)
    result["cost"] = {
        "before": {"evaluations_per_image": nfe["before"]},
        "after": {
            "evaluations_per_image": nfe["after"],
            "images_per_kept": selection.images_per_kept if selection else 1.0,
        },
        "resampling_base": {"images_per_kept": kept_cost, "evaluations_per_kept": kept_cost * nfe["before"]},
        **status.cost(),
    }
    write_audit(run / "audit", result)
    return result


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
        "budget_kimg": config.budget * best.number,
        "reason": plan.reason,
        "resampled": selection is not None,
    } | ({"interval": list(config.interval)} if config.interval else {})


def _calibration_facts(goal: Goal, rounds: list[Round], best: Round) -> dict[str, Any]:
    """The pilots of the round that was kept; with more than two shares also what they steer by, and every round."""
    pilots = [{"strength": p.strength} | _interval(p) | {"n": p.n} for p in best.calibration.pilots]
    if goal.cells.size == 2:
        return {"calibration": pilots}
    names, focus = np.array(goal.cells.names), goal.focus
    controlled = {"cells": names[focus].tolist(), "target": float(goal.target[focus].sum())}
    tried = [
        {
            "round": r.number,
            "kept": r is best,
            "planned_omega": r.plan.omega,
            "complement": as_mapping(r.plan.complement, goal.cells.names),
            "complement_size": r.size,
            "strength": r.calibration.strength,
            "error": r.error,
            "shares": {
                a.name: as_mapping(goal.cells.marginal(r.shares, k), a.classes)
                for k, a in enumerate(goal.cells.attributes)
            },
            "reason": r.plan.reason,
        }
        for r in rounds
    ]
    return {"calibration": pilots, "controlled": controlled, "rounds": tried}


def _interval(pilot: Pilot) -> dict[str, float]:
    half = 1.96 * pilot.se
    return {"share": pilot.share, "low": pilot.share - half, "high": pilot.share + half}


def _resampling_cost(job: Job, goal: Goal, before: Pool) -> float:
    """Images of the base per kept one, were its shares over the cells resampled to the target."""
    cells = goal.cells
    have = joint_shares(cells, np.bincount(_predicted(before, job), minlength=cells.size), goal.confusions)
    if len(cells.attributes) == 1:
        return resampling_cost(have, goal.target)
    have = smoothed(cells, have, len(before))
    return resampling_cost(have, rake(cells, have, dict(enumerate(goal.wanted))))
