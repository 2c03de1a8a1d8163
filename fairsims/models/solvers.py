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


def dpmpp_3m(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """DPM-Solver++(3M) (Lu et al. 2022, arXiv 2211.01095, appendix B).

    The exact solution is `x <- (lower / sigma) x + lower * integral of e^lambda D`; D is a parabola in
    lambda = -ln sigma through the last three denoised images. The order is lower in the first steps and in the last.
    As published the curve has half of its exact weight: of second order in the end, better at ten levels.
    """
    known: list[tuple[Tensor, Tensor]] = []
    for i, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        known = [(-sigma.log(), denoise(x, sigma)), *known[:2]]
        if lower == 0:
            return known[0][1]
        h, d0 = (sigma / lower).log(), known[0][1]
        grown = torch.expm1(-h)
        x = (lower / sigma) * x - grown * d0
        order = min(len(known), len(sigmas) - 1 - i)
        if order == 1:
            continue
        r0, first = _difference(known[0], known[1], h)
        if order == 2:
            x = x - grown / 2 * first
            continue
        r1, second = _difference(known[1], known[2], h)
        curve = (first - second) / (r0 + r1)
        x = x + (grown / h + 1) * (first + r0 * curve) - ((grown + h) / h**2 - 1 / 2) * curve
    return x


def _difference(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], h: Tensor) -> tuple[Tensor, Tensor]:
    """How many steps of h apart two levels are, and the change of D for each of them."""
    r = (a[0] - b[0]) / h
    return r, (a[1] - b[1]) / r


def unipc(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """UniPC-3 (Zhao et al. 2023, arXiv 2302.04867, Algorithms 5 and 6, B(h) = e^h - 1, data prediction).

    The evaluation at the predicted image corrects the step that led there and serves the next: one a level.
    """
    known = [(-sigmas[0].log(), denoise(x, sigmas[0]))]
    for i, (sigma, lower) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
        if lower == 0:
            return known[0][1]
        (here, d0), h = known[0], (sigma / lower).log()
        order = min(len(known), len(sigmas) - 1 - i)
        ratios = torch.stack([(at - here) / h for at, _ in known[1:order]] + [torch.ones_like(h)])
        changes = [(d - d0) / r for r, (_, d) in zip(ratios, known[1:order], strict=False)]
        grown = torch.expm1(-h)
        flat = (lower / sigma) * x - grown * d0
        system, right = _moments(ratios, h)
        weights = torch.full_like(ratios[:-1], 0.5)
        if order > 2:
            weights = torch.linalg.solve(system[:-1, :-1], right[:-1])
        predicted = flat - grown * sum(w * c for w, c in zip(weights, changes, strict=True))
        d = denoise(predicted, lower)
        weights = torch.linalg.solve(system, right) if order > 1 else torch.full_like(ratios, 0.5)
        x = flat - grown * sum(w * c for w, c in zip(weights, [*changes, d - d0], strict=True))
        known = [(-lower.log(), d), *known[:2]]
    return x


def _moments(ratios: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The system for UniPC's weights: row k is `ratios**k`, its right side `phi_(k+2)(-h) (k+1)! / B(h)` (eq. 10)."""
    rows, right, phi, factorial = [], [], torch.expm1(-h) / -h - 1, 1
    for k in range(len(ratios)):
        rows.append(ratios**k)
        right.append(phi * factorial / torch.expm1(-h))
        factorial *= k + 2
        phi = phi / -h - 1 / factorial
    return torch.stack(rows), torch.stack(right)


ADAMS_BASHFORTH = ((1,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def ipndm(denoise: Denoise, x: Tensor, sigmas: Tensor, add_noise: AddNoise) -> Tensor:
    """iPNDM-4 (Zhang & Chen 2023, arXiv 2204.13902, eq. 15; Liu et al. 2022, arXiv 2202.09778).

    A step of dx/dsigma along the slopes of the last four levels, weighed as by Adams and Bashforth for equal steps;
    ours are not equal, so that it is of second order in the end.
    """
    slopes: list[Tensor] = []
    for sigma, lower in zip(sigmas[:-1], sigmas[1:], strict=True):
        slopes = [(x - denoise(x, sigma)) / sigma, *slopes[:3]]
        weights = ADAMS_BASHFORTH[len(slopes) - 1]
        x = x + (lower - sigma) * sum(w * d for w, d in zip(weights, slopes, strict=True))
    return x


class Solver(NamedTuple):
    """How a solver is called and what is known of it."""

    solve: Callable[[Denoise, Tensor, Tensor, AddNoise], Tensor]
    order: int
    """The error falls with this power of the number of levels."""
    noisy: bool
    """Whether noise can be added on the way."""


SOLVERS = {
    "dpmpp2m": Solver(dpmpp_2m, order=2, noisy=False),
    "heun": Solver(heun, order=2, noisy=True),
    "euler": Solver(euler, order=1, noisy=True),
    "dpmpp3m": Solver(dpmpp_3m, order=2, noisy=False),
    "unipc": Solver(unipc, order=4, noisy=False),
    "ipndm": Solver(ipndm, order=2, noisy=False),
}
"""By name, the default first."""
FEW = 8
"""Heun's method at so many levels or fewer is behind a multistep solver of no more evaluations (docs/log.md)."""
