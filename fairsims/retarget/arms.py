"""The arms of a comparison: what reaches a target, each with the same number of kept images on the same seeds.

base: the model as it is. resampled: what classifier resampling keeps of the base's images. finetuned: the base trained
on a set of its own pool that has the target's mix, the naive remedy. merged and guided: SIMS, from one auxiliary.
paired: merged, from an auxiliary to a second one in place of the base.

The guided arm samples as asked. Its evaluations per kept image (of two networks; more where the strength cap leaves
something to resampling) are what every arm may spend: each other one gets the sampler steps that come nearest to it, so
that an arm which needs fewer networks, or generates fewer images a kept one, samples more finely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from fairsims.models import DenoiserModel
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool
from fairsims.retarget.calibration import Calibration
from fairsims.retarget.retargeting import Retargeting
from fairsims.retarget.selection import Selection, remainder, selection_for

ARMS = ("base", "resampled", "finetuned", "merged", "guided", "paired")


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
class Trained:
    """The networks that the arms are made of, and how they were planned."""

    omega: float
    """Planned strength."""
    auxiliary: Path
    """Trained on the complement set."""
    contrast: tuple[Path, Path]
    """Trained on the two sets of a paired contrast: what it leads away from, and towards."""
    paired_start: float
    """Planned strength of the contrast."""
    finetuned: Path
    """Trained on the set in the target's mix."""
    resampling: Selection
    """What reaches the target from the pool's shares by selecting alone."""


def make_arms(work: Retargeting, trained: Trained) -> dict[str, Arm]:
    """All of them; the first that is made, guided, sets what the others may spend."""
    guided = _combined(work, trained, "guided", None)
    spend = guided.evaluations_per_kept
    alone = _steps(work, spend, None)
    made = {
        "guided": guided,
        "merged": _combined(work, trained, "merged", spend),
        "paired": _combined(work, trained, "paired", spend),
        "base": _arm(work, "base", sampled_by(work.model, alone)),
        "resampled": _resampled(work, trained.resampling, spend),
        "finetuned": _arm(work, "finetuned", sampled_by(work.tuned(trained.finetuned), alone)),
    }
    return {name: made[name] for name in ARMS}


def _resampled(work: Retargeting, selection: Selection, spend: float) -> Arm:
    """The base selected by acceptance rates from its shares at the arm's own steps, on calibration seeds.

    Other steps make other shares; and how many images are kept of those generated says how many steps there are.
    """
    folder, n, tried = work.run.folder / "resampled", work.config.calibration, set[int]()
    model, steps = work.model, _steps(work, spend, selection)
    with work.run.stage("calibration resampled"):
        while steps.steps not in tried:
            tried.add(steps.steps)
            model = sampled_by(work.model, steps)
            images = work.images(folder / f"calibration-{steps.steps}", model, "calibration", n, stage="resampled")
            selection = selection_for(work.goal, work.goal.measured(work.predicted(images)))
            steps = _steps(work, spend, selection)
    return _arm(work, "resampled", model, selection=selection)


def _combined(work: Retargeting, trained: Trained, name: str, spend: float | None) -> Arm:
    """Merged, guided or paired, the strength calibrated at the arm's own steps."""
    mode, interval = ("guided", work.config.interval) if name == "guided" else ("merged", None)
    negative, positive, start = trained.auxiliary, None, trained.omega
    if name == "paired":
        (negative, positive), start = trained.contrast, trained.paired_start
    steps = work.model.spec.sampler if spend is None else _steps(work, spend, None)
    base, tried, selection = work.model, set[int](), None

    def at(strength: float) -> DenoiserModel:
        return base.retargeted(negative, strength, mode, interval, positive=positive)

    with work.run.stage(f"calibration {name}"):
        while steps.steps not in tried:
            pilots = work.run.folder / name / (f"calibration-{steps.steps}" if tried else "calibration")
            tried.add(steps.steps)
            base = sampled_by(work.model, steps)
            found = work.calibrate(at, start, pilots)
            # Resampling does the rest, as in a run, and leaves fewer steps for an image.
            selection = remainder(work.goal, found, *work.shares_at(found, pilots))
            steps = steps if spend is None else _steps(work, spend, selection)
    return _arm(work, name, at(found.strength), selection=selection, calibration=found)


def _steps(work: Retargeting, spend: float, selection: Selection | None) -> SamplerConfig:
    """The sampler whose steps, of one network, cost so many evaluations per kept image."""
    return equal_steps(work.model, spend / (selection.images_per_kept if selection else 1.0))


def _arm(
    work: Retargeting,
    name: str,
    model: DenoiserModel,
    *,
    selection: Selection | None = None,
    calibration: Calibration | None = None,
) -> Arm:
    folder = work.run.folder / name
    with work.run.stage(name):
        images = work.kept_images(folder / "images", model, selection, stage=name)
    candidates = Pool(folder / "candidates") if selection else None
    return Arm(name=name, sampler=model.spec.sampler, images=images, candidates=candidates, calibration=calibration)


def equal_steps(model: DenoiserModel, evaluations: float) -> SamplerConfig:
    """The model's sampler with the steps, 2 at least, whose evaluations an image come nearest to so many."""
    tried = [replace(model.spec.sampler, steps=n) for n in range(2, max(3, math.ceil(evaluations) + 2))]
    return min(tried, key=lambda s: abs(s.evaluations(model.denoiser) - evaluations))


def sampled_by(model: DenoiserModel, sampler: SamplerConfig) -> DenoiserModel:
    """The same networks, sampled otherwise."""
    spec = replace(model.spec, sampler=sampler)
    return DenoiserModel(spec, model.base, model.auxiliary, model.positive, guide=model.guide)
