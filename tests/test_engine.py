"""Several processes under torchrun (gloo): the same pools, the same training, errors that end all of them."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import engine_worker
import pytest
import torch
from engine_worker import CONFIG, SHARD_SIZE, features, fine_tune, label, pool
from number_tasks import NumberTask, write_number
from support import forked

import fairsims.pools.writing
from fairsims import engine
from fairsims.errors import InputError
from fairsims.files import read_jsonl
from fairsims.models import open_checkpoint

TESTS = Path(__file__).parent
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def environment() -> dict[str, str]:
    places = [str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}


def start(*arguments: object, launcher: list[str] = TORCHRUN) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*launcher, *map(str, arguments)], env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def cli(*arguments: object, processes: int = 2) -> subprocess.Popen[str]:
    launcher = TORCHRUN if processes == 2 else [sys.executable]
    return start("-m", "fairsims", *arguments, launcher=launcher)


def finish(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL for torchrun and for the processes it started, which are in sessions of their own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    pids = [int(p) for p in children.read_text().split()] if children.exists() else []
    for pid in [process.pid, *pids]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def numbers(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in read_jsonl(folder / "stats.jsonl")]


def test_one_process_needs_no_group() -> None:
    engine.initialise()
    assert (engine.rank(), engine.world(), engine.is_main()) == (0, 1, True)
    assert (engine.launched(), engine.launched_rank(), engine.local_rank()) == (False, 0, 0)
    assert engine.share(7) == range(7)
    values = [torch.ones(3)]
    engine.all_sum(values)
    assert torch.equal(values[0], torch.ones(3))
    engine.barrier()
    with engine.main_first():
        pass
    engine.shutdown()


def test_processes_of_torchrun_find_each_other_and_wait(tmp_path: Path) -> None:
    finish(start(TESTS / "engine_group.py", tmp_path))
    first, second = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2))
    assert (first["rank"], second["rank"], first["world"], second["world"]) == (0, 1, 2, 2)
    assert (first["share"], second["share"]) == ([0, 1], [2, 3, 4])
    assert first["sum"] == second["sum"]
    assert torch.allclose(torch.tensor(first["sum"][0]), torch.full((2, 2), 1.2))
    assert first["sum"][1] == 1.0
    assert first["saw_first"]
    assert second["saw_first"], "rank 1 did not wait for rank 0"
    assert (first["failed"], second["failed"]) == ("body of rank 0", "rank 0 failed; its own message says why")


def test_two_processes_make_what_one_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [forked().Process(target=engine_worker.main, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", SHARD_SIZE)
    pool(tmp_path / "alone" / "pool")
    label(tmp_path / "alone" / "pool")
    features(tmp_path / "alone" / "pool", tmp_path / "alone" / "features")
    fine_tune(tmp_path / "alone" / "whole")
    first, second = (json.loads((tmp_path / f"rank-{r}.json").read_text()) for r in range(2))

    # The pool, its labels and features: shards of 8, 8 and 4 images, the same bytes as one process writes, all there for both.
    assert contents(tmp_path / "pool") == contents(tmp_path / "alone" / "pool")
    assert first["shards"] == second["shards"] == 3
    assert len(list((tmp_path / "pool" / "labels").rglob("shard-*.parquet"))) == 3
    assert first["classes"] == second["classes"]
    assert contents(tmp_path / "features") == contents(tmp_path / "alone" / "features")
    assert first["features"] == second["features"] == [f"shard-0000{k}.npy" for k in range(3)]
    for found in (first, second):
        assert found["counts"][-1] == 20
        assert found["counts"] == sorted(found["counts"])

    # Training: rank 0 alone writes; up to rounding the weights of one process; resumed, the same bits.
    assert first["checkpoint"]
    assert second["checkpoint"]
    two, one = (open_checkpoint(f / "whole").network for f in (tmp_path, tmp_path / "alone"))
    for (name, a), b in zip(two.named_parameters(), one.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5), name
    assert [r["step"] for r in numbers(tmp_path / "whole")] == [1, 2, 3, 4, 5, 6]
    for a, b in zip(numbers(tmp_path / "whole"), numbers(tmp_path / "alone" / "whole"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")
    weights = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("whole", "killed")]
    assert weights[0] == weights[1]
    assert CONFIG.steps == 6


def test_an_engine_does_what_is_missing_and_tells_how_far_it_is(tmp_path: Path) -> None:
    opened: list[int] = []

    def ten() -> int:
        opened.append(10)
        return 10

    tasks = [NumberTask(path=tmp_path / str(n), number=n) for n in (1, 2, 3)]
    assert pickle.loads(pickle.dumps(tasks)) == tasks
    tasks[0].path.write_text("kept")
    steps = engine.current().map(ten, write_number, tasks)
    assert [(s.task.number, s.rows, s.finished) for s in islice(steps, 3)] == [
        (2, 1, False),
        (2, 2, False),
        (2, 2, True),
    ]
    with pytest.raises(InputError, match="3 is refused"):
        next(steps)
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["kept", "20"]
    assert opened == [10]
    assert list(engine.current().map(ten, write_number, tasks[:2])) == []
    assert opened == [10], "nothing is opened where nothing is left to do"


def test_a_finetune_killed_at_any_moment_equals_the_uninterrupted(tmp_path: Path) -> None:
    process = forked().Process(target=fine_tune, args=(tmp_path / "killed",))
    process.start()
    stats = tmp_path / "killed" / "stats.jsonl"
    while not (stats.exists() and stats.stat().st_size) and process.is_alive():
        time.sleep(0.005)
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.join()
    fine_tune(tmp_path / "killed")
    fine_tune(tmp_path / "whole")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_generate_by_two_processes_survives_kills(tmp_path: Path) -> None:
    command = ["generate", "--model", "digits-8", "--seeds", "0-1999", "--steps", "4", "--batch-size", "64", "--json"]
    finish(cli(*command, "--out", tmp_path / "one", processes=1))
    for pause in (0.05, 0.4):
        before = len(list((tmp_path / "two").glob("shard-*")))
        process = cli(*command, "--out", tmp_path / "two")
        while len(list((tmp_path / "two").glob("shard-*"))) <= before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(pause)
        kill(process)
    out = finish(cli(*command, "--out", tmp_path / "two", "--export-zip", tmp_path / "two.zip"))
    assert json.loads(out) == {"pool": str(tmp_path / "two"), "images": 2000, "evaluations_per_image": 4}
    found = {name: data for name, data in contents(tmp_path / "two").items() if not name.startswith(".")}
    assert found == contents(tmp_path / "one")
    assert (tmp_path / "two.zip").exists()


@pytest.mark.slow
def test_training_by_two_processes_survives_kills(tmp_path: Path) -> None:
    base = [
        "train",
        "--data",
        "digits",
        "--channels",
        "16",
        "--channel-mult",
        "1,2",
        "--blocks",
        "1",
        "--attention",
        "none",
        "--kimg",
        "3",
        "--batch-size",
        "48",
        "--state-kimg",
        "0.1",
        "--augment",
        "0.1",
        "--micro-batch",
        "16",
        "--json",
    ]
    finish(cli(*base, "--out", tmp_path / "whole"))
    for _ in range(2):
        process = cli(*base, "--out", tmp_path / "killed")
        state = tmp_path / "killed" / "state.pt"
        seen = state.stat().st_mtime_ns if state.exists() else None
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == seen):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 1))
        kill(process)
    finish(cli(*base, "--out", tmp_path / "killed"))
    for name in ("config.json", "model.safetensors", "training.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert numbers(tmp_path / "killed") == numbers(tmp_path / "whole")


@pytest.mark.slow
def test_errors_end_all_processes_with_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of all processes: rank 0 speaks. Of one alone (its disk is full): that one does.
    process = cli("generate", "--model", "nothing", "--out", tmp_path / "a")
    _, err = process.communicate(timeout=300)
    assert [line for line in err.splitlines() if line.startswith("error: ")] == [
        "error: no checkpoint folder 'nothing' and no embedded model of that name; there is 'digits-8', 'emoji-people-32'"
    ]
    assert process.returncode
    full = "import os, resource as r\nif os.environ.get('RANK') == '1': r.setrlimit(r.RLIMIT_FSIZE, (4096, -1))"
    (tmp_path / "sitecustomize.py").write_text(full)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    process = cli("generate", "--model", "digits-8", "--seeds", "0-1023", "--steps", "2", "--out", tmp_path / "b")
    _, err = process.communicate(timeout=300)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "shard-00001.parquet" in lines[0]
    assert "exitcode  : 2" in err


@pytest.mark.slow
def test_other_commands_run_once(tmp_path: Path) -> None:
    found = json.loads(finish(cli("info", "--json")))
    assert "fairsims" in found


@pytest.mark.slow
def test_two_processes_retarget_like_one(tmp_path: Path) -> None:
    options = [
        "retarget",
        "--model",
        "digits-8",
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--precision",
        "float32",
        "--json",
        "--pool",
        "600",
        "--calibration",
        "500",
        "--audit",
        "200",
        "--steps",
        "4",
        "--budget",
        "2.56",
        "--batch-size",
        "32",
    ]
    two = json.loads(finish(cli(*options, "--out", tmp_path / "two")))
    one = json.loads(finish(cli(*options, "--out", tmp_path / "one", processes=1)))
    for part in ("pool", "before"):
        assert contents(tmp_path / "two" / part) == contents(tmp_path / "one" / part), part
    # The auxiliary's gradients are summed in another order.
    assert two["method"]["strength"] == pytest.approx(one["method"]["strength"], abs=0.05)
    status = json.loads((tmp_path / "two" / "status.json").read_text())
    assert (status["state"], status["message"]) == ("finished", "")
    assert (tmp_path / "two" / "report.html").exists()
    assert not list((tmp_path / "two").rglob("*.part"))
