"""The parts of `bench/gpu.py`: each gives its cases, with the seconds that one needs at most and what it measures."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import labelling
import plain
import torch
from gpu_adapter import adapter
from gpu_cases import Case, Sizes, Unable, memory
from timing import DEVICE, matmul_peak, ratio, timed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training import noise_images

from fairsims.classifiers import load_classifier
from fairsims.errors import FairsimsError, InputError
from fairsims.models import (
    EDMDenoiser,
    Model,
    ModelSpec,
    NetworkDenoiser,
    open_model,
    save_checkpoint,
)
from fairsims.models.base import compile_networks
from fairsims.models.sampling import SamplerConfig
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.training import TrainConfig, train
from fairsims.training.base import new_network, preset, train_base


@contextlib.contextmanager
def tf32(matmul: bool, convolution: bool) -> Iterator[None]:
    """Whether float32 products may be made in TF32."""
    cuda, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = cuda.allow_tf32, cudnn.allow_tf32
    cuda.allow_tf32, cudnn.allow_tf32 = matmul, convolution
    try:
        yield
    finally:
        cuda.allow_tf32, cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Way:
    """How a network computes."""

    name: str
    precision: str = "float32"
    tf32: tuple[bool, bool] = (False, True)
    """Of matrix products and of convolutions; PyTorch's own choice by default."""
    last: bool = False
    """Channels last in memory."""
    special: str = ""

    @property
    def peak(self) -> float:
        """FLOP/s of a large matrix product of this kind."""
        return peak(self.precision, any(self.tf32))

    def of(self, network: NetworkDenoiser) -> NetworkDenoiser:
        """A copy of the network that computes so."""
        if DEVICE.type == "cpu" and (self.name == "TF32" or self.special):
            raise Unable("needs a GPU" if self.special != "compiled" else "takes a minute on a CPU")
        made = copy.deepcopy(network)
        if self.last:
            made = made.to(memory_format=torch.channels_last)
        made.precision = self.precision
        if self.special == "compiled":
            try:
                compile_networks(made)
            except InputError as e:
                raise Unable(str(e)) from None
        return made


WAYS = (
    Way("float32", tf32=(False, False)),
    Way("float32 as PyTorch has it"),
    Way("TF32", tf32=(True, True)),
    Way("bfloat16", "bfloat16"),
    Way("float32 as PyTorch has it, channels last", last=True),
    Way("bfloat16, channels last", "bfloat16", last=True),
    Way("bfloat16, channels last, CUDA graph", "bfloat16", last=True, special="graph"),
    Way("bfloat16, channels last, compiled", "bfloat16", last=True, special="compiled"),
)
BEST = WAYS[5]
FAIRSIMS = WAYS[3]
"""What fairsims does by default on a GPU."""


@cache
def peak(precision: str, products: bool) -> float:
    with tf32(products, products):
        return matmul_peak(precision)


