"""Solvers of the sampling ODE dx/dsigma = (x - D(x; sigma)) / sigma. A new one is a function and a row of `SOLVERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x, sigma) -> x0, all float64."""
AddNoise = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""(x, sigma, step) -> x at a noise level that is not lower, and that level."""


def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """Euler's method on the noise levels `sigmas` `(N + 1,)`, which fall to 0: N evaluations."""
    return _karras(denoise, x, sigmas, add_noise, correct=False)


def heun(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """Karras et al. 2022 (arXiv 2206.00364), Algorithm 2; Algorithm 1 when no noise is added: 2 N - 1 evaluations."""
    return _karras(denoise, x, sigmas, add_noise, correct=True)


def _karras(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise, *, correct: bool) -> Tensor:
    for i, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        x_hat, sigma_hat = add_noise(x, sigma, i)
        d = (x_hat - denoise(x_hat, sigma_hat)) / sigma_hat
        x = x_hat + (lower - sigma_hat) * d
        if correct and i < len(sigmas) - 2:
            x = x_hat + (lower - sigma_hat) * (d + (x - denoise(x, lower)) / lower) / 2
    return x


def dpmpp_2m(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2) where the state is `x0 + sigma * noise`.

    There its lambda is -ln sigma and alpha is 1, so a step of h = ln(sigma / lower) is
    `x <- (lower / sigma) x + (1 - e^-h) D` with D extrapolated from the last two denoised images. The first step and
    the last, to 0, are of first order. No noise is added; N evaluations.
    """
    previous, h_previous = x, torch.zeros(())
    for i, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        denoised = denoise(x, sigma)
        h = (sigma / lower).log()
        first_order = i == 0 or lower == 0
        direction = denoised if first_order else denoised + (denoised - previous) * h / (2 * h_previous)
        x = (lower / sigma) * x + (1 - lower / sigma) * direction
        previous, h_previous = denoised, h
    return x


class Solver(NamedTuple):
    """How a solver is called and what is known of it."""

    solve: Callable[[Denoise, Tensor, Tensor, AddNoise], Tensor]
    order: int
    """The error falls with this power of the number of levels."""
    noisy: bool
    """Whether noise can be added on the way."""


SOLVERS = {
    "heun": Solver(heun, order=2, noisy=True),
    "euler": Solver(euler, order=1, noisy=True),
    "dpmpp2m": Solver(dpmpp_2m, order=2, noisy=False),
}
