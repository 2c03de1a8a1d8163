"""Kind `probe`: a linear classifier on frozen features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.backbones import backbone_facts, open_backbone, read_features
from fairsims.classifiers.base import AttributeClassifier, IntArray, Tally
from fairsims.classifiers.labelled import Labelled, seen_by
from fairsims.classifiers.trainer import WIDE, Fitted, Load, Prepared
from fairsims.errors import InputError
from fairsims.options import check_fields


@dataclass(frozen=True, kw_only=True)
class ProbeTrainer:
    """Multinomial logistic regression on standardised frozen features, classes weighted equally."""

    kind: ClassVar[str] = "probe"
    temperatures: ClassVar[tuple[float, float]] = WIDE

    backbone: str
    """The features: clip:MODEL:PRETRAINED, torchvision:NETWORK:WEIGHTS or classifier:NAME."""
    strength: float = 1.0
    """C of the logistic regression: the smaller, the stronger the penalty on the weights."""

    def __post_init__(self) -> None:
        if not self.backbone:
            raise InputError(
                "--backbone is missing; expected clip:MODEL:PRETRAINED, torchvision:NETWORK:WEIGHTS or classifier:NAME"
            )
        check_fields(self, "a positive number", lambda v: 0 < v < float("inf"), "strength")

    @classmethod
    def asked(cls, *, backbone: str | None, strength: float, seed: int) -> ProbeTrainer:
        """From options; nothing in it is left to chance."""
        return cls(backbone=backbone or "", strength=strength)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> ProbeTrainer:
        """The trainer that made the classifier with this config.json."""
        return cls(backbone=config["backbone"]["spec"], strength=config["recipe"]["strength"])

    def prepared(self, data: Labelled, load: Load) -> Prepared:
        """Features, float32 `(N, d)`.

        Raises InputError when they are not finite, or learned this attribute from these images: no fold were unseen.
        """
        backbone = open_backbone(self.backbone, load)
        known = 0
        if isinstance(backbone, AttributeClassifier) and backbone.attribute.name == data.attribute.name:
            known = int(seen_by(backbone, data).sum())
        if known:
            raise InputError(
                f"{self.backbone.removeprefix('classifier:')} learned {data.attribute.name} from {known} of these "
                f"{len(data)} images; its held-out errors would come out too small; take other features or other images"
            )
        rows = read_features(backbone, data.dataset, data.indices)
        if not torch.isfinite(rows).all():
            raise InputError(f"the features {self.backbone} of {data.dataset.name} are not finite; take other features")
        facts = backbone_facts(self.backbone, backbone)
        return Prepared(rows=rows, model={"backbone": facts}, input_size=backbone.input_size)

    def fit(self, prepared: Prepared, chosen: Tensor, labels: IntArray, fold: int, progress: Tally) -> Fitted:
        """The scale of the features is folded into the weights: logits are `W f + b`."""
        from sklearn.linear_model import LogisticRegression

        x = prepared.rows[chosen].double().numpy()
        mean, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 1e-12, scale, 1.0)
        model = LogisticRegression(C=self.strength, class_weight="balanced", max_iter=2000)
        model.fit((x - mean) / scale, labels)
        weight, intercept = model.coef_, model.intercept_
        if len(weight) == 1:  # two classes: one logit, split between them
            weight, intercept = (np.concatenate([-half, half]) for half in (weight / 2, intercept / 2))
        weight = weight / scale
        bias = torch.from_numpy(intercept - weight @ mean).float()
        matrix = torch.from_numpy(weight).float()
        progress(len(x), len(x))
        return Fitted(logits=lambda rows: F.linear(rows, matrix, bias), tensors={"weight": matrix, "bias": bias})

    def facts(self) -> dict[str, Any]:
        return {"recipe": {"strength": self.strength, "class_weight": "balanced", "features": "standardised"}}