def peaks(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """The matrix products that all else is held against."""
    for way in (WAYS[0], WAYS[2], WAYS[3]):
        yield way.name, 3, lambda: {"TFLOP/s": way.peak / 1e12}


def base(sizes: Sizes, name: str) -> tuple[NetworkDenoiser, float]:
    """An untrained network of a preset, and the FLOP of one image's forward."""
    recipe = preset(name)
    side = sizes.resolution or recipe.resolution or 8
    torch.manual_seed(0)
    with torch.device(DEVICE):
        made = EDMDenoiser(img_resolution=side, img_channels=3, **(recipe.network | sizes.network))
    made = made.to(DEVICE).eval().requires_grad_(False)
    x = torch.randn(1, *made.shape, device=DEVICE)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        made(x, torch.ones((), device=DEVICE))
    return made, float(counter.get_total_flops())


def sampling(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """Forwards of each network in every way, and what sampling costs beyond them."""
    opened = {name: base(sizes, name) for name in sizes.presets}
    for name, (network, flops) in opened.items():
        for way in WAYS[:-1]:
            yield f"{name}, {way.name}", 6, partial(forwards, network, flops, way, sizes.batch, sizes.repeats)
    for name, (network, flops) in opened.items():
        folder = scratch / name
        save_checkpoint(folder, network, recipe={})
        yield f"{name}, fairsims / plain loop", 12, partial(against_plain, folder, network, sizes)
        yield f"{name}, guided and merged", 15, partial(combined, folder, sizes)
        for batch in sizes.batches:
            yield f"{name}, {BEST.name}", 4, partial(forwards, network, flops, BEST, batch, sizes.repeats)
    for name, (network, flops) in opened.items():
        yield f"{name}, {WAYS[-1].name}", 45, partial(forwards, network, flops, WAYS[-1], sizes.batch, sizes.repeats)


def forwards(network: NetworkDenoiser, flops: float, way: Way, batch: int, repeats: int) -> dict[str, Any]:
    made = way.of(network)
    x, sigma = torch.randn(batch, *made.shape, device=DEVICE), torch.ones((), device=DEVICE)
    if way.last:
        x = x.to(memory_format=torch.channels_last)
    with tf32(*way.tf32), torch.inference_mode():
        run = captured(made, x, sigma) if way.special == "graph" else partial(made, x, sigma)
        for _ in range(2):
            run()
        seconds = min(timed(run) for _ in range(repeats))
    return {"batch": batch, "evaluations/s": batch / seconds, "of peak": batch / seconds * flops / way.peak}


def captured(network: NetworkDenoiser, x: Tensor, sigma: Tensor) -> Callable[[], object]:
    """A forward as a CUDA graph."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            network(x, sigma)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            network(x, sigma)
    except RuntimeError as e:
        raise Unable(f"cannot be captured: {str(e).splitlines()[0][:120]}") from None
    return graph.replay


def sampled(folder: Path, sizes: Sizes) -> ModelSpec:
    sampler = SamplerConfig(solver="heun", steps=sizes.steps)
    return ModelSpec(base=str(folder), sampler=sampler, precision="bfloat16", batch_size=sizes.batch)


def against_plain(folder: Path, network: NetworkDenoiser, sizes: Sizes) -> dict[str, Any]:
    """Images from seeds, two batches, against the paper's loop over the same network. Wanted: 1.05 at most."""
    model, made = open_model(sampled(folder, sizes)), FAIRSIMS.of(network)
    shape, steps = (sizes.batch, *made.shape), sizes.steps

    def ours() -> None:
        list(model.images([range(sizes.batch), range(sizes.batch, 2 * sizes.batch)]))

    def papers() -> None:
        for _ in range(2):
            plain.sample(made, shape, DEVICE, steps)

    found, seconds = ratio(ours, papers, sizes.repeats)
    rate = 2 * sizes.batch / seconds
    return {"batch": sizes.batch, "evaluations/s": rate * (2 * steps - 1), "overhead": found, "limit": 1.05}


def combined(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """What guiding and merging cost beside the base. The base stands in for the auxiliary."""
    model = open_model(sampled(folder, sizes))
    seeds = [range(sizes.batch)]
    found: dict[str, Any] = {"batch": sizes.batch}
    for mode in ("guided", "merged"):
        other = model.retargeted(folder, 1.0, mode)
        found[f"{mode} / base"], _ = ratio(partial(sample, other, seeds), partial(sample, model, seeds), sizes.repeats)
    return found


def sample(model: Model, seeds: list[range]) -> None:
    for _ in model.images(seeds):
        pass


def training(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """Steps of `train()` in every way, against the paper's loop over the same network."""
    opened = {name: base(sizes, name) for name in sizes.presets}
    ways = [WAYS[0], WAYS[2], WAYS[3], BEST]
    for name, (network, flops) in opened.items():
        for way in ways:
            yield f"{name}, {way.name}", 10, partial(steps, network, flops, way, sizes.batch // 2, sizes.repeats)
    for name, (network, flops) in opened.items():
        yield f"{name}, {BEST.name}", 10, partial(steps, network, flops, BEST, sizes.batch * 2, sizes.repeats)
        yield f"{name}, {WAYS[-1].name}", 60, partial(steps, network, flops, WAYS[-1], sizes.batch // 2, sizes.repeats)


def steps(network: NetworkDenoiser, flops: float, way: Way, batch: int, repeats: int) -> dict[str, Any]:
    data, each = noise_images(network.shape), 2
    kimg = each * batch / 1000
    config = TrainConfig(
        kimg=kimg * 1000, batch_size=batch, tick_kimg=kimg, state_kimg=kimg, precision=way.precision, lr=1e-4
    )
    with tf32(*way.tf32):
        ours = train(way.of(network), data, config)
        theirs = plain.training(way.of(network), data.read(range(len(data))).to(DEVICE), batch)

        def papers() -> None:
            for _ in range(each):
                next(theirs)

        found, seconds = ratio(lambda: next(ours), papers, repeats)
    rate = each * batch / seconds
    # A step is a forward and a backward of twice its products.
    used = rate * 3 * flops / way.peak
    return {"batch": batch, "images/s": rate, "of peak": used, "overhead": found, "limit": 1.05} | memory()


def labels(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """Labelling from disk, and features of a network of Inception's size."""
    for name, side, classifier in (
        ("emoji-gender, 32 px", 32, lambda: load_classifier("emoji-gender")),
        ("ResNet-18 of random weights, 64 px", 64, labelling.ResNet18),
    ):
        yield name, 12, partial(labelled, scratch / f"pool-{side}", side, classifier, sizes)
    batch, side = sizes.inception
    yield f"Inception-v3 of random weights, {side} px", 8, partial(inception, batch, side, sizes.repeats)


def labelled(folder: Path, side: int, classifier: Callable[[], Any], sizes: Sizes) -> dict[str, Any]:
    pool = labelling.make_pool(folder, side, sizes.images)
    forward, whole, _ = labelling.times_of(classifier(), pool, min(256, sizes.images), max(1, sizes.repeats // 2))
    return {"images/s": sizes.images / min(whole), "of the forwards alone": min(forward) / min(whole)}


def inception(batch: int, side: int, repeats: int) -> dict[str, Any]:
    """As features are made: in float32 without TF32, which would hang on the GPU's generation."""
    from torchvision.models import inception_v3

    network = inception_v3(weights=None, init_weights=False, aux_logits=False).eval().to(DEVICE)
    x = torch.randn(batch, 3, side, side, device=DEVICE)
    with tf32(False, False), torch.inference_mode():
        network(x)
        seconds = min(timed(lambda: network(x)) for _ in range(repeats))
    return {"batch": batch, "images/s": batch / seconds}


def emoji(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """The recipe emoji-people-64 in small: train a base, retarget it, audit it."""
    yield "train", sizes.train_seconds + 5, partial(trained, scratch / "base", sizes)
    yield "retarget to half women, audit", 25, partial(retargeted, scratch, sizes)


def trained(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """As long as there is time for, by the rate of a few steps."""
    recipe = preset("emoji-people-64")
    batch = recipe.train.batch_size if sizes.train_seconds > 5 else 16
    data = noise_images((3, sizes.emoji_resolution, sizes.emoji_resolution))
    quick = TrainConfig(kimg=batch * 100 / 1000, batch_size=batch, tick_kimg=4 * batch / 1000, precision="bfloat16")
    ticks = train(new_network(data, quick, recipe.network | sizes.emoji), data, quick)
    next(ticks)
    rate = 4 * batch / timed(lambda: next(ticks))
    least, most = sizes.train_kimg
    kimg = min(max(rate * sizes.train_seconds / 1000, least), most)
    settings = {"kimg": kimg, "batch_size": batch, "warmup_kimg": kimg / 20, "ema_halflife_kimg": kimg / 20}
    settings |= {"tick_kimg": kimg / 8, "state_kimg": kimg}
    began, loss = time.perf_counter(), 0.0
    for tick in train_base(
        folder, preset_name="emoji-people-64", resolution=sizes.emoji_resolution, network=sizes.emoji, settings=settings
    ):
        loss = tick.loss
    seconds = time.perf_counter() - began
    return {"kimg": kimg, "seconds": seconds, "images/s": kimg * 1000 / seconds, "loss": loss}


def retargeted(scratch: Path, sizes: Sizes) -> dict[str, Any]:
    """`fairsims retarget`; a base of so little training may not be able to, which is told."""
    base = sizes.retargeted or str(scratch / "base")
    if sizes.retargeted is None and not (scratch / "base" / "config.json").exists():
        raise Unable("no base was trained")
    config = RetargetConfig(
        model=base,
        attr="gender",
        target="0.5",
        mode="merged",
        others=False,
        precision="bfloat16",
        lr=1e-4,
        **sizes.run,
    )
    began = time.perf_counter()
    try:
        found = retarget(prepare(config), scratch / "run")
    except FairsimsError as e:
        raise Unable(str(e)) from None
    result: dict[str, Any] = {"seconds": time.perf_counter() - began, "strength": found.strength}
    for side in ("before", "after"):
        result[f"women {side}"] = getattr(found.main, side)["woman"].share
    return result


PARTS: dict[str, Callable[[Sizes, Path], Iterator[Case]]] = {
    "peak": peaks,
    "sampling": sampling,
    "training": training,
    "labelling": labels,
    "adapter": adapter,
    "emoji": emoji,
}
