"""Fine-tuning a copy of a model into an auxiliary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fairsims.data import ImageDataset
from fairsims.data.latents import LatentSet
from fairsims.models.base import NetworkDenoiser, compile_networks
from fairsims.models.lowrank import LowRank
from fairsims.models.model import Model, inherited
from fairsims.training.config import EDM2, TrainConfig, finetune_config
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick


def finetune_settings(model: Model, kimg: float, **changes: Any) -> TrainConfig:
    """`finetune_config` for this model, on in the way that it was trained in."""
    return finetune_config(kimg, **(learnt(model.recipe) | changes))


def learnt(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a base, made as its recipe says, was trained with and its fine-tunes go on with.

    Mirrored images too, where it learnt them. An EDM2 network's optimiser, schedule, averages and noise levels.
    """
    train, loss = recipe.get("train", {}), recipe.get("loss") or {}
    found: dict[str, Any] = {"xflip": bool(train.get("xflip", False))}
    if loss.get("class") == "EDM2Loss":
        return found | EDM2 | {k: float(loss[k]) for k in ("P_mean", "P_std") if k in loss}
    if train.get("beta2") == EDM2["beta2"]:
        return found | EDM2 | {k: train[k] for k in ("P_mean", "P_std")}
    return found


def train_auxiliary(
    model: Model,
    data: ImageDataset | LatentSet,
    settings: TrainConfig,
    folder: Path,
    *,
    kind: str = "auxiliary",
    rank: int | None = None,
    snapshots: Sequence[float] = (),
) -> Iterator[Tick]:
    """Fine-tune a copy of what is trainable of `model` on images into a checkpoint folder; resumes.

    `kind` is what the checkpoint calls itself. With a `rank` a change of that rank of every weight is trained (LoRA);
    the checkpoint is the whole network all the same. `snapshots` and what is raised: as `train_folder`.
    """
    network = model.trainable()
    if model.spec.compiled:
        compile_networks(network)
    recipe = {"kind": kind, "base_digest": model.digest} | inherited(model)
    if rank is not None:
        assert isinstance(network, NetworkDenoiser)
        network, recipe = LowRank(network, rank, settings.seed), recipe | {"rank": rank}
    yield from train_folder(network, data, settings, folder, recipe=recipe, snapshots=snapshots)
