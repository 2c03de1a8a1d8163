"""Reading many small images from a folder, a zip and Parquet against the raw decoder, and what an audit of them takes.

    python bench/reading.py [--images 100000] [--side 32] [--pairs 3] [--kinds zip] [--audit]

Images are made for the bench in a temporary folder, each container is read in a process of its own, by turns with the
raw decoder: Pillow's `Image.open(...).convert("RGB")` of every image to an array in one thread, out of the same
container (`raw`) and of the same PNG bytes in memory (`memory`). `open` is until the data set knows all names, sizes
and digests, `read` one pass over all images in order, `screened` the same with the screening of an audit; `audit` (with
--audit) is screening, labels and features of all of them by the command's own function. At 0.9 of the raw decoder's
images/s or more is wanted. A ratio of CPU time is what one core gives. Memory is the peak of the whole process, and
beyond what it was before: 100,000 images of 32 x 32 are 307 MB of pixels, and must not all be there.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

Row = dict[str, float]
UNITS = {"wall": "images/s", "cpu": "a second of CPU", "peak": "MB at its peak", "memory": "MB more"}
KINDS = ("folder", "zip", "parquet")
ROWS = 1000
"""Of a Parquet row group, and files of a folder."""


def pngs(start: int, count: int, side: int) -> list[bytes]:
    """Images of noise over a few large patches, no two alike."""
    rng = np.random.default_rng(start)
    patches = rng.integers(0, 160, (count, 4, 4, 3), dtype=np.uint8)
    large = patches.repeat(-(-side // 4), axis=1).repeat(-(-side // 4), axis=2)[:, :side, :side]
    found = []
    for pixels in large + rng.integers(0, 90, (count, side, side, 3), dtype=np.uint8):
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


def encoded(kind: str, place: Path) -> Iterator[str | io.BytesIO]:
    """What Pillow opens of each image, in order, as a plain script would find it."""
    if kind == "folder":
        yield from (str(path) for path in sorted(place.rglob("*.png")))
    elif kind == "zip":
        with zipfile.ZipFile(place) as archive:
            yield from (io.BytesIO(archive.read(name)) for name in archive.namelist())
    else:
        with pq.ParquetFile(place) as file:
            for group in range(file.num_row_groups):
                yield from (io.BytesIO(row["bytes"]) for row in file.read_row_group(group)["image"].to_pylist())


def raw(files: Iterable[str | io.BytesIO]) -> int:
    """Images decoded by Pillow alone."""
    count = 0
    for file in files:
        with Image.open(file) as image:
            np.asarray(image.convert("RGB")).transpose(2, 0, 1)
        count += 1
    return count


def measure(what: str, place: str) -> dict[str, Row]:
    """In a process of its own: what it takes to open, read and screen a container, or to audit it."""
    from fairsims.audit.command import AuditConfig, measure, open_audit
    from fairsims.data import open_dataset
    from fairsims.data.screening import screen

    if what == "audit":
        config = AuditConfig(before=place, attr=("gender",), classifier=("emoji-gender",))
        return {"audit": _timed(lambda: measure(open_audit(config)).main.n["before"])}
    found = {"open": _timed(lambda: len(open_dataset(place)))}
    data = open_dataset(place)
    found["read"] = _timed(lambda: sum(map(len, data.batches())))
    return found | {"screened": _timed(lambda: screen(data).n)}


def _timed(work: Callable[[], int]) -> Row:
    """Images/s by the clock, images per second of CPU time, megabytes."""
    before, start, busy = _peak(), time.perf_counter(), time.process_time()
    count = work()
    wall, cpu = time.perf_counter() - start, time.process_time() - busy
    return {"wall": count / wall, "cpu": count / cpu, "peak": _peak(), "memory": _peak() - before}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=3, help="Readings of each container, each beside the raw decoder.")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--audit", action="store_true", help="Audit each container, too.")
    parser.add_argument("--measure", nargs=2, metavar=("WHAT", "PLACE"), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.measure:
        print(json.dumps(measure(*args.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        places = write(Path(folder), args.images, args.side)
        print(f"{args.images:,} images of {args.side} x {args.side}; of one core: by CPU time")
        for kind in args.kinds:
            place, pairs = places[kind], []
            for _ in range(args.pairs):
                # Ours goes first: it reads every file, which then lies in the system's memory for the raw decoder.
                rows = _apart("read", place, folder)
                held = [f for f, _ in zip(encoded("parquet", places["parquet"]), range(20_000), strict=False)]
                rows |= {"memory": _timed(lambda: raw(held)), "raw": _timed(lambda: raw(encoded(kind, place)))}  # noqa: B023
                pairs.append(rows)
            for what in ("read", "screened"):
                ratios = [
                    f"{statistics.median(rows[what][clock] / rows[by][clock] for rows in pairs):.2f} of {by}{name}"
                    for clock, name in (("wall", ""), ("cpu", " on one core"))
                    for by in ("raw", "memory")
                ]
                print(f"{kind:<8} {what:<8} {', '.join(ratios)};  {_said([rows[what] for rows in pairs])}", flush=True)
            for what in ("raw", "open"):
                print(f"{kind:<8} {what:<8} {_said([rows[what] for rows in pairs])}", flush=True)
            if args.audit:
                print(f"{kind:<8} audit    {_said([_apart('audit', place, folder)['audit']])}", flush=True)


def _said(rows: Sequence[Row]) -> str:
    return ", ".join(f"{statistics.median(row[key] for row in rows):,.0f} {unit}" for key, unit in UNITS.items())


def _apart(what: str, place: Path, cache: str) -> dict[str, Row]:
    command = [sys.executable, __file__, "--measure", what, str(place)]
    environment = os.environ | {"FAIRSIMS_CACHE": str(Path(cache) / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Row] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
