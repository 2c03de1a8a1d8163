"""How much of a pool's time is the network: `generate()` and `write_pool()` against the raw forwards they contain.

    python bench/sampling.py [--model emoji-people-32] [--images 512] [--repeats 5]

Prints the median over paired runs, raw forwards and sampling in turn, as ratios (1.00 = no overhead), for float32 and,
where the machine has it, bfloat16; then guided against base. Absolute rates are shown for orientation only.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fairsims.denoisers import SIMSGuidance, fastest_precision, load_network
from fairsims.denoisers.base import Denoiser
from fairsims.pools import write_pool
from fairsims.sampling import SamplerConfig, generate
from fairsims.seeds import noise_for


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    base = load_network(args.model)
    sampler = SamplerConfig()
    for precision in dict.fromkeys(["float32", fastest_precision(torch.device("cpu"))]):
        base.precision = precision
        guided = SIMSGuidance(base, base, 1.0)

        def raw(model: Denoiser = base) -> None:
            x, sigma = noise_for(range(args.batch), model.shape), torch.ones(())
            with torch.inference_mode():
                for _ in range(args.images // args.batch * (2 * sampler.steps - 1)):
                    model(x, sigma)

        def sample(model: Denoiser = base) -> None:
            for _ in generate(model, range(args.images), sampler=sampler, batch_size=args.batch):
                pass

        def pool() -> None:
            with tempfile.TemporaryDirectory() as folder:
                for _ in write_pool(Path(folder) / "p", base, range(args.images), made_by={}, batch_size=args.batch):
                    pass

        raw()
        rows = [(timed(raw), timed(sample), timed(pool), timed(lambda: sample(guided))) for _ in range(args.repeats)]
        forwards = args.images * (2 * sampler.steps - 1)
        rate = forwards / statistics.median(r[0] for r in rows)
        print(
            f"{precision}: raw forward {rate:.0f} images/s at batch {args.batch}, "
            f"at most {rate / (2 * sampler.steps - 1):.1f} samples/s"
        )
        for name, k, against in (("generate / raw", 1, 0), ("pool / raw", 2, 0), ("guided / base", 3, 1)):
            ratios = sorted(r[k] / r[against] for r in rows)
            print(f"  {name:<15} {statistics.median(ratios):.3f}  [{ratios[0]:.3f}, {ratios[-1]:.3f}]")


if __name__ == "__main__":
    main()
