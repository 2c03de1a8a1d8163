"""What a cheaper solver costs in share and quality: same seeds, each against Heun at 30 levels (59 evaluations).

    python bench/solvers.py [--model emoji-people-32] [--classifier emoji-gender] [--images 512]

Prints, for each solver, evaluations an image, the predicted share of the last class, the images whose class is that of
the reference's image of the same seed, how far its pixels are off (root mean square, grey levels), and the Fréchet
distance to the training set on the classifier's features.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from fairsims.audit.quality import FrechetReference, Moments, frechet_distance
from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import features_of, label_batches
from fairsims.data import open_dataset
from fairsims.models import ModelSpec, open_model
from fairsims.models.sampling import SamplerConfig

SAMPLERS = (
    *(SamplerConfig(steps=n) for n in (30, 12, 6)),
    *(
        SamplerConfig(solver=solver, schedule=schedule, steps=n)
        for n in (8, 10, 12)
        for schedule in ("polynomial", "logsnr")
        for solver in ("ipndm", "dpmpp2m", "dpmpp3m", "unipc")
    ),
    SamplerConfig(solver="euler", steps=23),
)
FIRST_SEED = 9_000_000


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--classifier", default="emoji-gender")
    parser.add_argument("--images", type=int, default=512)
    args = parser.parse_args(arguments)
    classifier, seeds = load_classifier(args.classifier), range(FIRST_SEED, FIRST_SEED + args.images)
    base = open_model(ModelSpec(base=args.model))
    real = open_dataset(str(base.recipe["data"]), resolution=base.image_shape[1])
    rows = (real.read(range(i, min(i + 256, len(real)))) for i in range(0, len(real), 256))
    reference = FrechetReference.of(Moments().update(features_of(classifier, rows)))
    first, exact = None, torch.empty(0)
    for sampler in SAMPLERS:
        model = open_model(ModelSpec(base=args.model, sampler=sampler))
        images = torch.cat(list(model.images([seeds[start : start + 64] for start in range(0, len(seeds), 64)])))
        predicted = label_batches(classifier, torch.split(images, 256)).argmax(axis=1)
        if first is None:
            first, exact = predicted, images.float()
        off = float((images.float() - exact).square().mean().sqrt())
        fd = frechet_distance(reference, Moments().update(features_of(classifier, torch.split(images, 256))))
        print(
            f"{sampler.solver:<8} {sampler.schedule:<10} {model.evaluations_per_image:>3} evaluations  "
            f"share {(predicted == len(classifier.attribute.classes) - 1).mean():.3f}  "
            f"same class {(predicted == first).mean():.3f}  off {off:4.1f}  FD {fd:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
