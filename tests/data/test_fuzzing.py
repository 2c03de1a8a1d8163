"""Broken inputs: thousands of mutated images, zips, Parquet files and tables are read or refused in one line.

`FUZZ_SEEDS=first-last` chooses others; `make fuzz` runs 2,000. A seed that failed once stands in `FAILED`.
"""

from __future__ import annotations

import io
import json
import os
import resource
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from input_files import mutated
from PIL import Image

from fairsims.classifiers.table import read_table as read_classifier
from fairsims.data import ImagePolicy, open_dataset
from fairsims.data.marks import read_mark
from fairsims.errors import InputError

Generator = np.random.Generator
FORMS = {
    "png": {},
    "jpg": {},
    "webp": {},
    "gif": {},
    "tif": {"compression": "tiff_deflate"},
    "bmp": {},
    "avif": {},
    "jp2": {},
    "ppm": {},
}
MODES = ("RGB", "L", "RGBA", "LA", "P", "1", "CMYK", "I;16")
FIRST = range(80)
FAILED: tuple[int, ...] = ()
"""Seeds that once gave a traceback, hung or wrote elsewhere."""


def picture(generator: Generator, suffix: str | None = None) -> tuple[str, bytes]:
    """A sound image of some format, mode and size."""
    suffix = suffix or str(generator.choice(list(FORMS)))
    side = int(generator.integers(1, 40))
    noise = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(str(generator.choice(MODES[:7])))
    if suffix == "png" and generator.random() < 0.1:
        image = Image.fromarray(generator.integers(0, 2**16, (side, side), dtype=np.uint16))
    buffer, form = io.BytesIO(), {"jpg": "JPEG", "tif": "TIFF", "jp2": "JPEG2000"}.get(suffix, suffix.upper())
    try:
        image.save(buffer, form, **FORMS[suffix])  # type: ignore[arg-type]
    except (OSError, KeyError, ValueError):  # a mode that the format does not have
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, form, **FORMS[suffix])  # type: ignore[arg-type]
    return suffix, buffer.getvalue()


def table(generator: Generator, names: list[str]) -> bytes:
    delimiter = str(generator.choice([",", ";", "\t", ", "]))
    rows = [["file_name", "gender"], *([n, str(generator.choice(["man", "woman", "Man ", ""]))] for n in names)]
    encoding = str(generator.choice(["utf-8", "utf-16", "cp1252", "utf-8-sig"]))
    return "\n".join(delimiter.join(r) for r in rows).encode(encoding)


def folder_files(generator: Generator) -> dict[str, bytes]:
    """Images, and at times a table or dataset.json, some of them mutated."""
    files = {}
    for k in range(int(generator.integers(1, 5))):
        suffix, data = picture(generator)
        files[f"{'sub/' if generator.random() < 0.3 else ''}{k}.{suffix}"] = data
    names = list(files)
    extra = generator.random()
    if extra < 0.3:
        files["metadata.csv"] = table(generator, names)
    elif extra < 0.45:
        lines = (json.dumps({"file_name": n, "gender": "man", "n": [1, None, 2.5][k % 3]}) for k, n in enumerate(names))
        files["metadata.jsonl"] = "\n".join(lines).encode()
    elif extra < 0.6:
        files["dataset.json"] = json.dumps({"labels": [[n, k % 2] for k, n in enumerate(names)]}).encode()
    broken = str(generator.choice(list(files)))
    files[broken] = mutated(generator, files[broken])
    return files


def as_folder(generator: Generator, root: Path) -> Path:
    for name, data in folder_files(generator).items():
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(data)
    return root / "in"


def as_zip(generator: Generator, root: Path) -> Path:
    buffer = io.BytesIO()
    names = ["../out.png", "/abs.png", "C:\\x.png", "a\0b.png", "__MACOSX/._a.png", "a" * 300 + ".png"]
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if generator.random() < 0.5 else zipfile.ZIP_STORED) as z:
        for name, data in folder_files(generator).items():
            z.writestr(name, data)
        if generator.random() < 0.3:
            z.writestr(str(generator.choice(names)), picture(generator, "png")[1])
    data = buffer.getvalue()
    (root / "in.zip").write_bytes(mutated(generator, data) if generator.random() < 0.7 else data)
    return root / "in.zip"


def as_parquet(generator: Generator, root: Path) -> Path:
    images = [picture(generator)[1] for _ in range(int(generator.integers(1, 6)))]
    k = int(generator.integers(len(images)))
    images[k] = mutated(generator, images[k])
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = pa.array([{"bytes": b, "path": None} for b in images], kind)
    buffer = io.BytesIO()
    compression = str(generator.choice(["snappy", "none", "zstd"]))
    pq.write_table(pa.table({"image": rows, "seed": list(range(len(images)))}), buffer, compression=compression)
    data = buffer.getvalue()
    (root / "in.parquet").write_bytes(mutated(generator, data) if generator.random() < 0.7 else data)
    return root / "in.parquet"


def as_table(generator: Generator, root: Path) -> Path:
    (root / "in.csv").write_bytes(mutated(generator, table(generator, ["0.png", "1.png", "2.png"])))
    return root / "in.csv"


KINDS: tuple[Callable[[Generator, Path], Path], ...] = (as_folder, as_zip, as_parquet, as_table)


def tried(path: Path, generator: Generator) -> str:
    """Read the whole input; what is said where it is refused."""
    policy = ImagePolicy(resize=16, background="white") if generator.random() < 0.7 else ImagePolicy()
    try:
        if path.suffix == ".csv":
            read_classifier(str(path))
            return ""
        found = open_dataset(str(path), policy=policy)
        assert found.read(range(len(found))).shape == (len(found), *found.shape)
        for name in found.attributes:
            found.class_indices(name)
        for i in range(len(found)):
            read_mark(found.encoded(i) or b"")
    except InputError as e:
        return str(e)
    return ""


def check(seed: int, root: Path) -> bool:
    generator = np.random.default_rng(seed)
    path = KINDS[seed % len(KINDS)](generator, root)
    before = {p: p.stat().st_size for p in root.rglob("*")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as in a process of its own: what Pillow warns of ends no command
        said = tried(path, generator)
    assert {p: p.stat().st_size for p in root.rglob("*")} == before, f"seed {seed} wrote files"
    return not said


def run(seeds: range | tuple[int, ...], root: Path) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = 0
    for seed in seeds:
        (root / str(seed)).mkdir()
        read += check(seed, root / str(seed))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 2**20, "more than 1 GB"
    if len(seeds) > 20:
        assert 0 < read < len(seeds), "both sides are reached"


def test_some_broken_inputs_are_read_or_refused(tmp_path: Path) -> None:
    run(FIRST, tmp_path)


@pytest.mark.parametrize("seed", FAILED)
def test_what_failed_once(tmp_path: Path, seed: int) -> None:
    run((seed,), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_broken_inputs_are_read_or_refused(tmp_path: Path) -> None:
    first, _, last = os.environ.get("FUZZ_SEEDS", "1000-2999").partition("-")
    run(range(int(first), int(last) + 1), tmp_path)
