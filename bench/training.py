"""What a training step costs beyond the network: `train()` against the raw forward and backward of the same batch.

    python bench/training.py [--model emoji-people-32] [--preset NAME] [--batch 64] [--repeats 5] [--compile]

Paired runs in one process, in turn; prints the median ratio with its range (1.00: Adam, weight average, drawing of
images and noise cost nothing), images/s, and the share of the peak of matrix products that whole steps reach.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from timing import DEVICE, matmul_peak, timed
from torch.utils.flop_counter import FlopCounterMode

from fairsims.data.base import ArraySource, ImageDataset
from fairsims.models import EDMDenoiser, NetworkDenoiser, fastest_precision, open_checkpoint
from fairsims.models.objective import Batch
from fairsims.training import TrainConfig, train
from fairsims.training.augmentation import AUGMENT_DIM
from fairsims.training.base import preset
from fairsims.training.batches import batches


def network(args: argparse.Namespace) -> tuple[NetworkDenoiser, float]:
    """The network and the probability of each distortion that it is trained with."""
    if args.preset is None:
        return open_checkpoint(args.model).network, 0.0
    recipe = preset(args.preset)
    augment = recipe.train.augment
    size, channels = recipe.resolution or 8, 1 if args.preset.startswith("digits") else 3
    told = recipe.network | ({"augment_dim": AUGMENT_DIM} if augment else {})
    return EDMDenoiser(img_resolution=size, img_channels=channels, **told), augment


def noise_images(shape: tuple[int, int, int], n: int = 1024) -> ImageDataset:
    """Images of a shape; their content does not matter to the time."""
    pixels = np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)
    return ImageDataset(
        name="noise",
        digest="",
        resolution=shape[1],
        channels=shape[0],
        source=ArraySource(pixels),
        table=pd.DataFrame(index=range(n)),
        attributes={},
    )


def backward(model: NetworkDenoiser, batch: Batch) -> None:
    model.loss(batch).backward()  # type: ignore[no-untyped-call]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--preset", help="An untrained network of this preset instead.")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2, help="Steps per measurement.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="Also time the network compiled.")
    args = parser.parse_args(arguments)
    base, augment = network(args)
    base, data = base.to(DEVICE), noise_images(base.shape)
    print(f"{sum(p.numel() for p in base.parameters()) / 1e6:.1f} M parameters, {DEVICE}, batch {args.batch}")
    for precision in dict.fromkeys(["float32", fastest_precision(DEVICE)]):
        # A measurement is what happens between two ticks: `steps` steps.
        kimg = args.steps * args.batch / 1000
        config = TrainConfig(
            kimg=kimg * (args.repeats + 1), batch_size=args.batch, tick_kimg=kimg, augment=augment, precision=precision
        )
        base.precision = precision
        alone = copy.deepcopy(base).train().requires_grad_(True)
        batch = next(batches(data, alone, config, first=0, rows=range(args.batch)))
        with FlopCounterMode(display=False) as counter:
            backward(alone, batch)
        flops = counter.get_total_flops() / args.batch

        def raw() -> None:
            for _ in range(args.steps):
                alone.zero_grad(set_to_none=True)
                backward(alone, batch)

        ticks = {"step": train(copy.deepcopy(base), data, config)}
        if args.compile:
            compiled = copy.deepcopy(base)
            compiled.get_submodule("model").compile()
            ticks["compiled"] = train(compiled, data, config)
        work: dict[str, Callable[[], object]] = {"raw": raw} | {k: partial(next, t) for k, t in ticks.items()}
        for run in work.values():
            run()
        rows = [{name: timed(run) for name, run in work.items()} for _ in range(args.repeats)]
        for name, against in itertools.pairwise(work):
            ratios = sorted(r[against] / r[name] for r in rows)
            rate = args.steps * args.batch / statistics.median(r[against] for r in rows)
            print(
                f"  {precision:<8} {against + ' / ' + name:<16} {statistics.median(ratios):.3f}  "
                f"[{ratios[0]:.3f}, {ratios[-1]:.3f}]  {rate:.1f} images/s, "
                f"{rate * flops / matmul_peak(precision):.0%} of matmul peak"
            )


if __name__ == "__main__":
    main()
