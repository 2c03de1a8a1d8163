"""Labels of sources of images: computed once, never mixed, gone on with; images that cannot be read are refused."""

from __future__ import annotations

import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ImageFile
from support import GREY, MakePool, png

from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import batch_size
from fairsims.classifiers.labelling import LabelTask, label_columns, label_key, label_shard, label_source
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.pools import Pool, encode_png, export_edm_zip, export_folder, open_source, select_pool, write_shard

PARITY = load_classifier("digits-parity")


def every_kind(pool: Pool, root: Path) -> dict[str, ImageSource]:
    """One pool's images in each form that can be opened."""
    export_edm_zip(pool, root / "images.zip")
    export_folder(pool, root / "images")
    (root / "one.parquet").write_bytes(pool.shards[0].read_bytes())
    paths = {
        "pool": pool.folder,
        "zip": root / "images.zip",
        "folder": root / "images",
        "parquet": root / "one.parquet",
    }
    return {kind: open_source(path) for kind, path in paths.items()}


def test_every_kind_of_source_gives_the_same_images_and_labels(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(20, 13)
    sources = every_kind(pool, tmp_path)
    for source in sources.values():
        assert len(source) == len(source.ids) == 33
        assert source.shape == (1, 8, 8)
        assert len(source.digest) == 64
        assert torch.equal(source.read(range(33)), pool.read(range(33)))
        assert [len(b) for b in source.batches(10)] == [10, 10, 10, 3]
        assert np.allclose(label_source(source, PARITY), label_source(pool, PARITY), atol=1e-6)
    assert sources["pool"].ids.tolist() == sources["parquet"].ids.tolist() == list(range(33))
    assert sources["folder"].ids[:2].tolist() == ["000000.png", "000001.png"]
    assert sources["zip"].ids[0] == "00000/img00000000.png"


def test_labels_of_other_sources_are_stored_once_for_their_content(
    tmp_path: Path, digits_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = every_kind(digits_pool(6, 4), tmp_path)["folder"]
    seen: list[tuple[int, int]] = []
    found = label_source(source, PARITY, tmp_path / "store", lambda done, of: seen.append((done, of)))
    assert seen == [(10, 10)]
    (path,) = (tmp_path / "store").iterdir()
    table = pd.read_parquet(path)
    assert list(table) == ["id", "parity.even", "parity.odd"]
    table["parity.even"] = 0.25
    table.to_parquet(path)
    # Read from the file, not computed again.
    assert label_source(source, PARITY, tmp_path / "store")[:, 0].tolist() == [0.25] * 10
    assert np.array_equal(label_source(source, PARITY), found)
    other = every_kind(digits_pool(4, 6, "other"), tmp_path / "other")["folder"]
    assert not np.array_equal(label_source(other, PARITY, tmp_path / "store"), found)


def broken_probabilities(images: torch.Tensor) -> torch.Tensor:
    found = torch.full((len(images), 2), 0.5)
    found[1] = torch.nan
    return found


def test_probabilities_that_are_no_numbers_are_refused_and_not_stored(
    tmp_path: Path, digits_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, pool = load_classifier("digits-parity"), digits_pool(3, 3)
    monkeypatch.setattr(classifier, "probabilities", broken_probabilities)
    with pytest.raises(InputError, match=r"gave no finite probabilities for 1 of 6 images .* \(first: 1\)"):
        label_source(pool, classifier)
    assert pool.label_names == []


def sharded(pool: Pool, folder: Path) -> Pool:
    """The pool in shards of 512."""
    select_pool(pool, np.arange(len(pool)), folder, made_by=pool.meta["made_by"])
    return Pool(folder)


def tables(pool: Pool) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in pool.label_files(label_key(PARITY)) if p.exists()}


def test_labels_go_on_after_a_kill_to_the_same_bytes(tmp_path: Path, digits_pool: MakePool) -> None:
    whole, killed = (sharded(digits_pool(400, 300), tmp_path / name) for name in ("whole", "killed"))
    expected = label_source(whole, PARITY)
    first, second = (
        LabelTask(path=path, pool=killed.folder, shard=shard, classifier=label_key(PARITY))
        for path, shard in zip(killed.label_files(label_key(PARITY)), killed.shards, strict=True)
    )
    assert list(label_shard((killed, PARITY), first)) == [256, 512]
    running = label_shard((killed, PARITY), second)
    assert list(islice(running, 1)) == [188]
    running.close()
    assert tables(killed) == {"shard-00000.parquet": tables(whole)["shard-00000.parquet"]}
    written, seen = first.path.stat().st_mtime_ns, []
    found = label_source(killed, PARITY, progress=lambda done, of: seen.append((done, of)))
    assert np.array_equal(found, expected)
    assert set(seen) == {(188, 700)}, "a finished shard was labelled again"
    assert first.path.stat().st_mtime_ns == written
    assert tables(killed) == tables(whole)


def test_labels_of_a_shard_are_made_by_its_task_alone(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = sharded(digits_pool(500, 30), tmp_path / "shards")
    task = LabelTask(path=tmp_path / "t.parquet", pool=pool.folder, shard=pool.shards[1], classifier=label_key(PARITY))
    sent, classifier = pickle.loads(pickle.dumps((task, PARITY)))
    assert sent == task
    assert list(label_shard((Pool(sent.pool), classifier), sent)) == [18]
    table = pd.read_parquet(task.path)
    assert table["seed"].tolist() == list(range(512, 530))
    assert np.array_equal(table[label_columns(PARITY)], label_source(pool, PARITY)[512:])


def test_labels_by_another_tool_are_looked_up(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(3, 3)
    (tmp_path / "parity.csv").write_text("seed,parity\n" + "".join(f"{k},{('even', 'odd')[k % 2]}\n" for k in range(9)))
    assert label_source(pool, load_classifier(tmp_path / "parity.csv")).argmax(axis=1).tolist() == [0, 1] * 3
    assert pool.label_names == []


@pytest.fixture(params=[False, True], ids=["", "another library reads half images"])
def half_images(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", request.param)


@pytest.mark.usefixtures("half_images")
def test_a_truncated_image_is_refused_when_it_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
    for name in "abcdefghij":
        (tmp_path / f"{name}.png").write_bytes(png(noise))
    (tmp_path / "g.png").write_bytes(png(noise)[:-40])
    with pytest.raises(InputError, match=r"found g.png in .* unreadable .*; expected a whole image"):
        label_source(open_source(tmp_path), PARITY)


def spoilt(pool: Pool, data: bytes) -> Pool:
    """The pool with its third image replaced."""
    pngs = [encode_png(image) for image in pool.read(range(len(pool)))]
    pngs[2] = data
    write_shard(pool.shards[0], pool.seeds.tolist(), pngs)
    return Pool(pool.folder)


@pytest.mark.usefixtures("half_images")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(GREY)[:-30], "image of seed 2 in .* is unreadable"),
        (b"", "image of seed 2 in .* is unreadable"),
        (png(GREY.astype(np.uint16) * 256), r"is uint16 \(1, 8, 8\); expected uint8 \(1, 8, 8\)"),
        (png(GREY, "RGBA"), r"is uint8 \(4, 8, 8\); expected"),
        (png(np.zeros((9, 9), dtype=np.uint8)), r"is uint8 \(1, 9, 9\); expected"),
    ],
    ids=["truncated", "empty", "16-bit", "rgba", "larger"],
)
def test_a_pool_with_one_odd_image_is_refused(digits_pool: MakePool, data: bytes, message: str) -> None:
    pool = spoilt(digits_pool(3, 2), data)
    with pytest.raises(InputError, match=message):
        label_source(pool, PARITY)
    assert pool.label_names == []


@pytest.mark.parametrize(("shape", "wanted"), [((3, 32, 32), 256), ((3, 512, 512), 85), ((3, 8192, 8192), 1)])
def test_batches_of_large_images_are_smaller(shape: tuple[int, int, int], wanted: int) -> None:
    class Large:
        pass

    source = Large()
    source.shape = shape  # type: ignore[attr-defined]
    assert batch_size(source) == wanted  # type: ignore[arg-type]
