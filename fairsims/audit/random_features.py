"""Features of a network that was never trained: a second feature space that no data set has shaped, without a download.

Distances on random convolutions follow differences of texture and layout that a classifier may have learnt to pass over
(Naeem et al. 2020, arXiv 2002.09797, measure on a VGG of random weights where ImageNet's classes say little).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.data.base import to_float
from fairsims.seeds import torch_generator

LARGEST = 64
"""Side of the largest image that is seen as it is; larger ones are reduced to it by area."""
WIDTH = 64
CHANNELS = (32, 64, 96, 128, 128)


class RandomNetwork(nn.Module):
    """uint8 `(B, 1 or 3, H, W)` to `(B, 64)`: convolutions that halve the image to 4 pixels, each quarter's mean, and a
    random projection. The weights are drawn from a fixed seed, He-scaled."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch_generator("random features", 0)
        self.layers = nn.ParameterList()
        for cin, cout in zip((3, *CHANNELS), CHANNELS, strict=False):
            drawn = torch.randn(cout, cin, 3, 3, generator=generator)
            self.layers.append(nn.Parameter(drawn * math.sqrt(2 / (9 * cin)), requires_grad=False))
        self.out = nn.ParameterList(
            nn.Parameter(torch.randn(4 * c, WIDTH, generator=generator) / math.sqrt(4 * c), requires_grad=False)
            for c in CHANNELS
        )

    def forward(self, images: Tensor) -> Tensor:
        x = to_float(images).expand(-1, 3, -1, -1)
        if max(x.shape[2:]) > LARGEST:
            x = F.interpolate(x, size=(LARGEST, LARGEST), mode="area")
        depth = 0
        x = F.relu(F.conv2d(x, self.layers[0], padding=1))
        while max(x.shape[2:]) > 4:
            depth += 1
            x = F.relu(F.conv2d(x, self.layers[depth], padding=1, stride=2))
        return torch.matmul(F.adaptive_avg_pool2d(x, 2).flatten(1), self.out[depth])
