"""The classifier that every kind with weights is: features, a linear layer, a temperature, a threshold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.backbones import Backbone
from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.errors import InputError


class LinearClassifier(AttributeClassifier):
    """`softmax(W f(x) + b)/T`, and `undetermined` where no class reaches theta; float32, deterministic."""

    def __init__(self, backbone: Backbone, weight: Tensor, bias: Tensor, card: Card) -> None:
        super().__init__(card)
        called = len(card.attribute.classes) - (card.threshold > 0)
        if len(weight) != called or bias.shape != weight.shape[:1]:
            raise InputError(f"{card.name} contradicts itself (classes, rows of its last layer); restore it")
        self.backbone = backbone
        self.weight = weight
        self.bias = bias
        self.temperature = card.temperature
        self.threshold = card.threshold

    @property
    def input_size(self) -> int:
        return self.backbone.input_size

    @property
    def preprocessing(self) -> dict[str, Any]:
        return self.backbone.preprocessing

    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, K)`. Raises InputError when the images are not of a usable shape."""
        with torch.inference_mode():
            features = self.features(images)
            logits = F.linear(features, self.weight.to(features.device), self.bias.to(features.device))
            return with_undetermined(F.softmax(logits / self.temperature, dim=1), self.threshold)

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        try:
            with torch.inference_mode():
                return self.backbone.features(images)
        except InputError as e:
            raise InputError(f"{self.name} {e}") from None
