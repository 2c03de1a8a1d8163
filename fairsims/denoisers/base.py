"""The one contract between networks, guidance, samplers and training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn


class Denoiser(nn.Module):
    """D(x; sigma): the expected clean image given a noisy one (Karras et al. 2022, arXiv 2206.00364, eq. 2-3).

    Called as `denoiser(x, sigma, labels=None)` with x `(B, C, H, W)` in data units ([-1, 1] for images), sigma `()`
    or `(B,)` in the same units, and labels `(B, label_dim)` or None. Returns x0 of x's shape. The score is
    `(D(x; sigma) - x) / sigma**2`.
    """

    img_resolution: int
    img_channels: int
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    precision: str = "float32"
    """Type of the networks' matrix products; inputs and outputs keep their own."""
    evaluations: int = 1
    """Network forwards behind one call: what the number of function evaluations (NFE) counts."""

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.img_channels, self.img_resolution, self.img_resolution)

    @property
    def device(self) -> torch.device:
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


def sigma_column(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma `()` or `(B,)` as `(B or 1, 1, ..., 1)` in x's dtype, so that it broadcasts over x."""
    return sigma.to(x).reshape(-1, *([1] * (x.ndim - 1)))
