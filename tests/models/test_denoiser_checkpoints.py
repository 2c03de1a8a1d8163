"""Checkpoint folders: what is saved comes back, and what is broken is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import read_json, write_json
from fairsims.models import EDMDenoiser, SIMSGuidance, open_checkpoint, save_checkpoint, save_guided
from fairsims.models.checkpoints import embedded_models

SIGMA = torch.tensor(0.9)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path: Path, network: EDMDenoiser) -> Path:
    save_checkpoint(tmp_path / "model", network, recipe={"data": "digits", "train": {"xflip": False}})
    return tmp_path / "model"


def change(folder: Path, **changes: Any) -> None:
    write_json(folder / "config.json", read_json(folder / "config.json") | changes)


def test_a_network_comes_back_bit_for_bit(folder: Path, network: EDMDenoiser, x: Tensor) -> None:
    loaded = open_checkpoint(folder).denoiser
    assert isinstance(loaded, EDMDenoiser)
    assert torch.equal(loaded(x, SIGMA), network(x, SIGMA))
    assert loaded.config == network.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert open_checkpoint(folder).recipe == {"data": "digits", "train": {"xflip": False}}


def test_saving_again_gives_the_same_bytes(folder: Path, network: EDMDenoiser, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "again", open_checkpoint(folder).network, recipe=open_checkpoint(folder).recipe)
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_digest_follows_what_decides_the_samples(folder: Path, make_network: MakeNetwork, tmp_path: Path) -> None:
    digest = open_checkpoint(folder).digest
    change(folder, recipe={"note": "another story"})
    assert open_checkpoint(folder).digest == digest
    save_checkpoint(tmp_path / "other", make_network(1))
    assert open_checkpoint(tmp_path / "other").digest != digest
    config = read_json(folder / "config.json")["config"]
    change(folder, config=config | {"sigma_data": 0.5})
    assert open_checkpoint(folder).digest != digest


def test_a_guided_pair_comes_back(folder: Path, make_network: MakeNetwork, tmp_path: Path, x: Tensor) -> None:
    aux = make_network(1)
    save_checkpoint(tmp_path / "run" / "auxiliary", aux)
    save_guided(tmp_path / "run" / "guided", str(folder), "../auxiliary", 0.8, interval=(0.1, 5.0), recipe={"a": 1})
    guided = open_checkpoint(tmp_path / "run" / "guided").denoiser
    assert isinstance(guided, SIMSGuidance)
    assert torch.equal(guided(x, SIGMA), SIMSGuidance(open_checkpoint(folder).network, aux, 0.8)(x, SIGMA))
    assert guided.interval is not None
    assert tuple(guided.interval) == (0.1, 5.0)
    assert open_checkpoint(tmp_path / "run" / "guided").recipe == {"a": 1}
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert open_checkpoint(tmp_path / "moved" / "guided").denoiser(x, SIGMA).shape == x.shape


def test_digest_of_a_pair_follows_both_networks_and_omega(
    folder: Path, make_network: MakeNetwork, tmp_path: Path
) -> None:
    for seed in (1, 2):
        save_checkpoint(tmp_path / f"aux{seed}", make_network(seed))
    found = set()
    for k, (aux, omega, interval) in enumerate(
        [("aux1", 1.0, None), ("aux2", 1.0, None), ("aux1", 1.1, None), ("aux1", 1.0, (0.1, 2.0))]
    ):
        save_guided(tmp_path / str(k), str(folder), f"../{aux}", omega, interval=interval)
        found.add(open_checkpoint(tmp_path / str(k)).digest)
    assert len(found) == 4


def test_truncated_weights_are_named(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        with pytest.raises(InputError, match="is corrupt") as caught:
            open_checkpoint(folder)
        assert str(weights) in str(caught.value)


def test_missing_parts_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors is missing"):
        open_checkpoint(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        open_checkpoint(tmp_path / "empty")


def test_weights_of_another_network_are_refused(folder: Path, make_network: MakeNetwork, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "wide", make_network(model_channels=16))
    save_checkpoint(tmp_path / "deep", make_network(num_blocks=2))
    for other in ("wide", "deep"):
        shutil.copy(tmp_path / other / "model.safetensors", folder / "model.safetensors")
        with pytest.raises(InputError, match="does not fit"):
            open_checkpoint(folder)


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"img_resolution": 8},
        {"img_resolution": 8, "img_channels": 1, "surprise": 1},
        {"img_resolution": 9, "img_channels": 1, "channel_mult": [1, 2]},
        {"img_resolution": 8, "img_channels": 1, "model_channels": -8},
        {"img_resolution": 8, "img_channels": 1, "patch_size": 0},
        {"img_resolution": "8", "img_channels": 1},
    ],
)
def test_a_config_that_describes_no_model_is_refused(folder: Path, config: object) -> None:
    change(folder, config=config)
    with pytest.raises(InputError, match="does not describe a model"):
        open_checkpoint(folder)


def test_a_pair_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It says omega where strength stands now; the digest is of the number."""
    save_guided(tmp_path / "now", "digits-8", "digits-8", 0.75)
    save_guided(tmp_path / "earlier", "digits-8", "digits-8", 0.75)
    config = read_json(tmp_path / "earlier" / "config.json")["config"]
    change(tmp_path / "earlier", config={"omega": config.pop("strength")} | config)
    assert open_checkpoint(tmp_path / "earlier").digest == open_checkpoint(tmp_path / "now").digest


@pytest.mark.parametrize(
    "config", [None, {}, {"base": "a", "strength": 1.0}, {"base": "a", "aux": "b", "interval": None}]
)
def test_a_pair_that_names_no_networks_is_refused(folder: Path, config: object) -> None:
    change(folder, **{"class": "SIMSGuidance", "config": config})
    with pytest.raises(InputError, match="guided pair"):
        open_checkpoint(folder)


@pytest.mark.parametrize(("marker", "message"), [("pool.json", "is a pool of images; "), ("status.json", "is a run; ")])
def test_a_folder_of_another_kind_is_named(tmp_path: Path, marker: str, message: str) -> None:
    write_json(tmp_path / marker, {})
    write_json(tmp_path / "config.json", {})
    with pytest.raises(InputError, match=message + "expected a checkpoint"):
        open_checkpoint(tmp_path)


def test_other_formats_and_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    change(folder, format="fairsims-checkpoint/99")
    with pytest.raises(InputError, match="expected 'fairsims-checkpoint/1'"):
        open_checkpoint(folder)
    (folder / "config.json").write_text("{not json")
    with pytest.raises(InputError, match="not valid JSON"):
        open_checkpoint(folder)
    save_guided(tmp_path / "guided", "digits-8", "digits-8", 1.0)
    with pytest.raises(InputError, match="holds a guided pair; expected a single network"):
        _ = open_checkpoint(tmp_path / "guided").network


def test_unknown_models_get_the_closest_names() -> None:
    with pytest.raises(InputError, match="did you mean 'digits-8'"):
        open_checkpoint("digit-8")
    with pytest.raises(InputError, match="no embedded model of that name"):
        open_checkpoint("/nowhere/at/all")


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_load_and_denoise(name: str) -> None:
    denoiser = open_checkpoint(name).network
    clean = torch.zeros(1, *denoiser.shape)
    with torch.no_grad():
        found = denoiser(clean + 1e-3 * torch.randn_like(clean), torch.tensor(1e-3))
    assert (found - clean).abs().max() < 0.05
    recipe = json.loads(json.dumps(open_checkpoint(name).recipe))
    assert recipe["preset"] == name
    assert recipe["train"]["kimg"] > 0
