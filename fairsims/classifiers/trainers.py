"""The two ways to make a classifier of labelled images: train a network, or fit a probe to frozen features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers import torchvision_nets
from fairsims.classifiers.augment import Augmentation
from fairsims.classifiers.backbones import open_backbone
from fairsims.classifiers.checkpoints import backbone_facts, build_network, find_classifier, network_of
from fairsims.classifiers.cnn import ConvNet, NetworkConfig
from fairsims.classifiers.labelled import Labelled
from fairsims.classifiers.seen import seen_by
from fairsims.classifiers.torchvision_nets import TorchvisionConfig, TorchvisionNet
from fairsims.classifiers.training import ClassifierRecipe, predict_logits, train_network
from fairsims.errors import InputError
from fairsims.files import read_json

IntArray = npt.NDArray[np.int64]
Report = Callable[[int, int], None]
MEMORY = 16 * 2**30
"""Bytes of uint8 images that training holds at most."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained classifier before it is measured: what gives logits, and what is saved."""

    logits: Callable[[Tensor], Tensor]
    """Prepared images `(n, ...)` to `(n, K)` float32."""
    tensors: Mapping[str, Tensor]


class Trainer(Protocol):
    """Settings that make a classifier of prepared images and their classes."""

    @property
    def kind(self) -> str: ...

    def prepared(self, data: Labelled) -> Tensor:
        """What is learned from, a row per image `(N, ...)`: the images, or their features."""
        ...

    def fit(self, rows: Tensor, labels: IntArray, fold: int, report: Report) -> Fitted:
        """Learn; `fold` -1 is the final classifier. Raises InputError when a class has no image."""
        ...

    def model(self) -> dict[str, Any]:
        """The part of config.json that says how to build it again."""
        ...

    def recipe_facts(self) -> dict[str, Any]:
        """The part of config.json that says how it was trained."""
        ...


@dataclass(frozen=True, kw_only=True)
class CNNTrainer:
    """A network trained from random weights, or a torchvision one from pretrained ones."""

    config: NetworkConfig | TorchvisionConfig
    recipe: ClassifierRecipe
    weights: str = ""
    """torchvision's name of weights to start from, or a file."""
    kind: str = "cnn"

    def prepared(self, data: Labelled) -> Tensor:
        """uint8 `(N, C, H, W)`. Raises InputError when the images are of another shape, or too many."""
        found, wanted = data.dataset, self.config
        if (found.resolution, found.channels) != (wanted.input_size, wanted.channels):
            raise InputError(
                f"{found.name} has {found.channels} channels at {found.resolution} pixels; "
                f"expected {wanted.channels} at {wanted.input_size}"
            )
        size = len(data) * found.channels * found.resolution**2
        if size > MEMORY:
            raise InputError(
                f"{len(data)} images of {found.name} take {size / 2**30:.0f} GiB; expected at most "
                f"{MEMORY / 2**30:.0f}; give a lower --resolution, or take a probe"
            )
        return found.read(data.indices)

    def fit(self, rows: Tensor, labels: IntArray, fold: int, report: Report = lambda done, total: None) -> Fitted:
        """Every fold has a seed of its own; the final classifier has the recipe's."""
        seeded = replace(self.recipe, seed=self.recipe.seed + 1000 * (fold + 1))
        network = train_network(rows, labels, self._start, seeded, classes=self.config.classes, report=report)
        return Fitted(logits=lambda rows: predict_logits(network, rows), tensors=network.state_dict())

    def model(self) -> dict[str, Any]:
        return {"network": asdict(self.config)}

    def recipe_facts(self) -> dict[str, Any]:
        return {"recipe": asdict(self.recipe), **({"start": self.weights} if self.weights else {})}

    def _start(self) -> ConvNet | TorchvisionNet:
        network = build_network(self.config)
        if self.weights:
            assert isinstance(network, TorchvisionNet)
            torchvision_nets.load_trunk(network, self.weights)
        return network


@dataclass(frozen=True, kw_only=True)
class ProbeTrainer:
    """Multinomial logistic regression on standardised frozen features, classes weighted equally."""

    backbone: str
    """Frozen features: clip:MODEL:PRETRAINED, torchvision:NETWORK:WEIGHTS or classifier:NAME."""
    strength: float = 1.0
    """C of the logistic regression: the smaller, the stronger the penalty on its weights."""
    kind: str = "probe"

    def __post_init__(self) -> None:
        if not 0 < self.strength < float("inf"):
            raise ValueError(f"strength is {self.strength}; expected a positive number")

    def prepared(self, data: Labelled) -> Tensor:
        """Features, float32 `(N, d)`.

        Raises InputError when they are not finite, or learned this attribute from these images: no fold were unseen.
        """
        self._check_unseen(data)
        chunks = np.array_split(data.indices, max(1, len(data) // 256))
        with torch.inference_mode():
            rows = torch.cat([self._features.features(data.dataset.read(chunk)).cpu() for chunk in chunks])
        if not torch.isfinite(rows).all():
            raise InputError(f"the features {self.backbone} of {data.dataset.name} are not finite; take other features")
        return rows

    def fit(self, rows: Tensor, labels: IntArray, fold: int, report: Report = lambda done, total: None) -> Fitted:
        """The scale of the features is folded into the weights: logits are `W f + b`."""
        from sklearn.linear_model import LogisticRegression

        x = rows.double().numpy()
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 1e-12, scale, 1.0)
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000)
        model.fit((x - mean) / scale, labels)
        weight, intercept = model.coef_, model.intercept_
        if len(weight) == 1:  # two classes: one logit, split between them
            weight, intercept = (
                np.concatenate([-weight / 2, weight / 2]),
                np.concatenate([-intercept / 2, intercept / 2]),
            )
        weight = weight / scale
        bias = torch.from_numpy(intercept - weight @ mean).float()
        matrix = torch.from_numpy(weight).float()
        report(len(rows), len(rows))
        return Fitted(logits=lambda rows: F.linear(rows, matrix, bias), tensors={"weight": matrix, "bias": bias})

    def model(self) -> dict[str, Any]:
        return {"backbone": backbone_facts(self._features)}

    def recipe_facts(self) -> dict[str, Any]:
        return {"recipe": {"strength": self.strength, "class_weight": "balanced", "features": "standardised"}}

    def _check_unseen(self, data: Labelled) -> None:
        kind, _, spec = self.backbone.partition(":")
        if kind != "classifier":
            return
        folder = find_classifier(spec)
        if read_json(folder / "config.json").get("attribute") != data.attribute.name:
            return
        known = int(seen_by(folder, data, self._features.input_size).sum())
        if known:
            raise InputError(
                f"{spec} learned {data.attribute.name} from {known} of these {len(data)} images; its held-out errors "
                "would come out too small; take other features or other images"
            )

    @cached_property
    def _features(self) -> Any:
        return open_backbone(self.backbone)


def trainer_of(config: Mapping[str, Any]) -> Trainer:
    """The trainer that made the classifier with this config.json. Raises InputError when it does not say."""
    try:
        recipe = dict(config["recipe"])
        if config["kind"] == "probe":
            return ProbeTrainer(backbone=config["backbone"]["spec"], strength=recipe["strength"])
        recipe["augmentation"] = Augmentation(**recipe["augmentation"])
        return CNNTrainer(
            config=network_of(config["network"]), recipe=ClassifierRecipe(**recipe), weights=config.get("start", "")
        )
    except (KeyError, TypeError) as e:
        raise InputError(
            f"the config.json of {config.get('name')} does not say how it was trained ({e}); train it again"
        ) from None
