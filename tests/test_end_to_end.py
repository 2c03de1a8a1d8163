"""The main job on real images through the real command line: what it writes, and that a kill changes nothing."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from support import Command, assert_same_run, run_files

from fairsims.audit.features import classifier_features
from fairsims.audit.fidelity import quality
from fairsims.audit.result import audit_schema
from fairsims.classifiers import load_classifier
from fairsims.cli import main
from fairsims.data import open_dataset
from fairsims.files import sha256_file, sha256_json
from fairsims.models import open_checkpoint
from fairsims.pools import Pool, select_pool

SMALL = [
    "--pool",
    "500",
    "--calibration",
    "640",
    "--audit",
    "400",
    "--budget",
    "1.92",
    "--batch-size",
    "32",
    "--lr",
    "5e-4",
    "--steps",
    "8",
    "--solver",
    "dpmpp2m",
]


def command(*options: str) -> list[str]:
    """Into the folder `run` of the working folder, so that every run has the same command and name."""
    target = [] if "--target" in options else ["--target", "0.5"]
    return [
        "retarget",
        "--model",
        "digits-8",
        "--attr",
        "parity",
        *target,
        "--precision",
        "float32",
        "--out",
        "run",
        *options,
    ]


def start(folder: Path, options: list[str]) -> Command:
    folder.mkdir(exist_ok=True)
    return Command(command(*options), folder)


def finish(folder: Path, options: list[str]) -> str:
    """Run to the end; what it printed on stdout."""
    code, printed, errors = start(folder, options).finish()
    assert code == 0, errors
    assert errors == "", "no progress when stderr is not a terminal"
    return printed


def has_files(count: int, run: Path) -> bool:
    return len(run_files(run)) >= count


def stop(
    folder: Path, options: list[str], *, when: Callable[[Path], bool], how: signal.Signals, later: float = 0.0
) -> tuple[bool, str]:
    """Start the run and signal it `later` seconds after `when` holds; whether it was still running, its stderr."""
    process = start(folder, options)
    while process.running and not when(folder / "run"):
        time.sleep(0.005)
    time.sleep(later)
    running = process.running
    process.send(how)
    return running, process.finish()[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An uninterrupted run and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    printed = finish(folder, SMALL)
    return folder / "run", printed


def test_retarget_moves_the_share_and_leaves_a_complete_run(whole: tuple[Path, str]) -> None:
    run, printed = whole
    audit = json.loads((run / "audit" / "audit.json").read_text())
    parity = audit["attributes"]["parity"]
    before, after = parity["before"]["odd"]["share"], parity["after"]["odd"]["share"]
    assert before < 0.35
    assert abs(after - 0.5) < min(0.12, 0.6 * abs(before - 0.5))
    assert parity["difference"]["odd"]["low"] > 0
    assert (parity["focus"], parity["target"]) == ("odd", {"even": 0.5, "odd": 0.5})
    assert audit["quality"]["after"]["fd_target"] < audit["quality"]["before"]["fd_target"] / 2
    assert audit["cost"]["after"]["evaluations_per_image"] == audit["cost"]["before"]["evaluations_per_image"] == 8
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "odd" in printed
    assert "run/report.html" in printed
    assert "data:image/png;base64" in (run / "report.html").read_text()
    assert not [name for name in run_files(run) if "/." in f"/{name}" or name.endswith(".pt")], (
        "something was left behind"
    )


def test_manifest_holds_the_digest_of_every_file(whole: tuple[Path, str]) -> None:
    run, _ = whole
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["outputs"] == {
        name: sha256_file(run / name) for name in run_files(run) if name not in ("manifest.json", "status.json")
    }
    assert {"base_digest", "classifier_digest", "reference_digest"} == manifest["inputs"].keys()


def test_the_plan_is_fixed_before_the_first_image(whole: tuple[Path, str]) -> None:
    run, _ = whole
    found, audit = (json.loads((run / name).read_text()) for name in ("plan.json", "audit/audit.json"))
    plan = found["plan"]
    assert audit["plan"] == {"file": "plan.json", "sha256": found["sha256"], "written": found["written"]}
    assert found["sha256"] == sha256_json(plan)
    assert (run / "plan.json").stat().st_mtime_ns < min(p.stat().st_mtime_ns for p in run.rglob("shard-*"))
    parity = {k: audit["attributes"]["parity"][k] for k in ("classes", "target", "tolerance")}
    assert plan["attributes"] == {"parity": parity | {"target_text": "0.5"}}
    assert (plan["when"], plan["n"], plan["alpha"]) == ("before generating", audit["pools"]["after"]["n"], 0.05)
    assert [plan["seeds"]["audit"]] == audit["pools"]["after"]["seeds"]
    assert plan["classifiers"]["parity"]["digest"] == audit["classifier"]["digest"]
    assert plan["reference"]["digest"] == audit["quality"]["reference"]["digest"]
    assert plan["model"] == {"name": "digits-8", "digest": audit["pools"]["before"]["checkpoint"]}
    assert plan["settings_sha256"] == sha256_json(json.loads((run / "config.json").read_text()))
    assert plan["rounds"] == 1
    assert "taken_over" not in plan


def test_quality_is_measured_at_every_strength_on_as_many_images(whole: tuple[Path, str], tmp_path: Path) -> None:
    run, _ = whole
    audit = json.loads((run / "audit" / "audit.json").read_text())
    points = audit["calibration"]
    assert list(Draft202012Validator(audit_schema()).iter_errors(audit)) == []
    least = min(p["n"] for p in points)
    assert sum(p["n"] for p in points[1:]) == 640
    # The first look at every strength, each of other seeds.
    looks = [
        sorted((run / "calibration").glob(f"{p['strength']:.6f}-*"), key=lambda f: int(f.name.split("-")[1]))
        for p in points[1:]
    ]
    pilots = [run / "pool", *(of[0] for of in looks)]
    n = min(len(Pool(folder)) for folder in pilots)
    assert {p["quality_n"] for p in points} == {n}
    assert n <= least
    first = {}
    for number, folder in enumerate(pilots):
        select_pool(Pool(folder), np.arange(n), tmp_path / str(number), made_by={})
        first[str(number)] = Pool(tmp_path / str(number))
    classifier = load_classifier("digits-parity")
    data = str(open_checkpoint("digits-8").recipe["data"])
    found = quality(first, classifier_features(classifier), open_dataset(data), [(classifier, np.array([0.5, 0.5]))])
    for number, point in enumerate(points):
        for name in ("fd_reference", "fd_target"):
            assert point[name] == pytest.approx(found.numbers[str(number)][name], rel=1e-4)
    # Towards the target's mix and away from the data as given.
    chosen = min(points, key=lambda p: abs(p["strength"] - audit["method"]["strength"]))
    assert chosen["fd_target"] < points[0]["fd_target"]
    assert chosen["fd_reference"] > points[0]["fd_reference"]


def test_runs_of_earlier_versions_are_read_or_refused(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their plan.json is what complement.json is now."""
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    complement = json.loads((run / "complement.json").read_text())
    (run / "complement.json").unlink()
    (run / "plan.json").write_text(json.dumps({"omega": complement.pop("strength")} | complement))
    monkeypatch.chdir(tmp_path)
    read = CliRunner().invoke(main, command(*SMALL, "--json"))
    assert json.loads(read.stdout)["attributes"] == json.loads((run / "audit" / "audit.json").read_text())["attributes"]
    (run / "status.json").write_text('{"stage": "after", "state": "running", "message": ""}')
    plan = (run / "plan.json").read_bytes()
    for message in ("run/plan.json is the plan of a complement", "has a complement set and no plan.json"):
        refused = CliRunner().invoke(main, command(*SMALL))
        assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
        assert message in refused.stderr
        if (run / "plan.json").exists():
            assert (run / "plan.json").read_bytes() == plan
            (run / "plan.json").unlink()
    assert not (run / "plan.json").exists()


