"""Noise levels, the deterministic Heun solver, and `generate()`: an iterable of sample batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairsims.denoisers.base import Denoiser
from fairsims.seeds import noise_for


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """Settings of the deterministic second-order sampler (Karras et al. 2022, arXiv 2206.00364, Algorithm 1)."""

    steps: int = 12
    """Noise levels; the network is evaluated 2 * steps - 1 times."""
    sigma_min: float | None = None
    """Lowest noise level; the denoiser's own when None."""
    sigma_max: float | None = None
    """Highest noise level, where sampling starts; the denoiser's own when None."""
    rho: float = 7.0
    """Exponent of the schedule: larger puts more of the levels near sigma_min."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; expected 2 or more")
        if self.rho <= 0:
            raise ValueError(f"rho is {self.rho}; expected a positive number")

    def sigmas(self, denoiser: Denoiser) -> Tensor:
        """The schedule for a denoiser, `(steps + 1,)` float64."""
        return sigma_schedule(
            self.steps, self.sigma_min or denoiser.sigma_min, self.sigma_max or denoiser.sigma_max, self.rho
        )

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network forwards an image costs (NFE), two networks counted as two."""
        return (2 * self.steps - 1) * denoiser.evaluations


@dataclass(frozen=True, kw_only=True)
class SampleBatch:
    """What one batch of `generate()` yields."""

    seeds: list[int]
    images: Tensor
    """`(B, C, H, W)` float32 in data units."""


def sigma_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """`steps` falling noise levels and a final 0, `(steps + 1,)` float64 (eq. 5)."""
    i = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    levels = (sigma_max ** (1 / rho) + i * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def heun(denoiser: Denoiser, noise: Tensor, sigmas: Tensor, labels: Tensor | None = None) -> Tensor:
    """Solve the probability-flow ODE from standard normal `noise` `(B, ...)`; returns x0 in float64 (Algorithm 1).

    The state is float64 around a network that sees noise's own type.
    """

    def slope(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoiser(x.to(noise.dtype), sigma.to(noise.dtype), labels)
        return (x - denoised.double()) / sigma

    sigmas = sigmas.to(noise.device)
    x = noise.double() * sigmas[0]
    for i, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        d = slope(x, sigma)
        x_next = x + (lower - sigma) * d
        if i < len(sigmas) - 2:
            x_next = x + (lower - sigma) * (d + slope(x_next, lower)) / 2
        x = x_next
    return x


def generate(
    denoiser: Denoiser, seeds: Sequence[int], *, sampler: SamplerConfig | None = None, batch_size: int = 128
) -> Iterator[SampleBatch]:
    """Sample images, one per seed, batch by batch. Image k depends on seed k alone, up to kernel rounding."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    sampler = sampler or SamplerConfig()
    device, sigmas = denoiser.device, sampler.sigmas(denoiser)
    for start in range(0, len(seeds), batch_size):
        chunk = [int(s) for s in seeds[start : start + batch_size]]
        noise = noise_for(chunk, denoiser.shape).to(device)
        with torch.inference_mode():
            images = heun(denoiser, noise, sigmas).float()
        yield SampleBatch(seeds=chunk, images=images)
