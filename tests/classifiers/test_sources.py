"""Sources of images: what opens, what is refused, that labels are computed once and never mix."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support import MakePool

from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import batch_size
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.ahead import read_ahead
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import read_json, write_json
from fairsims.pools import Pool, encode_png, export_edm_zip, export_folder, open_source, write_shard

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


def test_an_embedded_data_set_is_a_source(tmp_path: Path, digits: ImageDataset) -> None:
    source = open_source("digits")
    assert (len(source), source.shape, source.digest) == (1797, (1, 8, 8), digits.digest)
    assert torch.equal(torch.cat(list(source.batches(500))), digits.read(range(1797)))
    part = open_dataset("emoji-people").subset([5, 3])
    assert part.ids.tolist() == open_dataset("emoji-people").ids[[5, 3]].tolist()


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


def test_labels_by_another_tool_are_looked_up(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(3, 3)
    (tmp_path / "parity.csv").write_text("seed,parity\n" + "".join(f"{k},{('even', 'odd')[k % 2]}\n" for k in range(9)))
    assert label_source(pool, load_classifier(tmp_path / "parity.csv")).argmax(axis=1).tolist() == [0, 1] * 3
    assert pool.label_names == []


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (png(GREY.astype(np.uint16) * 256), "16-bit"),
        (png(GREY, "RGBA"), "8-bit RGBA; expected 8-bit grey"),
        (png(GREY, "RGB"), "8x8 with 3 channels; expected 8x8 with 1 like a.png"),
        (png(np.zeros((9, 9), dtype=np.uint8)), "9x9 with 1 channels; expected 8x8 with 1 like a.png"),
        (png(np.zeros((8, 9), dtype=np.uint8)), "9x8; expected square"),
        (b"no image", "not an image"),
    ],
    ids=["16-bit", "rgba", "rgb", "larger", "oblong", "text"],
)
def test_a_folder_with_one_odd_image_is_refused(tmp_path: Path, second: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY))
    (tmp_path / "b.png").write_bytes(second)
    with pytest.raises(InputError, match=message) as e:
        open_source(tmp_path)
    assert "b.png" in str(e.value)


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


def test_an_empty_source_is_refused(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(2, 2)
    pool.shards[0].unlink()
    with pytest.raises(InputError, match="has no finished shard"):
        open_source(pool.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no images in"):
        open_source(tmp_path / "empty")
    with pytest.raises(InputError, match="found no dataset or path"):
        open_source(tmp_path / "nowhere")


def test_a_pool_that_is_not_what_it_says_is_refused_when_opened(digits_pool: MakePool) -> None:
    pool = digits_pool(2, 2)
    write_json(pool.folder / "pool.json", read_json(pool.folder / "pool.json") | {"shape": [3, 8, 8]})
    with pytest.raises(InputError, match=r"is uint8 \(1, 8, 8\); expected uint8 \(3, 8, 8\)"):
        open_source(pool.folder)


@pytest.mark.parametrize(("shape", "wanted"), [((3, 32, 32), 256), ((3, 512, 512), 85), ((3, 8192, 8192), 1)])
def test_batches_of_large_images_are_smaller(shape: tuple[int, int, int], wanted: int) -> None:
    class Large:
        pass

    source = Large()
    source.shape = shape  # type: ignore[attr-defined]
    assert batch_size(source) == wanted  # type: ignore[arg-type]


@pytest.fixture
def slow() -> tuple[Callable[[range], torch.Tensor], list[int]]:
    """A reader that takes 20 ms, and what it was asked for."""
    asked: list[int] = []

    def read(part: range) -> torch.Tensor:
        asked.append(part.start)
        time.sleep(0.02)
        return torch.tensor(list(part))

    return read, asked


def test_reading_runs_ahead_of_the_consumer_and_keeps_the_order(
    slow: tuple[Callable[[range], torch.Tensor], list[int]],
) -> None:
    read, asked = slow
    batches = read_ahead(read, 40, 4, readers=3)
    assert next(batches).tolist() == [0, 1, 2, 3]
    time.sleep(0.1)
    # Three at work or ready, and no more: memory does not grow with the source.
    assert sorted(asked) == [0, 4, 8, 12]
    assert torch.cat(list(batches)).tolist() == list(range(4, 40))


def test_a_consumer_that_stops_leaves_no_thread(slow: tuple[Callable[[range], torch.Tensor], list[int]]) -> None:
    read, asked = slow
    before = threading.active_count()
    batches = read_ahead(read, 400, 4, readers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(asked) <= 5


def test_what_reading_raises_arrives() -> None:
    def read(part: range) -> torch.Tensor:
        if part.start == 8:
            raise InputError("broken")
        return torch.zeros(len(part))

    batches = read_ahead(read, 16, 4)
    assert len(next(batches)) == len(next(batches)) == 4
    with pytest.raises(InputError, match="broken"):
        next(batches)
    with pytest.raises(ValueError, match="size is 0; expected"):
        next(read_ahead(read, 16, 0))
