"""What the parts of `bench/gpu.py` share: what a case is, how large everything is, and the memory of the GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from timing import DEVICE

Case = tuple[str, float, Callable[[], dict[str, Any]]]
"""Its name, the seconds it needs, what measures it."""


class Unable(Exception):
    """This machine cannot do a case, and why."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is: as published, or tiny."""

    presets: tuple[str, ...] = ("cifar10", "ffhq64")
    network: dict[str, Any] = field(default_factory=dict)
    """Arguments that take the place of a preset's."""
    resolution: int | None = None
    batch: int = 128
    batches: tuple[int, ...] = (32, 64, 256, 512)
    steps: int = 5
    """Noise levels of the sampler: what an evaluation costs does not hang on them."""
    repeats: int = 5
    images: int = 4096
    """To label."""
    inception: tuple[int, int] = (64, 299)
    """Batch and side."""
    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    text: tuple[int, int] = (768, 12)
    """Width and layers of the text encoder."""
    latents: int = 64
    adapter_batches: tuple[int, ...] = (1, 4, 8)
    emoji: dict[str, Any] = field(default_factory=dict)
    emoji_resolution: int = 64
    train_seconds: float = 35
    train_kimg: tuple[float, float] = (5, 300)
    retargeted: str | None = None
    """Checkpoint to retarget; the base that was trained just before by default."""
    run: dict[str, Any] = field(
        default_factory=lambda: {
            "pool": 2048,
            "audit": 2048,
            "budget": 6.4,
            "batch_size": 128,
            "steps": 10,
            "sample_batch": 512,
        }
    )

    @classmethod
    def tiny(cls) -> Sizes:
        """For a CPU and a test."""
        small = {"model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
        return cls(
            presets=("cifar10",),
            network=small,
            resolution=8,
            batch=4,
            batches=(2,),
            steps=2,
            repeats=1,
            images=32,
            inception=(1, 75),
            unet=(8, 8, 8, 8),
            text=(16, 1),
            latents=8,
            adapter_batches=(1,),
            emoji=small | {"patch_size": 4},
            emoji_resolution=32,
            train_seconds=1,
            train_kimg=(0.064, 0.064),
            retargeted="emoji-people-32",
            run={"pool": 200, "audit": 50, "budget": 0.064, "batch_size": 16, "steps": 4, "calibration": 50},
        )


def memory() -> dict[str, Any]:
    """The most that was held on a GPU since it was last asked."""
    if DEVICE.type != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return {"peak GiB": most}
