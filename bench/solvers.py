"""What a cheaper solver costs in share and quality: same seeds, each against Heun at 36 levels (71 evaluations).

    python bench/solvers.py [--model emoji-people-32] [--classifiers emoji-gender emoji-skin-tone] [--images 512]
        [--auxiliary FOLDER --strength W [--mode merged|guided] [--positive FOLDER]] [--few]

Of the base, or of the model that an auxiliary makes of it. Prints, for each solver, evaluations an image, the predicted
share of the first classifier's last class, the images whose class is that of the reference's image of the same seed
(by every classifier), how far its pixels are off (root mean square, grey levels), and on every classifier's features
the Fréchet distance to the training set, precision and recall. `--few` leaves out all but the candidates at ten levels.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from fairsims.audit.fidelity import QualityReference
from fairsims.classifiers import AttributeClassifier, load_classifier
from fairsims.classifiers.base import features_of, label_batches
from fairsims.data import open_dataset
from fairsims.models import DenoiserModel, ModelSpec, fastest_precision, open_model
from fairsims.models.sampling import SamplerConfig

SAMPLERS = (
    *(SamplerConfig(solver="heun", steps=n) for n in (36, 12, 6)),
    *(
        SamplerConfig(solver=solver, schedule=schedule, steps=n)
        for n in (8, 10, 12)
        for schedule in ("polynomial", "logsnr")
        for solver in ("ipndm", "dpmpp2m", "dpmpp3m", "unipc")
    ),
    SamplerConfig(solver="euler", steps=23),
)
FEW = (
    *SAMPLERS[:3],
    *(SamplerConfig(solver=solver, steps=10) for solver in ("ipndm", "dpmpp2m")),
    SamplerConfig(solver="dpmpp3m", schedule="logsnr", steps=10),
    SamplerConfig(solver="dpmpp2m", steps=12),
)
FIRST_SEED = 9_000_000
BATCH = 128


def opened(args: argparse.Namespace, sampler: SamplerConfig) -> DenoiserModel:
    """What is sampled, by a sampler."""
    base = open_model(ModelSpec(base=args.model, sampler=sampler, precision=args.precision))
    if args.auxiliary is None:
        return base
    return base.retargeted(args.auxiliary, args.strength, args.mode, positive=args.positive)


def reference(classifier: AttributeClassifier, model: DenoiserModel) -> QualityReference:
    """The training set on a classifier's features."""
    real = open_dataset(str(model.recipe["data"]), resolution=model.image_shape[1])
    rows = (real.read(range(i, min(i + BATCH, len(real)))) for i in range(0, len(real), BATCH))
    return QualityReference(features=features_of(classifier, rows), weights=None)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--classifiers", nargs="+", default=["emoji-gender", "emoji-skin-tone"])
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--auxiliary")
    parser.add_argument("--positive")
    parser.add_argument("--strength", type=float, default=1.0)
    parser.add_argument("--mode", choices=["merged", "guided"], default="merged")
    parser.add_argument("--precision", default=fastest_precision(torch.device("cpu")))
    parser.add_argument("--few", action="store_true")
    args = parser.parse_args(arguments)
    classifiers = [load_classifier(name) for name in args.classifiers]
    seeds = range(FIRST_SEED, FIRST_SEED + args.images)
    references = [reference(c, opened(args, SAMPLERS[0])) for c in classifiers]
    first: list[np.ndarray] = []
    exact = torch.empty(0)
    for sampler in FEW if args.few else SAMPLERS:
        model = opened(args, sampler)
        images = torch.cat(list(model.images([seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)])))
        parts = torch.split(images, BATCH)
        predicted = [label_batches(c, parts).argmax(axis=1) for c in classifiers]
        if not first:
            first, exact = predicted, images.float()
        off = float((images.float() - exact).square().mean().sqrt())
        same = "/".join(f"{(p == f).mean():.3f}" for p, f in zip(predicted, first, strict=True))
        share = (predicted[0] == len(classifiers[0].attribute.classes) - 1).mean()
        quality = []
        for classifier, real in zip(classifiers, references, strict=True):
            found = real.measure(features_of(classifier, parts), min(len(images), len(real.features)))
            quality.append(f"FD {found['fd_reference']:.3f} P {found['precision']:.3f} R {found['recall']:.3f}")
        name = f"{sampler.solver:<8} {sampler.steps:>2} {sampler.schedule:<10}"
        facts = f"{name} {model.evaluations_per_image:>3} evaluations"
        print(
            f"{facts}  share {share:.3f}  same class {same}  off {off:4.1f}  {'  '.join(quality)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
