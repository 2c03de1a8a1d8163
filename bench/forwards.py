"""What a forward costs by precision, memory layout, compiler and batch: paired measurements in one process, in turn.

    python bench/forwards.py [--model emoji-people-32] [--batches 64 128 256] [--repeats 7] [--compile]

Prints images/s of each way and its median ratio to the plain one (float32, contiguous, eager, the same batch), with
the range over the repeats; and how far one image's output is off when it is computed alone instead of in its batch,
as a part of the output's own size: the rounding that the images of a seed may differ by.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence

import torch
from timing import DEVICE, timed
from torch import Tensor

from fairsims.models import NetworkDenoiser, fastest_precision, open_checkpoint
from fairsims.models.base import compile_networks


def ways(base: NetworkDenoiser, *, compiled: bool) -> dict[str, NetworkDenoiser]:
    """The network in every way, by name; the plain one first."""
    found = {}
    for precision in dict.fromkeys(["float32", fastest_precision(DEVICE)]):
        for layout in (torch.contiguous_format, torch.channels_last):
            for compile_it in (False, True) if compiled else (False,):
                network = copy.deepcopy(base).to(memory_format=layout)
                network.precision = precision
                if compile_it:
                    compile_networks(network)
                name = f"{precision} {str(layout).rpartition('.')[2]:<17} {'compiled' if compile_it else 'eager'}"
                found[name] = network
    return found


def off_alone(network: NetworkDenoiser, x: Tensor, sigma: Tensor) -> float:
    """How far the output of the first image alone is from that in its batch, relative to its root mean square."""
    together, alone = network(x, sigma)[:1], network(x[:1], sigma)
    return float((together - alone).abs().max() / together.square().mean().sqrt())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-people-32")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 128, 256])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="Also with torch.compile.")
    args = parser.parse_args(arguments)
    base = open_checkpoint(args.model).network.to(DEVICE)
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{DEVICE}, {capability}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for batch in args.batches:
        x, sigma = torch.randn(batch, *base.shape, device=DEVICE), torch.ones((), device=DEVICE)
        with torch.inference_mode():
            networks = ways(base, compiled=args.compile)
            for network in networks.values():
                network(x, sigma)
            rows = [{k: timed(lambda n=n: n(x, sigma)) for k, n in networks.items()} for _ in range(args.repeats)]  # type: ignore[misc]
            plain = next(iter(networks))
            for name, network in networks.items():
                ratios = sorted(r[plain] / r[name] for r in rows)
                rate = batch / statistics.median(r[name] for r in rows)
                print(
                    f"batch {batch:>4}  {name:<36} {rate:7.0f} images/s  {statistics.median(ratios):.2f}x "
                    f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]  off alone {off_alone(network, x, sigma):.1e}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
