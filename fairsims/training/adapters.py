"""Training an adapter of a text-to-image pipeline on the latents of its own images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fairsims.data.latents import LatentSet
from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.pipeline_model import PipelineModel
from fairsims.training.config import TrainConfig, finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick

ADAPTER_LR = 4e-4
"""Learning rate of an adapter when nothing else is asked for: a faster one learns one direction for all prompts."""


def adapter_settings(model: PipelineModel, kimg: float, **changes: Any) -> TrainConfig:
    """Settings of an adapter's training: `finetune_config` at an adapter's rate, in the type the model computes in."""
    return finetune_config(kimg, **({"lr": ADAPTER_LR, "precision": model.spec.precision} | changes))


def train_adapter(
    model: PipelineModel,
    data: LatentSet,
    settings: TrainConfig,
    adapter: AdapterConfig,
    folder: Path,
    *,
    kind: str = "auxiliary",
    snapshots: Sequence[float] = (),
) -> Iterator[Tick]:
    """Train a fresh adapter of `model` into a checkpoint folder; resumes.

    The conditions of `data` are positions among the model's prompts. `kind` is what the checkpoint calls itself.
    `snapshots` and what is raised: as `train_folder`.
    """
    training = model.trainable(adapter)
    try:
        recipe: dict[str, Any] = {"kind": kind, "base_digest": model.pipeline.digest, "adapter": training.config}
        recipe |= {"guidance": model.settings.guidance} | model.conditions.facts()
        yield from train_folder(training, data, settings, folder, recipe=recipe, snapshots=snapshots)
    finally:
        training.detach()
