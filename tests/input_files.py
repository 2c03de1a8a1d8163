"""Inputs of the kinds that people really have, for the tests of what is read: the same files as a folder or a zip."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import InputError

RNG = np.random.default_rng(3)
RED, BLUE = (200, 10, 10), (10, 10, 200)


def png(image: Image.Image | None = None, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))).save(buffer, format=form, **options)
    return buffer.getvalue()


def place(root: Path, kind: str, files: dict[str, bytes]) -> Path:
    """The same files as a folder or a zip."""
    if kind == "zip":
        with zipfile.ZipFile(root / "data.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root / "data.zip"
    for name, data in files.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_bytes(data)
    return root / "data"


def passed(found: ImageDataset) -> dict[str, int]:
    assert found.found is not None
    return {rule: p.n for rule, p in found.found.passed.items()}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        open_dataset(str(path), **options).read([0])
    assert "\n" not in str(error.value) and "; expected " in str(error.value)
    return str(error.value)


BOTH = pytest.mark.parametrize("kind", ["folder", "zip"])


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


PEOPLE = {"a.png": png(), "sub/b.png": png()}


def metadata(kind: str) -> dict[str, bytes]:
    if kind == "csv":
        return {"metadata.csv": b"file_name,gender\na.png,man\nsub/b.png,woman\n"}
    if kind == "jsonl":
        text = '{"file_name": "a.png", "gender": "man"}\n{"file_name": "sub/b.png", "gender": "woman", "n": 2.0}\n'
        return {"metadata.jsonl": text.encode()}
    buffer = io.BytesIO()
    pq.write_table(pa.table({"file_name": ["a.png", "sub/b.png"], "gender": ["man", "woman"]}), buffer)
    return {"metadata.parquet": buffer.getvalue()}


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (k * 60, 0, 0)) for k in range(3)]
    return png(frames[0], form, save_all=True, append_images=frames[1:])


def mutated(generator: np.random.Generator, data: bytes) -> bytes:
    """Some bytes changed, cut off, doubled, moved, or a length overwritten."""
    found = bytearray(data)
    for _ in range(int(generator.integers(1, 6))):
        if not found:
            break
        place, kind = int(generator.integers(len(found))), int(generator.integers(6))
        size = int(generator.integers(1, 40))
        if kind == 0:
            found[place] = int(generator.integers(256))
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            del found[place : place + size]
        elif kind == 3:
            found[place:place] = found[place : place + size]
        elif kind == 4:
            found[place : place + 4] = bytes([255, 255, 255, 255]) if generator.random() < 0.5 else bytes(4)
        else:
            found[place:place] = generator.bytes(size)
    return bytes(found)
