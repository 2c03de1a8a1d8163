"""Latents with the conditions they were made for: what an adapter, or a network of latents, learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairsims.files import sha256_json


@dataclass(frozen=True, kw_only=True)
class Posterior:
    """Rows are what an encoder says of images, channels of means and then of standard deviations: latents are drawn.

    In a network's units: `(mean + std noise) scale + bias`, as EDM2 draws them anew at each visit.
    """

    scale: Tensor
    bias: Tensor
    """`(C, 1, 1)` each."""

    def draw(self, rows: Tensor, noise: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` of rows `(B, 2C, h, w)`."""
        mean, std = rows.chunk(2, dim=1)
        return (mean + std * noise) * self.scale + self.bias


@dataclass(frozen=True, kw_only=True)
class LatentSet:
    """Latents in memory, a row each, and which condition each is of."""

    name: str
    digest: str
    """SHA-256 that stands for the content."""
    latents: Tensor
    """`(N, *latent shape)`, in the type they were sampled in."""
    conditions: Tensor
    """Position of its condition among the model's, `(N,)` int64."""
    posterior: Posterior | None = None
    """Of images that an encoder saw: rows are to be drawn from it. None: rows are latents."""

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one latent."""
        channels, *rest = self.latents.shape[1:]
        return (channels if self.posterior is None else channels // 2, *rest)

    def read(self, indices: np.ndarray, generator: torch.Generator, batch: int, rows: slice) -> Tensor:
        """The latents at `indices`, which are these `rows` of a batch; `generator` draws where they are to be drawn."""
        found = self.latents[indices]
        if self.posterior is None:
            return found
        return self.posterior.draw(found, torch.randn(batch, *self.shape, generator=generator)[rows])

    def subset(self, chosen: Sequence[int] | np.ndarray, *, name: str) -> LatentSet:
        """The rows at these positions, repeated where they are named twice."""
        places = [int(i) for i in chosen]
        return LatentSet(
            name=name,
            digest=sha256_json([self.digest, places]),
            latents=self.latents[places],
            conditions=self.conditions[places],
            posterior=self.posterior,
        )
