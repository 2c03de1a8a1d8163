"""A retargeting over prompts: what its settings name, opened, and the stages that it consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims.audit.conditions import condition_counts
from fairsims.audit.draws import Draws, counted
from fairsims.audit.joint import FloatArray
from fairsims.audit.prompt_agreement import TextAgreement
from fairsims.audit.targets import Target
from fairsims.classifiers import AttributeClassifier
from fairsims.classifiers.base import Confusion
from fairsims.classifiers.labelling import label_source
from fairsims.data.latents import LatentSet
from fairsims.data.prompts import Prompts
from fairsims.errors import InputError
from fairsims.files import sha256_json
from fairsims.models import PipelineModel
from fairsims.pools import Pool, pool_latents, write_pool
from fairsims.retarget.calibration import Calibration, Look, Pilot, as_pilot, calibrate
from fairsims.retarget.prompt_config import PromptConfig
from fairsims.retarget.prompt_plan import Focus, PromptPlan, plan_prompts
from fairsims.retarget.prompt_responses import along, responses
from fairsims.retarget.prompt_sets import Source, draw_rows
from fairsims.retarget.retargeting import look_folder
from fairsims.retarget.shrinkage import shrunk
from fairsims.run import Run, numbered
from fairsims.training.adapters import adapter_settings, train_adapter


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """Images that adapters may learn from."""

    latents: LatentSet
    """Conditions are positions among the prompts that adapters are trained on."""
    labels: list[np.ndarray]
    """Probabilities `(N, K)` of every attribute's classes."""
    own: int
    """The first so many are of the prompts themselves, the others of explicit prompts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibrated:
    """The strength of a model's adapters, and how far each neutral prompt has gone there."""

    calibration: Calibration
    rows: list[dict[str, Any]]
    """What was tried, JSON."""
    responses: FloatArray
    """The part of its way that each prompt has gone at the chosen strength, `(P,)`, as `responses`."""
    way: FloatArray
    """How much of its images each prompt has to change, `(P,)`."""

    @property
    def off(self) -> FloatArray:
        """How far each prompt is expected to be off its target, `(P,)`."""
        return np.asarray(np.abs(1 - self.responses) * self.way)


