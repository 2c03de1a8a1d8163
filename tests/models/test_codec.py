"""A model of latents: decoded by a VAE's folder, its latents kept with the pool and fine-tuned on, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from edm2_snapshots import tiny2, write_snapshot2
from support import refused, succeeds

from fairsims.errors import InputError
from fairsims.files import read_json, write_json
from fairsims.models import DenoiserModel, ModelSpec, open_checkpoint, open_model
from fairsims.models.codec import Codec
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.pools import Pool, pool_latents
from fairsims.seeds import noise_for
from fairsims.training import TrainConfig
from fairsims.training.batches import batches

SAMPLER = SamplerConfig(steps=2, solver="heun", schedule="polynomial")
CHANNELS = {"latent_channels": 4, "block_out_channels": (8, 8), "norm_num_groups": 4}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}


@pytest.fixture
def vae(diffusers: Any, tmp_path: Path) -> Path:
    """A random VAE that halves its images once."""
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**CHANNELS, **BLOCKS).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    return write_snapshot2(tmp_path / "model.pkl", tiny2(img_channels=4))


def opened(snapshot: Path, vae: Path, **changes: Any) -> DenoiserModel:
    return open_model(ModelSpec(base=str(snapshot), vae=str(vae), sampler=SAMPLER, **changes))


def test_images_are_decoded_as_edm2_decodes_them(snapshot: Path, vae: Path, diffusers: Any) -> None:
    model = opened(snapshot, vae)
    assert (model.image_shape, model.noise_shape) == ((3, 16, 16), (4, 8, 8))
    ((images, latents),) = model.images_with_latents([[3, 4, 5]])
    with torch.inference_mode():
        sampled = solve(model.denoiser, noise_for([3, 4, 5], (4, 8, 8)), SAMPLER).float()
        facts = model.recipe["codec"]
        scale, bias = (torch.tensor(facts[k])[:, None, None] for k in ("scale", "bias"))
        decoder = diffusers.AutoencoderKL.from_pretrained(vae).eval()
        pixels = decoder.decode((sampled - bias) / scale).sample
    assert torch.equal(latents, sampled)
    assert torch.equal(images, (pixels.clamp(0, 1) * 255).to(torch.uint8))
    assert images.float().std() > 1
    assert model.facts()["codec"]["latents"] == [4, 8, 8]


def test_a_pool_keeps_its_latents_and_a_fine_tune_learns_from_them(snapshot: Path, vae: Path, tmp_path: Path) -> None:
    asked = ["--seeds", "0-23", "--steps", "2", "--solver", "euler", "--precision", "float32"]
    succeeds("generate", "--model", snapshot, "--vae", vae, *asked, "--out", tmp_path / "pool")
    pool = Pool(tmp_path / "pool")
    assert (pool.shape, pool_latents(pool).shape, len(pool_latents(pool))) == ((3, 16, 16), (4, 8, 8), 24)
    again = Codec(vae, open_checkpoint(snapshot).recipe["codec"], torch.device("cpu"))
    assert torch.equal(again.decode(pool_latents(pool).latents, range(24)), pool.read(range(24)))
    config = TrainConfig(kimg=0.024, batch_size=24)
    (batch,) = batches(pool_latents(pool), tiny2(img_channels=4), config, first=0, rows=range(24))
    assert torch.equal(batch.images.sort(dim=0).values, pool_latents(pool).latents.sort(dim=0).values)
    for folder in ("aux", "same"):
        short = ["--kimg", "0.04", "--batch-size", "10", "--precision", "float32"]
        succeeds("finetune", "--model", snapshot, "--pool", pool.folder, *short, "--out", tmp_path / folder)
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("aux", "same")]
    assert weights[0] == weights[1]
    assert open_checkpoint(tmp_path / "aux").recipe["codec"] == open_checkpoint(snapshot).recipe["codec"]
    merge = ["merge", "--model", snapshot, "--aux", tmp_path / "aux", "--strength", "0.5"]
    for mode in ("merged", "guided"):
        succeeds(*merge, "--mode", mode, "--out", tmp_path / mode)
        made = ["generate", "--model", tmp_path / mode, "--vae", vae, *asked, "--out", tmp_path / f"{mode}-pool"]
        assert succeeds(*made)["images"] == 24
    # A shard that is made again, as after a kill, is the same to the byte.
    shard, latents = pool.shards[0], tmp_path / "pool" / "latents" / "shard-00000.safetensors"
    before = shard.read_bytes(), latents.read_bytes()
    shard.unlink()
    succeeds("generate", "--model", snapshot, "--vae", vae, *asked, "--out", tmp_path / "pool")
    assert (shard.read_bytes(), latents.read_bytes()) == before


def test_what_is_not_finite_stops_with_seed_and_stage(snapshot: Path, vae: Path) -> None:
    model = opened(snapshot, vae)
    assert model.codec is not None
    with torch.no_grad():
        model.codec.vae.decoder.conv_out.bias.fill_(torch.nan)
    with pytest.raises(InputError, match="decoding the image of seed 3 gave numbers that are not finite"):
        list(model.images([[3, 4]]))
    with torch.no_grad():
        next(model.denoiser.parameters()).fill_(torch.nan)
    with pytest.raises(InputError, match="sampling the image of seed 3 gave numbers that are not finite"):
        list(model.images([[3, 4]]))


def test_a_vae_has_to_be_there_and_to_fit(snapshot: Path, vae: Path, tmp_path: Path, diffusers: Any) -> None:
    asked = ["generate", "--model", snapshot, "--seeds", "0-1", "--out", tmp_path / "pool"]
    assert "makes latents; give --vae" in refused(*asked)
    assert "has no config.json" in refused(*asked, "--vae", tmp_path)
    assert "digits-8 makes pixels" in refused("generate", "--model", "digits-8", "--vae", vae, "--out", tmp_path / "x")
    narrow = diffusers.AutoencoderKL(**CHANNELS | {"latent_channels": 3}, **BLOCKS)
    narrow.save_pretrained(tmp_path / "narrow")
    assert "latents of 3 channels, the model of 4" in refused(*asked, "--vae", tmp_path / "narrow")
    write_json(vae / "config.json", read_json(vae / "config.json") | {"_class_name": "VQModel"})
    assert "holds a VQModel" in refused(*asked, "--vae", vae)
    write_json(vae / "config.json", read_json(vae / "config.json") | {"_class_name": "AutoencoderKL"})
    (vae / "diffusion_pytorch_model.safetensors").write_bytes(b"broken")
    assert "cannot be opened" in refused(*asked, "--vae", vae)
    assert not (tmp_path / "pool").exists()
