"""The models of a sweep's points: auxiliaries, the base trained on, guides; each made or opened when first needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import InputError
from fairsims.models import Checkpoint, DenoiserModel, open_checkpoint
from fairsims.retarget.complement import ComplementPlan
from fairsims.retarget.grid import REAL, Point, SweepConfig, size_name
from fairsims.retarget.retargeting import Retargeting, fine_tuning
from fairsims.training.config import TrainConfig
from fairsims.training.folder import snapshot_folder


@dataclass(kw_only=True)
class Arms:
    """Makes the model of a point, in the folder of a run."""

    config: SweepConfig
    work: Retargeting
    complement: ComplementPlan | None
    """What the auxiliaries are trained on; None: on the pool as it is."""
    guides: tuple[Checkpoint, ...]
    """Opened: what autoguided points are guided by."""
    _done: dict[Point, tuple[Path, int | None]] = field(default_factory=dict, init=False)
    """What was trained for a point without its strength, and on how many images."""

    def model(self, point: Point) -> tuple[DenoiserModel, int | None]:
        """The model, and the size of the set that its auxiliary learnt."""
        base = self.work.model
        if point.mode == "base":
            return base, None
        if point.mode == "autoguided":
            assert point.guide is not None
            # The guide's g is 1 + omega.
            spec = replace(base.spec, guide=self.config.guides[point.guide], guidance=1 + point.omega)
            return DenoiserModel(spec, base.base, guide=self.guides[point.guide]), None
        trained, size = self._trained(point)
        if point.mode in ("auxiliary", "longer"):
            return self.work.tuned(trained), size
        mode = {"blocks": "merged", "decayed": "guided"}.get(point.mode, point.mode)
        return base.retargeted(trained, point.omega, mode, point.interval, blocks=point.blocks), size

    def _trained(self, point: Point) -> tuple[Path, int | None]:
        """The folder of the network that the point needs beside the base."""
        kind = point.mode if point.mode in REAL else "auxiliary"
        key = Point(mode=kind, size=point.size, budget=point.budget)
        if key not in self._done:
            make = {"longer": self._longer, "decayed": self._decayed}.get(kind, self._auxiliary)
            self._done[key] = make(point)
        return self._done[key]

    def _auxiliary(self, point: Point) -> tuple[Path, int | None]:
        chosen, budgets = self._synthetic_set(point.size), self.config.budgets
        folder = self.work.run.folder / f"auxiliary-{size_name(point.size)}"
        self.work.fine_tune(folder, chosen, kimg=budgets[-1], snapshots=budgets)
        return snapshot_folder(folder, point.budget), len(chosen)

    def _decayed(self, point: Point) -> tuple[Path, int | None]:
        budgets, work = self.config.budgets, self.work
        settings = replace(
            fine_tuning(work.config, work.model.recipe, budgets[-1]), weight_decay=self.config.weight_decay
        )
        folder = work.run.folder / "decayed"
        work.train_on(folder, self.real, settings, snapshots=budgets)
        return snapshot_folder(folder, point.budget), len(self.real)

    def _longer(self, point: Point) -> tuple[Path, int | None]:
        """The base trained on at its last rate, averaged as before, for what an auxiliary of the same point costs.

        That is its images, and those of its set: an image's evaluations are forwards, a third of a training step each.
        """
        size, work = len(self._synthetic_set(point.size)), self.work
        budgets = [longer_kimg(b, size, work.model.evaluations_per_image) for b in self.config.budgets]
        settings = going_on(fine_tuning(work.config, work.model.recipe, budgets[-1]), work.model.recipe)
        folder = work.run.folder / f"longer-{size_name(point.size)}"
        work.train_on(folder, self.real, settings, kind="longer", snapshots=budgets)
        return snapshot_folder(folder, budgets[self.config.budgets.index(point.budget)]), size

    def _synthetic_set(self, size: int | None) -> np.ndarray:
        """Positions in the pool of a synthetic set of this size, and its table; nested as `draw_complement` says."""
        name, images = f"set-{size_name(size)}", len(self.work.pool)
        if self.complement is not None:
            return self.work.draw_set(name, self.complement.complement, size)
        if size is not None and size > images:
            raise InputError(f"the size {size} was asked for and the pool has {images} images; give a larger --pool")
        chosen = np.arange(images if size is None else size)
        self.work.write_set(name, chosen)
        return chosen

    @cached_property
    def real(self) -> ImageDataset:
        """The data that the base was trained on. Raises InputError where they are not at hand."""
        return training_data(self.work)


def longer_kimg(budget: float, size: int, evaluations: int) -> float:
    """Training, in kimg, that costs what an auxiliary of `budget` kimg on a set of `size` sampled images costs."""
    return round(budget + size * evaluations / 3000, 3)


def going_on(settings: TrainConfig, recipe: Mapping[str, Any]) -> TrainConfig:
    """How the base goes on being trained: the rate that it ended with, its noise levels, its weight average."""
    train = recipe.get("train", {})
    kept = ("batch_size", "ema_halflife_kimg", "P_mean", "P_std", "augment", "clip_norm")
    same: dict[str, Any] = {name: train[name] for name in kept if name in train}
    if "lr" in train:
        same["lr"] = train["lr"] * train.get("lr_final", TrainConfig.lr_final)
    # An average that begins at the base needs no cap on its half-life.
    return replace(settings, **same, lr_final=1.0, warmup_kimg=0.0, ema_ramp=1e9)


def training_data(work: Retargeting) -> ImageDataset:
    """The data that the base says it was trained on. Raises InputError where it says none or they are not at hand."""
    model, named = work.model, work.model.recipe.get("data")
    if model.latent or named is None:
        raise InputError(
            f"{model.spec.base} does not say what data it was trained on; expected a base made by `fairsims train`; "
            f"leave {' and '.join(REAL)} out of --modes"
        )
    return open_dataset(str(named), resolution=model.image_shape[1])


def open_arms(config: SweepConfig, work: Retargeting) -> tuple[Checkpoint, ...]:
    """The guides, opened; with every check of the arms that can be made before anything is computed.

    Raises InputError for a guide that is missing or does not fit the base, and where training data are not at hand.
    """
    if set(REAL) & set(config.modes):
        training_data(work)
    guides = tuple(map(open_checkpoint, config.guides))
    for name, guide in zip(config.guides, guides, strict=True):
        DenoiserModel(replace(work.model.spec, guide=name, guidance=2.0), work.model.base, guide=guide)
    return guides


def arm_settings(config: SweepConfig, guides: Sequence[Checkpoint]) -> dict[str, Any]:
    """What decides the points beside their names, for a run's `config.json`; what earlier sweeps lack only if used."""
    found: dict[str, Any] = {}
    if "decayed" in config.modes and config.weight_decay != SweepConfig.weight_decay:
        found["weight_decay"] = config.weight_decay
    if guides:
        found["guides"] = [guide.digest for guide in guides]
    if config.features != SweepConfig.features:
        found["features"] = list(config.features)
    return found
