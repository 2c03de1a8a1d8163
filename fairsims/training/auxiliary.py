"""Fine-tuning a copy of a model into an auxiliary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsims.data import ImageDataset
from fairsims.models.base import compile_networks
from fairsims.models.model import Model
from fairsims.training.config import TrainConfig, finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick


def finetune_settings(model: Model, kimg: float, **changes: Any) -> TrainConfig:
    """`finetune_config` for this model: one that learnt mirrored images too goes on with them."""
    return finetune_config(kimg, **({"xflip": learnt_mirrored(model.recipe)} | changes))


def learnt_mirrored(recipe: Mapping[str, Any]) -> bool:
    """Whether a base, made as its recipe says, learnt mirrored images too: then its fine-tunes do."""
    return bool(recipe.get("train", {}).get("xflip", False))


def train_auxiliary(
    model: Model,
    data: ImageDataset,
    settings: TrainConfig,
    folder: Path,
    *,
    kind: str = "auxiliary",
    snapshots: Sequence[float] = (),
) -> Iterator[Tick]:
    """Fine-tune a copy of what is trainable of `model` on images into a checkpoint folder; resumes.

    `kind` is what the checkpoint calls itself. `snapshots` and what is raised: as `train_folder`.
    """
    network = model.trainable()
    if model.spec.compiled:
        compile_networks(network)
    recipe = {"kind": kind, "base_digest": model.digest} | model.conditions.facts()
    yield from train_folder(network, data, settings, folder, recipe=recipe, snapshots=snapshots)
