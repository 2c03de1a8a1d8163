"""The arms of a comparison: what reaches a target, each with the same number of kept images on the same seeds.

base: the model as it is. resampled: what classifier resampling keeps of the base's images. finetuned: the base trained
on a set of its own pool that has the target's mix, the naive remedy. merged and guided: SIMS, from one auxiliary.

The guided arm samples as asked. Its evaluations per kept image (of two networks; more where the strength cap leaves
something to resampling) are what every arm may spend: each other one gets the sampler steps that come nearest to it, so
that an arm which needs fewer networks, or generates fewer images a kept one, samples more finely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from fairsims.models import Denoiser
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool
from fairsims.retarget.calibration import Calibration
from fairsims.retarget.goal import Goal
from fairsims.retarget.job import Job
from fairsims.retarget.selection import Selection
from fairsims.retarget.stages import (
    Auxiliary,
    base_facts,
    calibrate_strength,
    kept_images,
    predicted,
    remainder,
    retargeting,
    retargeting_facts,
    sample,
    selection_for,
    shares_at,
)
from fairsims.run import Run

ARMS = ("base", "resampled", "finetuned", "merged", "guided")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One of the ways to the target, with its images."""

    name: str
    sampler: SamplerConfig
    images: Pool
    candidates: Pool | None
    """What the images were selected from."""
    calibration: Calibration | None

    @property
    def images_per_kept(self) -> float:
        """Images generated until the last kept one, per kept one."""
        if self.candidates is None:
            return 1.0
        return float(self.images.seeds[-1] - self.candidates.seeds[0] + 1) / len(self.images)

    @property
    def evaluations_per_image(self) -> float:
        return float(self.images.meta["evaluations_per_image"])

    @property
    def evaluations_per_kept(self) -> float:
        return self.images_per_kept * self.evaluations_per_image


@dataclass(frozen=True, kw_only=True)
class Ground:
    """What all arms stand on, made once."""

    run: Run
    job: Job
    goal: Goal
    omega: float
    """Planned strength."""
    resampling: Selection
    """What reaches the target from the pool's shares by selecting alone."""
    pool: Pool
    auxiliary: Auxiliary
    """Trained on the complement set."""
    finetuned: Auxiliary
    """Trained on the set in the target's mix."""

    def arms(self) -> dict[str, Arm]:
        """All of them; the first that is made, guided, sets what the others may spend."""
        facts = base_facts(self.job)
        guided = self._sims("guided", None)
        spend = guided.evaluations_per_kept
        alone = replace(self.job, sampler=self._steps(spend, None))
        made = {
            "guided": guided,
            "merged": self._sims("merged", spend),
            "base": self._arm("base", alone, alone.base, facts),
            "resampled": self._resampled(spend),
            "finetuned": self._arm(
                "finetuned", alone, self.finetuned.network,
                facts | {"kind": "target-mix", "aux": self.finetuned.digest},
            ),
        }  # fmt: skip
        return {name: made[name] for name in ARMS}

    def _resampled(self, spend: float) -> Arm:
        """The base selected by acceptance rates from its shares at the arm's own steps, on calibration seeds.

        Other steps make other shares; and how many images are kept of those generated says how many steps there are.
        """
        job, n, selection = self.job, max(self.job.config.pilots), self.resampling
        steps, tried = self._steps(spend, selection), set[int]()
        with self.run.stage("calibration resampled"):
            while steps.steps not in tried:
                tried.add(steps.steps)
                job = replace(job, sampler=steps)
                images = sample(
                    self.run.folder / "resampled" / f"calibration-{steps.steps}", job.base, job, "calibration", n,
                    base_facts(job), self.run.progress, "resampled",
                )  # fmt: skip
                selection = selection_for(self.goal, self.goal.measured(predicted(images, job)))
                steps = self._steps(spend, selection)
        return self._arm("resampled", job, job.base, base_facts(job), selection=selection)

    def _sims(self, mode: str, spend: float | None) -> Arm:
        """Merged or guided, the strength calibrated at the arm's own steps."""
        interval = self.job.config.interval if mode == "guided" else None
        job = replace(self.job, config=replace(self.job.config, mode=mode, interval=interval))
        selection: Selection | None = None
        steps, tried = job.sampler if spend is None else self._steps(spend, None), set[int]()
        with self.run.stage(f"calibration {mode}"):
            while steps.steps not in tried:
                pilots = self.run.folder / mode / (f"calibration-{steps.steps}" if tried else "calibration")
                tried.add(steps.steps)
                job = replace(job, sampler=steps)
                found = calibrate_strength(
                    job, self.goal, self.auxiliary, self.omega, self.pool, pilots, self.run.progress
                )
                # Resampling does the rest, as in a run, and leaves fewer steps for an image.
                selection = remainder(self.goal, found, *shares_at(job, self.goal, found, pilots))
                steps = steps if spend is None else self._steps(spend, selection)
        denoiser = retargeting(job, self.auxiliary, found.strength)
        facts = retargeting_facts(job, self.auxiliary, found.strength)
        return self._arm(mode, job, denoiser, facts, selection=selection, calibration=found)

    def _steps(self, spend: float, selection: Selection | None) -> SamplerConfig:
        """The sampler whose steps, of one network, cost so many evaluations per kept image."""
        each = spend / (selection.images_per_kept if selection else 1.0)
        return equal_steps(self.job.sampler, self.job.base, each)

    def _arm(
        self, name: str, job: Job, denoiser: Denoiser, facts: dict[str, Any], *,
        selection: Selection | None = None, calibration: Calibration | None = None,
    ) -> Arm:  # fmt: skip
        folder = self.run.folder / name
        with self.run.stage(name):
            images = kept_images(folder / "images", denoiser, job, facts, selection, self.run.progress, name)
        candidates = Pool(folder / "candidates") if selection else None
        return Arm(name=name, sampler=job.sampler, images=images, candidates=candidates, calibration=calibration)


def equal_steps(sampler: SamplerConfig, denoiser: Denoiser, evaluations: float) -> SamplerConfig:
    """The sampler with the steps, 2 at least, whose evaluations an image come nearest to so many."""
    tried = [replace(sampler, steps=n) for n in range(2, max(3, math.ceil(evaluations) + 2))]
    return min(tried, key=lambda s: abs(s.evaluations(denoiser) - evaluations))
