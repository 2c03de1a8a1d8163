"""The main job, `fairsims retarget`: pool, complement, auxiliary, calibration, audit pools, audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fairsims import engine
from fairsims.audit.facts import PlanFacts
from fairsims.audit.result import AuditResult, load_audit, save_audit
from fairsims.data import ImageDataset
from fairsims.pools import Pool
from fairsims.retarget.auditing import audit_run
from fairsims.retarget.config import REPLACED
from fairsims.retarget.cost import resampling_advice
from fairsims.retarget.preregistration import READY_MADE, begin
from fairsims.retarget.retargeting import Retargeting
from fairsims.retarget.rounds import best_round, calibrated_rounds
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
    note: Callable[[str | None], object] = lambda _: None,
    command: str = "",
) -> AuditResult:
    """Carry out a retargeting in `folder`; returns its audit.

    A finished run is read, not repeated; one that was killed goes on. `publish` makes figures and pages of the result,
    before the manifest is written and the run counts as finished. `note` is told, before anything is trained, how
    resampling the base to several targets compares. Under torchrun every process samples and trains its
    part, rank 0 alone audits and writes.

    Raises ChangedSettings when the folder holds a run with other settings or another plan, InfeasibleTarget or
    InputError when the target or the pool cannot serve, InputError when an earlier version began the run.
    """
    if Run.is_finished(folder, work.settings, replaced=REPLACED):
        return load_audit(folder)
    fixed = begin(work, folder, progress, beside=READY_MADE, rounds=work.most_rounds)
    with work.run as run:
        # What all is planned on comes first.
        _ = work.pool
        advice = resampling_advice(work)
        if run.main:
            note(advice)
        rounds = calibrated_rounds(work)
        best, response = best_round(rounds)
        with run.stage("before"):
            # To be looked at beside the retargeted ones. What is measured before is the pool.
            shown = work.images(folder / "before", work.model, "audit", work.shown)
        with run.stage("after"):
            with engine.main_first():
                model = work.retargeted(best.auxiliary, response.calibration.strength, best.positive)
                if run.main:
                    model.export(folder / work.config.mode)
            # What no strength reaches, classifier resampling adds: it keeps some of the images of more seeds.
            selection = remainder(work.goal, response.calibration, response.shares, response.noise)
            after = work.kept_images(folder / "after", model, selection)
        with run.stage("audit"), work.features(work.pool, after) as store:
            if run.main:
                found = audit_run(work, rounds, after, selection, store)
                found = replace(found, shown=tuple(shown.meta["seeds"]), resampling=advice)
                result = replace(found, model=work.config.model, command=command, plan=PlanFacts(**fixed))
                save_audit(folder, result)
            progress("audit", 1, 1)
        if run.main:
            publish(folder, result, work.pool, after, work.reference)
        run.finish()
        engine.barrier()
    return load_audit(folder)
