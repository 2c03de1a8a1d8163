"""Auxiliaries of low rank: what is trained, that nothing else changes, and that the checkpoint is a whole network."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from edm2_snapshots import tiny2
from support import MakeNetwork, refused, succeeds

from fairsims.data import ImageDataset
from fairsims.models import ModelSpec, NetworkDenoiser, open_checkpoint, open_model, save_checkpoint
from fairsims.models.lowrank import LowRank
from fairsims.models.objective import Batch
from fairsims.seeds import torch_generator
from fairsims.training import TrainConfig
from fairsims.training.auxiliary import train_auxiliary
from fairsims.training.loop import train


def batch(network: NetworkDenoiser) -> Batch:
    sigma, noise = network.draw_noise(6, torch_generator(0), mean=-0.8, std=1.0)
    return Batch(images=torch.randn(6, *network.shape, generator=torch_generator(1)), sigma=sigma, noise=noise)


@pytest.mark.parametrize("edm2", [False, True])
def test_it_starts_as_the_network_and_changes_weights_by_its_rank_alone(
    make_network: MakeNetwork, digits: ImageDataset, edm2: bool
) -> None:
    base: NetworkDenoiser = tiny2() if edm2 else make_network(dropout=0.0)
    known = copy.deepcopy(base)
    learner = LowRank(base, 2, seed=0)
    drawn = batch(base)
    assert torch.equal(learner.eval().loss(drawn), known.eval().loss(drawn))
    assert {name.split(".")[0] for name in learner.state_dict()} == {"first", "second"}
    config = TrainConfig(kimg=0.15, batch_size=50, lr=0.05)
    (*_, last) = train(learner, digits, config)
    assert isinstance(last.ema, LowRank) and last.ema.network is base
    found = last.ema.saved()
    moved = 0
    for (name, before), after in zip(known.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(base.get_parameter(name), before), name
        change = (after - before).reshape(len(before), -1) if before.ndim > 1 else after - before
        if before.ndim < 2:
            assert not change.any(), name
        else:
            assert torch.linalg.matrix_rank(change.double(), rtol=1e-4) <= 2, name
            moved += bool(change.any())
    assert moved >= 10
    assert not torch.equal(found(drawn.images, drawn.sigma), known(drawn.images, drawn.sigma))


def test_a_stopped_training_goes_on_and_the_checkpoint_is_a_whole_network(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    save_checkpoint(tmp_path / "base", make_network())
    model = open_model(ModelSpec(base=str(tmp_path / "base")))
    config = TrainConfig(kimg=0.4, batch_size=50, lr=0.01, tick_kimg=0.1, state_kimg=0.1)
    list(train_auxiliary(model, digits, config, tmp_path / "whole", rank=3))
    stopped = train_auxiliary(model, digits, config, tmp_path / "stopped", rank=3)
    next(stopped), next(stopped)
    stopped.close()
    list(train_auxiliary(model, digits, config, tmp_path / "stopped", rank=3))
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("whole", "stopped")]
    assert weights[0] == weights[1]
    found = open_checkpoint(tmp_path / "whole")
    assert (found.recipe["rank"], type(found.network)) == (3, type(model.base.network))
    assert open_checkpoint(tmp_path / "base").digest == model.digest


def test_the_command_takes_a_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    succeeds("generate", "--model", "digits-8", "--seeds", "0-63", "--steps", "2", "--out", tmp_path / "pool")
    asked = ["finetune", "--model", "digits-8", "--pool", tmp_path / "pool", "--kimg", "0.1", "--batch-size", "50"]
    succeeds(*asked, "--rank", "2", "--out", tmp_path / "aux")
    succeeds("merge", "--model", "digits-8", "--aux", tmp_path / "aux", "--strength", "1", "--out", tmp_path / "merged")
    assert "rank is 0; expected 1 or more" in refused(*asked, "--rank", "0", "--out", tmp_path / "none")
    said = refused("retarget", "--attr", "parity", "--target", "0.5", "--model", "digits-8", "--rank", "0")
    assert "rank is 0; expected 1 or more" in said
