"""Processes that share nothing but a folder finish a pool and its labels together, in any order, also after kills."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support import Command, refused, run, succeeds

import fairsims.pools.status
import fairsims.pools.writing
from fairsims import engine
from fairsims.files import atomic

MADE = ["generate", "--model", "digits-8", "--seeds", "0-39", "--steps", "2", "--solver", "euler"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five shards of eight."""
    for module in (fairsims.pools.writing, fairsims.pools.status):
        monkeypatch.setattr(module, "SHARD_SIZE", 8)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_jobs_in_any_order_make_the_pool_of_one_process(tmp_path: Path) -> None:
    pool = tmp_path / "jobs"
    succeeds(*MADE, "--out", tmp_path / "whole")
    succeeds("label", tmp_path / "whole", "--attr", "parity")
    assert succeeds(*MADE, "--out", pool, "--shards", "3/4") == {
        "pool": str(pool),
        "asked": 40,
        "images": 8,
        "missing": ["0-15", "24-39"],
        "labels": {},
    }
    # Labels of what is there already; a job without a shard of its own makes nothing.
    ((name, labelled),) = succeeds("label", pool, "--attr", "parity", "--shards", "3/4")["labels"].items()
    assert labelled == {"images": 8, "missing": ["0-15", "24-39"]}
    for job in (4, 1, 3, 2, 1):
        succeeds(*MADE, "--out", pool, "--shards", f"{job}/4")
    (pool / ".shard-00001.parquet.0123456789ab.part").write_text("left by a kill")
    (pool / "shard-00001.parquet").unlink()
    assert succeeds("generate", "--status", pool)["missing"] == ["8-15"]
    succeeds(*MADE, "--out", pool, "--shards", "2/5")
    for job in random.sample(range(1, 8), 7):
        succeeds("label", pool, "--attr", "parity", "--shards", f"{job}/7")
    assert succeeds("generate", "--status", pool)["labels"] == {name: {"images": 40, "missing": []}}
    assert contents(pool) == contents(tmp_path / "whole")
    assert succeeds("label", pool, "--attr", "parity")["images"] == 40
    assert isinstance(engine.current(), engine.Local)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    job = [*MADE, "--out", tmp_path / "pool", "--shards", "1/2"]
    assert "expected K/N with K from 1 to N, such as 3/8" in refused(*MADE, "--out", tmp_path, "--shards", "0/2")
    assert "--shards is for jobs that know nothing of each other" in refused(*job, "--engine", "ray")
    assert "--export-zip changes nothing beside --shards" in refused(*job, "--export-zip", tmp_path / "a.zip")
    assert "--out is missing" in refused(*MADE)
    assert "--out changes nothing beside --status" in refused("generate", "--status", tmp_path, "--out", tmp_path)
    assert "found no pool: " in refused("generate", "--status", tmp_path)
    assert "pool.json is missing" in refused("generate", "--status", tmp_path)
    succeeds(*job)
    (tmp_path / "labels.csv").write_text(
        "seed,parity\n" + "".join(f"{k},{('even', 'odd')[k % 2]}\n" for k in range(40))
    )
    by = ["--attr", "parity", "--classifier", tmp_path / "labels.csv", "--shards", "1/2"]
    assert "--shards changes nothing: " in refused("label", tmp_path / "pool", *by)
    assert "was made with seeds" in refused(*job[:4], "0-47", *job[5:])
    assert run("generate", "--status", tmp_path / "pool").stdout.splitlines()[0].split() == [
        "pool",
        str(tmp_path / "pool"),
    ]


def test_two_that_make_the_same_file_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    with atomic(path, shared=True) as first:
        first.write_text("the same, half")
        with atomic(path, shared=True) as second:
            second.write_text("the same")
        assert path.read_text() == "the same"
        assert not first.exists(), "what others left of a finished file goes"
    assert [p.name for p in tmp_path.iterdir()] == ["shard"]
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "other", shared=True) as gone:
        assert gone != tmp_path / "other"


def test_two_that_begin_at_once_both_begin(tmp_path: Path) -> None:
    """The same pool from two processes at the same moment, the whole of it by each."""
    both = [Command([*MADE, "--out", tmp_path / "pool"]) for _ in range(2)]
    assert [command.finish()[::2] for command in both] == [(0, "")] * 2
    assert [p.name for p in sorted((tmp_path / "pool").iterdir())] == ["pool.json", "shard-00000.parquet"]
