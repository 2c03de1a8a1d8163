"""Pools on other file systems than this machine's: memory, and a local S3 server. The same bytes, whole or not at all."""

from __future__ import annotations

import io
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from support import refused, succeeds

import fairsims.pools.writing
from fairsims.files import RemotePath, atomic, place, readable, write_json
from fairsims.models import ModelSpec, SamplerConfig, open_model
from fairsims.pools import Pool, write_pool

MADE = ["generate", "--model", "digits-8", "--seeds", "0-39", "--steps", "2", "--solver", "euler"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", 16)
    monkeypatch.setattr(fairsims.pools.status, "SHARD_SIZE", 16)


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A bucket of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield "s3://bucket"
        server.stop()


@pytest.fixture(params=["memory", "s3"])
def address(request: pytest.FixtureRequest) -> str:
    """Of a pool that is not there yet."""
    root = "memory://root" if request.param == "memory" else request.getfixturevalue("s3")
    return f"{root}/{uuid.uuid4().hex}/pool"


def contents(folder: Path, inside: str = "") -> dict[str, bytes]:
    found = {}
    for path in folder.iterdir():
        if path.is_dir():
            found |= contents(path, f"{inside}{path.name}/")
        else:
            found[inside + path.name] = path.read_bytes()
    return found


def test_a_pool_its_labels_and_its_audit_are_those_of_a_folder(address: str, tmp_path: Path) -> None:
    """Generated, gone on with, labelled and audited there."""
    here = tmp_path / place(address).parent.name / "pool"
    made = succeeds(*MADE, "--out", here)
    succeeds(*MADE, "--out", address, "--shards", "2/2")
    assert succeeds("generate", "--status", address)["missing"] == ["0-15", "32-39"]
    assert succeeds(*MADE, "--out", address) == made | {"pool": address}
    assert succeeds("label", address, "--attr", "parity") == succeeds("label", here, "--attr", "parity")
    found = contents(place(address))
    assert found == contents(here)
    assert sorted(found)[-3:] == [f"shard-0000{k}.parquet" for k in range(3)]
    asked = ["--attr", "parity", "--reference", "digits"]
    there, ours = (
        succeeds("audit", "--before", a, *asked, "--out", tmp_path / n) for a, n in ((address, "a"), (here, "b"))
    )
    for one in (there, ours):
        for name in ("command", "created", "plan", "settings"):
            one.pop(name)
    assert there == ours
    assert Pool(address).digest == Pool(here).digest
    assert (tmp_path / "a" / "report.html").exists()


def test_a_file_is_there_whole_or_not_at_all(address: str) -> None:
    path = place(address) / "a.json"
    with pytest.raises(ValueError, match="stop"), atomic(path) as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert not path.exists()
    assert not path.parent.is_dir()
    write_json(path, {"a": 1})
    assert (path.is_file(), path.is_dir(), path.parent.is_dir()) == (True, False, True)
    with pytest.raises(ValueError, match="expected 'rb'"):
        path.open("w")
    assert [p.name for p in path.parent.glob("*.json")] == ["a.json"]
    path.unlink()
    path.unlink(missing_ok=True)
    assert list(path.parent.iterdir()) == []


def test_what_is_read_of_a_shard_is_what_is_asked_for(address: str) -> None:
    list(
        write_pool(
            address, open_model(ModelSpec(base="digits-8", sampler=SamplerConfig(solver="euler", steps=2))), range(20)
        )
    )
    pool = Pool(address)
    assert pool.seeds.tolist() == list(range(20))
    with readable(pool.shards[1]) as file:  # type: ignore[union-attr]
        assert pq.ParquetFile(file).metadata.num_rows == 4
    other = pickle.loads(pickle.dumps(pool.folder))
    assert other == pool.folder
    assert str(other) == address
    assert pool.name == f"{pool.folder.parent.name}/pool"
    assert isinstance(other, RemotePath)


def test_an_address_that_is_a_file_here_is_here(tmp_path: Path) -> None:
    assert place(f"file://{tmp_path}/pool") == tmp_path / "pool"
    assert not isinstance(place("a/b"), RemotePath)
    succeeds(*MADE, "--out", f"file://{tmp_path}/pool")
    assert (tmp_path / "pool" / "shard-00002.parquet").exists()
    assert isinstance(readable(tmp_path), Path)
    assert io.BytesIO(place(f"file://{tmp_path}/pool/pool.json").read_bytes())


def test_what_is_not_there_is_refused_in_one_line(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert "found no pool at memory://nothing/pool" in refused(
        "audit", "--before", "memory://nothing/pool", "--attr", "parity"
    )
    assert "memory://nothing/pool/pool.json is missing" in refused("label", "memory://nothing/pool", "--attr", "parity")
    assert "--out is s3://b/run; expected a path on this machine" in refused(
        "retarget", "--model", "digits-8", "--attr", "parity", "--target", "0.5", "--out", "s3://b/run"
    )
    assert refused(*MADE, "--out", "nowhere://x/pool").startswith("error: cannot reach nowhere://x/pool")
    assert refused(*MADE, "--out", "s3://no-such-bucket-here/pool").startswith("error: cannot read or write")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    fsspec.filesystem("s3").clear_instance_cache()
    assert refused(*MADE, "--out", "s3://bucket/pool").startswith("error: cannot re")
    assert list(tmp_path.iterdir()) == []
