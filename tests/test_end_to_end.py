"""The main job on real images through the real command line: what it writes, and that a kill changes nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

SMALL = ["--pool", "768", "--pilots", "256,512", "--audit", "400", "--budget", "3.2", "--steps", "8"]


def command(out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-W", "error", "-m", "fairsims.cli", "retarget", "--model", "digits-8", "--attr", "parity",
        "--target", "0.5", "--precision", "float32", *SMALL, "--out", str(out), *more,
    ]  # fmt: skip


def finish(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command(out, *more), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return done


def artifacts(run: Path) -> dict[str, object]:
    """Every file's bytes; of files that tell time, what is left without it."""
    found: dict[str, object] = {}
    for path in sorted(p for p in run.rglob("*") if p.is_file()):
        name = path.relative_to(run).as_posix()
        if name in ("timings.json", "report.html", "manifest.json"):
            found[name] = "tells time"
        elif name == "audit/audit.json":
            audit = json.loads(path.read_text())
            del audit["created"], audit["command"], audit["cost"]["seconds"], audit["cost"]["peak_memory_gb"]
            for stage in audit["cost"]["stages"]:
                del stage["seconds"]
            found[name] = audit
        elif path.suffix == ".jsonl":
            found[name] = [
                {k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()
            ]
        else:
            found[name] = path.read_bytes()
    return found


def differing(a: Path, b: Path) -> list[str]:
    one, two = artifacts(a), artifacts(b)
    return [k for k in sorted(one.keys() | two.keys()) if one.get(k) != two.get(k)]


def kill_after(out: Path, seconds: float) -> bool:
    """Start the run and SIGKILL it after so long; False when it had finished by then."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True
    return False


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float, str]:
    """An uninterrupted run, how long it took and what it printed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    start = time.perf_counter()
    done = finish(run)
    return run, time.perf_counter() - start, done.stdout


def test_retarget_moves_the_share_and_leaves_a_complete_run(whole: tuple[Path, float, str]) -> None:
    run, _, printed = whole
    audit = json.loads((run / "audit" / "audit.json").read_text())
    parity = audit["attributes"]["parity"]
    before, after = parity["before"]["odd"]["share"], parity["after"]["odd"]["share"]
    assert before < 0.35
    assert abs(after - 0.5) < 0.12
    assert parity["difference"]["odd"]["low"] > 0
    assert audit["quality"]["after"]["fd_target"] < audit["quality"]["before"]["fd_target"] / 2
    assert audit["cost"]["after"]["evaluations_per_image"] == audit["cost"]["before"]["evaluations_per_image"] == 15
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert "odd" in printed
    assert str(run / "report.html") in printed
    html = (run / "report.html").read_text()
    assert "data:image/png;base64" in html
    manifest = json.loads((run / "manifest.json").read_text())["outputs"]
    assert {"report.html", "audit/audit.json", "merged/model.safetensors", "complement.parquet"} <= manifest.keys()


def test_seed_ranges_never_overlap(whole: tuple[Path, float, str]) -> None:
    run, _, _ = whole
    used = {
        name: set(pd.concat([pd.read_parquet(s, columns=["seed"]) for s in folder.glob("shard-*.parquet")])["seed"])
        for name, folder in {
            "pool": run / "pool",
            "calibration": next((run / "calibration").iterdir()),
            "before": run / "before",
            "after": run / "after",
        }.items()
    }
    assert used["before"] == used["after"]
    assert not used["pool"] & used["calibration"]
    assert not used["pool"] & used["before"]
    assert not used["calibration"] & used["before"]


def test_same_command_again_reads_the_finished_run(whole: tuple[Path, float, str]) -> None:
    run, _, printed = whole
    stamp = (run / "manifest.json").stat().st_mtime_ns
    assert finish(run).stdout == printed
    assert (run / "manifest.json").stat().st_mtime_ns == stamp


def test_changed_setting_is_named_and_nothing_is_touched(whole: tuple[Path, float, str]) -> None:
    run, _, _ = whole
    stamp = (run / "manifest.json").stat().st_mtime_ns
    done = subprocess.run(command(run, "--budget", "6.4"), capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "budget = 3.2" in done.stderr
    assert (run / "manifest.json").stat().st_mtime_ns == stamp


def test_killed_twice_equals_uninterrupted(whole: tuple[Path, float, str], tmp_path: Path) -> None:
    reference, seconds, _ = whole
    run = tmp_path / "run"
    assert kill_after(run, seconds * 0.5)
    assert kill_after(run, seconds * 0.6)
    finish(run)
    assert differing(reference, run) == []


@pytest.mark.slow
def test_killed_at_ten_random_moments_equals_uninterrupted(whole: tuple[Path, float, str], tmp_path: Path) -> None:
    reference, seconds, _ = whole
    moments = random.Random(0)
    run = tmp_path / "run"
    kills = 0
    while kills < 10:
        if kill_after(run, moments.uniform(0.1, 0.9) * seconds):
            kills += 1
        else:  # it finished: begin another one
            assert differing(reference, run) == []
            run = tmp_path / f"run-{kills}"
    finish(run)
    assert differing(reference, run) == []


def test_guided_mode_and_target_by_class(tmp_path: Path) -> None:
    out = tmp_path / "guided"
    done = finish(out, "--mode", "guided", "--target", "odd=0.4,even=0.6", "--json")
    result = json.loads(done.stdout)
    assert result["attributes"]["parity"]["target"] == {"even": 0.6, "odd": 0.4}
    assert result["cost"]["after"]["evaluations_per_image"] == 2 * result["cost"]["before"]["evaluations_per_image"]
    assert (
        result["attributes"]["parity"]["after"]["odd"]["share"]
        > result["attributes"]["parity"]["before"]["odd"]["share"]
    )
