"""Named recipes: data set, network, training and sampling of the embedded base models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fairsims.errors import InputError, closest
from fairsims.training import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything `fairsims train --preset NAME` needs."""

    data: str
    resolution: int | None
    network: dict[str, Any]
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
            kimg=640, lr=1e-3, P_mean=-0.8, ema_halflife_kimg=44, xflip=True, warmup_kimg=6.4, state_kimg=32,
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
}  # fmt: skip


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError with the closest names when there is none."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}{closest(name, PRESETS)}")
    return PRESETS[name]
