"""The audit of a retargeting: shares and quality before and after, how it was reached, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fairsims.audit.compare import Aim, audit
from fairsims.audit.facts import (
    CalibrationPoint,
    Controlled,
    ControlledShare,
    Cost,
    Method,
    RoundResult,
    SideCost,
)
from fairsims.audit.features import classifier_features
from fairsims.audit.fidelity import open_reference
from fairsims.audit.result import AuditResult
from fairsims.audit.targets import as_mapping
from fairsims.classifiers.base import AttributeClassifier, batch_size, features_of
from fairsims.data import ImageDataset
from fairsims.pools import Pool
from fairsims.retarget.calibration import Pilot, as_pilot, focus_values
from fairsims.retarget.cost import images_per_kept, stage_costs
from fairsims.retarget.goal import Goal
from fairsims.retarget.retargeting import Retargeting, look_folder
from fairsims.retarget.rounds import Response, Round, best_round
from fairsims.retarget.selection import Selection


def audit_run(
    work: Retargeting, rounds: Sequence[Round], after: Pool, selection: Selection | None, store: Path
) -> AuditResult:
    """Audit both sides of a run; `selection` is what the after side was kept by, if it was. `store` keeps features.

    The pool is the side before: its seeds are neither the calibration's nor the audit's, and the base is not tuned on
    it. What is aimed at is aimed from its shares, but the error of a change is that of two independent samples.
    """
    config, targets = work.config, work.goal.overall[: len(work.targets)]
    best, response = best_round(rounds)
    wanted = [*targets, *(None for _ in config.hold)]
    aims = [Aim(target=t, tolerance=config.tolerance, drift=config.drift) for t in wanted]
    candidates = None if selection is None else Pool(work.run.folder / "candidates")
    result = audit(
        work.pool,
        after,
        list(zip(work.classifiers, aims, strict=True)),
        others=[(c, Aim(drift=None, watch=config.drift)) for c in work.watched],
        reference=work.reference,
        after_shares=None if candidates is None else work.selected_shares(candidates, after),
        store=store,
        alike=True,
    )
    calibration = tuple(_point(p) for p in response.calibration.pilots)
    if work.reference is not None:
        first: dict[float, Pool] = {}
        for look in response.calibration.looks:
            first.setdefault(look.strength, Pool(look_folder(best.pilots, look)))
        judged = list(zip(work.classifiers, targets, strict=False))
        calibration = _with_quality(calibration, [work.pool, *first.values()], work.reference, judged, store)
    return replace(
        result,
        power=work.power,
        method=_method(work, best, response, candidates),
        calibration=calibration,
        controlled=_controlled(work, response, after if selection is None else None),
        rounds=tuple(_round(work.goal, r, kept=r is best) for r in rounds) if work.cells.size > 2 else (),
        cost=_cost(work, after, selection),
    )


def _cost(work: Retargeting, after: Pool, selection: Selection | None) -> Cost:
    """What the images and the run cost, and what resampling the base to the target would."""
    each, kept = work.pool.meta["evaluations_per_image"], images_per_kept(work.goal, work.predicted(work.pool))
    resampled = SideCost(images_per_kept=kept, evaluations_per_kept=kept * each) if np.isfinite(kept) else SideCost()
    return replace(
        stage_costs(work.run),
        before=SideCost(evaluations_per_image=each),
        after=SideCost(
            evaluations_per_image=after.meta["evaluations_per_image"],
            images_per_kept=selection.images_per_kept if selection else 1.0,
        ),
        resampling_base=resampled,
    )


def _method(work: Retargeting, best: Round, response: Response, candidates: Pool | None) -> Method:
    config, plan, goal = work.config, best.plan, work.goal
    contrast = best.contrast
    generated = {} if candidates is None else _by_attribute(goal, goal.measured(work.predicted(candidates)))
    return Method(
        mode=config.mode,
        target_for=None if work.model.conditions.unconditional else "overall" if work.asked is None else "each",
        replaced=contrast.replaced if contrast else None,
        unmatched=contrast.unmatched if contrast else None,
        alike_in=tuple(c.attribute.name for c in work.alike) if contrast else (),
        strength=response.calibration.strength,
        expected_share=response.calibration.share,
        planned_strength=plan.strength,
        least_strength=plan.least_strength,
        cap=config.cap,
        complement=as_mapping(plan.complement, work.cells.names),
        complement_size=best.size,
        budget_kimg=config.budget,
        reason=plan.reason,
        resampled=candidates is not None,
        interval=config.interval,
        generated=generated,
    )


def _controlled(work: Retargeting, response: Response, after: Pool | None) -> Controlled | None:
    """What the calibration steers by where there are more than two shares; `after` if its images were not selected."""
    goal, reached = work.goal, None
    if goal.cells.size == 2:
        return None
    if after is not None:
        values = focus_values(work.predicted(after), goal.confusion, goal.focus)
        share, low, high = _interval(as_pilot(values, response.calibration.strength))
        reached = ControlledShare(share=share, low=low, high=high)
    cells = np.array(goal.cells.names)[goal.focus].tolist()
    return Controlled(cells=tuple(cells), target=float(goal.target[goal.focus].sum()), after=reached)


def _round(goal: Goal, of: Round, *, kept: bool) -> RoundResult:
    result = RoundResult(
        round=of.number,
        kept=kept,
        planned_strength=of.plan.strength,
        complement=as_mapping(of.plan.complement, goal.cells.names),
        complement_size=of.size,
        reason=of.plan.reason,
    )
    if of.response is None:
        return replace(result, reason=f"{of.plan.reason}; not kept: {of.why}")
    found, shares = of.response, _by_attribute(goal, of.response.shares)
    return replace(result, strength=found.calibration.strength, error=found.error, shares=shares)


def _point(pilot: Pilot) -> CalibrationPoint:
    share, low, high = _interval(pilot)
    return CalibrationPoint(strength=pilot.strength, share=share, low=low, high=high, n=pilot.n)


def _with_quality(
    points: Sequence[CalibrationPoint],
    pools: Sequence[Pool],
    reference: ImageDataset,
    targets: Sequence[tuple[AttributeClassifier, np.ndarray]],
    store: Path,
) -> tuple[CalibrationPoint, ...]:
    """The points with the quality of their images, on the features of the first target's classifier.

    Fréchet distances fall with the number of images, so all are of the same: the first n of every pool, n being the
    size of the smallest. `store` keeps what is computed of the reference. Raises InputError as `quality` does.
    """
    classifier, n = targets[0][0], min(map(len, pools))
    real, _ = open_reference(reference, classifier_features(classifier), targets, store)
    found = []
    for point, pool in zip(points, pools, strict=True):
        size = batch_size(pool)
        first = (pool.read(range(i, min(i + size, n))) for i in range(0, n, size))
        fd = real.distances(features_of(classifier, first))
        found.append(replace(point, fd_reference=fd["fd_reference"], fd_target=fd.get("fd_target"), quality_n=n))
    return tuple(found)


def _interval(pilot: Pilot) -> tuple[float, float, float]:
    """Share, low and high."""
    half = 1.96 * pilot.se
    return pilot.share, pilot.share - half, pilot.share + half


def _by_attribute(goal: Goal, shares: np.ndarray) -> dict[str, Mapping[str, float]]:
    """Shares over the cells `(cells,)` as those of each attribute's classes."""
    marginals = zip(goal.attributes, goal.cells.marginals(shares), strict=False)
    return {a.name: as_mapping(marginal, a.classes) for a, marginal in marginals}