@dataclass(kw_only=True)
class PromptRetargeting:
    """Settings with everything that they name opened and checked; in a run also the stages of it."""

    config: PromptConfig
    prompts: Prompts
    model: PipelineModel
    """The base, asked for the neutral prompts and, where guidance has such a branch, the empty one."""
    classifiers: tuple[AttributeClassifier, ...]
    """Of the attribute with the target, then of those that sets are balanced for."""
    watched: tuple[AttributeClassifier, ...]
    """Of attributes that are only audited."""
    agreement: AttributeClassifier | TextAgreement | None
    """What says whether images show what their prompts name."""
    targets: dict[str, Target]
    """By prompt: neutral, held out, and the empty one."""
    settings: dict[str, Any]
    run: Run = field(init=False)

    @property
    def trained(self) -> tuple[str, ...]:
        """The prompts that adapters are trained on."""
        return self.model.conditions.names

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifiers[0].attribute.classes

    @property
    def confusion(self) -> Confusion:
        """The measured errors of the classifier that the target is for."""
        classifier = self.classifiers[0]
        return classifier.confusions[classifier.default_split]

    # Images.

    def images(
        self,
        folder: Path,
        model: PipelineModel,
        use: str,
        each: int,
        *,
        first: int = 0,
        latents: bool = False,
        stage: str = "",
    ) -> Pool:
        """`each` images of every prompt of the model on the seeds of a use, labelled; after the `first` of them."""
        size = len(model.conditions)
        seeds = self.config.seeds(use, first + each, size)[first * size :]
        return self.made(folder, model, seeds, latents=latents, stage=stage)

    def made(
        self, folder: Path, model: PipelineModel, seeds: Sequence[int], *, latents: bool = False, stage: str = ""
    ) -> Pool:
        """The images of these seeds, labelled."""
        for done in write_pool(folder, model, seeds, latents=latents):
            self.run.progress(stage or folder.name, done, len(seeds))
        pool = Pool(folder)
        self.labels(pool)
        return pool

    def labels(self, pool: Pool) -> list[np.ndarray]:
        """Probabilities `(N, K)` of every attribute's classes."""
        return [label_source(pool, c) for c in self.classifiers]

    def predicted(self, pool: Pool) -> np.ndarray:
        """Predicted class of the attribute with the target, `(N,)`."""
        return np.asarray(self.labels(pool)[0].argmax(axis=1))

    def counts(self, pool: Pool) -> FloatArray:
        """Images by prompt and predicted class, `(P, K)`."""
        return condition_counts(self.predicted(pool), pool.positions, (len(pool.conditions), len(self.classes)))

    @cached_property
    def pool(self) -> Pool:
        """The base's images of the prompts that adapters are trained on, with their latents."""
        with self.run.stage("pool"):
            return self.images(self.run.folder / "pool", self.model, "pool", self.config.pool, latents=True)

    # The plan.

    @cached_property
    def measured(self) -> Draws:
        """Draws of the shares of each prompt of the pool."""
        return counted(self.counts(self.pool), [self.confusion], "pool")

    @cached_property
    def plan(self) -> PromptPlan:
        """The plan that the settings ask for; raises as `planned`."""
        return self.planned(self.config.positive)

    def planned(self, positive: str, gain: FloatArray | None = None) -> PromptPlan:
        """Where each prompt is, has to go, and what it is trained on, with a positive part or without.

        `gain` as `plan_prompts`. Raises InputError where nothing has to move.
        """
        point, n, config = self.measured.point, self.config.pool, self.config
        people = [k for k, name in enumerate(self.trained) if name]
        pi = np.array(point, dtype=np.float64)
        pi[people] = shrunk(point[people], n)
        for k in set(range(len(pi))) - set(people):
            pi[k] = shrunk(point[[k]], n)[0]
        target = np.stack([self.targets[name].resolve(row) for name, row in zip(self.trained, pi, strict=True)])
        if np.abs(pi - target).max() < 1e-9:
            raise InputError("the shares of every prompt are the target already; there is nothing to retarget")
        return plan_prompts(pi, target, cap=config.cap, omega=config.omega, positive=positive, gain=gain)

    def feasibility(self) -> list[dict[str, Any]]:
        """A row for each prompt: shares with intervals, least strength, what serves it, what that costs. JSON."""
        low, high = self.measured.interval()
        plan, rows = self.plan, []
        for k, name in enumerate(self.trained):
            rows.append(
                {
                    "prompt": name,
                    "share": plan.pi[k].tolist(),
                    "low": np.clip(low[k], 0, 1).tolist(),
                    "high": np.clip(high[k], 0, 1).tolist(),
                    "target": plan.target[k].tolist(),
                    "least_strength": None if np.isinf(plan.least[k]) else float(plan.least[k]),
                    "within_cap": not bool(plan.needs[k]),
                    "positive": bool(plan.joined[k]),
                    "reachable": plan.reachable[k].tolist(),
                    "explicit_images": len(self.variants(plan, k)) * self.config.pool,
                }
            )
        return rows

    def variants(self, plan: PromptPlan, k: int) -> dict[int, str]:
        """The explicit prompts, by class, of the classes that a prompt's positive part has to have more of."""
        if plan.positive is None or not plan.joined[k] or not self.trained[k]:
            return {}
        wanted = np.flatnonzero(plan.positive[k] > plan.pi[k] + 1e-9)
        explicit = self.prompts.explicit(self.trained[k])
        return {int(c): explicit[self.classes[c]] for c in wanted if self.classes[c] in explicit}

    def check_variants(self) -> None:
        """Raises InputError where a positive part is needed and the prompt file has no explicit prompt for it."""
        for k, name in enumerate(self.trained):
            if self.plan.positive is not None and self.plan.needs[k] and name and not self.variants(self.plan, k):
                wanted = [
                    c for c, p, o in zip(self.classes, self.plan.positive[k], self.plan.pi[k], strict=True) if p > o
                ]
                raise InputError(
                    f"{name!r} is beyond the cap of {self.config.cap:g} and {self.prompts.name} has no explicit "
                    f"prompt of it for {' or '.join(wanted)}; add it, raise --cap, or give --positive never"
                )

    # Training.

    def training_sets(self, plan: PromptPlan, found: Material) -> dict[str, LatentSet]:
        """`auxiliary` and, where there is one, `positive`: rows of latents, prompt by prompt in the same order."""
        sets = {"auxiliary": self.drawn("auxiliary", found, plan.negative)}
        if plan.positive is not None:
            sets["positive"] = self.drawn("positive", found, plan.positive, explicit=True)
        return sets

    def material(self, plan: PromptPlan) -> Material:
        """What adapters may learn from: the pool, and images of explicit prompts where the plan has a positive part."""
        pools, positions = [self.pool], [self.pool.positions]
        chosen = {k: self.variants(plan, k) for k in range(len(self.trained))}
        if texts := [text for found in chosen.values() for text in found.values()]:
            with self.run.stage("explicit"):
                asked = self.model.asking(prompts=tuple(texts))
                pools.append(
                    self.images(self.run.folder / "explicit", asked, "explicit", self.config.pool, latents=True)
                )
            of = [k for k, found in chosen.items() for _ in found]
            positions.append(np.array(of)[pools[1].positions])
        latents = [pool_latents(p) for p in pools]
        whole = LatentSet(
            name="the images that adapters learn from",
            digest=sha256_json([part.digest for part in latents]),
            latents=torch.cat([part.latents for part in latents]),
            conditions=torch.from_numpy(np.concatenate(positions).astype(np.int64)),
        )
        labels = [np.concatenate(parts) for parts in zip(*(self.labels(p) for p in pools), strict=True)]
        return Material(latents=whole, labels=labels, own=len(self.pool))

    def drawn(self, name: str, found: Material, shares: FloatArray, *, explicit: bool = False) -> LatentSet:
        """A set in each prompt's mix of shares `(P, K)`, of the pool's images and, where asked, of explicit ones."""
        config, stop = self.config, len(found.latents) if explicit else found.own
        of = found.latents.conditions.numpy()[:stop]
        people = sum(1 for name in self.trained if name)
        empty = round(config.empty_share / (1 - config.empty_share) * config.pool * people)
        rows = []
        for k, text in enumerate(self.trained):
            places = np.flatnonzero(of == k)
            source = Source(
                places=places,
                probabilities=found.labels[0][places],
                others=tuple(p[places].argmax(axis=1) for p in found.labels[1:]),
            )
            size = config.pool if text else max(1, empty)
            rows.append(
                draw_rows(
                    source, shares[k], size, floor=config.floor, seed=config.seed, names=self.classes, prompt=text
                )
            )
        return found.latents.subset(np.concatenate(rows), name=name)

    def train(self, name: str, data: LatentSet) -> Path:
        """Train an adapter on a set into the run's folder of that name."""
        config, folder = self.config, self.run.folder / name
        changes = {"batch_size": config.batch_size, "micro_batch": config.micro_batch, "lr": config.lr}
        settings = adapter_settings(self.model, config.budget, seed=config.seed, **changes)
        with self.run.stage(name):
            for tick in train_adapter(self.model, data, settings, config.adapter(), folder, kind=data.name):
                self.run.progress(name, tick.nimg, settings.steps * settings.batch_size)
        return folder

    def at(self, strength: float, number: int = 1) -> PipelineModel:
        """The retargeted model at a strength, by the adapters of a round."""
        auxiliary, positive = (self.run.folder / numbered(part, number) for part in ("auxiliary", "positive"))
        second = positive if self.plan.positive is not None else None
        return self.model.retargeted(auxiliary, strength, self.config.mode, positive=second)

    # Calibration.

    def calibrate(
        self, at: Callable[[float], PipelineModel], start: float, name: str = "calibration", *, after: int = 0
    ) -> Calibrated:
        """The strength at which the neutral prompts together have gone their way, and what was tried.

        `at` makes the model of a strength, `start` is the planned one; the images are kept in the run's folder `name`
        and come after the first `after` calibration seeds of each prompt.
        Each row says what the worst prompt was there: one strength cannot serve all of them alike. Raises NoResponse
        as `calibrate`.
        """
        people = [k for k, name in enumerate(self.trained) if name]
        focus, cap = Focus.of(self.plan.pi[people], self.plan.target[people]), self.config.cap
        confusion = self.confusion.rates()
        of_people = np.isin(self.pool.positions, people)
        found: dict[float, list[Pool]] = {}

        def measure(look: Look) -> np.ndarray:
            model = at(look.strength).asking(prompts=tuple(self.trained[k] for k in people))
            folder = look_folder(self.run.folder / name, look)
            each, first = look.n // len(people), after + look.first // len(people)
            pool = self.images(folder, model, "calibration", each, first=first, stage=name)
            found.setdefault(look.strength, []).append(pool)
            return focus.values(self.predicted(pool), pool.positions, confusion)

        with self.run.stage(name):
            place = np.searchsorted(people, self.pool.positions[of_people])
            calibration = calibrate(
                measure,
                target=focus.target,
                base=as_pilot(focus.values(self.predicted(self.pool)[of_people], place, confusion), 0.0),
                start=start,
                cap=cap,
                images=self.config.calibration * len(people),
                tolerance=self.config.tolerance,
                rounds_of=len(people),
            )
        counts = {strength: np.sum([self.counts(pool) for pool in pools], axis=0) for strength, pools in found.items()}
        shares = {strength: counted(n, [self.confusion], "calibration").point for strength, n in counts.items()}
        before = self.measured.point[people]
        at_chosen, images = along(before, shares, {w: n.sum(axis=1) for w, n in counts.items()}, calibration.strength)
        return Calibrated(
            calibration=calibration,
            rows=[self._row(pilot, shares.get(pilot.strength, before), people) for pilot in calibration.pilots],
            responses=responses(self.plan.pi[people], self.plan.target[people], at_chosen, images),
            way=np.clip(self.plan.target[people] - self.plan.pi[people], 0, None).sum(axis=1),
        )

    def _row(self, pilot: Pilot, shares: FloatArray, people: list[int]) -> dict[str, Any]:
        """A pilot, and how far the neutral prompts are off their targets there."""
        off = np.abs(shares - self.plan.target[people]).max(axis=1)
        worst = int(off.argmax())
        return asdict(pilot) | {
            "mean_off": float(off.mean()),
            "worst": self.trained[people[worst]],
            "worst_off": float(off[worst]),
        }
