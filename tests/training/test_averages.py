"""Power-function averages: their profile, their reconstruction at another width, and EDM2 trained and fine-tuned."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm2_snapshots import tiny2, write_snapshot2
from support import MakePool, refused, succeeds

from fairsims.files import read_json
from fairsims.models import ModelSpec, merge, open_checkpoint, open_model
from fairsims.models.edm2 import EDM2Denoiser, MPConv
from fairsims.training import TrainConfig, finetune_settings
from fairsims.training.averages import coefficients, exponent, power_beta
from fairsims.training.base import train_base

BATCH = 10


def averaged(path: np.ndarray, std: float) -> np.ndarray:
    """The average of a path of weights `(steps, n)` after every step, by its recursion."""
    out, now = np.zeros_like(path), np.zeros(path.shape[1])
    for i, weights in enumerate(path):
        beta = power_beta(std, (i + 1) * BATCH, BATCH)
        now = beta * now + (1 - beta) * weights
        out[i] = now
    return out


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.2, 0.28])
def test_an_average_has_the_width_that_names_it(std: float) -> None:
    gamma, steps = exponent(std), 2000
    assert np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(std)
    profile = averaged(np.eye(steps), std)[-1]
    times = (np.arange(steps) + 0.5) / steps
    mean = profile @ times
    assert profile.sum() == pytest.approx(1)
    assert np.sqrt(profile @ (times - mean) ** 2) == pytest.approx(std, rel=0.02)
    assert profile[500] / profile[1999] == pytest.approx((500 / 2000) ** gamma, rel=0.05, abs=1e-9)


@pytest.mark.parametrize("std", [0.03, 0.075, 0.15, 0.2])
def test_a_reconstruction_is_what_averaging_directly_gives(std: float) -> None:
    """Weights that wander, averages of two widths saved 64 times: within a hundredth of what they wander."""
    path = np.cumsum(np.random.default_rng(0).normal(size=(2048, 50)), axis=0)
    seen = [(i + 1) * BATCH for i in range(31, 2048, 32)]
    kept = {s: averaged(path, s) for s in (0.05, 0.1)}
    known = [(t, s) for t in seen for s in kept]
    for last in (seen[-1], seen[-20]):
        parts = coefficients(known, last, std)
        found = sum(c * kept[s][t // BATCH - 1] for c, (t, s) in zip(parts, known, strict=True))
        direct = averaged(path, std)[last // BATCH - 1]
        wrong = np.linalg.norm(found - direct) / np.linalg.norm(path[last // BATCH - 1] - direct)
        assert wrong < 0.02, wrong
    assert parts.sum() == pytest.approx(1)
    assert coefficients(known, seen[-1], 0.1)[-1] == pytest.approx(1, abs=1e-6)


SMALL = ["--data", "digits", "--arch", "edm2", "--channels", "8", "--channel-mult", "1,2", "--blocks", "1"]
SMALL += ["--attention", "4", "--batch-size", "10", "--kimg", "0.32", "--precision", "float32", "--lr", "0.01"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional EDM2 network, hardly trained, with its averages."""
    out = tmp_path_factory.mktemp("edm2") / "base"
    succeeds("train", *SMALL, "--condition", "parity", "--state-kimg", "0.1", "--out", out)
    return out


def test_edm2_is_trained_as_edm2_is(trained: Path) -> None:
    settings = read_json(trained / "training.json")["train"]
    assert (settings["beta2"], settings["decay"], settings["ema_stds"]) == (0.99, "inverse-sqrt", [0.05, 0.1])
    network = open_checkpoint(trained).network
    assert isinstance(network, EDM2Denoiser)
    assert (network.label_dim, "half_gain" in network.config) == (2, False)
    assert open_checkpoint(trained).recipe["classes"] == ["even", "odd"]
    for part in network.modules():
        if isinstance(part, MPConv):
            rms = part.weight.square().mean(dim=list(range(1, part.weight.ndim))).sqrt()
            assert 0.5 < float(rms.min()) <= float(rms.max()) < 1.1, "an average of unit weights"
    assert float(network.unet.out_gain) != 0
    assert len(list((trained / "averages").iterdir())) == 32


def test_a_width_that_was_not_kept_is_that_of_a_training_that_keeps_it(trained: Path, tmp_path: Path) -> None:
    common = ["train", *SMALL, "--condition", "parity"]
    succeeds(*common, "--ema-stds", "0.075,0.15", "--out", tmp_path / "direct")
    succeeds("average", trained, "--std", "0.075", "--out", tmp_path / "made")
    made, direct = open_checkpoint(tmp_path / "made"), open_checkpoint(tmp_path / "direct")
    assert made.recipe["average"]["width"] == 0.075
    weights = {
        k: (dict(c.network.named_parameters()))
        for k, c in (("made", made), ("direct", direct), ("kept", open_checkpoint(trained)))
    }
    moved = {k: sum(float((weights[k][n] - w).square().sum()) for n, w in weights["direct"].items()) for k in weights}
    assert moved["made"] < 0.01 * moved["kept"]


