"""A small residual network over images of one size, and the features of any network trained here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.data.base import to_float
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.classifiers.torchvision_nets import TorchvisionNet


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network."""

    input_size: int
    """Native resolution in pixels."""
    channels: int
    """1 (grey) or 3 (RGB)."""
    classes: int
    widths: tuple[int, ...]
    """Channels of the full-resolution stem, then of every stage; a stage halves the resolution. The last is d."""
    dropout: float = 0.2
    """Before the last layer, in training."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; expected 1 or 3")
        if self.classes < 2:
            raise ValueError(f"classes is {self.classes}; expected 2 or more")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}; expected at least one positive number")
        if self.input_size < 2 ** (len(self.widths) - 1):
            raise ValueError(f"input_size is {self.input_size}; too small for {len(self.widths) - 1} halvings")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; expected a probability below 1")

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


class NetworkBackbone:
    """The features of a network trained here: `ConvNet` or `TorchvisionNet`, on images of its own size."""

    def __init__(self, network: ConvNet | TorchvisionNet) -> None:
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @property
    def input_size(self) -> int:
        return self.network.config.input_size

    @property
    def preprocessing(self) -> dict[str, Any]:
        return {
            "size": self.input_size,
            "channels": self.network.config.channels,
            "resize": "box means of whole multiples",
            "scale": "x / 127.5 - 1",
        }

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        size, channels = self.input_size, self.network.config.channels
        usable = images.ndim == 4 and images.shape[1] == channels and images.shape[2] == images.shape[3]
        if images.dtype != torch.uint8 or not usable or images.shape[3] == 0 or images.shape[3] % size:
            raise InputError(
                f"got {str(images.dtype).removeprefix('torch.')} images {tuple(images.shape)}; "
                f"expected uint8 (B, {channels}, {size}, {size}) or a whole multiple of {size} pixels"
            )
        images = images.to(next(self.network.parameters()).device)
        return self.network.features(to_float(box_reduced(images, images.shape[3] // size)))


def box_reduced(images: Tensor, factor: int) -> Tensor:
    """uint8 `(B, C, H, W)` to `(B, C, H/factor, W/factor)`: box means, halves rounded up, as Pillow does."""
    if factor == 1:
        return images
    return torch.floor(F.avg_pool2d(images.to(torch.float32), factor) + 0.5).to(torch.uint8)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
    )
