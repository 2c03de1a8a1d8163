"""The command line: what it prints and does, and what it never imports."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import MakePool, refused, run, succeeds

from fairsims.audit.targets import parse_target
from fairsims.classifiers.checkpoints import find_classifier
from fairsims.cli import main
from fairsims.data import open_dataset
from fairsims.data.attributes import Attribute
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.cost import dry_run
from fairsims.retarget.opening import prepare

MODEL = ["retarget", "--model", "digits-8"]
RETARGET = [*MODEL, "--attr", "parity"]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_of_every_command(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: ")
    command = main.commands[name]
    assert command.help
    assert command.help.splitlines()[0] in " ".join(result.stdout.split())
    for option in command.params:
        assert option.opts[0] in result.stdout or option.param_type_name == "argument"


def test_help_lists_every_command_and_examples_that_parse() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for name in main.commands:
        assert f"\n  {name} " in result.stdout
    examples = [line.split()[1:] for line in result.stdout.splitlines() if line.strip().startswith("fairsims ")]
    assert len(examples) >= 3
    for name, *args in examples:
        main.commands[name].make_context(name, args)


def test_without_arguments_three_ways_in_that_parse() -> None:
    result = run()
    assert (result.exit_code, result.stderr) == (0, "")
    ways = [line.split("fairsims ", 1)[1].split() for line in result.stdout.splitlines() if "    fairsims " in line]
    assert [way[0] for way in ways] == ["retarget", "audit", "collapse"]
    for name, *args in ways:
        main.commands[name].make_context(name, args)
    assert all(len(line) <= 110 for line in result.stdout.splitlines())


def test_refusals_name_pages_that_are_there(tmp_path: Path) -> None:
    """Every page that the package names, with its section, is in the documentation."""
    root = Path(__file__).parents[1]
    named = {
        m for f in root.glob("fairsims/**/*.py") for m in re.findall(r"\bdocs/[\w-]+\.md(?:#[\w-]+)?", f.read_text())
    }
    assert len(named) >= 7
    for page in named:
        file, _, section = page.partition("#")
        headings = re.findall(r"^#+ (.+)$", (root / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert not section or section in [h.lower().replace(" ", "-") for h in headings], page
    (tmp_path / "a.png").write_bytes(b"no image")
    line = refused("audit", "--before", tmp_path, "--attr", "gender")
    assert line.endswith("; see docs/inputs.md")
    assert refused("classifier", "info", "nothing").endswith("; see docs/classifiers.md")


def test_info_says_what_is_missing_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.metadata.version

    def without(name: str) -> str:
        if name in ("diffusers", "weasyprint"):
            raise importlib.metadata.PackageNotFoundError(name)
        return there(name)

    monkeypatch.setattr(importlib.metadata, "version", without)
    missing = succeeds("info")["missing"]
    assert missing["reports as PDF"] == "weasyprint; pip install 'fairsims[pdf]'"
    assert missing["diffusers models, latents (--vae)"] == "diffusers; pip install 'fairsims[diffusers]'"
    assert not any("mypy" in what for what in missing.values())


def test_version() -> None:
    assert run("--version").stdout.strip().endswith(version("fairsims"))


@pytest.mark.parametrize("argv", [["--help"], ["retarget", "--help"], ["--version"], None])
def test_nothing_heavy_is_imported_for_help(argv: list[str] | None) -> None:
    call = "" if argv is None else f"from fairsims.cli import main\nmain({argv!r}, standalone_mode=False)\n"
    heavy = {"torch", "pandas", "numpy", "sklearn", "scipy", "matplotlib", "seaborn", "streamlit", "tqdm", "PIL"}
    code = f"import sys, fairsims\n{call}print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_pool_of_one_class_cannot_be_complemented_but_audited(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(60, 0).folder
    line = refused("complement", pool, "--attr", "parity", "--target", "0.5", "--out", tmp_path / "c.parquet")
    assert "odd" in line
    assert not (tmp_path / "c.parquet").exists()
    found = succeeds("audit", "--before", pool, "--attr", "parity", "--target", "0.5", "--out", tmp_path / "audit")
    assert found["attributes"]["parity"]["before"]["odd"]["share"] < 0.05
    assert found["attributes"]["parity"]["reached"] is False
    assert (tmp_path / "audit" / "report.html").exists()


def test_every_verb_in_turn(tmp_path: Path) -> None:
    """The steps of a retargeting one by one, each on what the one before left."""
    base = succeeds(
        "generate",
        "--model",
        "digits-8",
        "--seeds",
        "0-299",
        "--steps",
        "6",
        "--out",
        tmp_path / "pool",
        "--export-zip",
        tmp_path / "pool.zip",
        "--export-folder",
        tmp_path / "png",
    )
    assert (base["images"], base["evaluations_per_image"]) == (300, 6)
    assert len(open_dataset(str(tmp_path / "pool.zip"))) == len(open_dataset(str(tmp_path / "png"))) == 300

    labelled = succeeds("label", tmp_path / "pool", "--attr", "parity")
    odd = labelled["shares"]["odd"]
    assert odd["low"] <= odd["share"] <= odd["high"] < 0.5
    assert labelled["shares"]["even"]["share"] + odd["share"] == pytest.approx(1)

    plan = succeeds(
        "complement", tmp_path / "pool", "--attr", "parity", "--target", "0.5", "--out", tmp_path / "c.parquet"
    )
    table = pd.read_parquet(tmp_path / "c.parquet")
    assert list(table) == ["seed", "parity", "probability"]
    assert len(table) == plan["size"]
    assert table["probability"].min() >= 0.9
    assert table["seed"].between(0, 299).all()
    shares = (1 + plan["strength"]) * np.array([plan["base"][c] for c in ("even", "odd")])
    rho = (shares - 0.5) / plan["strength"]
    assert [plan["complement"][c] for c in ("even", "odd")] == pytest.approx(np.clip(rho, 0, 1), abs=1e-6)
    assert (table["parity"] == "odd").mean() == pytest.approx(plan["complement"]["odd"], abs=0.01)

    succeeds(
        "finetune",
        "--model",
        "digits-8",
        "--pool",
        tmp_path / "pool",
        "--complement",
        tmp_path / "c.parquet",
        "--budget",
        "0.64",
        "--out",
        tmp_path / "aux",
    )
    for mode in ("merged", "guided"):
        written = succeeds(
            "merge",
            "--model",
            "digits-8",
            "--aux",
            tmp_path / "aux",
            "--strength",
            "1",
            "--mode",
            mode,
            "--out",
            tmp_path / mode,
        )
        described = succeeds("info", tmp_path / mode)
        assert described["digest"] == written["digest"]
        assert described["class"] == {"merged": "EDMDenoiser", "guided": "SIMSGuidance"}[mode]
        made = succeeds(
            "generate",
            "--model",
            tmp_path / mode,
            "--seeds",
            "500-599",
            "--steps",
            "6",
            "--out",
            tmp_path / f"p-{mode}",
        )
        assert made["evaluations_per_image"] == {"merged": 6, "guided": 12}[mode]

    found = succeeds(
        "audit",
        "--before",
        tmp_path / "pool",
        "--after",
        tmp_path / "p-merged",
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--reference",
        "digits-skewed",
        "--out",
        tmp_path / "audited",
    )
    assert found == json.loads((tmp_path / "audited" / "audit" / "audit.json").read_text())
    assert found["pools"]["before"]["n"] == 300
    assert found["pools"]["after"]["n"] == 100
    assert found["quality"]["before"]["fd_reference"] > 0
    assert (tmp_path / "audited" / "report.html").stat().st_size > 10_000

    described = succeeds("info", tmp_path / "pool")
    assert (described["kind"], described["images"]) == ("pool", 300)
    assert any(name.startswith("digits-parity") for name in described["labels"])


def test_the_same_generate_again_adds_nothing_and_other_seeds_are_refused(tmp_path: Path) -> None:
    command = ["generate", "--model", "digits-8", "--steps", "2", "--out", tmp_path / "pool"]
    first = succeeds(*command, "--seeds", "5-24")
    shard = tmp_path / "pool" / "shard-00000.parquet"
    time = shard.stat().st_mtime_ns
    assert succeeds(*command, "--seeds", "5-24") == first
    assert shard.stat().st_mtime_ns == time
    assert "seeds = [[5, 24]], now seeds = [[5, 25]]" in refused(*command, "--seeds", "5-25")


def test_dry_run_plans_without_writing(tmp_path: Path) -> None:
    plan = succeeds(*RETARGET, "--target", "0.5", "--out", tmp_path / "run", "--dry-run")
    assert plan["forwards"]["pool"] == 3072 * 10
    assert plan["forwards"]["calibration"] == 4096 * 10
    assert plan["estimated_total_seconds"] >= 0
    assert plan["classifier"] == "digits-parity"
    assert plan["settings"]["target"] == "0.5"
    ranges = sorted(plan["seeds"].values())
    assert all(a[1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    assert list(tmp_path.iterdir()) == []
    guided = succeeds(*RETARGET, "--target", "0.5", "--mode", "guided", "--dry-run")
    assert guided["forwards"]["after"] == 2 * plan["forwards"]["after"]
    assert plan["rounds_at_most"] == 1
    # Six shares may need a second round, which is counted as if it came.
    tones = ["retarget", "--attr", "skin_tone", "--target", "uniform", "--sample-batch", "1", "--dry-run"]
    twice, once = succeeds(*tones), succeeds(*tones, "--rounds", "1")
    assert (twice["rounds_at_most"], once["rounds_at_most"]) == (2, 1)
    assert twice["forwards"]["auxiliary"] == 2 * once["forwards"]["auxiliary"] == 2 * 9600 * 3
    assert twice["forwards"]["calibration"] == 2 * once["forwards"]["calibration"]
    assert twice["forwards"]["pool"] == once["forwards"]["pool"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("0.6", "0.6 of the rarer class"),
        ("0.5", "0.5 of the rarer class"),
        ("uniform", "even 0.50, odd 0.50"),
        ("odd=0.4", "even 0.60, odd 0.40"),
    ],
)
def test_a_dry_run_names_the_target(target: str, words: str) -> None:
    assert succeeds(*RETARGET, "--target", target, "--sample-batch", "1", "--dry-run")["target"] == words


def test_a_dry_run_names_the_targets_of_a_classifier_that_abstains() -> None:
    job = prepare(RetargetConfig(model="digits-8", attr="parity", target="0.5", sample_batch=1))
    abstaining = Attribute(name="parity", classes=("even", "odd", "undetermined"))
    for text, words in {"uniform": "uniform", "0.6": "0.6 of the rarer class"}.items():
        assert dry_run(replace(job, targets=(parse_target(text, abstaining),)))["target"] == words


def test_a_switch_of_the_fine_tune_may_be_given_in_words() -> None:
    command = [*RETARGET, "--target", "0.5", "--sample-batch", "1", "--dry-run", "--finetune"]
    for text, value in {"true": True, "false": False, "1": True, "0": False}.items():
        assert succeeds(*command, f"xflip={text}")["settings"]["finetune"] == {"xflip": value}


def test_info_lists_what_ships() -> None:
    found = succeeds("info")
    assert {"digits-8", "emoji-people-32"} <= set(found["models"])
    assert {"digits-parity", "emoji-gender"} <= set(found["classifiers"])
    assert {"digits", "emoji-people"} <= set(found["datasets"])
    assert "digits-parity" in run("info").stdout
    digits = succeeds("info", "digits")
    assert (digits["kind"], digits["images"], digits["shape"]) == ("data set", 1797, [1, 8, 8])
    assert digits["attributes"]["parity"] == {"even": 891, "odd": 906}


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = [sys.executable, "-u", "-m", "fairsims", "audits", "list"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()


def test_info_knows_a_classifier_and_an_audit(tmp_path: Path) -> None:
    shutil.copytree(find_classifier("digits-parity"), tmp_path / "c")
    for spec in ("digits-parity", str(tmp_path / "c")):
        found = json.loads(run("info", spec, "--json").stdout)
        assert (found["kind"], found["attribute"]) == ("classifier, cnn", "parity")
    pool = str(tmp_path / "pool")
    run("generate", "--model", "digits-8", "--solver", "heun", "--steps", "2", "--seeds", "0-31", "--out", pool)
    audit = ["audit", "--before", pool, "--attr", "parity", "--target", "0.5", "--tolerance", "0.4"]
    told = run(*audit, "--out", str(tmp_path / "a"))
    assert "Target reached" in told.stdout
    found = json.loads(run("info", str(tmp_path / "a"), "--json").stdout)
    assert (found["kind"], list(found["attributes"])) == ("audit", ["parity"])
    lines = run("info", str(tmp_path / "a")).stdout.splitlines()
    assert any(line.startswith("parity ") and "Target reached" in line for line in lines)
    assert len(lines) < 10
