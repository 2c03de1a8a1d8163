"""Reading many small images from a folder, a zip and Parquet against the raw decoder, and what an audit of them takes.

    python bench/reading.py [--images 100000] [--side 32] [--pairs 3] [--audit]

Images are made for the bench in a temporary folder. Each container is read in a process of its own: `open` is until the
data set knows all names and sizes, `read` is one pass over all images in order, `audit` (with --audit) is screening,
labels and features of all of them by the command's own function. The raw decoder is Pillow on the same PNG bytes in
memory, in one thread; `read` at 0.9 of its images/s or more is wanted. Memory is the peak of the process beyond what it
was before opening: 100,000 images of 32 x 32 are 307 MB of pixels, and must not all be there.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

KINDS = ("folder", "zip", "parquet")
ROWS = 1000
"""Of a Parquet row group, and files of a folder."""


def pngs(start: int, count: int, side: int) -> list[bytes]:
    """Images of noise on a slope, no two alike."""
    rng = np.random.default_rng(start)
    slope = np.linspace(0, 160, side, dtype=np.uint8)[None, :, None]
    found = []
    for pixels in slope + rng.integers(0, 90, (count, side, side, 3), dtype=np.uint8):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
        found.append(buffer.getvalue())
    return found


def write(root: Path, images: int, side: int) -> dict[str, Path]:
    """The same images in each kind of container."""
    places = {"folder": root / "folder", "zip": root / "images.zip", "parquet": root / "images.parquet"}
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])
    with zipfile.ZipFile(places["zip"], "w") as archive, pq.ParquetWriter(places["parquet"], schema) as table:
        for start in range(0, images, ROWS):
            data = pngs(start, min(ROWS, images - start), side)
            names = [f"{start // ROWS:05d}/{start + k:07d}.png" for k in range(len(data))]
            (places["folder"] / f"{start // ROWS:05d}").mkdir(parents=True)
            for name, png in zip(names, data, strict=True):
                (places["folder"] / name).write_bytes(png)
                archive.writestr(name, png)
            rows = [{"bytes": png, "path": name} for name, png in zip(names, data, strict=True)]
            table.write_table(pa.table({"image": rows}, schema=schema))
    return places


def raw(table: Path) -> float:
    """Images/s of Pillow alone, on at most 20,000 of the PNGs."""
    data = []
    with pq.ParquetFile(table) as file:
        for group in range(min(file.num_row_groups, 20_000 // ROWS)):
            data += [row["bytes"] for row in file.read_row_group(group)["image"].to_pylist()]
    start = time.perf_counter()
    for png in data:
        with Image.open(io.BytesIO(png)) as image:
            np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    return len(data) / (time.perf_counter() - start)


def measure(what: str, place: str) -> None:
    """In a process of its own: seconds and megabytes of opening and reading, or of an audit."""
    from fairsims.audit.command import AuditConfig, measure, open_audit
    from fairsims.data import open_dataset

    before, start = _peak(), time.perf_counter()
    if what == "audit":
        config = AuditConfig(before=place, attr=("gender",), classifier=("emoji-gender",))
        n = measure(open_audit(config)).main.n["before"]
        print(json.dumps({"audit": n / (time.perf_counter() - start), "memory": _peak() - before}))
        return
    data = open_dataset(place)
    opened = time.perf_counter()
    count = sum(len(batch) for batch in data.batches())
    read = time.perf_counter()
    assert count == len(data)
    print(json.dumps({"open": count / (opened - start), "read": count / (read - opened), "memory": _peak() - before}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3, help="Readings of each container, each beside the raw decoder.")
    parser.add_argument("--audit", action="store_true", help="Audit each container, too.")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PLACE"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        measure(*args.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        places = write(Path(folder), args.images, args.side)
        print(f"{args.images:,} images of {args.side} x {args.side}")
        for kind in KINDS:
            ratios, rows = [], []
            for _ in range(args.pairs):
                alone = raw(places["parquet"])
                rows.append(_apart("read", places[kind], folder))
                ratios.append(rows[-1]["read"] / alone)
            typical = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            line = (
                f"{kind:<8} read / raw decoder {statistics.median(ratios):.2f}   read {typical['read']:,.0f} images/s"
            )
            line += f"   open {typical['open']:,.0f} images/s   {typical['memory']:,.0f} MB more"
            if args.audit:
                found = _apart("audit", places[kind], folder)
                line += f"   audit {found['audit']:,.0f} images/s, {found['memory']:,.0f} MB more"
            print(line, flush=True)


def _apart(what: str, place: Path, cache: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", what, str(place)]
    environment = os.environ | {"FAIRSIMS_CACHE": str(Path(cache) / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
