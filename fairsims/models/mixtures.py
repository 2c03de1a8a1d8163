"""Exact denoisers of Gaussian mixtures with known class shares: the ground truth that tests and theory stand on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairsims.models.base import Denoiser, sigma_column


class GaussianMixtureDenoiser(Denoiser):
    """The posterior mean E[x0 | x] of a mixture of isotropic Gaussians, one per class.

    means `(K, d)`, stds `(K,)`, shares `(K,)` summing to 1. Works on x of shape `(B, d)` or any `(B, ...)` of d values
    an item: p(x; sigma) is the mixture of N(mean_k, (std_k**2 + sigma**2) I), so
    D(x; sigma) = sum_k r_k(x) [mean_k + std_k**2 / (std_k**2 + sigma**2) (x - mean_k)] with responsibilities r.
    """

    means: Tensor
    stds: Tensor
    shares: Tensor

    def __init__(self, means: Tensor, stds: Tensor | Sequence[float], shares: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("means", torch.as_tensor(means, dtype=torch.float64))
        self.register_buffer("stds", torch.as_tensor(stds, dtype=torch.float64))
        self.register_buffer("shares", torch.as_tensor(shares, dtype=torch.float64))
        if not torch.isclose(self.shares.sum(), torch.ones((), dtype=torch.float64)):
            raise ValueError(f"shares sum to {float(self.shares.sum())}, not 1")
        self.img_channels, self.img_resolution = self.means.shape[1], 1

    def with_shares(self, shares: Sequence[float]) -> GaussianMixtureDenoiser:
        """The same classes in another mix."""
        return GaussianMixtureDenoiser(self.means, self.stds, shares)

    def responsibilities(self, x: Tensor, sigma: Tensor) -> Tensor:
        """P(class | x) at noise level sigma, `(B, K)` float64."""
        flat = x.reshape(len(x), -1).double()
        variance = self.stds**2 + sigma.double().reshape(-1, 1) ** 2
        square = torch.cdist(flat, self.means) ** 2
        return (self.shares.log() - 0.5 * square / variance - 0.5 * flat.shape[1] * variance.log()).softmax(dim=1)

    def classify(self, x: Tensor) -> Tensor:
        """Most probable class of clean points, `(B,)` int64, under equal class shares."""
        equal = self.with_shares([1 / len(self.shares)] * len(self.shares))
        return equal.responsibilities(x, torch.zeros(())).argmax(dim=1)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        flat = x.reshape(len(x), -1).double()
        r = self.responsibilities(x, sigma)
        gain = self.stds**2 / (self.stds**2 + sigma_column(sigma.double(), flat) ** 2)
        per_class = self.means + gain[:, :, None] * (flat[:, None] - self.means)
        return (r[:, :, None] * per_class).sum(dim=1).reshape(x.shape).to(x.dtype)
