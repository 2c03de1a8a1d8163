"""The classifier that every kind with weights is: features, a linear layer, a temperature, a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.backbones import Backbone
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a classifier beside its weights.

    Raises InputError when it contradicts itself: classes, confusions, default split, threshold.
    """

    name: str
    kind: str
    attribute: Attribute
    """Its classes end in `undetermined` where the classifier abstains."""
    digest: str
    temperature: float = 1.0
    threshold: float = 0.0
    """theta; 0: it never abstains."""
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    default_split: str = ""
    weights_digest: str = ""
    """SHA-256 of model.safetensors."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"a classifier is named {self.name!r}; expected a name without slashes; rename it")
        classes = self.attribute.classes
        sizes = {len(c.counts) for c in self.confusions.values()} | {len(classes)}
        splits = set(self.confusions) or {""}
        if len(sizes) != 1 or len(classes) < 2 or self.default_split not in splits:
            raise InputError(f"{self.name} contradicts itself (classes, confusions, default split); restore it")
        if UNDETERMINED in classes[:-1] or not self.temperature > 0 or not self.threshold >= 0:
            raise InputError(f"{self.name} contradicts itself (undetermined, temperature, threshold); restore it")


class LinearClassifier:
    """`softmax(W f(x) + b)/T`, and `undetermined` where no class reaches theta; float32, deterministic."""

    def __init__(self, backbone: Backbone, weight: Tensor, bias: Tensor, card: Card) -> None:
        called = len(card.attribute.classes) - (card.threshold > 0)
        if len(weight) != called or bias.shape != weight.shape[:1]:
            raise InputError(f"{card.name} contradicts itself (classes, rows of its last layer); restore it")
        self.backbone = backbone
        self.weight = weight
        self.bias = bias
        self.card = card
        self.name = card.name
        self.attribute = card.attribute
        self.digest = card.digest
        self.temperature = card.temperature
        self.threshold = card.threshold
        self.confusions = dict(card.confusions)
        self.default_split = card.default_split

    @property
    def input_size(self) -> int:
        return self.backbone.input_size

    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, K)`. Raises InputError when the images are not of a usable shape."""
        with torch.inference_mode():
            logits = self.logits(self.features(images))
            return with_undetermined(F.softmax(logits / self.temperature, dim=1), self.threshold)

    def logits(self, features: Tensor) -> Tensor:
        """`(B, d)` to `(B, K)`, before the temperature and without `undetermined`."""
        return F.linear(features, self.weight.to(features.device), self.bias.to(features.device))

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        try:
            with torch.inference_mode():
                return self.backbone.features(images)
        except InputError as e:
            raise InputError(f"{self.name} {e}") from None

    def facts(self) -> dict[str, Any]:
        """What a record of its use has to say, as JSON."""
        return facts_of(self.card) | {
            "input_size": self.input_size,
            "preprocessing": self.backbone.preprocessing,
        }


def facts_of(card: Card) -> dict[str, Any]:
    """The part of `facts()` that the card has."""
    return {
        "name": card.name,
        "kind": card.kind,
        "digest": card.digest,
        "attribute": card.attribute.name,
        "classes": list(card.attribute.classes),
        "weights_digest": card.weights_digest,
        "temperature": card.temperature,
        "threshold": card.threshold,
        "splits": list(card.confusions),
    }
