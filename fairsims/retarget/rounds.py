"""Rounds: complement, auxiliary and calibration; again from the measured error while one strength cannot serve all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fairsims.audit.targets import as_mapping
from fairsims.errors import NoResponse
from fairsims.files import write_json
from fairsims.retarget.calibration import Calibration
from fairsims.retarget.complement import ComplementPlan, correct_complement
from fairsims.retarget.contrast import Contrast
from fairsims.retarget.retargeting import At, Retargeting
from fairsims.run import numbered


@dataclass(frozen=True, kw_only=True)
class Response:
    """What a round's calibration found."""

    calibration: Calibration
    shares: np.ndarray
    """Shares over the cells at the chosen strength, as the fit has them, `(cells,)`."""
    noise: list[np.ndarray]
    """Standard errors of each attribute's shares, `(K,)`."""
    error: float
    """The worst marginal share's distance from its target, in units of what it may be off."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A complement, the auxiliary trained on it, and how the shares respond to its strength."""

    number: int
    plan: ComplementPlan
    size: int
    """Images in the complement set."""
    auxiliary: Path
    """Its checkpoint."""
    positive: Path | None
    """The checkpoint of a paired contrast's second auxiliary."""
    contrast: Contrast | None
    """And the set that it is trained on."""
    pilots: Path
    """Where the images of its calibration are."""
    response: Response | None
    """None where the shares do not respond at all: the earlier rounds stand."""
    why: str = ""
    """Why there is none."""


def calibrated_rounds(work: Retargeting) -> list[Round]:
    """Plan, train and calibrate, again while the error is too large and rounds are left.

    Raises InputError or InfeasibleTarget when the pool cannot serve the targets, NoResponse when the shares do not
    respond to the first auxiliary.
    """
    rounds: list[Round] = []
    for number in range(1, work.most_rounds + 1):
        with work.run.stage(numbered("complement", number)):
            plan = _next_plan(work, rounds[-1]) if rounds else work.first_plan()
            chosen = draw_complement_set(work, plan, numbered("complement", number))
        # Every auxiliary is trained alike from the base, so that what one answered says what the next will.
        parts = ("auxiliary", "positive", "calibration")
        auxiliary, second, pilots = (work.run.folder / numbered(part, number) for part in parts)
        with work.run.stage(auxiliary.name):
            work.fine_tune(auxiliary, chosen, kimg=work.config.kimg)
        positive, contrast, start = None, None, plan.strength
        if work.config.paired:
            positive = second
            with work.run.stage(positive.name):
                contrast = draw_positive_set(work, chosen, plan, numbered("positive", number))
                start = plan.strength / contrast.scale
                work.fine_tune(positive, contrast.chosen, kimg=work.config.kimg, kind="positive")
        response, why = None, ""
        with work.run.stage(pilots.name):
            try:
                response = _respond(work, partial(work.retargeted, auxiliary, positive=positive), start, pilots)
            except NoResponse as e:
                if not rounds:
                    raise
                why = str(e)
        rounds.append(
            Round(
                number=number,
                plan=plan,
                size=len(chosen),
                auxiliary=auxiliary,
                positive=positive,
                contrast=contrast,
                pilots=pilots,
                response=response,
                why=why,
            )
        )
        if response is None or not work.goal.clearly_off(response.shares, response.noise):
            break
    return rounds


def best_round(rounds: Sequence[Round]) -> tuple[Round, Response]:
    """The round of the least error."""
    found = [(r, r.response) for r in rounds if r.response is not None]
    return min(found, key=lambda pair: pair[1].error)


def draw_complement_set(work: Retargeting, plan: ComplementPlan, name: str) -> np.ndarray:
    """Draw a complement set, `name.parquet`, and write how it was planned, `name.json`; its positions in the pool."""
    goal, names = work.goal, work.cells.names
    chosen = work.draw_set(name, plan.complement, work.config.complement_size, raked=work.config.paired)
    if work.run.main:
        content = asdict(plan) | {
            "target": as_mapping(goal.target, names),
            "complement": as_mapping(plan.complement, names),
            "reachable": as_mapping(plan.reachable, names),
            "complement_size": len(chosen),
        }
        if len(work.classifiers) > 1:
            content |= {"base": as_mapping(goal.base, names), "attributes": goal.as_json()}
        write_json(work.run.folder / f"{name}.json", content)
    return chosen


def draw_positive_set(work: Retargeting, complement: np.ndarray, plan: ComplementPlan, name: str) -> Contrast:
    """Draw the second set of a paired contrast, `name.parquet`, and write how it differs, `name.json`."""
    found = work.draw_contrast(name, complement, plan)
    if work.run.main:
        content = {"size": len(found.chosen), "replaced": found.replaced, "unmatched": found.unmatched}
        alike = [c.attribute.name for c in work.alike]
        write_json(work.run.folder / f"{name}.json", content | {"scale": found.scale, "alike_in": alike})
    return found


def _next_plan(work: Retargeting, last: Round) -> ComplementPlan:
    """The complement corrected by what the last round measured."""
    assert last.response is not None
    shares, strength = last.response.shares, last.response.calibration.strength
    # Not to the cells of the first plan: the targets are marginal, and single cells are noisy.
    wanted = work.goal.mended(shares)
    return correct_complement(work.goal.base, wanted, np.array(last.plan.complement), shares, strength=strength)


def _respond(work: Retargeting, at: At, start: float, pilots: Path) -> Response:
    calibration = work.calibrate(at, start, pilots)
    shares, noise = work.shares_at(calibration, pilots)
    return Response(calibration=calibration, shares=shares, noise=noise, error=work.goal.error(shares))
