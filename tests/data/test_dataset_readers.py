"""Datasets from disk: every format gives the same images and labels, and every flaw one line naming the file."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fairsims.data import ImageDataset, open_dataset
from fairsims.data.files import ZipFiles
from fairsims.errors import InputError

NAMES = ["00000/img00000000.png", "00000/img00000001.png", "00000/img00000002.png"]


def pixels(side: int = 8, count: int = 3, channels: int = 3) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(7).integers(0, 256, (count, channels, side, side), dtype=np.uint8)


def png(image: np.ndarray[Any, np.dtype[np.uint8]]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def encoded(mode: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, format="PNG")
    return buffer.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def edm(labels: object = None, **extra: object) -> dict[str, bytes]:
    images = {name: png(image) for name, image in zip(NAMES, pixels(), strict=True)}
    return {**images, "dataset.json": json.dumps({"labels": labels, **extra}).encode()}


def write_parquet(path: Path, images: Sequence[bytes | None], columns: dict[str, Any], metadata: object = None) -> Path:
    struct = pa.array(
        [{"bytes": b, "path": None} for b in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    table = pa.table({"image": struct, **columns})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pq.write_table(table, path, row_group_size=2)
    return path


def one_line(error: pytest.ExceptionInfo[InputError], *parts: str) -> None:
    message = str(error.value)
    assert "\n" not in message and message.startswith("found ") and "; expected " in message
    for part in parts:
        assert part in message


def same_images(found: ImageDataset) -> None:
    assert torch.equal(found.read([2, 0, 1]), torch.from_numpy(pixels()[[2, 0, 1]]))


def test_all_formats_give_the_same_images_and_labels(tmp_path: Path) -> None:
    labels = [[n, k] for n, k in zip(NAMES, (1, 0, 1), strict=True)]
    files = edm(labels, attribute="kind", classes=["cat", "dog"])
    images = {n: d for n, d in files.items() if n != "dataset.json"}
    sheet = "file_name,kind\n" + "".join(f"{n},{k}\n" for n, k in zip(NAMES, ("dog", "cat", "dog"), strict=True))
    specs = [
        write_zip(tmp_path / "a.zip", files),
        write_folder(tmp_path / "edm", files),
        write_folder(tmp_path / "folder", {**images, "metadata.csv": sheet.encode()}),
        write_parquet(tmp_path / "a.parquet", list(images.values()), {"kind": ["dog", "cat", "dog"]}),
    ]
    for spec in specs:
        found = open_dataset(str(spec))
        same_images(found)
        assert found.name == spec.stem
        assert found.attributes["kind"].classes == ("cat", "dog")
        assert found.class_indices("kind").tolist() == [1, 0, 1]
        assert (found.resolution, found.channels, len(found.digest)) == (8, 3, 64)


def test_edm_vectors_and_numbers_without_names(tmp_path: Path) -> None:
    vectors = [[NAMES[0], [0, 0, 1]], [NAMES[1], [1.0, 0.0, 0.0]], [NAMES[2], [0, 1, 0]]]
    found = open_dataset(str(write_zip(tmp_path / "v.zip", edm(vectors))))
    assert found.attributes["label"].classes == ("0", "1", "2")
    assert found.class_indices("label").tolist() == [2, 0, 1]


def test_edm_labels_may_come_in_any_order_with_columns_beside(tmp_path: Path) -> None:
    labels = [[NAMES[2], 0], [NAMES[0], 1], [NAMES[1], 1]]
    extra = {"columns": {"tone": ["dark", None, "light"]}, "attributes": {"tone": ["light", "dark"]}}
    found = open_dataset(str(write_folder(tmp_path / "d", edm(labels, **extra))))
    assert found.class_indices("label").tolist() == [1, 1, 0]
    assert found.class_indices("tone").tolist() == [-1, 0, 1]
    assert found.table["tone"].isna().tolist() == [True, False, False]


def test_unlabelled_sources_have_no_attributes(tmp_path: Path) -> None:
    files = edm()
    write_zip(tmp_path / "null.zip", files)
    del files["dataset.json"]
    write_zip(tmp_path / "none.zip", files)
    write_folder(tmp_path / "folder", files)
    for spec in ("null.zip", "none.zip", "folder"):
        found = open_dataset(str(tmp_path / spec))
        assert found.attributes == {} and len(found) == 3
        same_images(found)


def test_metadata_keeps_text_as_written_and_empty_as_missing(tmp_path: Path) -> None:
    images = {name: png(image) for name, image in zip(("a/b/x.png", "c.png", "z.png"), pixels(), strict=True)}
    sheet = b"tone,file_name,age\nnone,z.png,10\n,./a/b/x.png,2\nNA,c.png,2\n"
    found = open_dataset(str(write_folder(tmp_path / "f", {**images, "metadata.csv": sheet})))
    assert found.attributes["tone"].classes == ("NA", "none")
    assert found.attributes["age"].classes == ("2", "10")
    assert found.class_indices("tone").tolist() == [-1, 0, 1]
    same_images(found)


def test_a_column_of_many_values_is_no_attribute(tmp_path: Path) -> None:
    data = png(pixels()[0])
    images = {f"{i:03d}.png": data for i in range(120)}
    sheet = "file_name,caption,kind\n" + "".join(f"{n},text {n},a\n" for n in images)
    found = open_dataset(str(write_folder(tmp_path / "f", {**images, "metadata.csv": sheet.encode()})))
    assert list(found.attributes) == ["kind"]
    assert found.table["caption"][3] == "text 003.png"


def test_parquet_shards_join_in_order_with_class_labels(tmp_path: Path) -> None:
    images = [png(image) for image in pixels()]
    names = {"info": {"features": {"label": {"names": ["woman", "man"], "_type": "ClassLabel"}}}}
    root = tmp_path / "shards" / "data"
    root.mkdir(parents=True)
    columns = [{"label": pa.array(v), "score": [0.5] * len(v), "seen": [True] * len(v)} for v in ([1, 0], [-1])]
    write_parquet(root / "train-00001-of-00002.parquet", images[2:], columns[1], names)
    write_parquet(root / "train-00000-of-00002.parquet", list(images[:2]), columns[0], names)
    found = open_dataset(str(tmp_path / "shards"))
    same_images(found)
    assert found.attributes["label"].classes == ("woman", "man")
    assert found.class_indices("label").tolist() == [1, 0, -1]
    assert list(found.table) == ["label", "seen"] and found.table["seen"].tolist() == ["True"] * 3


def test_grey_and_jpeg_are_read(tmp_path: Path) -> None:
    grey = pixels(channels=1)
    found = open_dataset(str(write_folder(tmp_path / "g", {f"{i}.png": png(x) for i, x in enumerate(grey)})))
    assert found.channels == 1 and torch.equal(found.read([0, 1, 2]), torch.from_numpy(grey))
    (tmp_path / "j").mkdir()
    Image.new("RGB", (8, 8), (200, 10, 10)).save(tmp_path / "j" / "x.jpg")
    assert open_dataset(str(tmp_path / "j")).read([0])[0, 0].float().mean() > 150


def test_reduction_is_the_box_mean(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", edm())
    found = open_dataset(str(path), resolution=2)
    mean = pixels().reshape(3, 3, 2, 4, 2, 4).mean(axis=(3, 5))
    assert found.read([0, 1, 2]).shape == (3, 3, 2, 2)
    assert np.abs(found.read([0, 1, 2]).numpy() - mean).max() <= 0.5
    for resolution in (3, 16, 0):
        with pytest.raises(InputError) as error:
            open_dataset(str(path), resolution=resolution)
        one_line(error, "a.zip", "8x8", str(resolution))


def test_digest_is_of_content_and_names(tmp_path: Path) -> None:
    files = edm()
    digests = [open_dataset(str(write_folder(tmp_path / name, files))).digest for name in ("a", "b")]
    assert digests[0] == digests[1]
    (tmp_path / "b" / "notes.txt").write_text("not part of it")
    assert open_dataset(str(tmp_path / "b")).digest == digests[0]
    (tmp_path / "b" / NAMES[0]).rename(tmp_path / "b" / "00000/img00000009.png")
    renamed = open_dataset(str(tmp_path / "b")).digest
    write_folder(tmp_path / "a", {NAMES[0]: png(pixels()[1])})
    assert len({digests[0], renamed, open_dataset(str(tmp_path / "a")).digest}) == 3


def test_a_zip_is_readable_in_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_dataset(str(write_zip(tmp_path / "a.zip", edm())))
    same_images(pickle.loads(pickle.dumps(found)))
    # A forked child has another process id and must not share the parent's handle.
    files = ZipFiles(tmp_path / "a.zip")
    parents = files._archive()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert files._archive() is not parents
    assert files._archive() is files._archive()
    parents.close()
    assert files.data(NAMES[0]) == png(pixels()[0])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded("RGBA"), "transparent pixels"),
        (encoded("RGB", (8, 4)), "8x4"),
        (encoded("RGB", (16, 16)), "16x16"),
        (b"not a picture", "not an image"),
        (b"", "it is empty"),
    ],
)
def test_an_image_unlike_the_others_is_named(tmp_path: Path, data: bytes, reason: str) -> None:
    files = {**edm(), NAMES[1]: data}
    for spec in (write_zip(tmp_path / "a.zip", files), write_folder(tmp_path / "a", files)):
        with pytest.raises(InputError) as error:
            open_dataset(str(spec))
        one_line(error, NAMES[1], str(spec), reason)


def test_16_bit_rgb_is_scaled_as_grey_is(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 0, 255, 256, 32768, 65279, 65535)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(row * 2)) + chunk(b"IEND", b"")
    found = open_dataset(str(write_folder(tmp_path / "a", {"x.png": data})))
    assert found.read([0])[0, :, 0].T.flatten().tolist() == [0, 0, 1, 128, 254, 255]
    assert found.found is not None and found.found.modes == {"16-bit RGB": 1}


def test_a_truncated_image_is_named_when_read(tmp_path: Path) -> None:
    whole = png(pixels(side=64)[0])
    found = open_dataset(str(write_folder(tmp_path / "a", {"x.png": whole, "y.png": whole[: len(whole) // 2]})))
    found.read([0])
    with pytest.raises(InputError) as error:
        found.read([1])
    one_line(error, "y.png", str(tmp_path / "a"))


def test_a_damaged_zip_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    path = write_zip(tmp_path / "crc.zip", edm())
    data = path.read_bytes()
    spot = data.index(b"IDAT") + 20
    path.write_bytes(data[:spot] + bytes([data[spot] ^ 255]) + data[spot + 1 :])
    for name in ("bad.zip", "crc.zip"):
        with pytest.raises(InputError) as error:
            open_dataset(str(tmp_path / name))
        one_line(error, name)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        (b"{", "unreadable"),
        (b"[]", "a list"),
        (json.dumps({"labels": 3}).encode(), "label 3"),
        (json.dumps({"labels": [[NAMES[0], [0.2, 0.8]]]}).encode(), "0.2"),
        (json.dumps({"labels": [[NAMES[0], 0]]}).encode(), f"no row for {NAMES[1]}"),
        (json.dumps({"labels": [[n, 0] for n in [*NAMES, "gone.png"]]}).encode(), "no image gone.png"),
        (json.dumps({"labels": [[n, 0] for n in [*NAMES, NAMES[0]]]}).encode(), f"{NAMES[0]} twice"),
        (json.dumps({"labels": [[n, 2] for n in NAMES], "classes": ["a", "b"]}).encode(), "labels 2 to 2"),
        (json.dumps({"labels": [[n, 0] for n in NAMES], "columns": {"x": [1]}}).encode(), "'x'"),
    ],
)
def test_flaws_of_dataset_json(tmp_path: Path, description: bytes, reason: str) -> None:
    with pytest.raises(InputError) as error:
        open_dataset(str(write_zip(tmp_path / "a.zip", {**edm(), "dataset.json": description})))
    one_line(error, "a.zip", reason)


@pytest.mark.parametrize(
    ("sheet", "reason"),
    [
        ("name,kind\nx.png,a\n", "'file_name'"),
        ("file_name,kind\nx.png,a\ngone.png,b\n", "gone.png"),
        ("file_name,kind\n", "no row in"),
        ("", "no table of labels"),
        ("file_name,kind\nx.png,a\nx.png,a,b,c\n", "no table of labels"),
    ],
)
def test_flaws_of_metadata_csv(tmp_path: Path, sheet: str, reason: str) -> None:
    with pytest.raises(InputError) as error:
        open_dataset(str(write_folder(tmp_path / "a", {"x.png": encoded("RGB"), "metadata.csv": sheet.encode()})))
    one_line(error, "metadata.csv", reason)


def test_flaws_of_parquet(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    pq.write_table(pa.table({"picture": [b"x"]}), tmp_path / "column.parquet")
    write_parquet(tmp_path / "null.parquet", [None], {})
    (tmp_path / "mixed").mkdir()
    write_parquet(tmp_path / "mixed" / "0.parquet", [encoded("RGB")], {"a": ["x"]})
    write_parquet(tmp_path / "mixed" / "1.parquet", [encoded("RGB")], {"b": ["x"]})
    reasons = {"bad.parquet": "unreadable", "column.parquet": "'image'", "null.parquet": "row 0", "mixed": "1.parquet"}
    for name, reason in reasons.items():
        with pytest.raises(InputError) as error:
            open_dataset(str(tmp_path / name))
        one_line(error, name, reason)


def test_flaws_of_paths(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    write_zip(tmp_path / "empty.zip", {})
    write_folder(tmp_path / "both", {**edm(), "metadata.csv": b"file_name\n"})
    for name in ("empty", "notes.txt", "empty.zip", "both"):
        with pytest.raises(InputError) as error:
            open_dataset(str(tmp_path / name))
        one_line(error, name)
