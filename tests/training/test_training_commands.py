"""`fairsims train` and `finetune`: what their options do and refuse."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from support import MakeNetwork, MakePool

from fairsims.cli import main
from fairsims.data import open_dataset, to_float
from fairsims.errors import InputError
from fairsims.files import read_json, read_jsonl
from fairsims.models import ModelSpec, SIMSGuidance, open_checkpoint, open_model, save_checkpoint
from fairsims.models.base import compile_networks
from fairsims.training import finetune_settings, train_auxiliary
from fairsims.training.base import train_base

SMALL = ["--channels", "8", "--channel-mult", "1,2", "--blocks", "1", "--attention", "none", "--dropout", "0"]
SHORT = ["--kimg", "0.04", "--batch-size", "10"]


def succeeds(*args: object) -> dict[str, Any]:
    result = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert result.exit_code == 0, result.stderr or result.exception
    return dict(json.loads(result.stdout))


def refused(*args: object) -> str:
    result = CliRunner().invoke(main, [str(a) for a in args])
    assert (result.exit_code, result.stdout) == (2, ""), (result.output, result.exception)
    (line,) = result.stderr.splitlines()
    return line


def settings(folder: Path) -> dict[str, Any]:
    return dict(read_json(folder / "training.json")["train"])


def test_the_names_of_the_classes_go_from_the_data_to_every_model_made_of_them(tmp_path: Path) -> None:
    small = {"label_dim": 2, "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    short = {"kimg": 0.02, "batch_size": 10}
    for _ in train_base(tmp_path / "base", data="digits", network=small, settings=short):
        pass
    base = open_model(ModelSpec(base=str(tmp_path / "base")))
    assert base.conditions.names == ("even", "odd")
    data = open_dataset("digits")
    for _ in train_auxiliary(base, data, finetune_settings(base, 0.02, batch_size=10), tmp_path / "aux"):
        pass
    assert open_model(ModelSpec(base=str(tmp_path / "aux"))).conditions == base.conditions
    for mode in ("merged", "guided"):
        base.retargeted(tmp_path / "aux", 0.5, mode).export(tmp_path / mode)
        assert open_model(ModelSpec(base=str(tmp_path / mode))).conditions == base.conditions


@pytest.mark.parametrize(
    ("arch", "network"),
    [
        ([], {}),
        (["--arch", "ncsnpp"], {"embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2}),
        (["--arch", "adm"], {"architecture": "dhariwal"}),
    ],
    ids=["default", "ncsnpp", "adm"],
)
def test_a_network_of_ones_own(tmp_path: Path, arch: list[str], network: dict[str, Any]) -> None:
    command = ["train", "--data", "digits", *SMALL, *SHORT, *arch, "--out", tmp_path]
    assert succeeds(*command)["kimg"] == 0.04
    model = open_checkpoint(tmp_path).network
    assert network.items() <= model.config.items()
    assert (model.config["model_channels"], model.config["channel_mult"], model.shape) == (8, [1, 2], (1, 8, 8))
    # Measured: the standard deviation of the pixels.
    digits = open_dataset("digits")
    assert model.config["sigma_data"] == pytest.approx(float(to_float(digits.read(range(1797))).std()), abs=0.011)
    assert model.augment_dim == 0
    assert succeeds(*command) == {"checkpoint": str(tmp_path)}
    assert "network.model_channels = 8, now network.model_channels = 16" in refused(*command, "--channels", "16")


def test_every_setting_reaches_the_training(tmp_path: Path) -> None:
    succeeds(
        "train",
        "--data",
        "digits",
        *SMALL,
        *SHORT,
        "--micro-batch",
        "5",
        "--lr",
        "0.002",
        "--warmup-kimg",
        "0.02",
        "--lr-final",
        "0.5",
        "--ema-halflife-kimg",
        "0.1",
        "--P-mean",
        "-0.9",
        "--P-std",
        "1.1",
        "--augment",
        "0.2",
        "--xflip",
        "--clip-norm",
        "0.7",
        "--state-kimg",
        "0.01",
        "--precision",
        "bfloat16",
        "--seed",
        "5",
        "--sigma-data",
        "0.6",
        "--out",
        tmp_path,
    )
    wanted = {
        "kimg": 0.04,
        "batch_size": 10,
        "micro_batch": 5,
        "lr": 0.002,
        "warmup_kimg": 0.02,
        "lr_final": 0.5,
        "ema_halflife_kimg": 0.1,
        "P_mean": -0.9,
        "P_std": 1.1,
        "augment": 0.2,
        "xflip": True,
        "clip_norm": 0.7,
        "state_kimg": 0.01,
        "precision": "bfloat16",
        "seed": 5,
    }
    assert wanted.items() <= settings(tmp_path).items()
    model = open_checkpoint(tmp_path).network
    assert (model.augment_dim, model.config["sigma_data"]) == (9, 0.6)


def test_a_preset_keeps_what_is_not_asked_for(tmp_path: Path) -> None:
    succeeds("train", "--preset", "digits-8", "--kimg", "0.128", "--lr", "0.0005", "--out", tmp_path)
    found = settings(tmp_path)
    assert (found["lr"], found["batch_size"], found["warmup_kimg"], found["P_mean"]) == (0.0005, 128, 4, -0.8)
    recipe = open_checkpoint(tmp_path).recipe
    assert (recipe["preset"], recipe["data"], set(recipe)) == ("digits-8", "digits-skewed", {"preset", "data", "train"})


def test_training_starts_from_a_checkpoint_without_its_ramp(tmp_path: Path, make_network: MakeNetwork) -> None:
    save_checkpoint(tmp_path / "start", make_network())
    command = ["train", "--preset", "digits-8", "--init", tmp_path / "start", "--kimg", "0.01", "--batch-size", "10"]
    succeeds(*command, "--lr", "1e-9", "--out", tmp_path / "near")
    near, start = open_checkpoint(tmp_path / "near").network, open_checkpoint(tmp_path / "start").network
    for a, b in zip(near.parameters(), start.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)
    assert open_checkpoint(tmp_path / "near").recipe["init_digest"] == open_checkpoint(tmp_path / "start").digest
    # The preset's ramp of 4 kimg would leave this budget of 0.01 at 1/400 of the rate.
    (record,) = read_jsonl(tmp_path / "near" / "stats.jsonl")
    assert (settings(tmp_path / "near")["warmup_kimg"], record["lr"]) == (0, pytest.approx(1e-9, abs=1e-8))
    succeeds(*command, "--warmup-kimg", "2", "--out", tmp_path / "ramp")
    assert settings(tmp_path / "ramp")["warmup_kimg"] == 2
    line = refused(*command, "--channels", "8", "--blocks", "1", "--out", tmp_path / "other")
    assert "--channels changes nothing beside --init: the network of the checkpoint is taken as it is" in line
    assert "--arch changes nothing beside --init" in refused(*command, "--arch", "ddpmpp", "--out", tmp_path / "other")
    assert "takes 0 augment labels; expected 9" in refused(*command, "--augment", "0.1", "--out", tmp_path / "other")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "nothing to train on; give --preset or --data"),
        (["--data", "digits"], "no budget; give --kimg"),
        (["--preset", "cifar10"], "no data for preset 'cifar10'; give --data"),
        (["--preset", "ffhq64", "--data", "digits"], "found resolution 64 for digits; expected 8"),
        (["--data", "digits", *SHORT, "--channel-mult", "1,x"], "--channel-mult is '1,x'; expected whole numbers"),
        (["--data", "digits", *SHORT, "--channel-mult", "1,1,1,1,1"], "the options make no network"),
        (["--data", "digits", *SHORT, "--arch", "adm", "--patch-size", "2"], "the options make no network"),
        (["--data", "digits", *SHORT, "--ema-halflife-kimg", "-1"], "--ema-halflife-kimg is -1.0; expected 0 or more"),
        (["--data", "digits", *SHORT, "--P-std", "0"], "--P-std is 0.0; expected a positive number"),
        (["--data", "digits", *SHORT, "--micro-batch", "0"], "--micro-batch is 0; expected 1 or more"),
    ],
)
def test_train_refuses(tmp_path: Path, options: list[str], message: str) -> None:
    assert message in refused("train", *options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_finetune_keeps_its_rate_whatever_the_base_had(
    tmp_path: Path, make_network: MakeNetwork, digits_pool: MakePool
) -> None:
    ramp = {"train": {"warmup_kimg": 10_000, "lr_final": 0.1, "xflip": True}}
    save_checkpoint(tmp_path / "base", make_network(), recipe=ramp)
    pool = digits_pool(20, 20)
    succeeds(
        "finetune",
        "--init",
        tmp_path / "base",
        "--pool",
        pool.folder,
        "--budget",
        "0.4",
        "--batch-size",
        "20",
        "--lr",
        "0.001",
        "--micro-batch",
        "7",
        "--out",
        tmp_path / "aux",
    )
    assert {r["lr"] for r in read_jsonl(tmp_path / "aux" / "stats.jsonl")} == {0.001}
    found = settings(tmp_path / "aux")
    assert (found["warmup_kimg"], found["lr_final"], found["xflip"], found["micro_batch"]) == (0, 1, True, 7)
    line = refused("finetune", "--model", tmp_path / "base", "--pool", pool.folder, "--kimg", "0", "--out", tmp_path)
    assert "--kimg is 0.0; expected a positive number" in line


def test_a_training_that_fails_says_what_to_do(tmp_path: Path) -> None:
    command = ["train", "--data", "digits", *SMALL, "--kimg", "2", "--batch-size", "10", "--state-kimg", "0.01"]
    line = refused(*command, "--lr", "1e15", "--out", tmp_path / "a")
    assert "lower --lr or use --precision float32; the weights of step" in line
    assert f"are kept in {tmp_path}/a/last-good: go on from them with --init into another folder" in line
    again = ["train", "--data", "digits", *SHORT, "--init", tmp_path / "a" / "last-good", "--lr", "1e-3"]
    # What the warning promises works; these weights were made by a rate of 1e15 and may be beyond help.
    result = CliRunner().invoke(main, [*map(str, again), "--out", str(tmp_path / "b")])
    assert result.exit_code in (0, 2)
    assert (tmp_path / "b" / "training.json").exists()


def test_compiling_changes_no_names(make_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    base, aux = make_network(), make_network(1)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(InputError, match="no C\\+\\+ compiler, which torch.compile needs; install"):
        compile_networks(base)
    monkeypatch.setattr("shutil.which", lambda name: name)
    names = list(base.state_dict())
    compile_networks(SIMSGuidance(base, aux, 1.0))
    for network in (base, aux):
        assert network.model._compiled_call_impl is not None
        assert list(network.state_dict()) == names
    assert copy.deepcopy(base).model._compiled_call_impl is None
    assert "compile" not in json.dumps(base.config)
