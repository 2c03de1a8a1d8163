"""Training a base model: by a preset of `presets.toml`, or on data of one's own with a network of one's own."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims import engine
from fairsims.data import ImageDataset, open_dataset, to_float
from fairsims.data.latents import LatentSet
from fairsims.errors import InputError, closest
from fairsims.models.base import NetworkDenoiser, compile_networks
from fairsims.models.checkpoints import open_checkpoint
from fairsims.models.folders import Checkpoint, network_class
from fairsims.models.precondition import EDMDenoiser
from fairsims.options import from_mapping
from fairsims.seeds import derive
from fairsims.training.augmentation import AUGMENT_DIM
from fairsims.training.auxiliary import learnt
from fairsims.training.batches import attribute_of, class_attribute, class_labels
from fairsims.training.config import EDM2, TrainConfig
from fairsims.training.encoding import FINAL_STD, encoded
from fairsims.training.folder import train_folder
from fairsims.training.loop import Tick


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything `fairsims train --preset NAME` needs."""

    data: str | None = None
    """Data set; None where it cannot be shipped and has to be given."""
    resolution: int | None
    network: dict[str, Any]
    """Arguments of the denoiser, beside the shape of the images and what follows from `train`."""
    train: TrainConfig


PRESETS = {
    name: from_mapping(Preset, values)
    for name, values in tomllib.loads((files(__package__) / "presets.toml").read_text(encoding="utf-8")).items()
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError with the closest names when there is none."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}{closest(name, PRESETS)}")
    return PRESETS[name]


def train_base(
    out: Path,
    *,
    preset_name: str | None = None,
    data: str | None = None,
    resolution: int | None = None,
    init: str | None = None,
    condition: str | None = None,
    network: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    vae: str | None = None,
    compiled: bool = False,
) -> Iterator[Tick]:
    """Train a base into a checkpoint folder, resuming what a killed run left.

    From a preset, or on any `data`; `network` (arguments of EDMDenoiser) and `settings` (fields of TrainConfig) change
    what the preset says. With `init` training starts from that checkpoint's network. `condition` is the attribute of
    the data whose classes a new network is conditional on. `vae` is the folder of a diffusers AutoencoderKL: the
    network is one of latents, which the images are encoded into once.
    Raises InputError when something needed is not given or does not fit.
    """
    recipe = preset(preset_name) if preset_name else None
    data = data or (recipe.data if recipe else None)
    if data is None:
        raise InputError(
            f"no data for preset {preset_name!r}; give --data"
            if recipe
            else "nothing to train on; give --preset or --data"
        )
    settings, network = dict(settings or {}), dict(network or {})
    if recipe is None and "kimg" not in settings:
        raise InputError("no budget; give --kimg, thousands of images")
    start = None
    if init is not None:
        with engine.main_first():
            start = open_checkpoint(init)
        # A ramp is for weights that start at random; an inherited one would starve a short training.
        settings = {"warmup_kimg": 0.0} | {k: v for k, v in learnt(start.recipe).items() if k in EDM2} | settings
    elif network.get("denoiser") == "EDM2Denoiser":
        settings = EDM2 | settings
    config = replace(recipe.train, **settings) if recipe else TrainConfig(**(_rhythm(settings["kimg"]) | settings))
    dataset = open_dataset(data, resolution=resolution or (recipe.resolution if recipe else None))
    facts: dict[str, Any] = ({"preset": preset_name} if recipe else {}) | {"data": data}
    if condition is not None:
        network["label_dim"] = len(attribute_of(dataset, condition).classes)
    if start is not None and network:
        raise InputError(f"found {', '.join(network)} beside --init; its network is taken as it is, give only one")
    wanted = (recipe.network if recipe else {}) | network
    label_dim = start.network.label_dim if start is not None else int(wanted.get("label_dim", 0))
    if label_dim and "seed" not in dataset.table:
        facts["classes"] = list(class_attribute(dataset, label_dim).classes)
    data_set, known = _latents(dataset, vae, label_dim, config, start)
    facts |= {} if known is None else {"codec": known}
    if start is not None:
        denoiser, facts["init_digest"] = start.network.to(engine.device()), start.digest
    else:
        if network or recipe is None:
            facts["network"] = network
        denoiser = new_network(data_set, config, wanted)
    if compiled:
        compile_networks(denoiser)
    yield from train_folder(denoiser, data_set, config, out, recipe=facts)


def _latents(
    dataset: ImageDataset, vae: str | None, label_dim: int, config: TrainConfig, start: Checkpoint | None
) -> tuple[ImageDataset | LatentSet, dict[str, Any] | None]:
    """What is trained on, and the `codec` facts of a network of latents."""
    known = None if start is None else start.recipe.get("codec")
    if vae is None:
        if known is not None:
            raise InputError(f"{start and start.name} makes latents; give --vae, a local folder of its AutoencoderKL")
        return dataset, None
    if start is not None and known is None:
        raise InputError(f"{start.name} makes pixels, not latents; leave --vae out")
    # Before the images are encoded, which may take long.
    if config.xflip or config.augment:
        raise InputError("latents cannot be mirrored or distorted; leave --xflip and --augment out")
    labels = class_labels(dataset, label_dim)
    conditions = torch.zeros(len(dataset), dtype=torch.int64) if labels is None else labels.argmax(dim=1)
    return encoded(dataset, vae, conditions, known)


def _rhythm(kimg: float) -> dict[str, float]:
    """How often a training without a preset reports and saves its state."""
    return {"tick_kimg": max(0.05, min(4, kimg / 40)), "state_kimg": max(0.05, min(16, kimg / 8), kimg / 1000)}


def new_network(dataset: ImageDataset | LatentSet, config: TrainConfig, network: Mapping[str, Any]) -> NetworkDenoiser:
    """An untrained network for a data set on this process's device; its weights are drawn from the training's seed.

    Raises InputError when the arguments do not fit each other or the images.
    """
    channels, resolution, _ = dataset.shape
    arguments = {"img_resolution": resolution, "img_channels": channels, **network}
    if config.augment:
        arguments["augment_dim"] = AUGMENT_DIM
    kind = network_class(arguments.pop("denoiser", EDMDenoiser.__name__))
    if "sigma_data" not in arguments:
        arguments["sigma_data"] = FINAL_STD if isinstance(dataset, LatentSet) else pixel_deviation(dataset)
    torch.manual_seed(derive(config.seed, "init"))
    try:
        return kind(**arguments).to(engine.device())
    except (TypeError, ValueError) as e:
        raise InputError(f"the options make no network ({e}); change them") from None


def pixel_deviation(dataset: ImageDataset) -> float:
    """sigma_data of a data set, from evenly spaced images; rounded, since it ends up in a configuration."""
    sample = np.unique(np.linspace(0, len(dataset) - 1, 2048).astype(int))
    return max(0.05, round(float(to_float(dataset.read(sample)).std()), 2))
