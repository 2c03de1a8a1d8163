"""Named recipes for `fairsims train`: data set, network and schedule, of `presets.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fairsims.errors import InputError, closest
from fairsims.options import from_mapping
from fairsims.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything `fairsims train --preset NAME` needs."""

    data: str | None = None
    """Data set; None where it cannot be shipped and has to be given."""
    resolution: int | None
    network: dict[str, Any]
    """Arguments of the denoiser, beside the shape of the images and what follows from `train`."""
    train: TrainConfig


PRESETS = {
    name: from_mapping(Preset, values)
    for name, values in tomllib.loads((files(__package__) / "presets.toml").read_text(encoding="utf-8")).items()
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises InputError with the closest names when there is none."""
    if name not in PRESETS:
        raise InputError(f"no preset {name!r}{closest(name, PRESETS)}")
    return PRESETS[name]
