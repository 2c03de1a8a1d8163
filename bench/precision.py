"""Does bfloat16 sampling change shares or Fréchet distance? The same seeds in both precisions.

    python bench/precision.py [--model emoji-people-32] [--attr gender] [--images 1024]

Prints the share of each class, the images whose class differs, FD to the training set, and the time ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

from fairsims.audit.quality import FrechetReference, Moments, frechet_distance
from fairsims.classifiers import classifier_for, features_of, label_batches
from fairsims.data import open_dataset, to_uint8
from fairsims.models import open_checkpoint
from fairsims.models.sampling import generate


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--attr", default="gender")
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args(arguments)
    checkpoint = open_checkpoint(args.model)
    base = checkpoint.network
    classifier = classifier_for(args.attr, base.img_resolution, base.img_channels)
    data = open_dataset(checkpoint.recipe["data"], resolution=base.img_resolution)
    reference = FrechetReference.of(Moments().update(features_of(classifier, [data.read(range(len(data)))])))
    winners, seconds, pixels = {}, {}, {}
    for precision in ("float32", "bfloat16"):
        base.precision = precision
        start = time.perf_counter()
        images = torch.cat([to_uint8(b.images) for b in generate(base, range(args.images))])
        seconds[precision] = time.perf_counter() - start
        winners[precision] = label_batches(classifier, torch.split(images, 256)).argmax(axis=1)
        pixels[precision] = images.int()
        fd = frechet_distance(reference, Moments().update(features_of(classifier, torch.split(images, 256))))
        shares = np.bincount(winners[precision], minlength=len(classifier.attribute.classes)) / args.images
        listed = ", ".join(f"{c} {s:.4f}" for c, s in zip(classifier.attribute.classes, shares, strict=True))
        print(f"{precision:<9} {listed}  FD {fd:.3f}")
    differ = int((winners["float32"] != winners["bfloat16"]).sum())
    gap = (pixels["float32"] - pixels["bfloat16"]).abs().float().mean()
    print(f"another class: {differ} of {args.images}; mean pixel difference {gap:.2f} grey levels")
    print(f"time float32 / bfloat16: {seconds['float32'] / seconds['bfloat16']:.2f}")


if __name__ == "__main__":
    main()
