"""What the benchmarks share: wall time of a piece of work and the matrix products that the machine can do at best."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes, with everything that it left to a GPU."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def matmul_peak(precision: str) -> float:
    """FLOP/s of a large square matrix product: the hardware limit that networks are held against."""
    size = 8192 if DEVICE.type == "cuda" else 1024
    a = torch.randn(size, size, device=DEVICE, dtype=getattr(torch, precision))
    a @ a
    return 2 * size**3 / min(timed(lambda: a @ a) for _ in range(5))


def ratio(work: Callable[[], object], against: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The median of how many times as long `work` takes, run in turn after one of each; and its least seconds."""
    work(), against()
    pairs = [(timed(work), timed(against)) for _ in range(repeats)]
    return statistics.median(a / b for a, b in pairs), min(a for a, _ in pairs)
