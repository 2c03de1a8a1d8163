"""The main job, `fairsims retarget`: pool, complement, auxiliary, calibration, audit pools, audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fairsims import engine
from fairsims.audit.facts import PlanFacts
from fairsims.audit.result import AuditResult, load_audit, save_audit
from fairsims.data import ImageDataset
from fairsims.models import checkpoint_digest, checkpoint_recipe, save_checkpoint, save_guided
from fairsims.pools import Pool
from fairsims.retarget.auditing import audit_run
from fairsims.retarget.preregistration import READY_MADE, begin
from fairsims.retarget.retargeting import Generator, Retargeting
from fairsims.retarget.rounds import Round, best_round, calibrated_rounds
from fairsims.retarget.selection import remainder
from fairsims.run import Progress, Run, silent

Publish = Callable[[Path, AuditResult, Pool, Pool, ImageDataset | None], object]
"""(run, audit, before, after, reference)"""


def retarget(
    work: Retargeting,
    folder: Path,
    *,
    progress: Progress = silent,
    publish: Publish = lambda *_: None,
    command: str = "",
) -> AuditResult:
    """Carry out a retargeting in `folder`; returns its audit.

    A finished run is read, not repeated; one that was killed goes on. `publish` makes figures and pages of the result,
    before the manifest is written and the run counts as finished. Under torchrun every process samples and trains its
    part, rank 0 alone audits and writes.

    Raises ChangedSettings when the folder holds a run with other settings or another plan, InfeasibleTarget or
    InputError when the target or the pool cannot serve, InputError when an earlier version began the run.
    """
    if Run.is_finished(folder, work.settings):
        return load_audit(folder)
    fixed = begin(work, folder, progress, beside=READY_MADE, rounds=work.most_rounds)
    with work.run as run:
        # What all is planned on comes first.
        _ = work.pool
        rounds = calibrated_rounds(work)
        best, response = best_round(rounds)
        with run.stage("before"):
            before = work.kept_images(folder / "before", work.model, None)
        with run.stage("after"):
            with engine.main_first():
                model = export(work, best, response.calibration.strength)
            # What no strength reaches, classifier resampling adds: it keeps some of the images of more seeds.
            selection = remainder(work.goal, response.calibration, response.shares, response.noise)
            after = work.kept_images(folder / "after", model, selection)
        with run.stage("audit"):
            if run.main:
                found = audit_run(work, rounds, before, after, selection)
                result = replace(found, model=work.config.model, command=command, plan=PlanFacts(**fixed))
                save_audit(folder, result)
            progress("audit", 1, 1)
        if run.main:
            publish(folder, result, before, after, work.reference)
        run.finish()
        engine.barrier()
    return load_audit(folder)


def export(work: Retargeting, best: Round, strength: float) -> Generator:
    """The retargeted model, saved as a checkpoint of the run."""
    config, folder = work.config, work.run.folder / work.config.mode
    recipe = {"kind": config.mode, "strength": strength, "base_digest": work.settings["base_digest"]}
    recipe["data"] = checkpoint_recipe(config.model).get("data")
    if not (folder / "config.json").exists():
        if config.mode == "merged":
            save_checkpoint(folder, work.merged(best.auxiliary, strength), recipe=recipe)
        else:
            given = Path(config.model)
            base = str(given.resolve()) if given.exists() else config.model
            save_guided(folder, base, f"../{best.folder.name}", strength, interval=config.interval, recipe=recipe)
    made = work.retargeted(best.auxiliary, strength, mode=config.mode, interval=config.interval)
    return replace(made, facts={"kind": config.mode, "digest": checkpoint_digest(folder), "strength": strength})
