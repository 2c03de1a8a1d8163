"""Parquet files of other tools: rows in any order, columns of other names, rows that are no image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import animation, passed, png
from PIL import Image

from fairsims.data import open_dataset
from fairsims.data.parquet import BLOCK


def test_an_animation_in_parquet_is_left_out_with_its_row(tmp_path: Path) -> None:
    images = [png() for _ in range(10)] + [animation("GIF")] + [png()]
    write_rows(tmp_path / "a.parquet", images, x=[str(i) for i in range(12)])
    found = open_dataset(str(tmp_path / "a.parquet"))
    assert found.table["x"].tolist() == [str(i) for i in range(12) if i != 10] and passed(found) == {"animations": 1}
    assert found.ids[-1] == "row 11"


def write_rows(path: Path, images: list[bytes], rows: int = 1024, **columns: Any) -> None:
    struct_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": b, "path": None} for b in images], struct_), **columns})
    pq.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize("rows", [7, 100, 5000])
def test_parquet_rows_are_found_in_any_order(tmp_path: Path, rows: int) -> None:
    n = 3 * BLOCK + 5
    values = [png(Image.new("L", (4, 4), i % 256)) for i in range(n)]
    write_rows(tmp_path / "a.parquet", values, rows)
    found = open_dataset(str(tmp_path / "a.parquet"))
    order = np.random.default_rng(0).permutation(n)[:60]
    assert found.read(order)[:, 0, 0, 0].tolist() == [int(i) % 256 for i in order]
    assert [int(b[0, 0, 0, 0]) for b in found.batches(100)] == [k * 100 % 256 for k in range(8)]


def test_a_plain_binary_column_and_another_name_are_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(), png()], "x": ["a", "b"]}), tmp_path / "plain.parquet")
    assert len(open_dataset(str(tmp_path / "plain.parquet"))) == 2
    images = pa.array(
        [{"bytes": png(), "path": "p.png"}], pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"picture": images}), tmp_path / "other.parquet")
    assert open_dataset(str(tmp_path / "other.parquet")).ids.tolist() == ["p.png"]


def test_parquet_paths_are_read_without_joining_the_images(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": png(), "path": f"{i}.png"} for i in range(9)], kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert open_dataset(str(tmp_path / "a.parquet")).ids.tolist() == [f"{i}.png" for i in range(9)]
