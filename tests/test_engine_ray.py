"""Ray as an engine, in a small cluster of this machine: the same bytes, lost workers, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from number_tasks import NumberTask, numbered, write_number
from ray_worker import Reference, pool_of, reference
from support import refused, succeeds

import fairsims.pools.writing
from fairsims import engine
from fairsims.engine import ray_engine
from fairsims.engine.ray_engine import Ray, RayConfig, Worker
from fairsims.errors import FairsimsError, InputError
from fairsims.files import sha256_file

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """Ray with three cores, whatever the machine has."""
    places = [str(TESTS.parent), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(places))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name, value in ray_engine._PRIVATE.items():
            patch.setenv(name, value)
        import ray

        ray_engine.start_private(ray, num_cpus=3, num_gpus=0)
        yield ray
        ray.shutdown()


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """What this process makes by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairsims.pools.writing, "SHARD_SIZE", 8)
        return reference(tmp_path_factory.mktemp("alone"))


def workers() -> list[int]:
    """Processes of Ray's workers that this process's cluster has."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            if (place / "cmdline").read_bytes().startswith(b"ray::Worker"):
                above = [int((place / "stat").read_text().rpartition(")")[2].split()[1])]
                above.append(int(Path(f"/proc/{above[0]}/stat").read_text().rpartition(")")[2].split()[1]))
                if os.getpid() in above:
                    found.append(int(place.name))
    return found


def test_ray_makes_the_bytes_of_one_process(
    cluster: Any, alone: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By three workers, and by two of them."""
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", 8)
    with Ray(RayConfig()) as ray, engine.chosen(ray):
        assert ray.size == 3
        for size in (3, 2):
            ray.size = size
            assert reference(tmp_path / str(size)) == alone
        assert ray.seconds > 0
    assert engine.current() is not ray
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


