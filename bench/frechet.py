"""The Fréchet distance against `scipy.linalg.sqrtm`, and the memory of a pass over features.

    OMP_NUM_THREADS=1 python bench/frechet.py [--width 2048] [--repeats 3] [--rows 10000 100000]

Paired in one process, in turn: what every comparison costs once the reference's root is known, the usual recipe on the
same two means and covariances, and a group of 1,000 images. Prints ratios of the processors' time (that of the clock in
brackets), the limits they are held against, and how far the values are apart: 1e-5 for a group, whose product of
covariances has no inverse, which is where `sqrtm` loses digits. Then the peak memory of a process that takes moments of
so many rows, each in a process of its own.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy.linalg import sqrtm

from fairsims.audit.quality import FrechetReference, Moments, frechet_distance, moments_of

FULL_LIMIT, GROUP_LIMIT = 15, 50
GROUP = 1000


def features(n: int, width: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    """Correlated features whose variances fall by a power law, about as those of image networks do."""
    rng, scale = np.random.default_rng(seed), np.arange(1, width + 1) ** -0.75
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]
    return np.asarray((rng.normal(size=(n, width)) * scale + shift * scale) @ turn)


def by_sqrtm(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    return float(((m1 - m2) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * np.trace(np.real(sqrtm(s1 @ s2))))


def timed(work: Callable[[], float]) -> tuple[float, float, float]:
    """Value, seconds of the processors, seconds of the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    value = work()
    return value, time.process_time() - cpu, time.perf_counter() - clock


def compare(name: str, limit: int, ours: Callable[[], float], theirs: Callable[[], float], repeats: int) -> None:
    ours()
    rows = []
    for _ in range(repeats):
        value, cpu, clock = timed(ours)
        expected, their_cpu, their_clock = timed(theirs)
        rows.append((their_cpu / cpu, their_clock / clock, cpu, their_cpu, abs(value / expected - 1)))
    ratio, clock_ratio, cpu, their_cpu, apart = (statistics.median(column) for column in zip(*rows, strict=True))
    least, most = min(r[0] for r in rows), max(r[0] for r in rows)
    print(
        f"{name:<28} sqrtm / ours {ratio:6.1f} [{least:.1f}, {most:.1f}] (clock {clock_ratio:.1f}), wanted >= {limit}: "
        f"{'yes' if ratio >= limit else 'NO'}; {cpu:.2f} s against {their_cpu:.1f} s, {apart:.1e} apart",
        flush=True,
    )


def peak(rows: int, width: int) -> float:
    """Peak memory in MB of a process that takes the moments of so many rows, 256 at a time."""
    found = subprocess.run(
        [sys.executable, __file__, "--stream", str(rows), "--width", str(width)], capture_output=True, check=True
    )
    return float(found.stdout)


def stream(rows: int, width: int) -> None:
    rng, moments = np.random.default_rng(0), Moments()
    for start in range(0, rows, 256):
        moments.update(rng.standard_normal((min(256, rows - start), width), dtype=np.float32))
    moments.cov.trace()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs=2, default=[10_000, 100_000])
    parser.add_argument("--stream", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.stream is not None:
        stream(args.stream, args.width)
        return
    reference = FrechetReference.of(moments_of(features(5 * args.width, args.width, 1)))
    for name, n, limit in (("cached reference", 3 * args.width, FULL_LIMIT), (f"group of {GROUP}", GROUP, GROUP_LIMIT)):
        moments = moments_of(features(n, args.width, 2, shift=0.1))
        theirs = partial(by_sqrtm, reference.mean, reference.cov, moments.mean, moments.cov)
        compare(f"{name}, d = {args.width}", limit, partial(frechet_distance, reference, moments), theirs, args.repeats)
    few, many = (peak(n, args.width) for n in args.rows)
    print(f"peak memory of {args.rows[0]:,} rows {few:.0f} MB, of {args.rows[1]:,} {many:.0f} MB: x{many / few:.2f}")


if __name__ == "__main__":
    main()
