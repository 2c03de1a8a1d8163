"""Sampling and training written straight from the EDM paper (Karras et al. 2022, arXiv 2206.00364): bare loops.

What a pipeline of ours costs is held against these loops over the same network: no seeds by image, no checks, no
resumption, no progress. The paper's equations and algorithm 1 are all that they are made from.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

Network = Callable[..., Tensor]
"""D(x; sigma)."""


@torch.inference_mode()
def sample(network: Network, shape: tuple[int, ...], device: torch.device, steps: int) -> Tensor:
    """Heun's method on the paper's noise levels (algorithm 1, eq. 5), uint8 images on the CPU: 2 steps - 1 evaluations.

    In float64 around a network that computes in its own type, as the paper does.
    """
    i = torch.arange(steps, dtype=torch.float64)
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    levels = [*((high + i / (steps - 1) * (low - high)) ** 7).tolist(), 0.0]
    x: Tensor = torch.randn(shape, device=device).double() * levels[0]
    for k, (t, lower) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        d = (x - denoised(network, x, t)) / t
        there: Tensor = x + (lower - t) * d
        if k < steps - 1:
            d = (d + (there - denoised(network, there, lower)) / lower) / 2
            there = x + (lower - t) * d
        x = there
    images: Tensor = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
    return images.cpu()


def denoised(network: Network, x: Tensor, level: float) -> Tensor:
    return torch.as_tensor(network(x.float(), torch.full((), level, device=x.device)).double())


def training(network: torch.nn.Module, images: Tensor, batch: int, *, sigma_data: float = 0.5) -> Iterator[Tensor]:
    """Steps of the paper's training without end (eq. 8, table 1): Adam, an exponential average; yields each loss.

    `images` `(N, C, H, W)` uint8 stay on the device.
    """
    average = copy.deepcopy(network).eval().requires_grad_(False)
    parameters: list[Tensor] = list(network.train().requires_grad_(True).parameters())
    fused = {"fused": True} if images.device.type == "cuda" else {}
    optimizer = torch.optim.Adam(parameters, lr=1e-4, betas=(0.9, 0.999), eps=1e-8, **fused)
    while True:
        chosen = torch.randint(len(images), (batch,), device=images.device)
        x = images[chosen].float() / 127.5 - 1
        sigma = (torch.randn(batch, 1, 1, 1, device=images.device) * 1.2 - 1.2).exp()
        weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
        optimizer.zero_grad(set_to_none=True)
        error = network(x + sigma * torch.randn_like(x), sigma.flatten()) - x
        loss = (weight * error**2).mean()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), parameters, 0.001)
        yield loss.detach()
