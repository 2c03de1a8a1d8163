"""The one contract between networks, guidance, samplers and training."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairsims.errors import InputError
from fairsims.models.objective import Batch


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
    label_dim: int = 0
    """Classes of a class-conditional network, 0 for none."""

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    if TYPE_CHECKING:

        def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor: ...

    def evaluations_at(self, sigma: float) -> int:
        """Network forwards behind one call at this noise level: what the number of evaluations (NFE) counts."""
        return 1

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the denoiser was trained for; any level unless it knows discrete ones only."""
        return sigma

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        return (self.img_channels, self.img_resolution, self.img_resolution)

    @property
    def device(self) -> torch.device:
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


class Trainable(nn.Module):
    """What `train()` trains: its parameters, by its loss of a batch of what it draws noise for."""

    config: dict[str, Any]
    """What it is made with, as JSON values: with the weights they are the checkpoint."""
    augment_dim: int = 0
    label_dim: int = 0
    precision: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one thing that it learns from."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        raise NotImplementedError

    def draw_noise(self, n: int, generator: torch.Generator, *, mean: float, std: float) -> tuple[Tensor, Tensor]:
        """For a batch of `n`: noise levels `(n,)` and noise `(n, *shape)`, on the CPU."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> Tensor:
        """Mean error over a batch, a scalar."""
        raise NotImplementedError

    def saved(self) -> Trainable:
        """What a checkpoint of it holds: itself, or of a change of a network the network with it."""
        return self


class NetworkDenoiser(Denoiser, Trainable):
    """A denoiser with a single network: what can be trained, merged, saved and exported.

    `augment_labels` `(B, augment_dim)` tell the network how its training images were distorted; None when sampling.
    """

    raw: str = "model"
    """Name of the module that is the raw network."""

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        raise NotImplementedError

    if TYPE_CHECKING:

        def __call__(
            self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
        ) -> Tensor: ...

    def alike(self, other: NetworkDenoiser) -> dict[str, Tensor]:
        """The parameters of a fine-tuned copy, as they can be combined with this network's own."""
        return dict(other.named_parameters())

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """lambda(sigma) = 1 / c_out(sigma)**2, the weight of the squared error (Karras et al. 2022, eq. 8)."""
        raise NotImplementedError

    def draw_noise(self, n: int, generator: torch.Generator, *, mean: float, std: float) -> tuple[Tensor, Tensor]:
        """For a batch of `n`: noise levels `(n,)` with a normal ln(sigma), and noise `(n, C, H, W)`, on the CPU."""
        sigma = (torch.randn(n, generator=generator) * std + mean).exp()
        return sigma, torch.randn((n, *self.shape), generator=generator)

    def loss(self, batch: Batch) -> Tensor:
        """Weighted denoising error, a scalar (Karras et al. 2022, arXiv 2206.00364, eq. 2)."""
        sigma = self.round_sigma(batch.sigma)
        # A network of discrete levels rounds the smallest draws to 0, where the weight is infinite.
        sigma = torch.where(sigma > 0, sigma, self.round_sigma(torch.full_like(sigma, self.sigma_min)))
        s = sigma.reshape(-1, 1, 1, 1)
        denoised = self(batch.images + s * batch.noise, sigma, batch.labels, batch.augment_labels)
        return torch.mean(self.loss_weight(s) * (denoised - batch.images) ** 2)


def sigma_column(sigma: Tensor, x: Tensor) -> Tensor:
    """sigma `()` or `(B,)` as `(B or 1, 1, ..., 1)` in x's dtype, so that it broadcasts over x."""
    return sigma.to(x).reshape(-1, *([1] * (x.ndim - 1)))


def fastest_layout(device: torch.device, precision: str) -> torch.memory_format:
    """How weights of convolutions lie in memory while sampling (`python bench/forwards.py`).

    Channels last where a CPU has AVX2 alone: there float32 forwards of images are 1.2 times as fast. bfloat16 is
    slower with it, AVX512 gains little.
    """
    slow = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.channels_last if slow and precision == "float32" else torch.contiguous_format


def compile_networks(denoiser: nn.Module) -> None:
    """Have torch.compile translate the raw networks at their first use; names of weights stay as they are.

    Raises InputError without a C++ compiler, which it needs for GPUs too.
    """
    if not any(shutil.which(c) for c in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        raise InputError("found no C++ compiler, which torch.compile needs; install g++, or leave --compile out")
    for part in denoiser.modules():
        if isinstance(part, NetworkDenoiser):
            network = part.get_submodule(part.raw)
            if network._compiled_call_impl is None:
                network.compile()
