"""The networks that are trained here, over images of one size: a small residual one, or one of torchvision's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.classifiers.torchvision_nets import Shape, TorchvisionConfig, TorchvisionNet
from fairsims.options import check_fields


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Shape):
    """The small network."""

    widths: tuple[int, ...]
    """Channels of the full-resolution stem, then of every stage; a stage halves the resolution. The last is d."""
    dropout: float = 0.2
    """Before the last layer, in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "at least one positive number", lambda v: v and min(v) >= 1, "widths")
        check_fields(self, "a probability below 1", lambda v: 0 <= v < 1, "dropout")
        if self.input_size < 2 ** (len(self.widths) - 1):
            raise ValueError(f"input_size is {self.input_size}; too small for {len(self.widths) - 1} halvings")

    @classmethod
    def default(cls, *, input_size: int, channels: int, classes: int) -> NetworkConfig:
        """Stages until at most 4 pixels a side are left, no stage wider than 128."""
        stages = max(1, math.ceil(math.log2(input_size / 4)))
        widths = tuple([16, 32, 64, 80, 96, 112, 128][: stages + 1])
        return cls(input_size=input_size, channels=channels, classes=classes, widths=widths)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip (He et al. 2016), same width and resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


class ConvNet(nn.Module):
    """Stem, stages of a halving convolution and a residual block, spatial mean, linear layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [_convolution(config.channels, config.widths[0])]
        for before, width in zip(config.widths, config.widths[1:], strict=False):
            layers += [_convolution(before, width, stride=2), Residual(width)]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], config.classes)

    def features(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to `(B, d)`."""
        return torch.as_tensor(self.body(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to logits `(B, K)`."""
        return torch.as_tensor(self.head(self.dropout(self.features(x))))


def network_of(settings: Mapping[str, Any]) -> NetworkConfig | TorchvisionConfig:
    """The network that a config.json describes: torchvision's when it names an architecture."""
    if "architecture" in settings:
        return TorchvisionConfig(**settings)
    return NetworkConfig(**{**settings, "widths": tuple(settings["widths"])})


def build_network(config: NetworkConfig | TorchvisionConfig) -> ConvNet | TorchvisionNet:
    """The network of that shape, with random weights."""
    return ConvNet(config) if isinstance(config, NetworkConfig) else TorchvisionNet(config)


def box_reduced(images: Tensor, factor: int) -> Tensor:
    """uint8 `(B, C, H, W)` to `(B, C, H/factor, W/factor)`: box means, halves rounded up, as Pillow does."""
    if factor == 1:
        return images
    return torch.floor(F.avg_pool2d(images.to(torch.float32), factor) + 0.5).to(torch.uint8)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
    )
