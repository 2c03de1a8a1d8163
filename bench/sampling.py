"""What sampling costs beyond the network: images (generate), pools, guidance and merging against raw forwards.

    python bench/sampling.py [--model emoji-people-32] [--batch 256] [--batches 1] [--steps 4] [--repeats 5] [--compile]

Paired runs in one process, in turn; prints the median ratio with its range, and the share of the peak of matrix
products that the raw network reaches. Limits that it should keep: generate / raw at most 1.05, guided / generate at
most 2.05, guided inside an interval at most 1.35 (at the default of 12 steps), merged / generate 1.00.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from timing import DEVICE, matmul_peak, timed
from torch.utils.flop_counter import FlopCounterMode

from fairsims.models import Model, ModelSpec, fastest_precision, open_model
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import write_pool
from fairsims.seeds import noise_for

INTERVAL = (1.0, 20.0)
"""Where the auxiliary is needed on emoji people (docs/log.md)."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="Also time the network compiled.")
    args = parser.parse_args(arguments)
    spec = ModelSpec(base=args.model, sampler=SamplerConfig(steps=args.steps), batch_size=args.batch)
    calls = (2 * args.steps - 1) * args.batches
    forwards = calls * args.batch
    cut = [range(start, start + args.batch) for start in range(0, args.batches * args.batch, args.batch)]
    network = open_model(spec).denoiser
    x = noise_for(range(args.batch), network.shape).to(DEVICE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(x[:1], torch.ones((), device=DEVICE))
    flops = counter.get_total_flops()

    def raw() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                base.denoiser(x, torch.ones((), device=DEVICE))

    def sample(model: Model) -> Callable[[], object]:
        return lambda: [None for _ in model.images(cut)]

    def pool() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for _ in write_pool(Path(folder) / "p", base, range(args.batches * args.batch)):
                pass

    for precision in dict.fromkeys(["float32", fastest_precision(DEVICE)]):
        base = open_model(replace(spec, precision=precision))
        inside = base.retargeted(args.model, 1.0, "guided", INTERVAL)
        work: dict[str, Callable[[], object]] = {
            "raw": raw,
            "generate": sample(base),
            "pool": pool,
            "guided": sample(base.retargeted(args.model, 1.0, "guided")),
            "interval": sample(inside),
            "merged": sample(base.retargeted(args.model, 1.0, "merged")),
        }
        if args.compile:
            work["compiled"] = sample(open_model(replace(spec, precision=precision, compiled=True)))
        for run in work.values():
            run()
        rows = [{name: timed(run) for name, run in work.items()} for _ in range(args.repeats)]
        rate = forwards / statistics.median(r["raw"] for r in rows)
        share = rate * flops / matmul_peak(precision)
        print(f"{DEVICE}, {precision}, batch {args.batch}: raw forward {rate:.0f} images/s, {share:.0%} of matmul peak")
        nfe = inside.evaluations_per_image / base.evaluations_per_image
        for name in ("generate", "pool", "guided", "interval", "merged", "compiled"):
            if name in work:
                against = "raw" if name == "generate" else "generate"
                ratios = sorted(r[name] / r[against] for r in rows)
                note = f"  ({nfe:.2f} times the forwards)" if name == "interval" else ""
                print(
                    f"  {name + ' / ' + against:<22} {statistics.median(ratios):.3f}  "
                    f"[{ratios[0]:.3f}, {ratios[-1]:.3f}]{note}"
                )


if __name__ == "__main__":
    main()
