"""Rounds over prompts: one strength serves all of them, so a prompt that lags gets a set that leads further.

A round trains its adapters and calibrates their strength. What its images show of each prompt's way says which part of
it the prompt goes; the next round's mixes ask for as many times more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fairsims.errors import NoResponse
from fairsims.models import PipelineModel
from fairsims.retarget.prompt_responses import gains
from fairsims.retarget.prompt_run import Calibrated, PromptRetargeting
from fairsims.run import numbered


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptRound:
    """Adapters and the strength at which they serve the prompts together."""

    number: int
    calibrated: Calibrated

    @property
    def off(self) -> float:
        """How far the neutral prompts are expected to be off their targets, on average."""
        return float(self.calibrated.off.mean())

    @property
    def strength(self) -> float:
        return self.calibrated.calibration.strength

    def model(self, work: PromptRetargeting) -> PipelineModel:
        """The retargeted model."""
        return work.at(self.strength, self.number)

    def for_json(self) -> dict[str, Any]:
        """What a result says of it."""
        calibration = self.calibrated.calibration
        return {"round": self.number, "strength": self.strength, "at_cap": calibration.at_cap, "expected_off": self.off}


def calibrated_rounds(work: PromptRetargeting) -> list[PromptRound]:
    """Train and calibrate, again while the prompts are expected to be off by more than the tolerance.

    Every round trains its adapters from the base, alike, so that what one answered says what the next will. Raises
    InputError where the pool cannot serve the targets, NoResponse where no prompt moves in the first round.
    """
    material, config = work.material(work.plan), work.config
    people = np.array([bool(name) for name in work.trained])
    rounds: list[PromptRound] = []
    gain, start = np.ones(len(work.trained)), work.plan.strength
    for number in range(1, config.rounds + 1):
        plan = work.planned(config.positive, gain)
        for name, data in work.training_sets(plan, material).items():
            work.train(numbered(name, number), data)
        try:
            at = partial(work.at, number=number)
            # Seeds of its own: what chance did to a prompt in one round would else count as met in the next.
            used = (number - 1) * config.calibration
            calibrated = work.calibrate(at, start, numbered("calibration", number), after=used)
        except NoResponse:
            if not rounds:
                raise
            # The earlier round stands.
            break
        rounds.append(PromptRound(number=number, calibrated=calibrated))
        if rounds[-1].off <= config.tolerance:
            break
        gain[people] *= gains(calibrated.responses)
        start = rounds[-1].strength
    return rounds


def best_round(rounds: list[PromptRound]) -> PromptRound:
    """The one whose prompts are expected to be nearest to their targets."""
    return min(rounds, key=lambda r: r.off)
