"""Power-function averages of weights, and their reconstruction at any width after the training.

Karras et al. 2024 (arXiv 2312.02696), section 3 and appendix C: at time t, counted in images, the weights of an earlier
time s count as s^gamma. The profile's standard deviation relative to t names it: 0.1 is an average over about the last
tenth. Averages of two widths, saved now and then, give by least squares one of any other width.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.models.base import NetworkDenoiser
from fairsims.models.edm_pickle import read_snapshot
from fairsims.models.folders import read_network, save_checkpoint

WIDEST = 0.289
"""Relative widths are below that of a uniform average, 1 / sqrt(12)."""
EDM2_NAME = re.compile(r".*-(\d{7})-(\d\.\d{3})\.pkl")
OUR_NAME = re.compile(r"(\d+)-(\d\.\d+)\.safetensors")


@functools.cache
def exponent(std: float) -> float:
    """gamma of the profile of a relative width (eq. 126): its positive root."""
    inverse = std**-2
    roots = np.roots([1, 7, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def power_beta(std: float, seen: int, batch: int) -> float:
    """How much of an average stays when `seen` images, the last `batch` of them new, are taken in (eq. 127)."""
    return float((1 - batch / seen) ** (exponent(std) + 1))


class Saved(NamedTuple):
    """A power-function average that was saved."""

    seen: float
    """Images seen until then, or any multiple of them."""
    std: float
    path: Path


def coefficients(known: Sequence[tuple[float, float]], seen: float, std: float) -> np.ndarray:
    """Weights of the `known` averages, (images seen, width) each, that come nearest to one of width `std` at `seen`.

    `(len(known),)`, of sum 1 (algorithm 3): least squares between the profiles.
    """
    profiles = [(t, exponent(s)) for t, s in known]
    wanted = (seen, exponent(std))
    a = np.array([[_product(p, q) for q in profiles] for p in profiles])
    b = np.array([_product(p, wanted) for p in profiles])
    found = np.linalg.lstsq(a, b, rcond=None)[0]
    return np.asarray(found / found.sum())


def _product(p: tuple[float, float], q: tuple[float, float]) -> float:
    """The integral of two profiles' product (eq. 151)."""
    (t, gamma), (u, delta) = sorted((p, q))
    return float((gamma + 1) * (delta + 1) / (gamma + delta + 1) * (t / u) ** delta / u)


def average_file(folder: Path, seen: int, std: float) -> Path:
    """Where a training keeps an average."""
    return folder / "averages" / f"{seen:011d}-{std:.4f}.safetensors"


def save_average(path: Path, state: dict[str, Tensor]) -> None:
    """Write an average's weights, whole or not at all."""
    from safetensors.torch import save

    with atomic(path) as temporary:
        temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}))


def reconstruct(sources: Sequence[Path], std: float, out: Path) -> dict[str, Any]:
    """Write the network whose average has the relative width `std` as a checkpoint; what it was made of.

    `sources` are a training's folder with its `averages`, or EDM2 snapshots (.pkl) named `...-KIMG-STD.pkl`; the time
    is that of the last of them. Of snapshots it is rounded to float16, as EDM2 keeps them. Raises InputError.
    """
    if not 0 < std < WIDEST:
        raise InputError(f"the width is {std}; expected more than 0 and less than {WIDEST}")
    if (out / "config.json").exists():
        raise InputError(f"{out} holds a checkpoint already; give a new folder")
    saved = _saved(sources)
    snapshots = saved[0].path.suffix == ".pkl"
    last = max(s.seen for s in saved)
    known = [s for s in saved if s.seen > 0]
    parts = coefficients([(s.seen, s.std) for s in known], last, std)
    if snapshots:
        network, recipe = read_snapshot(known[-1].path)
    else:
        opened = read_network(sources[0])
        network, recipe = opened.network, opened.recipe
    learnt = {name for name, _ in network.named_parameters()}
    total = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in network.named_parameters()}
    for part, s in zip(parts, known, strict=True):
        state = _state(s.path, network)
        for name in learnt:
            total[name] += float(part) * state[name].double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(total[name].half() if snapshots else total[name])
    made = {"width": std, "of": len(known), "seen": last, "coefficients": [round(float(c), 6) for c in parts]}
    save_checkpoint(out, network, recipe=recipe | {"average": made})
    return made


def _saved(sources: Sequence[Path]) -> list[Saved]:
    """The averages in a training's folder, or the named snapshots, the earlier first."""
    found: list[Saved] = []
    for path, pattern in _candidates(sources):
        name = pattern.fullmatch(path.name)
        if name is None:
            raise InputError(f"{path} does not say its time and width; expected a name such as x-0001024-0.100.pkl")
        found.append(Saved(float(name[1]), float(name[2]), path))
    if len(found) < 2 or not all(0 < s.std < WIDEST for s in found):
        raise InputError(
            f"{', '.join(map(str, sources))} has {len(found)} averages of widths below {WIDEST}; expected two: "
            "train with --ema-stds 0.05,0.1, or give several snapshots"
        )
    return sorted(found)


def _candidates(sources: Sequence[Path]) -> Iterator[tuple[Path, re.Pattern[str]]]:
    if len(sources) == 1 and sources[0].is_dir():
        for path in sorted((sources[0] / "averages").glob("*.safetensors")):
            yield path, OUR_NAME
        return
    for path in sources:
        if path.suffix != ".pkl" or not path.is_file():
            raise InputError(f"{path} is no snapshot (.pkl); give the folder of a training, or several EDM2 snapshots")
        yield path, EDM2_NAME


def _state(path: Path, like: NetworkDenoiser) -> dict[str, Tensor]:
    """The weights in a file. Raises InputError where they are not those of such a network."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = read_snapshot(path).denoiser.state_dict() if path.suffix == ".pkl" else load_file(path)
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path} is corrupt ({e}); restore it, or delete it") from None
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in like.state_dict().items()}:
        raise InputError(f"{path} is of another network than the others; give those of one training")
    return state
