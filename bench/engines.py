"""What Ray costs: the same pool by two array jobs at once, and by Ray with two workers, in turn.

    python bench/engines.py [--images 20480] [--steps 18] [--pairs 2]

Prints the wall time of each, with starting and ending, the seconds to the first finished shard, and the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path


def run(commands: Sequence[Sequence[str]], out: Path) -> tuple[float, float]:
    """Seconds until all commands have ended, and until the first shard is there."""
    start, first = time.perf_counter(), 0.0
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(c, env=environment, stdout=subprocess.DEVNULL) for c in commands]
    while any(process.poll() is None for process in running):
        if not first and list(out.glob("shard-*")):
            first = time.perf_counter() - start
        time.sleep(0.02)
    if any(process.returncode for process in running):
        raise SystemExit("a process failed; its own message says why")
    total = time.perf_counter() - start
    return total, first or total


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_480)
    parser.add_argument("--steps", type=int, default=18)
    parser.add_argument("--pairs", type=int, default=2)
    args = parser.parse_args(arguments)
    made = [sys.executable, "-m", "fairsims", "generate", "--model", "digits-8", "--steps", str(args.steps)]
    made += ["--seeds", f"0-{args.images - 1}", "--precision", "float32"]
    ratios = []
    with tempfile.TemporaryDirectory() as place:
        for pair in range(args.pairs):
            plain, ray = (Path(place) / f"{name}-{pair}" for name in ("plain", "ray"))
            jobs = [[*made, "--out", str(plain), "--shards", f"{k}/2"] for k in (1, 2)]
            one = [[*made, "--out", str(ray), "--engine", "ray"]]
            found = {}
            # The one that comes first gets the colder machine.
            for name, commands, out in [("plain", jobs, plain), ("ray", one, ray)][:: 1 if pair % 2 else -1]:
                found[name] = run(commands, out)
                print(f"{name:<6} {found[name][0]:8.1f} s, first shard after {found[name][1]:6.1f} s")
            ratios.append(found["ray"][0] / found["plain"][0])
    print(f"Ray / two processes: {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")


if __name__ == "__main__":
    main()
