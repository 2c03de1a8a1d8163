"""Do time and memory of `label` and `audit` grow with the number of images, and how?

    python bench/growth.py [--images 10000 100000] [--neighbours 4096 8192]

Makes pools of noisy 8 x 8 digits, then labels and audits each in a process of its own. Prints seconds, seconds of the
processor (which other work on the machine hardly changes) in all and an image, and the peak memory of that process.
Then from each size to the next: how memory grew, and what one more image costs, without what starting does. Nearest
neighbours (precision, recall, density, coverage of n real and n generated images, 64 features) are measured beside, by
their number of pairs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from fairsims.audit.neighbours import manifold
from fairsims.cli import main as fairsims
from fairsims.data import open_dataset
from fairsims.files import write_json
from fairsims.pools import compact_seeds, encode_png, write_shard
from fairsims.pools.reading import FORMAT
from fairsims.pools.writing import SHARD_SIZE

STAGES = {
    "label": ["label", "{pool}", "--attr", "parity", "--json"],
    "audit": ["audit", "--before", "{pool}", "--attr", "parity", "--reference", "digits", "--json"],
}


def make_pool(folder: Path, n: int) -> None:
    """Digits with noise: no image is the copy of another."""
    digits, rng = open_dataset("digits"), np.random.default_rng(0)
    for number, start in enumerate(range(0, n, SHARD_SIZE)):
        seeds = range(start, min(start + SHARD_SIZE, n))
        images = digits.read([s % len(digits) for s in seeds]).int()
        noisy = (images + torch.from_numpy(rng.integers(-20, 21, images.shape))).clip(0, 255).byte()
        write_shard(folder / f"shard-{number:05d}.parquet", seeds, [encode_png(image) for image in noisy])
    facts = {"format": FORMAT, "made_by": {"kind": "digits"}, "evaluations_per_image": 1, "shape": [1, 8, 8]}
    write_json(folder / "pool.json", facts | {"seeds": compact_seeds(range(n))})


def measured(stage: str, what: str) -> dict[str, float]:
    """Seconds, seconds of the processor and peak memory in MB of a stage, here."""
    torch.set_num_threads(1)
    start, began = time.perf_counter(), time.process_time()
    if stage == "neighbours":
        rng = np.random.default_rng(0)
        manifold(*(rng.standard_normal((int(what), 64)).astype(np.float32) for _ in range(2)))
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            fairsims([part.format(pool=what) for part in STAGES[stage]], standalone_mode=False)
    took = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - began}
    return took | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def elsewhere(stage: str, what: object, cache: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--stage", stage, "--of", str(what)]
    environment = os.environ | {"FAIRSIMS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--neighbours", type=int, nargs="+", default=[4096, 8192])
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.stage:
        print(json.dumps(measured(args.stage, args.of)))
        return
    with tempfile.TemporaryDirectory() as place:
        for n in args.images:
            make_pool(Path(place) / str(n), n)
        for stage in STAGES:
            rows = []
            for n in args.images:
                rows.append(elsewhere(stage, Path(place) / str(n), Path(place) / "cache"))
                each = 1e6 * rows[-1]["cpu"] / n
                print(f"{stage:<10} {n:>9,} images {said(rows[-1])} {each:8.1f} us/image", flush=True)
            found = list(zip(args.images, rows, strict=True))
            slopes = [(b["cpu"] - a["cpu"]) / (m - n) for (n, a), (m, b) in pairwise(found)]
            for (n, a), (m, b) in pairwise(found):
                print(f"{stage:<10} {n:>9,} to {m:,}: memory x {b['memory'] / a['memory']:.2f}", end="")
                print(f", one more image {1e6 * (b['cpu'] - a['cpu']) / (m - n):.1f} us")
            for before, after in pairwise(slopes):
                print(f"{stage:<10} one more image of the larger sizes costs x {after / before:.2f}")
        for n in args.neighbours:
            row = elsewhere("neighbours", n, Path(place) / "cache")
            # Each side among itself, and both with each other.
            each = 1e9 * row["cpu"] / (3 * n**2)
            print(f"neighbours {n:>9,} a side {said(row)} {each:8.1f} ns/pair", flush=True)


def said(row: dict[str, float]) -> str:
    return f"{row['seconds']:8.1f} s {row['cpu']:8.1f} s of the processor {row['memory']:7.0f} MB"


if __name__ == "__main__":
    main()
