"""What the tests of EDM snapshots and of diffusers pipelines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakePipeline


@pytest.fixture
def pwned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a payload would create; no test may leave it behind."""
    monkeypatch.setenv("FAIRSIMS_PWNED", str(tmp_path / "pwned"))
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "pwned"
    assert not (tmp_path / "pwned").exists(), "a payload was executed"


@pytest.fixture
def make_pipeline(diffusers: Any, tmp_path: Path) -> MakePipeline:
    """A function `(pipeline, scheduler, *, unet, name, seed, **settings)` that saves a tiny pipeline of 8x8 grey images.

    `settings` are the scheduler's, `unet` changes those of the network.
    """

    def make(
        pipeline: str = "DDIMPipeline",
        scheduler: str | None = None,
        *,
        unet: dict[str, Any] | None = None,
        name: str = "pipeline",
        seed: int = 0,
        **settings: Any,
    ) -> Path:
        network: dict[str, Any] = {
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "layers_per_block": 1,
            "block_out_channels": (8, 8),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
        }
        torch.manual_seed(seed)
        model = diffusers.UNet2DModel(**network | (unet or {})).eval()
        kind = getattr(diffusers, scheduler or pipeline.replace("Pipeline", "Scheduler"))
        levels = kind(**{"num_train_timesteps": 50} | settings)
        getattr(diffusers, pipeline)(unet=model, scheduler=levels).save_pretrained(tmp_path / name)
        return tmp_path / name

    return make
