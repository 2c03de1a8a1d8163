"""What the command line refuses: in one line, with exit code 2, before anything is written."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import MakeNetwork, MakePool, refused

from fairsims.classifiers.checkpoints import find_classifier
from fairsims.files import read_json
from fairsims.models import save_checkpoint
from fairsims.models.checkpoints import find_checkpoint

MODEL = ["retarget", "--model", "digits-8"]
RETARGET = [*MODEL, "--attr", "parity"]


@pytest.fixture
def white(tmp_path: Path, make_network: MakeNetwork) -> Path:
    """A checkpoint that makes nothing but white images."""
    network = make_network()
    with torch.no_grad():
        *_, bias = (p for n, p in network.named_parameters() if n.endswith("aux_conv.bias"))
        bias.fill_(100.0)
    save_checkpoint(tmp_path / "white", network)
    return tmp_path / "white"


def test_a_real_process_refuses_in_one_line_without_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "fairsims", *RETARGET, "--target", "1.5", "--out", "run"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --target is 1.5; expected a share in [0, 1]\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--target 1.5", "--target is 1.5; expected a share"),
        ("--target -0.1", "--target is -0.1; expected a share"),
        ("--target nan", "--target is nan; expected a share"),
        ("--target inf", "--target is inf; expected a share"),
        ("--target ''", "--target is ''"),
        ("--target odd=0.3,even=0.3", "sum to 0.6"),
        ("--target od=0.3,even=0.7", "no class 'od'; did you mean 'odd'"),
        ("--target odd=0.5,odd=0.5", "names 'odd' twice"),
        ("--target 1", "leaves one class only"),
        ("--target odd=1", "leaves one class only"),
        ("--target 0", "leaves one class only"),
        ("--target 0.5 --attr half", "there are 2 --attr and 1 --target; give one --target for each"),
        ("--target 0.5 --target 0.4", "there are 1 --attr and 2 --target"),
        ("--target 0.5 --attr parity --target 0.4", "--attr is 'parity' twice"),
        ("--target 0.5 --hold parity", "--attr is 'parity' twice, among those targeted and held"),
        ("--target 0.5 --hold half", "no embedded classifier for half at 8x8 grey"),
        ("--target 0.5 --hold half --classifier x", "--classifier is 'x'; expected ATTR=PATH"),
        (
            "--target 0.5 --classifier digits-parity --classifier x",
            "--classifier is 'x', another one for parity; expected one for each attribute",
        ),
        (
            "--target 0.5 --drift 0.1 --no-others",
            "--drift changes nothing with --no-others and without --hold; leave it out",
        ),
        ("--target 0.5 --audit 400 --power 0.8", "--power changes nothing beside --audit"),
        ("--target 0.5 --hold half --drift 0", "--drift is 0.0; expected a positive number"),
        ("--target 0.5 --rounds 0", "--rounds is 0; expected 1 or more"),
        ("--target 0.5 --interval 1,5", "--interval is (1.0, 5.0); expected none with paired"),
        ("--target 0.5 --interval 1 --mode guided", "--interval is '1'; expected two numbers"),
        ("--target 0.5 --interval 5,1 --mode guided", "expected two finite noise levels, the lower first"),
        ("--target 0.5 --interval 1,inf --mode guided", "--interval is (1.0, inf); expected two finite"),
        (
            "--target 0.5 --interval 1000,2000 --mode guided",
            "--interval 1000,2000 holds none of the 10 noise levels that the sampler visits, 0.002 to 80; give a wider one",
        ),
        ("--target 0.5 --interval 1,2 --mode guided --steps 2", "1,2 holds none of the 2 noise"),
        ("--target 0.5 --finetune P_mean=nan", "--finetune is P_mean=nan; expected a finite number"),
        ("--target 0.5 --finetune micro_batch=1.5", "--finetune is micro_batch=1.5; expected a whole number"),
        ("--target 0.5 --finetune xflip=0.3", "--finetune is xflip=0.3; expected 0, 1, true or false"),
        ("--target 0.5 --finetune xflip=yes", "--finetune is 'xflip=yes'; expected NAME=NUMBER"),
        ("--target 0.5 --pool 10", "--pool is 10; expected 200"),
        ("--target 0.5 --pool 5000000", "--pool is 5000000; expected 200 to 3,999,999 images"),
        ("--target 0.5 --audit 10000000", "--audit is 10000000; expected 50 to 999,999 images"),
        ("--target 0.5 --omega 0", "--omega is 0.0; expected a positive number"),
        ("--target 0.5 --omega -1", "--omega is -1.0; expected a positive number"),
        ("--target 0.5 --omega 3", "--omega is 3.0; expected at most the cap of 2.0"),
        ("--target 0.5 --budget 0", "--budget is 0.0; expected a positive number"),
        ("--target 0.5 --budget nan", "--budget is nan; expected a positive number"),
        ("--target 0.5 --steps 1", "--steps is 1; expected 2 or more"),
        ("--target 0.5 --audit 3", "--audit is 3; expected 50"),
        ("--target 0.5 --calibration many", "'--calibration': 'many' is not a valid integer"),
        ("--target 0.5 --calibration 10", "--calibration is 10; expected 50 to"),
        ("--target 0.5 --floor 1", "--floor is 1.0; expected a probability"),
        ("--target 0.5 --batch-size 0", "--batch-size is 0; expected 1 or more"),
        ("--target 0.5 --sample-batch -2", "--sample-batch is -2; expected 1 or more"),
        ("--target 0.5 --complement-size 0", "--complement-size is 0; expected 1"),
        ("--target 0.5 --seed 400", "--seed is 400; expected 0 to 399"),
        ("--target 0.5 --model digit-8", "did you mean 'digits-8'"),
        ("--target 0.5 --model nowhere", "no checkpoint folder 'nowhere'"),
        ("--target 0.5 --classifier digits-party", "did you mean 'digits-parity'"),
        ("--target 0.5 --reference digit", "did you mean 'digits'"),
        ("--target 0.5 --classifier emoji-gender", "labels 'gender', --attr is 'parity'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path, options: str, message: str) -> None:
    out = tmp_path / "run"
    assert message in refused(*RETARGET, *shlex.split(options), "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("interval", "message"),
    [
        ("1,inf", "--interval is (1.0, inf); expected two finite noise levels, the lower first"),
        ("1000,2000", "--interval 1000,2000 holds none of the 10 noise levels that the sampler visits, 0.002 to 80"),
    ],
)
def test_compare_refuses_an_interval_without_noise_levels(tmp_path: Path, interval: str, message: str) -> None:
    command = ["compare", *RETARGET[1:], "--target", "0.5", "--interval", interval, "--out", tmp_path / "run"]
    assert message in refused(*command)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--omega inf", "--omega is inf; expected a positive number"),
        ("--omega 0", "--omega is 0.0; expected a positive number"),
        ("--omega 3 --cap 2", "--omega is 3.0; expected at most the cap of 2.0"),
        ("--cap 0", "--cap is 0.0; expected a positive number"),
        ("--cap nan", "--cap is nan; expected a positive number"),
        ("--floor 1", "--floor is 1.0; expected a probability in [0.5, 1)"),
        ("--complement-size 0", "--complement-size is 0; expected 1 image or more"),
    ],
)
def test_complement_refuses_what_retarget_does(
    tmp_path: Path, digits_pool: MakePool, options: str, message: str
) -> None:
    pool = digits_pool(30, 10).folder
    before = sorted(pool.rglob("*"))
    command = ["complement", pool, "--attr", "parity", "--target", "0.5", "--out", tmp_path / "c.parquet"]
    assert message in refused(*command, *shlex.split(options))
    assert not (tmp_path / "c.parquet").exists()
    assert sorted(pool.rglob("*")) == before, "refused before the pool is labelled"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--attr parit", "no embedded classifier for parit at 8x8 grey; there is"),
        ("--attr gender", "no embedded classifier for gender at 8x8 grey"),
        ("--attr gender --classifier emoji-gender", "emoji-gender got uint8 images"),
    ],
)
def test_an_attribute_that_cannot_be_seen_is_refused(tmp_path: Path, options: str, message: str) -> None:
    out = tmp_path / "run"
    assert message in refused(*MODEL, *shlex.split(options), "--target", "0.5", "--out", out)
    assert not out.exists()


def test_a_reference_of_another_shape_is_refused(tmp_path: Path) -> None:
    line = refused(*RETARGET, "--target", "0.5", "--reference", "emoji-people", "--out", tmp_path / "run")
    assert "8" in line
    assert not (tmp_path / "run").exists()


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    for name, damage in {
        "cut": lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]),
        "empty": lambda f: (f / "model.safetensors").write_bytes(b""),
        "gone": lambda f: (f / "model.safetensors").unlink(),
        "garbled": lambda f: (f / "config.json").write_bytes(b"\x00\x01"),
        "bare": lambda f: (f / "config.json").unlink(),
    }.items():
        shutil.copytree(find_checkpoint("digits-8"), tmp_path / name)
        damage(tmp_path / name)
        for command in (
            ["retarget", "--attr", "parity", "--target", "0.5"],
            ["generate", "--seeds", "0-3"],
            ["merge", "--aux", find_checkpoint("digits-8"), "--strength", "1"],
        ):
            line = refused(*command, "--model", tmp_path / name, "--out", tmp_path / "out")
            assert name in line, "the message has to name the file"
            assert not (tmp_path / "out").exists()
        assert name in refused("info", tmp_path / name)


def test_a_base_of_one_class_is_refused_and_changed_settings_are_named(tmp_path: Path, white: Path) -> None:
    command = [
        "retarget",
        "--model",
        white,
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--pool",
        "200",
        "--steps",
        "2",
        "--out",
        tmp_path / "run",
    ]
    line = refused(*command)
    assert "error: 0 of 200 pool images are " in line
    assert "expected 10 or more" in line
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["stage"], status["state"]) == ("complement", "failed")
    assert status["message"] in line
    assert not (tmp_path / "run" / "auxiliary").exists()

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")}
    for option, message in {
        "--budget": "budget = 9.6, now budget = 5.0",
        "--steps": "steps = 2, now steps = 5",
    }.items():
        line = refused(*command, option, "5")
        assert message in line
        assert str(tmp_path / "run") in line
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--seeds nine", "--seeds is 'nine'; expected first-last"),
        ("--seeds -5", "--seeds is '-5'; expected first-last"),
        ("--seeds 9-3", "--seeds is '9-3'; expected first-last, such as 0-1023, the last not below the first"),
        ("--seeds 0-3 --batch-size 0", "--batch-size is 0; expected 1 or more"),
        ("--seeds 0-3 --steps 1", "--steps is 1; expected 2 or more"),
    ],
)
def test_generate_refuses(tmp_path: Path, options: str, message: str) -> None:
    assert message in refused("generate", "--model", "digits-8", *shlex.split(options), "--out", tmp_path / "pool")
    assert not list(tmp_path.rglob("shard*"))


def test_train_and_finetune_refuse(tmp_path: Path, digits_pool: MakePool) -> None:
    out, pool = tmp_path / "out", digits_pool(30, 10)
    assert "did you mean 'digits-8'" in refused("train", "--preset", "digits8", "--out", out)
    assert "--kimg is 0.0; expected a positive" in refused("train", "--preset", "digits-8", "--kimg", "0", "--out", out)
    line = refused("train", "--preset", "digits-8", "--data", "nothing", "--out", out)
    assert "found no dataset or path 'nothing'" in line
    finetune = ["finetune", "--model", "digits-8", "--pool", pool.folder, "--out", out]
    assert "is missing; make it with `fairsims complement`" in refused(*finetune, "--complement", tmp_path / "none")
    pd.DataFrame({"seed": [1, 99]}).to_parquet(tmp_path / "c.parquet")
    assert "names seed 99, which is not in" in refused(*finetune, "--complement", tmp_path / "c.parquet")
    for content in (b"no parquet", b""):
        (tmp_path / "broken.parquet").write_bytes(content)
        assert "is no table of seeds" in refused(*finetune, "--complement", tmp_path / "broken.parquet")
    assert "pool.json is missing" in refused("finetune", "--model", "digits-8", "--pool", tmp_path, "--out", out)
    assert not out.exists()


def test_an_option_that_is_taken_once_is_refused_twice() -> None:
    said = refused("compare", "--attr", "gender", "--attr", "vendor", "--target", "0.5", "--out", "nowhere")
    assert "--attr is given 2 times; expected once" in said


@pytest.mark.parametrize("arch", [[], ["--arch", "adm"]])
def test_a_network_of_odd_width_is_refused_in_one_line(tmp_path: Path, arch: list[str]) -> None:
    command = ["train", "--data", "digits", "--kimg", "0.1", "--channels", "15", *arch]
    assert "expected an even number" in refused(*command, "--out", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_what_cannot_work_is_told_by_a_dry_run(tmp_path: Path) -> None:
    command = ["retarget", "--model", "digits-8", "--attr", "parity", "--target", "0.5", "--dry-run"]
    assert "the model takes 0 augment labels" in refused(*command, "--finetune", "augment=0.2")
    blind = tmp_path / "blind"
    shutil.copytree(find_classifier("digits-parity"), blind)
    described = json.loads((blind / "config.json").read_text())
    for confusion in described["confusions"].values():
        confusion["counts"] = [[50, 50], [50, 50]]
    (blind / "config.json").write_text(json.dumps(described))
    assert "does not tell the classes apart" in refused(*command, "--classifier", blind)


@pytest.mark.parametrize(("kind", "option"), [("probe", ["--kimg", "3"]), ("cnn", ["--backbone", "classifier:x"])])
def test_an_option_of_the_other_kind_of_classifier_is_refused(tmp_path: Path, kind: str, option: list[str]) -> None:
    command = ["classifier", "train", "--kind", kind, "--data", "digits", "--attr", "parity", *option]
    assert f"{option[0]} changes nothing with --kind {kind}; leave it out" in refused(*command, "--out", tmp_path / "c")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["retarget", "--attr", "parity"], "Missing option '--target'; see main retarget --help"),
        (["retarget", "--hodl", "parity"], "No such option '--hodl'"),
        (["label"], "Missing argument 'POOL'; see main label --help"),
        (["classifier", "train", "--kind", "tree"], "'tree' is not one of 'cnn', 'probe'"),
        (["merge", "--strength", "much"], "Invalid value for '--strength': 'much' is not a valid float"),
        (["retargte"], "No such command 'retargte'"),
    ],
)
def test_what_no_command_takes_is_refused_in_one_line(command: list[str], message: str) -> None:
    assert message in refused(*command)


GENDER = ["--attr", "gender", "--target", "0.5"]


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (["retarget", *GENDER, "--out", "x"], ["--runs", "elsewhere"]),
        (["retarget", *GENDER, "--out", "x", "--no-others"], ["--drift", "0.01"]),
        (["retarget", *GENDER, "--mode", "merged"], ["--replaced", "0.3"]),
        *[(["sweep", "--out", "x"], [f"--{name}", "0.9"]) for name in ("omega", "cap", "floor", "tolerance")],
        (["audit", "--before", "digits", "--attr", "parity"], ["--tolerance", "0.01"]),
        (["audit", "--before", "digits", *GENDER], ["--drift", "0.01"]),
        (["audit", "--before", "digits", *GENDER], ["--features", "inception"]),
        (["audit", "--before", "digits", *GENDER], ["--inception-weights", "w.pth"]),
        (["train", "--init", "digits-8", "--data", "digits", "--out", "x"], ["--arch", "ddpmpp"]),
        (["train", "--init", "digits-8", "--data", "digits", "--out", "x"], ["--dropout", "0.1"]),
        (["classifier", "evaluate", "digits-parity", "--data", "digits-skewed"], ["--folds", "3"]),
        (["classifier", "evaluate", "digits-parity", "--data", "digits-skewed"], ["--seed", "3"]),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], option: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(*command, *option)
    assert f"{option[0]} changes nothing " in line
    assert line.endswith("; leave it out")
    assert list(tmp_path.iterdir()) == []
