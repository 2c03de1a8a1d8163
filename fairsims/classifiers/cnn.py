"""Kind `cnn`: a network trained on labelled images, from random weights or from torchvision's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from fairsims.classifiers.augment import Augmentation
from fairsims.classifiers.base import Card, IntArray, Tally
from fairsims.classifiers.labelled import Labelled
from fairsims.classifiers.linear import LinearClassifier, read_weights
from fairsims.classifiers.networks import (
    ConvNet,
    NetworkConfig,
    TorchvisionConfig,
    TorchvisionNet,
    box_reduced,
    build_network,
    load_trunk,
    misfit,
    network_of,
)
from fairsims.classifiers.trainer import Fitted, Load, Prepared
from fairsims.classifiers.training import ClassifierRecipe, predict_logits, train_network
from fairsims.data.base import to_float
from fairsims.engine import device
from fairsims.errors import InputError
from fairsims.models.precondition import resolve_precision
from fairsims.options import from_mapping

MEMORY = 16 * 2**30
"""Bytes of uint8 images that training holds at most."""


@dataclass(frozen=True, kw_only=True)
class CNNTrainer:
    """A network trained from random weights, or a torchvision one from pretrained ones."""

    kind: ClassVar[str] = "cnn"
    temperatures: ClassVar[tuple[float, float]] = (0.2, 5.0)

    architecture: str = "small"
    """The network: small, or the name of one of torchvision's."""
    weights: str = ""
    """torchvision weights to start from, a name or a file."""
    widths: tuple[int, ...] = ()
    """Channels of the small network's stem and stages; chosen by the size of the images when left out."""
    dropout: float = 0.2
    """Before the small network's last layer, in training."""
    recipe: ClassifierRecipe = field(default_factory=ClassifierRecipe)

    def __post_init__(self) -> None:
        if self.architecture == "small" and self.weights:
            raise InputError(
                "--weights is for torchvision networks; give --architecture, or train the small one from none"
            )

    @classmethod
    def asked(
        cls, *, architecture: str, weights: str, augment: Iterable[tuple[str, float]], seed: int, **recipe: Any
    ) -> CNNTrainer:
        """From options: changes of the default augmentation, and fields of the recipe.

        Raises InputError for a change that there is not, ValueError where a value is not possible.
        """
        augmentation = from_mapping(Augmentation, dict(augment), where="--augment")
        settings = ClassifierRecipe(**recipe, augmentation=augmentation, precision=resolve_precision("auto"), seed=seed)
        return cls(architecture=architecture, weights=weights, recipe=settings)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> CNNTrainer:
        """The trainer that made the classifier with this config.json."""
        network = {k: v for k, v in config["network"].items() if k in ("architecture", "widths", "dropout")}
        recipe = dict(config["recipe"])
        if recipe.pop("mixup", 0):
            raise InputError(f"{config['name']} was trained with mixup, as earlier versions could; train it again")
        return from_mapping(cls, {"weights": config.get("start", ""), "recipe": recipe, **network})

    def network(self, data: Labelled) -> NetworkConfig | TorchvisionConfig:
        """The network for images of that size and number of channels, and for those classes."""
        shape = {
            "input_size": data.dataset.resolution,
            "channels": data.dataset.channels,
            "classes": len(data.attribute.classes),
        }
        if self.architecture != "small":
            return TorchvisionConfig(architecture=self.architecture, **shape)
        found = NetworkConfig.default(**shape)
        return replace(found, widths=self.widths or found.widths, dropout=self.dropout)

    def prepared(self, data: Labelled, load: Load) -> Prepared:
        """uint8 `(N, C, H, W)`. Raises InputError when the images are too many."""
        size = len(data) * int(np.prod(data.dataset.shape))
        if size > MEMORY:
            raise InputError(
                f"{len(data)} images of {data.dataset.name} take {size / 2**30:.0f} GiB; expected at most "
                f"{MEMORY / 2**30:.0f}; give a lower --resolution, or take a probe"
            )
        network = self.network(data)
        rows = data.dataset.read(data.indices)
        return Prepared(rows=rows, model={"network": asdict(network)}, input_size=network.input_size)

    def fit(self, prepared: Prepared, chosen: Tensor, labels: IntArray, fold: int, progress: Tally) -> Fitted:
        """Every fold has a seed of its own; the final classifier has the recipe's."""
        config = network_of(prepared.model["network"])

        def start() -> ConvNet | TorchvisionNet:
            network = build_network(config)
            if isinstance(network, TorchvisionNet) and self.weights:
                load_trunk(network.trunk, self.architecture, self.weights)
            return network

        recipe = replace(self.recipe, seed=self.recipe.seed + 1000 * (fold + 1))
        images = prepared.rows[chosen]
        network = train_network(images, labels, start, recipe, classes=config.classes, report=progress)
        return Fitted(logits=lambda rows: predict_logits(network, rows), tensors=network.state_dict())

    def facts(self) -> dict[str, Any]:
        return {"recipe": asdict(self.recipe), **({"start": self.weights} if self.weights else {})}


def open_cnn(folder: Path, config: Mapping[str, Any], card: Card, load: Load) -> LinearClassifier:
    """The classifier in `folder`, whose config.json is `config`."""
    network = build_network(network_of(config["network"]))
    tensors, card = read_weights(folder, config, card, config["network"])
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as e:
        raise misfit(folder / "model.safetensors", folder / "config.json", e, "restore both") from None
    return LinearClassifier(NetworkBackbone(network.to(device())), network.head.weight, network.head.bias, card)


class NetworkBackbone:
    """The features of a network trained here: `ConvNet` or `TorchvisionNet`, on images of its own size."""

    def __init__(self, network: ConvNet | TorchvisionNet) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.input_size, self.channels = network.config.input_size, network.config.channels
        self.preprocessing = {
            "size": self.input_size,
            "channels": self.channels,
            "resize": "box means of whole multiples",
            "scale": "x / 127.5 - 1",
        }

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        size, channels = self.input_size, self.channels
        usable = images.ndim == 4 and images.shape[1] == channels and images.shape[2] == images.shape[3]
        if images.dtype != torch.uint8 or not usable or images.shape[3] == 0 or images.shape[3] % size:
            raise InputError(
                f"got {str(images.dtype).removeprefix('torch.')} images {tuple(images.shape)}; "
                f"expected uint8 (B, {channels}, {size}, {size}) or a whole multiple of {size} pixels"
            )
        images = images.to(next(self.network.parameters()).device)
        return self.network.features(to_float(box_reduced(images, images.shape[3] // size)))