def test_a_killed_worker_costs_its_shard_alone(
    cluster: Any, alone: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", 8)
    with Ray(RayConfig()) as ray, engine.chosen(ray):
        ray.size = 2
        making = pool_of(tmp_path / "pool")
        assert next(making) == 8
        os.kill(workers()[0], signal.SIGKILL)
        assert list(making)[-1] == 40
    made = {name: digest for name, digest in alone.items() if name.startswith("pool/") and "labels" not in name}
    assert {f"pool/{p.name}": sha256_file(p) for p in (tmp_path / "pool").iterdir()} == made


def test_what_fails_is_tried_again_and_then_said_in_one_line(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    with Ray(RayConfig(cpus_per_worker=3)) as ray:
        tasks = [NumberTask(path=tmp_path / str(n), number=n) for n in (1, 2)]
        tasks[0].path.write_text("kept")
        done = list(ray.map(numbered, write_number, tasks))
        assert [(d.task.number, d.rows, d.finished) for d in done] == [(2, 2, True)]
        assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["kept", "20"]

        # An error of ours is as it would be here, and nothing is tried again.
        with pytest.raises(InputError, match="^3 is refused$"):
            list(ray.map(numbered, write_number, [NumberTask(path=tmp_path / "3", number=3)]))
        # What fails once, for whatever reason, is done again.
        assert len(list(ray.map(numbered, write_number, [NumberTask(path=tmp_path / "4", number=4)]))) == 1
        with pytest.raises(FairsimsError) as error:
            list(ray.map(numbered, write_number, [NumberTask(path=tmp_path / "5", number=5)]))
    assert str(error.value).startswith("the number of seeds 5-5: failed 2 times under Ray, the last time with: ")
    assert "Error" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "5").exists()
    assert not list(tmp_path.glob(".*"))


def test_the_commands_take_it(cluster: Any, tmp_path: Path) -> None:
    made = ["generate", "--model", "digits-8", "--seeds", "0-519", "--steps", "2", "--solver", "euler"]
    by_ray = ["--engine", "ray", "--cpus-per-worker", 2, "--num-gpus", 0]
    found = succeeds(*made, "--out", tmp_path / "ray", *by_ray)
    succeeds(*made, "--out", tmp_path / "here", "--engine", "local")
    assert found["images"] == 520
    assert succeeds("label", tmp_path / "ray", "--attr", "parity", *by_ray) == succeeds(
        "label", tmp_path / "here", "--attr", "parity"
    )
    for ours in (tmp_path / "here").rglob("*.*"):
        assert (tmp_path / "ray" / ours.relative_to(tmp_path / "here")).read_bytes() == ours.read_bytes(), ours.name


def test_what_cannot_work_is_refused_in_one_line(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["generate", "--model", "digits-8", "--seeds", "0-7", "--out", tmp_path / "pool"]
    assert "start it with `torchrun" in refused(*asked, "--engine", "torchrun")
    assert "--num-gpus changes nothing without --engine ray" in refused(*asked, "--num-gpus", 2)
    ray = [*asked, "--engine", "ray"]
    assert "--num-gpus is 4; Ray's 1 nodes have 0; give no more" in refused(*ray, "--num-gpus", 4)
    assert "--cpus-per-worker is 64; Ray's nodes have 3 cores, room for 0 of 1" in refused(
        *ray, "--cpus-per-worker", 64
    )
    assert "--cpus-per-worker is 0; expected 1 or more" in refused(*ray, "--cpus-per-worker", 0)
    assert "nothing answers at 127.0.0.1:1 (" in refused(*ray, "--ray-address", "127.0.0.1:1")
    assert "expected HOST:PORT of the head" in refused(*ray, "--ray-address", "ray://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refused(*ray).endswith('run `pip install "fairsims[ray]"`')
    assert not (tmp_path / "pool").exists()


def test_a_worker_that_sees_another_folder_or_has_another_version_is_refused(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_engine, "SEEN", 0.0)
    monkeypatch.chdir(tmp_path)
    probe = str(tmp_path / "shared" / "probe")
    node, versions, seen = Worker.ready(Worker.__new__(Worker), str(tmp_path), probe)
    with pytest.raises(
        InputError, match=f"the worker on {node} does not see {tmp_path}/shared; expected a folder that"
    ):
        ray_engine._check(node, versions, seen, probe)
    with pytest.raises(InputError, match=f"the worker on {node} has fairsims 0; expected fairsims .* as here"):
        ray_engine._check(node, "fairsims 0", True, probe)


def test_who_stops_listening_stops_the_workers(cluster: Any, tmp_path: Path) -> None:
    with Ray(RayConfig(cpus_per_worker=3)) as ray:
        tasks = [NumberTask(path=tmp_path / str(n), number=n) for n in range(10, 20)]
        steps = ray.map(numbered, write_number, tasks)
        assert len(list(islice(steps, 2))) == 2
        steps.close()
        left = sum(not t.path.exists() for t in tasks)
        assert 7 <= left <= 8
        assert len(list(ray.map(numbered, write_number, tasks))) == left


GENERATE = ["generate", "--model", "digits-8", "--seeds", "0-2047", "--steps", "4", "--batch-size", "64", "--json"]


def begun(out: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """`fairsims generate --engine ray` with a Ray of its own."""
    command = [sys.executable, "-m", "fairsims", *GENERATE, "--out", str(out), "--engine", "ray", *map(str, arguments)]
    settings = os.environ | {"OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(command, env=settings, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def below(pid: int) -> dict[int, str]:
    """The processes that a process started, theirs too, and their names."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            names[int(place.name)] = (place / "cmdline").read_text().replace("\0", " ")
    found, left = {}, [pid]
    while left:
        one = left.pop()
        for child in (c for c, parent in parents.items() if parent == one):
            found[child] = names[child]
            left.append(child)
    return found


def living(pids: Iterable[int]) -> list[str]:
    """What those of these processes that have not ended were started as; one that nobody waited for has no words."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))
    return [command for command in found if command]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_whatever_is_killed_at_whatever_moment_the_pool_is_the_same(tmp_path: Path) -> None:
    """A worker, the command itself or the raylet, at ten moments: the command goes on, or goes on when given again."""
    alone = tmp_path / "alone"
    succeeds(*GENERATE[:-1], "--out", alone)
    victims = ["worker", "driver", "raylet"] * 3 + ["worker"]
    for number, victim in enumerate(random.sample(victims, 10)):
        out = tmp_path / str(number)
        process = begun(out)
        while process.poll() is None and not any(n.startswith("ray::Worker") for n in below(process.pid).values()):
            time.sleep(0.05)
        time.sleep(random.uniform(0, 6))
        names = {"worker": "ray::Worker", "raylet": "/raylet/raylet "}
        others = below(process.pid)
        pids = [p for p, n in others.items() if victim != "driver" and names[victim] in n] or [process.pid]
        for pid in pids[:1] if process.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _, err = process.communicate(timeout=300)
        assert victim != "worker" or process.returncode == 0, err
        until = time.monotonic() + 120
        while (left := living(others)) and time.monotonic() < until:
            time.sleep(0.1)
        assert left == [], "Ray outlived the command"
        again = begun(out)
        _, err = again.communicate(timeout=300)
        assert (again.returncode, err) == (0, ""), victim
        shards = {p.name: sha256_file(p) for p in out.iterdir() if not p.name.startswith(".")}
        assert shards == {p.name: sha256_file(p) for p in alone.iterdir()}, victim


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_two_nodes_share_a_folder(tmp_path: Path) -> None:
    """Two raylets on this machine, each with a temporary folder of its own, one with the folder of the results."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (ray_engine._PRIVATE | {"OMP_NUM_THREADS": "1"}).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster()
        try:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                cluster.add_node(
                    num_cpus=1, num_gpus=0, include_dashboard=False, temp_dir=f"/tmp/fs-{os.getpid()}-{name}"
                )
            process = begun(tmp_path / "pool", "--ray-address", cluster.address)
            out, err = process.communicate(timeout=500)
            assert (process.returncode, err) == (0, "")
        finally:
            cluster.shutdown()
    succeeds(*GENERATE[:-1], "--out", tmp_path / "alone")
    assert json.loads(out)["images"] == 2048
    for path in (tmp_path / "alone").iterdir():
        assert path.read_bytes() == (tmp_path / "pool" / path.name).read_bytes(), path.name