def test_a_finished_run_of_an_earlier_calibration_is_read_and_an_unfinished_one_refused(
    whole: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their settings have the sizes of pilots in the place of a number of images."""
    run = tmp_path / "run"
    shutil.copytree(whole[0], run)
    settings = json.loads((run / "config.json").read_text())
    del settings["calibration"]
    (run / "config.json").write_text(json.dumps(settings | {"pilots": [128, 512]}))
    monkeypatch.chdir(tmp_path)
    read = CliRunner().invoke(main, command(*SMALL, "--json"))
    assert json.loads(read.stdout)["attributes"] == json.loads((run / "audit" / "audit.json").read_text())["attributes"]
    (run / "status.json").write_text('{"stage": "after", "state": "running", "message": ""}')
    refused = CliRunner().invoke(main, command(*SMALL))
    assert (refused.exit_code, refused.stdout, refused.stderr.count("\n")) == (2, "", 1)
    assert "made with pilots = [128, 512]" in refused.stderr


def test_seed_ranges_never_overlap(whole: tuple[Path, str]) -> None:
    run, _ = whole

    def seeds(folder: Path) -> set[int]:
        return {int(s) for shard in folder.glob("shard-*.parquet") for s in pd.read_parquet(shard)["seed"]}

    pool, before, after = (seeds(run / name) for name in ("pool", "before", "after"))
    looks = [seeds(p) for p in (run / "calibration").iterdir()]
    calibration = set[int]().union(*looks)
    assert [len(s) for s in (pool, calibration, before, after)] == [500, 640, 64, 400]
    assert before < after
    assert sum(map(len, looks)) == 640, "every look has seeds of its own"
    assert not pool & calibration
    assert not pool & after
    assert not calibration & after
    assert set(pd.read_parquet(run / "complement.parquet")["seed"]) <= pool


def test_same_command_again_reads_the_finished_run(whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    run, printed = whole
    before = {name: (run / name).stat().st_mtime_ns for name in run_files(run)}
    assert finish(run.parent, SMALL) == printed
    assert {name: (run / name).stat().st_mtime_ns for name in run_files(run)} == before
    monkeypatch.chdir(run.parent)
    result = json.loads(CliRunner().invoke(main, command(*SMALL, "--json")).stdout)
    assert result.pop("run") == "run"
    assert result == json.loads((run / "audit" / "audit.json").read_text())


def test_changed_setting_is_named_and_nothing_is_touched(
    whole: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = whole
    before = {name: (run / name).stat().st_mtime_ns for name in run_files(run)}
    monkeypatch.chdir(run.parent)
    refused = CliRunner().invoke(main, command(*SMALL, "--budget", "3.2"))
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert len(refused.stderr.splitlines()) == 1
    assert "budget = 1.92, now budget = 3.2" in refused.stderr
    assert {name: (run / name).stat().st_mtime_ns for name in run_files(run)} == before


def test_killed_and_interrupted_equals_uninterrupted(whole: tuple[Path, str], tmp_path: Path) -> None:
    # Before the first image; in the fine-tune, once it has a state to go on from; then between looks.
    folder = tmp_path / "cut"
    running, _ = stop(folder, SMALL, when=lambda run: (run / "plan.json").exists(), how=signal.SIGKILL)
    assert running
    assert not list((folder / "run").rglob("shard-*"))
    plan = (folder / "run" / "plan.json").read_bytes()
    running, _ = stop(folder, SMALL, when=lambda run: (run / "auxiliary" / "state.pt").exists(), how=signal.SIGKILL)
    assert running
    assert not (folder / "run" / "auxiliary" / "config.json").exists()
    running, errors = stop(folder, SMALL, when=lambda run: (run / "calibration").exists(), how=signal.SIGINT)
    assert running
    assert errors == "error: interrupted; the same command goes on from here\n"
    finish(folder, SMALL)
    assert (folder / "run" / "plan.json").read_bytes() == plan
    assert_same_run(whole[0], folder / "run", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(whole: tuple[Path, str], tmp_path: Path) -> None:
    reference, _ = whole
    moments = random.Random(0)
    kills = 0
    # Rising numbers of files, so that each run comes a little further, and a moment more to land in the midst of work.
    for after in sorted(moments.sample(range(len(run_files(reference)) - 4), 10)):
        running, _ = stop(
            tmp_path / "cut", SMALL, when=partial(has_files, after), how=signal.SIGKILL, later=moments.uniform(0, 0.5)
        )
        kills += running
    assert kills >= 8
    finish(tmp_path / "cut", SMALL)
    assert_same_run(reference, tmp_path / "cut" / "run", tmp_path)


def test_guided_beyond_the_cap_is_finished_by_resampling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A share for every class, 80% odd from a quarter: more than the cap reaches; the weakest strength that does as much as
    # any is near it, and the classifier does the rest.
    monkeypatch.chdir(tmp_path)
    options = [
        "--mode",
        "guided",
        "--target",
        "odd=0.8,even=0.2",
        "--cap",
        "1",
        "--calibration",
        "384",
        "--audit",
        "128",
    ]
    done = CliRunner().invoke(main, command(*SMALL, *options, "--json"))
    assert (done.exit_code, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    parity, before, after = result["attributes"]["parity"], result["cost"]["before"], result["cost"]["after"]
    assert parity["target"] == {"even": 0.2, "odd": 0.8}
    assert parity["after"]["odd"]["share"] > parity["before"]["odd"]["share"]
    assert after["evaluations_per_image"] == 2 * before["evaluations_per_image"]
    assert json.loads((tmp_path / "run" / "guided" / "config.json").read_text())["class"] == "SIMSGuidance"
    assert result["method"]["resampled"] is True
    assert 0.8 < result["method"]["strength"] <= 1.0
    assert abs(parity["after"]["odd"]["share"] - 0.8) < 0.12
    assert 1.2 < after["images_per_kept"] < result["cost"]["resampling_base"]["images_per_kept"]
    kept, candidates = (
        {int(s) for shard in (tmp_path / "run" / name).glob("shard-*") for s in pd.read_parquet(shard)["seed"]}
        for name in ("after", "candidates")
    )
    assert len(kept) == 128
    assert kept < candidates
    assert "resampl" in (tmp_path / "run" / "report.html").read_text()
