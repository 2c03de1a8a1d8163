"""Training on latents: data encoded once by a VAE and kept by digest, drawn anew at each visit, gone on with after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import refused, succeeds

from fairsims.data import ImageDataset
from fairsims.data.latents import LatentSet, Posterior
from fairsims.files import read_json, write_json
from fairsims.models import open_checkpoint
from fairsims.models.codec import Codec
from fairsims.pools import Pool
from fairsims.training import TrainConfig, encoding
from fairsims.training.batches import batches

CHANNELS = {"in_channels": 1, "out_channels": 1, "latent_channels": 4, "block_out_channels": (8, 8)}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
TRAIN = ["train", "--data", "digits", "--arch", "edm2", "--channels", "8", "--channel-mult", "1,2", "--blocks", "1"]
TRAIN += [
    "--attention",
    "none",
    "--kimg",
    "0.1",
    "--batch-size",
    "50",
    "--precision",
    "float32",
    "--condition",
    "parity",
]


@pytest.fixture
def vae(diffusers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A random VAE of grey images that halves them once."""
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**CHANNELS, **BLOCKS, norm_num_groups=4).save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def test_a_network_of_latents_is_trained_and_makes_images(vae: Path, tmp_path: Path, digits: ImageDataset) -> None:
    succeeds(*TRAIN, "--vae", vae, "--out", tmp_path / "model")
    model = open_checkpoint(tmp_path / "model")
    facts = model.recipe["codec"]
    assert (model.denoiser.shape, model.recipe["classes"]) == ((4, 4, 4), ["even", "odd"])
    assert (facts["vae"], len(facts["scale"]), len(facts["bias"])) == ("vae", 4, 4)
    (kept,) = (tmp_path / "cache" / "latents").iterdir()
    before = kept.stat().st_mtime_ns
    made = ["--vae", vae, "--seeds", "0-3", "--steps", "2", "--out", tmp_path / "pool"]
    succeeds("generate", "--model", tmp_path / "model", *made)
    assert Pool(tmp_path / "pool").shape == (1, 8, 8)
    # A second training, and one that goes on from the first, encode nothing.
    succeeds(*TRAIN, "--vae", vae, "--out", tmp_path / "again")
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("model", "again")]
    assert weights[0] == weights[1]
    on = ["train", "--data", "digits", "--init", tmp_path / "model", "--kimg", "0.05", "--batch-size", "50"]
    succeeds(*on, "--vae", vae, "--out", tmp_path / "on")
    assert open_checkpoint(tmp_path / "on").recipe["codec"] == facts
    assert [p.stat().st_mtime_ns for p in (tmp_path / "cache" / "latents").iterdir()] == [before]
    stored = np.load(kept)
    codec = Codec(vae, None, torch.device("cpu"))
    with torch.inference_mode():
        seen = codec.vae.encode(digits.read(range(5)).float() / 255).latent_dist
    assert stored.shape == (1797, 8, 4, 4)
    assert torch.allclose(torch.from_numpy(stored[:5, :4]), seen.mean, atol=1e-5)
    assert torch.allclose(torch.from_numpy(stored[:5, 4:]), seen.std, atol=1e-5)


def test_latents_are_drawn_anew_and_have_mean_0_and_deviation_half(vae: Path, digits: ImageDataset) -> None:
    conditions = torch.from_numpy(digits.class_indices("parity").astype(np.int64))
    found, facts = encoding.encoded(digits, vae, conditions)
    assert (found.shape, len(found), found.digest) == (
        (4, 4, 4),
        1797,
        encoding.encoded(digits, vae, conditions)[0].digest,
    )
    config = TrainConfig(kimg=3.594, batch_size=1797)
    network = open_network(found)
    first, second = batches(found, network, config, first=0, rows=range(1797))
    assert first.labels is not None and int(first.labels[:, 1].sum()) == int(conditions.sum())
    for batch in (first, second):
        assert batch.images.mean(dim=(0, 2, 3)).abs().max() < 0.02
        assert batch.images.std(dim=(0, 2, 3)) == pytest.approx([0.5] * 4, abs=0.02)
    # The second epoch sees other draws of the same images.
    assert abs(float(first.images.double().sum() - second.images.double().sum())) > 1e-3
    part = next(batches(found, network, config, first=0, rows=range(100, 103)))
    assert torch.equal(part.images, first.images[100:103])
    known = encoding.encoded(digits, vae, conditions, {"scale": [1.0] * 4, "bias": [0.0] * 4})[1]
    assert known["scale"] == [1.0] * 4 != facts["scale"]


def open_network(data: LatentSet) -> Any:
    from fairsims.training.base import new_network

    arguments = {"denoiser": "EDM2Denoiser", "model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    return new_network(data, TrainConfig(kimg=1), arguments | {"attn_resolutions": [], "label_dim": 2})


def test_a_draw_is_what_edm2_draws() -> None:
    rows, noise = torch.randn(2, 8, 3, 3).abs(), torch.randn(2, 4, 3, 3)
    scale, bias = torch.rand(4, 1, 1), torch.rand(4, 1, 1)
    drawn = Posterior(scale=scale, bias=bias).draw(rows, noise)
    assert torch.equal(drawn, (rows[:, :4] + rows[:, 4:] * noise) * scale + bias)


def test_a_killed_encoding_goes_on(
    vae: Path, digits: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", 700)
    whole = encoding._encode(digits, Codec(vae, None, torch.device("cpu")))
    expected = whole.read_bytes()
    half = np.load(whole)
    half[700:] = 7
    np.save(whole, half)
    whole.rename(whole.with_suffix(".part"))
    write_json(whole.with_suffix(".json"), {"done": 700})
    assert encoding._encode(digits, Codec(vae, None, torch.device("cpu"))).read_bytes() == expected
    assert [p.name for p in whole.parent.iterdir()] == [whole.name]


def test_what_cannot_be_is_refused(vae: Path, tmp_path: Path) -> None:
    asked = [*TRAIN, "--out", tmp_path / "model"]
    assert "latents cannot be mirrored or distorted" in refused(*asked, "--vae", vae, "--xflip")
    assert "has no config.json" in refused(*asked, "--vae", tmp_path)
    said = refused(
        "train", "--data", "emoji-people", "--arch", "edm2", "--kimg", "1", "--vae", vae, "--out", tmp_path / "model"
    )
    assert "the VAE takes images of 1 channels" in said
    on = ["train", "--data", "digits", "--init", "digits-8", "--kimg", "0.05", "--out", tmp_path / "model"]
    assert "digits-8 makes pixels, not latents" in refused(*on, "--vae", vae)
    config = read_json(vae / "config.json")
    write_json(vae / "config.json", config | {"_class_name": "VQModel"})
    assert "holds a VQModel" in refused(*asked, "--vae", vae)
    assert not (tmp_path / "model").exists()
