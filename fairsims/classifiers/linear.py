"""The classifier that every kind with weights is: features, a linear layer, a temperature, a threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.backbones import Features, open_backbone
from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.classifiers.networks import read_tensors
from fairsims.errors import InputError
from fairsims.files import sha256_file, sha256_json


class LinearClassifier(AttributeClassifier):
    """`softmax(W f(x) + b)/T`, and `undetermined` where no class reaches theta; float32, deterministic."""

    def __init__(self, backbone: Features, weight: Tensor, bias: Tensor, card: Card) -> None:
        super().__init__(card)
        called = len(card.attribute.classes) - (card.threshold > 0)
        if len(weight) != called or bias.shape != weight.shape[:1]:
            raise InputError(f"{card.name} contradicts itself (classes, rows of its last layer); restore it")
        self.backbone = backbone
        self.input_size, self.preprocessing = backbone.input_size, backbone.preprocessing
        self.weight = weight
        self.bias = bias
        self.temperature = card.temperature
        self.threshold = card.threshold

    def probabilities(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            features = self.features(images)
            logits = F.linear(features, self.weight.to(features.device), self.bias.to(features.device))
            return with_undetermined(F.softmax(logits / self.temperature, dim=1), self.threshold)

    def features(self, images: Tensor) -> Tensor:
        try:
            with torch.inference_mode():
                return self.backbone.features(images)
        except InputError as e:
            raise InputError(f"{self.name} {e}") from None


def open_head(
    folder: Path, config: Mapping[str, Any], card: Card, load: Callable[[str], AttributeClassifier]
) -> LinearClassifier:
    """The classifier in `folder` that is a linear layer on features of others (a probe, zero-shot prompts)."""
    spec, digest = config["backbone"]["spec"], config["backbone"]["digest"]
    tensors, card = read_weights(folder, config, card, digest)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].ndim != 2 or tensors["bias"].ndim != 1:
        raise InputError(
            f"{folder}/model.safetensors does not fit {folder}/config.json (it holds {sorted(tensors)}); restore both"
        )
    backbone = open_backbone(spec, load)
    if backbone.digest != digest:
        raise InputError(
            f"the features {spec} of {folder} have other weights than when it was made; "
            "restore them or make the classifier again"
        )
    return LinearClassifier(backbone, tensors["weight"], tensors["bias"], card)


def read_weights(folder: Path, config: Mapping[str, Any], card: Card, features: Any) -> tuple[dict[str, Tensor], Card]:
    """model.safetensors and the card with digests; `features` is what config.json says that the last layer stands on.

    Raises InputError when the file is missing, corrupt, not finite or another than config.json was written with.
    """
    weights = folder / "model.safetensors"
    tensors = read_tensors(weights, "restore it or train the classifier again")
    digest = sha256_file(weights)
    if config.get("weights_digest", digest) != digest:
        raise InputError(f"{weights} is not the file that {folder}/config.json was written with; restore both")
    identity = [digest, card.kind, features, card.attribute.name, list(card.attribute.classes), card.temperature]
    identity += [card.threshold] if card.threshold else []
    return tensors, replace(card, digest=sha256_json(identity), weights_digest=digest)
