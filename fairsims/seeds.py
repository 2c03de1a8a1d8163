"""Per-sample and per-step randomness.

Image k is a function of seed k alone: its noise comes from a generator of its own, so batch size, order, rank and
resumption cannot change it. Training randomness is a function of (seed, images seen), so a resumed run repeats the
uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch


def derive(*parts: int | str) -> int:
    """A 63-bit integer that depends on every part (SHA-256; the same on every machine and Python)."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive(*parts)`."""
    return torch.Generator(device).manual_seed(derive(*parts))


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded by `derive(*parts)`."""
    return np.random.default_rng(derive(*parts))


def noise_for(seeds: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """Standard normal noise, `(len(seeds), *shape)` float32: row i depends on `seeds[i]` only.

    Drawn on the CPU whatever the device, so that a GPU and a laptop start from the same noise.
    """
    return torch.stack([_noise(int(seed), shape) for seed in seeds])


def class_for(seed: int, classes: int, shape: Sequence[int]) -> int:
    """A class out of so many at random, from the seed's generator after it has drawn noise of this shape.

    So do EDM2's own scripts: the same seeds give the same classes.
    """
    if 0 <= seed < 2**32:
        generator = torch.Generator().manual_seed(seed)
        torch.randn(*shape, generator=generator)
        return int(torch.randint(classes, (), generator=generator))
    return int(numpy_generator("class", seed).integers(classes))


def _noise(seed: int, shape: Sequence[int]) -> torch.Tensor:
    if 0 <= seed < 2**32:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    # torch's CPU generator sees no more than 32 bits of a seed: beyond them another one, with streams of its own.
    return torch.from_numpy(numpy_generator("noise", seed).standard_normal(tuple(shape), dtype=np.float32))
