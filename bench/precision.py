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
from fairsims.data import open_dataset
from fairsims.models import ModelSpec, open_model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--attr", default="gender")
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args(arguments)
    base = open_model(ModelSpec(base=args.model))
    channels, _, side = base.image_shape
    classifier = classifier_for(args.attr, side, channels)
    data = open_dataset(base.recipe["data"], resolution=side)
    cut = [range(start, min(start + 128, args.images)) for start in range(0, args.images, 128)]
    reference = FrechetReference.of(Moments().update(features_of(classifier, [data.read(range(len(data)))])))
    winners, seconds, pixels = {}, {}, {}
    for precision in ("float32", "bfloat16"):
        model = open_model(ModelSpec(base=args.model, precision=precision))
        start = time.perf_counter()
        images = torch.cat(list(model.images(cut)))
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
