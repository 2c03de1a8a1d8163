"""Latents with the conditions they were made for: what an adapter of a text-to-image pipeline learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fairsims.files import sha256_json


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

    def __len__(self) -> int:
        return len(self.latents)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one row."""
        return tuple(self.latents.shape[1:])

    def subset(self, chosen: Sequence[int] | np.ndarray, *, name: str) -> LatentSet:
        """The rows at these positions, repeated where they are named twice."""
        places = [int(i) for i in chosen]
        return LatentSet(
            name=name,
            digest=sha256_json([self.digest, places]),
            latents=self.latents[places],
            conditions=self.conditions[places],
        )
