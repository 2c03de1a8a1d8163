"""Named recipes for `fairsims train`: data set, network and schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairsims.errors import InputError, closest
from fairsims.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything `fairsims train --preset NAME` needs."""

    data: str | None
    """Data set; None where it cannot be shipped and has to be given."""
    resolution: int | None
    network: dict[str, Any]
    """Arguments of the denoiser, beside the shape of the images and what follows from `train`."""
    train: TrainConfig


PRESETS: dict[str, Preset] = {
    "emoji-people-32": Preset(
        data="emoji-people-skewed",
        resolution=32,
        # 1.93 M parameters. Between networks of equal size, width at the full resolution paid most on this data.
        network={
            "sigma_data": 0.65,
            "model_channels": 48,
            "channel_mult": [1, 1, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
            "patch_size": 2,
        },
        train=TrainConfig(
            kimg=640,
            lr=1e-3,
            P_mean=-0.8,
            ema_halflife_kimg=44,
            xflip=True,
            warmup_kimg=6.4,
            state_kimg=32,
            precision="bfloat16",
        ),
    ),
    "digits-8": Preset(
        data="digits-skewed",
        resolution=8,
        network={
            "sigma_data": 0.75,
            "model_channels": 32,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "dropout": 0.0,
        },
        train=TrainConfig(kimg=256, batch_size=128, lr=1e-3, P_mean=-0.8, ema_halflife_kimg=10, warmup_kimg=4),
    ),
    "emoji-people-64": Preset(
        data="emoji-people-skewed",
        resolution=64,
        # For a GPU: 15.7 M parameters, 8 GFLOP a forward. Unshuffled as at 32x32: width at a quarter of the cost.
        network={
            "sigma_data": 0.65,
            "model_channels": 96,
            "channel_mult": [1, 2, 2],
            "num_blocks": 2,
            "attn_resolutions": [16],
            "dropout": 0.1,
            "patch_size": 2,
        },
        train=TrainConfig(
            kimg=2000,
            batch_size=256,
            lr=5e-4,
            P_mean=-0.8,
            ema_halflife_kimg=100,
            xflip=True,
            warmup_kimg=50,
            tick_kimg=20,
            state_kimg=200,
            precision="bfloat16",
        ),
    ),
    # EDM's published settings (Karras et al. 2022, table 7) but for the mean instead of the sum in the loss, which Adam
    # does not see, and the gradient clipping.
    "cifar10": Preset(
        data=None,
        resolution=32,
        network={
            "sigma_data": 0.5,
            "model_channels": 128,
            "channel_mult": [2, 2, 2],
            "num_blocks": 4,
            "attn_resolutions": [16],
            "dropout": 0.13,
        },
        train=TrainConfig(
            kimg=200_000,
            batch_size=512,
            lr=1e-3,
            lr_final=1.0,
            warmup_kimg=10_000,
            ema_halflife_kimg=500,
            ema_ramp=0.05,
            augment=0.12,
            tick_kimg=50,
            state_kimg=2500,
        ),
    ),
    "ffhq64": Preset(
        data=None,
        resolution=64,
        network={
            "sigma_data": 0.5,
            "model_channels": 128,
            "channel_mult": [1, 2, 2, 2],
            "num_blocks": 4,
            "attn_resolutions": [16],
            "dropout": 0.05,
        },
        train=TrainConfig(
            kimg=200_000,
            batch_size=256,
            lr=2e-4,
            lr_final=1.0,
            warmup_kimg=10_000,
            ema_halflife_kimg=500,
            ema_ramp=0.05,
            augment=0.15,
            tick_kimg=50,
            state_kimg=2500,
        ),
    ),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError with the closest names when there is none."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}{closest(name, PRESETS)}")
    return PRESETS[name]