def test_a_resumed_training_has_the_same_averages(tmp_path: Path) -> None:
    network = {
        "denoiser": "EDM2Denoiser",
        "model_channels": 8,
        "channel_mult": [1],
        "num_blocks": 1,
        "attn_resolutions": [],
    }
    settings = {"kimg": 0.2, "batch_size": 10, "tick_kimg": 0.05, "state_kimg": 0.05}
    for folder, stop in ((tmp_path / "whole", 99), (tmp_path / "cut", 9)):
        for k, _ in enumerate(train_base(folder, data="digits", network=network, settings=settings), 1):
            if k == stop:
                break
    assert (tmp_path / "cut" / "state.pt").exists()
    for _ in train_base(tmp_path / "cut", data="digits", network=network, settings=settings):
        pass
    files = sorted(p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.safetensors"))
    assert len(files) == 21
    for file in files:
        assert (tmp_path / "cut" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_snapshot_is_fine_tuned_and_merged_as_edm2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits_pool: MakePool
) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    base = write_snapshot2(tmp_path / "base.pkl", tiny2())
    settings = finetune_settings(open_model(ModelSpec(base=str(base))), 1)
    assert (settings.beta2, settings.P_mean, settings.P_std, settings.ema_stds) == (0.99, -0.8, 1.6, (0.05, 0.1))
    pool = digits_pool(8, 8)
    asked = ["finetune", "--model", base, "--pool", pool.folder, "--kimg", "0.05", "--batch-size", "10"]
    succeeds(*asked, "--precision", "float32", "--out", tmp_path / "aux")
    recipe = open_checkpoint(tmp_path / "aux").recipe
    assert (recipe["kind"], recipe["train"]["beta2"]) == ("auxiliary", 0.99)
    for mode in ("merged", "guided"):
        succeeds(
            "merge",
            "--model",
            base,
            "--aux",
            tmp_path / "aux",
            "--strength",
            0.5,
            "--mode",
            mode,
            "--out",
            tmp_path / mode,
        )
        made = [
            "generate",
            "--model",
            tmp_path / mode,
            "--seeds",
            "0-3",
            "--steps",
            "3",
            "--out",
            tmp_path / f"{mode}-pool",
        ]
        assert succeeds(*made)["images"] == 4


def test_merging_is_of_directions_not_of_magnitudes() -> None:
    base = tiny2(half_gain=False)
    grown = tiny2(half_gain=False)
    with torch.no_grad():
        for part in grown.modules():
            if isinstance(part, MPConv):
                part.weight.mul_(1.7)
    for strength in (0.0, 0.8):
        merged = dict(merge(base, grown, strength).named_parameters())
        for name, parameter in base.named_parameters():
            assert torch.allclose(merged[name], parameter, atol=1e-6), name
    assert all(torch.equal(p, dict(merge(base, grown, 0.0).named_parameters())[n]) for n, p in base.named_parameters())


def test_snapshots_of_edm2_are_reconstructed(tmp_path: Path) -> None:
    first, second = tiny2(0), tiny2(1)
    files = [
        write_snapshot2(tmp_path / f"training-{kimg:07d}-{std:.3f}.pkl", network)
        for network, kimg, std in ((first, 1024, 0.05), (second, 1024, 0.1), (first, 2048, 0.05), (second, 2048, 0.1))
    ]
    made = succeeds("average", *files, "--std", "0.1", "--out", tmp_path / "same")
    assert made["coefficients"][-1] == pytest.approx(1, abs=1e-5)
    found = open_checkpoint(tmp_path / "same").network
    assert found.config == second.config
    for name, parameter in second.named_parameters():
        assert torch.allclose(dict(found.named_parameters())[name], parameter, atol=2e-3), name
    succeeds("average", *files, "--std", "0.15", "--out", tmp_path / "wider")
    wider = dict(open_checkpoint(tmp_path / "wider").network.named_parameters())
    assert all(torch.equal(p, p.half().float()) for p in wider.values())
    assert "holds a checkpoint already" in refused("average", *files, "--std", "0.1", "--out", tmp_path / "wider")
    shutil.copy(files[0], tmp_path / "nameless.pkl")
    for sources, message in (
        ([tmp_path / "nameless.pkl", files[0]], "does not say its time and width"),
        ([files[0]], "1 averages of widths below"),
        ([tmp_path / "same"], "0 averages of widths below"),
        ([tmp_path / "none"], "is no snapshot"),
    ):
        assert message in refused("average", *sources, "--std", "0.1", "--out", tmp_path / "out")
    assert "the width is 0.3" in refused("average", *files, "--std", "0.3", "--out", tmp_path / "out")
    write_snapshot2(files[0], tiny2(model_channels=16))
    assert "is of another network" in refused("average", *files, "--std", "0.1", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_falls_with_the_root_of_the_steps() -> None:
    config = TrainConfig(kimg=10, batch_size=10, lr=0.01, decay="inverse-sqrt", decay_batches=100, warmup_kimg=0.1)
    assert config.lr_at(0) == pytest.approx(0.001)
    assert config.lr_at(50) == config.lr_at(100) == 0.01
    assert config.lr_at(400) == pytest.approx(0.005)
    plain: dict[str, Any] = TrainConfig(kimg=1).as_dict()
    assert not {"beta2", "decay", "ema_stds"} & plain.keys()
    for changes, message in (({"ema_stds": (0.3,)}, "ema_stds"), ({"beta2": 1.0}, "beta2"), ({"decay": "x"}, "decay")):
        with pytest.raises(ValueError, match=f"{message} is"):
            TrainConfig(kimg=1, **changes)
