"""Fine-tuning a copy of a model into an auxiliary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairsims.data import ImageDataset
from fairsims.models.base import compile_networks
from fairsims.models.checkpoints import checkpoint_digest, checkpoint_recipe, load_on_device
from fairsims.training.config import finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick


def finetune(
    model: str,
    data: ImageDataset,
    out: Path,
    *,
    budget: float,
    settings: Mapping[str, Any],
    compiled: bool = False,
) -> Iterator[Tick]:
    """Fine-tune a copy of `model` on images into a checkpoint folder, for `budget` thousand images.

    `settings` (fields of TrainConfig) change the defaults of `finetune_config`. Raises as `train_folder`.
    """
    config = finetune_config(budget, **({"xflip": learnt_mirrored(model)} | dict(settings)))
    network, facts = load_on_device(model), {"kind": "auxiliary", "base_digest": checkpoint_digest(model)}
    if compiled:
        compile_networks(network)
    yield from train_folder(network, data, config, out, recipe=facts)


def learnt_mirrored(model: str) -> bool:
    """Whether a base learnt mirrored images too: then its fine-tunes do."""
    return bool(checkpoint_recipe(model).get("train", {}).get("xflip", False))
