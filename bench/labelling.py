"""Labelling a pool from disk against the classifier's forward pass alone, on the same batches already decoded.

    python bench/labelling.py [--images 2048] [--pairs 7] [--batch 256] [--threads 1]

PNGs are decoded in threads beside the forward pass, so labelling should cost what the forward pass costs: a ratio of
0.9 or more is wanted. Rows: an embedded classifier at 32 px, whose forward pass is so cheap that decoding is a fair
part of it, and a ResNet-18 at 64 px, which is nearer to what people use. Each ratio is the median of paired runs, the
two orders taken in turn; `decoding` is what decoding takes by itself, in one thread, in parts of the forward pass.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from timing import DEVICE, timed
from torch import Tensor

from fairsims.classifiers import AttributeClassifier, label_batches, load_classifier
from fairsims.data import open_dataset, to_float
from fairsims.files import write_json
from fairsims.pools import Pool, compact_seeds, encode_png, write_shard
from fairsims.pools.reading import FORMAT


class ResNet18:
    """A ResNet-18 with two classes and random weights: what it says does not matter here."""

    def __init__(self) -> None:
        from torchvision.models import resnet18

        self.network: torch.nn.Module = resnet18(num_classes=2).eval().to(DEVICE)

    def probabilities(self, images: Tensor) -> Tensor:
        return torch.softmax(self.network(to_float(images.to(DEVICE))), dim=1)


def make_pool(folder: Path, resolution: int, n: int) -> Pool:
    """The emoji people over and over as a pool of `n` images, shifted so that no two are alike."""
    data = open_dataset("emoji-people", resolution=resolution)
    images = data.read(np.arange(n) % len(data))
    pngs = [encode_png(torch.roll(image, k // len(data), dims=2)) for k, image in enumerate(images)]
    write_shard(folder / "shard-00000.parquet", range(n), pngs)
    facts = {"format": FORMAT, "made_by": {"kind": "bench"}, "shape": list(images.shape[1:])}
    write_json(folder / "pool.json", facts | {"seeds": compact_seeds(range(n))})
    return Pool(folder)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1, help="Of the forward pass on a CPU.")
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(f"{DEVICE.type}, {args.images} images (a quarter for ResNet-18), batch {args.batch}, {args.pairs} pairs")
    for name, resolution, n, classifier in (
        ("emoji-gender, 32 px", 32, args.images, load_classifier("emoji-gender")),
        ("ResNet-18, 64 px", 64, args.images // 4, cast(AttributeClassifier, ResNet18())),
    ):
        with tempfile.TemporaryDirectory() as folder:
            pool = make_pool(Path(folder), resolution, n)
            forward, labelling, decoding = times_of(classifier, pool, args.batch, args.pairs)
        ratio = statistics.median(f / x for f, x in zip(forward, labelling, strict=True))
        part = statistics.median(d / f for d, f in zip(decoding, forward, strict=True))
        rate = n / statistics.median(labelling)
        print(f"{name:<22} labelling / forward {ratio:.2f}   {rate:,.0f} images/s   decoding {part:.2f}")


def times_of(
    classifier: AttributeClassifier, pool: Pool, batch: int, pairs: int
) -> tuple[list[float], list[float], list[float]]:
    """Seconds of the forward pass on decoded batches, of labelling from disk and of decoding alone, pair by pair."""
    decoded = list(pool.batches(batch))
    label_batches(classifier, decoded[:1])
    forward: list[float] = []
    labelling: list[float] = []
    decoding: list[float] = []
    for k in range(pairs):
        work: list[tuple[list[float], Callable[[], object]]] = [
            (forward, lambda: label_batches(classifier, decoded)),
            (labelling, lambda: label_batches(classifier, pool.batches(batch))),
        ]
        for times, run in work[:: 1 if k % 2 else -1]:
            times.append(timed(run))
        decoding.append(timed(lambda: pool.read(range(len(pool)))))
    return forward, labelling, decoding


if __name__ == "__main__":
    main()
