"""What the main job costs beyond its networks: wall time of each stage against its forwards and backwards alone.

    python bench/main_job.py [--out FOLDER] [--model NAME] [--attr NAME] [--target T] [--precision P] [--seed N] ...

Carries out `fairsims retarget` with these settings (the others at their defaults) and measures in the same process what
one forward of the base and one training step cost in batches of the run's size, before and after the run. Prints, for
each stage, its seconds, its images and network evaluations, what these cost alone, and the ratio; with the peak memory.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import DEVICE, timed

from fairsims.models.objective import Batch
from fairsims.report.publish import publish
from fairsims.report.terminal import terminal_table
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.retarget.retargeting import Retargeting
from fairsims.seeds import noise_for

TRAINED = ("auxiliary", "positive")


def forward_seconds(work: Retargeting) -> float:
    """Of one image, in batches as they are sampled."""
    denoiser, size = work.model.denoiser, work.config.sample_batch
    x, sigma = noise_for(range(size), work.model.noise_shape).to(DEVICE), torch.ones((), device=DEVICE)
    with torch.inference_mode():
        denoiser(x, sigma)
        return statistics.median(timed(lambda: denoiser(x, sigma)) for _ in range(9)) / size


def step_seconds(work: Retargeting) -> float:
    """Of one image's forward and backward, in batches as they are trained on."""
    network, size = work.model.trainable().train().requires_grad_(True), work.config.batch_size
    network.precision = work.config.precision
    images = noise_for(range(size), work.model.noise_shape).to(DEVICE)
    batch = Batch(images=images.clamp(-1, 1), sigma=torch.ones(size, device=DEVICE), noise=images)

    def step() -> None:
        network.zero_grad(set_to_none=True)
        network.loss(batch).backward()  # type: ignore[no-untyped-call]

    step()
    return statistics.median(timed(step) for _ in range(9)) / size


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Run folder; a temporary one by default.")
    parser.add_argument("--model", default=RetargetConfig.model)
    parser.add_argument("--attr", default="gender")
    parser.add_argument("--target", default="0.5")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("mode", "precision", "solver"):
        parser.add_argument(f"--{name}")
    for name in ("pool", "audit", "steps", "calibration"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--budget", type=float)
    args = parser.parse_args(arguments)
    given = {k: v for k, v in vars(args).items() if k != "out" and v is not None}
    with tempfile.TemporaryDirectory() as place:
        folder = args.out or Path(place) / "run"
        began = time.perf_counter()
        work = prepare(RetargetConfig(**given))
        opened = time.perf_counter() - began
        raw = [(forward_seconds(work), step_seconds(work))]
        result = retarget(work, folder, publish=publish)
        raw.append((forward_seconds(work), step_seconds(work)))
        wall = time.perf_counter() - began
        status = work.run.seconds
    forward, step = (statistics.mean(r[k] for r in raw) for k in (0, 1))
    print(terminal_table(result))
    cores = torch.get_num_threads()
    print(f"\n{platform.processor() or platform.machine()}, {cores} threads, {DEVICE}, {work.config.precision}")
    print(f"forward {1 / forward:.0f} images/s, forward and backward {1 / step:.0f} images/s\n")
    print(f"{'stage':<16}{'seconds':>9}{'images':>9}{'evaluations':>13}{'alone':>9}{'ratio':>8}")
    assert result.cost is not None
    counted, total = {s.stage: s for s in result.cost.stages}, 0.0
    for name, seconds in ({"opening": opened} | status).items():
        stage = counted.get(name)
        images, evaluations = (None, None) if stage is None else (stage.images, stage.evaluations)
        trained = name.split("-")[0] in TRAINED
        alone = (images or 0) * step if trained else (evaluations or 0) * forward
        total += alone
        ratio = f"{seconds / alone:>8.2f}" if alone else ""
        print(f"{name:<16}{seconds:>9.1f}{images or '':>9}{evaluations or '':>13}{alone:>9.1f}{ratio}")
    print(f"{'all':<16}{sum(status.values()) + opened:>9.1f}{'':>22}{total:>9.1f}{wall / total:>8.2f}")
    print(f"wall {wall:.1f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
