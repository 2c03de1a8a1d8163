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
from pathlib import Path
from typing import Any

from fairsims.denoisers import Denoiser
from fairsims.pools import Pool
from fairsims.retarget.calibration import Calibration
from fairsims.retarget.goal import Goal
from fairsims.retarget.job import Job, Report
from fairsims.retarget.selection import Selection
from fairsims.retarget.stages import (
    Auxiliary,
    base_facts,
    calibrate_strength,
    kept_images,
    predicted,
    retargeting,
    retargeting_facts,
    sample,
    selection_for,
    shares_at,
)
from fairsims.retarget.status import Status
from fairsims.sampling import SamplerConfig

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

    folder: Path
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
    status: Status
    report: Report

    def arms(self) -> dict[str, Arm]:
        """All of them; the first that is made, guided, sets what the others may spend."""
        job, facts = self.job, base_facts(self.job)
        guided = self._sims("guided", None)
        spend = guided.evaluations_per_kept
        made = {
            "guided": guided,
            "merged": self._sims("merged", spend),
            "base": self._arm("base", job, job.base, facts, spend),
            "resampled": self._resampled(spend),
            "finetuned": self._arm(
                "finetuned", job, self.finetuned.network, facts | {"kind": "target-mix", "aux": self.finetuned.digest},
                spend,
            ),
        }  # fmt: skip
        return {name: made[name] for name in ARMS}

    def _resampled(self, spend: float) -> Arm:
        """The base selected by acceptance rates from its shares at the arm's own steps, on calibration seeds.

        Other steps make other shares; and how many images are kept of those generated says how many steps there are.
        """
        job, n, selection = self.job, max(self.job.config.pilots), self.resampling
        tried: set[int] = set()
        with self.status.stage("calibration resampled"):
            while (steps := self._steps(job.base, spend, selection)).steps not in tried:
                tried.add(steps.steps)
                job = replace(job, sampler=steps)
                images = sample(
                    self.folder / "resampled" / f"calibration-{steps.steps}", job.base, job, "calibration", n,
                    base_facts(job), self.report, "resampled",
                )  # fmt: skip
                selection = selection_for(job, self.goal, self.goal.measured(predicted(images, job)))
        return self._arm("resampled", job, job.base, base_facts(job), None, selection=selection)

    def _sims(self, mode: str, spend: float | None) -> Arm:
        """Merged or guided, the strength calibrated at the arm's own steps."""
        interval = self.job.config.interval if mode == "guided" else None
        job = replace(self.job, config=replace(self.job.config, mode=mode, interval=interval))
        selection: Selection | None = None
        tried: set[int] = set()
        with self.status.stage(f"calibration {mode}"):
            while True:
                if spend is not None:
                    job = replace(job, sampler=self._steps(job.base, spend, selection))
                if job.sampler.steps in tried:
                    break
                # Beyond the cap resampling does the rest, as in a run, and leaves fewer steps for an image.
                pilots = self.folder / mode / ("calibration" if not tried else f"calibration-{job.sampler.steps}")
                tried.add(job.sampler.steps)
                found = calibrate_strength(job, self.goal, self.auxiliary, self.omega, self.pool, pilots, self.report)
                shares, _ = shares_at(job, self.goal, found, pilots)
                selection = selection_for(job, self.goal, shares) if found.at_cap else None
        denoiser = retargeting(job, self.auxiliary, found.strength)
        facts = retargeting_facts(job, self.auxiliary, found.strength)
        return self._arm(mode, job, denoiser, facts, None, selection=selection, calibration=found)

    def _steps(self, denoiser: Denoiser, spend: float, selection: Selection | None) -> SamplerConfig:
        """The sampler with the steps that cost so many evaluations per kept image."""
        return equal_steps(self.job.sampler, denoiser, spend / (selection.images_per_kept if selection else 1.0))

    def _arm(
        self, name: str, job: Job, denoiser: Denoiser, facts: dict[str, Any], spend: float | None, *,
        selection: Selection | None = None, calibration: Calibration | None = None,
    ) -> Arm:  # fmt: skip
        if spend is not None:
            job = replace(job, sampler=self._steps(denoiser, spend, selection))
        folder = self.folder / name
        with self.status.stage(name):
            images = kept_images(folder / "images", denoiser, job, facts, selection, self.report, name)
        candidates = Pool(folder / "candidates") if selection else None
        return Arm(name=name, sampler=job.sampler, images=images, candidates=candidates, calibration=calibration)


def equal_steps(sampler: SamplerConfig, denoiser: Denoiser, evaluations: float) -> SamplerConfig:
    """The sampler with the steps, 2 at least, whose evaluations an image come nearest to so many."""
    tried = [replace(sampler, steps=n) for n in range(2, max(3, math.ceil(evaluations) + 2))]
    return min(tried, key=lambda s: abs(s.evaluations(denoiser) - evaluations))
