"""Runs over prompts that are killed by SIGKILL, at random moments, and gone on with: the same bytes at the end."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from support import forked, run_files
from tiny_pipelines import carry_out, install_shades, two_shades

from fairsims.models.lora_files import read_facts

pytest.importorskip("diffusers")
SET = """
neutral = "a photo of a {occupation}"
[explicit]
dark = "a photo of a male {occupation}"
light = "a photo of a female {occupation}"
[lists]
occupation = ["nurse"]
"""
ASKED = (
    *("--attr", "shade", "--target", "light=0.8,dark=0.2", "--classifier", "shade=shade", "--pool", 8, "--audit", 8),
    *("--calibration", 8, "--budget", 0.032, "--batch-size", 8, "--lr", 0.04, "--rank", 2, "--omega", 0.6),
    *("--positive", "always", "--guidance-scale", 2, "--size", "32,32", "--precision", "float32"),
    *("--sample-batch", 8, "--steps", 4, "--rounds", 1),
)
TELL_TIME = (
    *("plan.json", "timings.json", "status.json", "manifest.json", "prompts.json", "report.md", "report.html"),
    *("lora/README.md", "lora/shade-retargeted.safetensors", "lora/shade-retargeted-webui.safetensors"),
    *("auxiliary/stats.jsonl", "positive/stats.jsonl"),
)
"""Files that say when they were made, how long that took, or the digest of one that does."""
Run = Callable[..., int | None]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The options of a run; an installed package has the classifier."""
    place = tmp_path_factory.mktemp("site")
    install_shades(place)
    sys.path.insert(0, str(place))
    (place / "set.toml").write_text(SET)
    model = two_shades(tmp_path_factory.mktemp("tiny") / "shades")
    yield [str(part) for part in ("--model", model, "--prompts", place / "set.toml", *ASKED)]
    sys.path.remove(str(place))


@pytest.fixture(scope="module")
def carried_out(asked: list[str]) -> Run:
    """Carry a command out in a folder, or kill it once `when` holds; its exit code, None where it was killed."""

    def run(command: str, folder: Path, when: Callable[[], bool] | None = None, later: float = 0.0) -> int | None:
        process = forked().Process(target=carry_out, args=([command, *asked, "--out", str(folder)],))
        process.start()
        while when is not None and process.is_alive() and not when():
            time.sleep(0.002)
        if when is not None:
            time.sleep(later)
            process.kill()
        process.join(500)
        return process.exitcode if process.exitcode != -9 else None

    return run


@pytest.fixture(scope="module")
def whole(carried_out: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert carried_out("retarget", folder) == 0
    return folder


def timeless(path: Path) -> Any:
    """What a file that tells the time says beside it."""
    from safetensors.numpy import load_file

    if path.suffix == ".safetensors":
        facts = read_facts(path)
        del facts["audit_sha256"]
        return facts, {k: v.tolist() for k, v in load_file(path).items()}
    if path.suffix == ".html":
        return None
    if path.suffix == ".md":
        return [
            line
            for line in path.read_text().splitlines()
            if not any(w in line for w in ("SHA", "sha256", "time", "report ·"))
        ]
    if path.name == "prompts.json":
        value = json.loads(path.read_text())
        del value["created"], value["plan"]["written"], value["cost"]["seconds"], value["command"]
        return value
    return support.timeless(path, TELL_TIME)


def assert_same(reference: Path, run: Path) -> None:
    """Every file of both runs is the same, byte for byte but for times."""
    assert run_files(run) == run_files(reference)
    for name in run_files(reference):
        if name in TELL_TIME:
            assert timeless(run / name) == timeless(reference / name), name
        else:
            assert (run / name).read_bytes() == (reference / name).read_bytes(), name


@pytest.mark.slow
def test_killed_while_it_trains_equals_uninterrupted(whole: Path, carried_out: Run, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert carried_out("retarget", run, (run / "positive").exists) is None
    assert not (run / "prompts.json").exists()
    plan = (run / "plan.json").read_bytes()
    assert carried_out("retarget", run) == 0
    assert (run / "plan.json").read_bytes() == plan
    assert_same(whole, run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(whole: Path, carried_out: Run, tmp_path: Path) -> None:
    """Rising numbers of files, so that each comes a little further, and a moment more to land in the midst of work."""
    moments, run, kills = random.Random(0), tmp_path / "run", 0
    for after in sorted(moments.sample(range(len(run_files(whole)) - 4), 6)):
        code = carried_out("retarget", run, lambda n=after: len(run_files(run)) >= n, moments.uniform(0, 0.5))
        assert code in (None, 0)
        kills += code is None
    assert kills >= 4
    assert carried_out("retarget", run) == 0
    assert_same(whole, run)
