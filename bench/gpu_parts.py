"""The parts of `bench/gpu.py`: each gives its cases, with the seconds that one needs at most and what it measures."""

from __future__ import annotations

import contextlib
import copy
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import labelling
import plain
import torch
from timing import DEVICE, matmul_peak, ratio, timed
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from training import noise_images

from fairsims.classifiers import load_classifier
from fairsims.data.latents import LatentSet
from fairsims.errors import FairsimsError, InputError
from fairsims.models import (
    EDMDenoiser,
    Model,
    ModelSpec,
    NetworkDenoiser,
    PipelineModel,
    Prompting,
    open_model,
    save_checkpoint,
)
from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.base import Trainable, compile_networks
from fairsims.models.pipelines import library
from fairsims.models.sampling import SamplerConfig
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retarget import retarget
from fairsims.training import TrainConfig, train
from fairsims.training.adapters import adapter_settings
from fairsims.training.base import new_network, preset, train_base

Case = tuple[str, float, Callable[[], dict[str, Any]]]
"""Its name, the seconds it needs, what measures it."""


class Unable(Exception):
    """This machine cannot do a case, and why."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large everything is: as published, or tiny."""

    presets: tuple[str, ...] = ("cifar10", "ffhq64")
    network: dict[str, Any] = field(default_factory=dict)
    """Arguments that take the place of a preset's."""
    resolution: int | None = None
    batch: int = 128
    batches: tuple[int, ...] = (32, 64, 256, 512)
    steps: int = 5
    """Noise levels of the sampler: what an evaluation costs does not hang on them."""
    repeats: int = 5
    images: int = 4096
    """To label."""
    inception: tuple[int, int] = (64, 299)
    """Batch and side."""
    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    text: tuple[int, int] = (768, 12)
    """Width and layers of the text encoder."""
    latents: int = 64
    adapter_batches: tuple[int, ...] = (1, 4, 8)
    emoji: dict[str, Any] = field(default_factory=dict)
    emoji_resolution: int = 64
    train_seconds: float = 35
    train_kimg: tuple[float, float] = (5, 300)
    retargeted: str | None = None
    """Checkpoint to retarget; the base that was trained just before by default."""
    run: dict[str, Any] = field(
        default_factory=lambda: {
            "pool": 2048,
            "audit": 2048,
            "budget": 6.4,
            "batch_size": 128,
            "steps": 10,
            "sample_batch": 512,
        }
    )

    @classmethod
    def tiny(cls) -> Sizes:
        """For a CPU and a test."""
        small = {"model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
        return cls(
            presets=("cifar10",),
            network=small,
            resolution=8,
            batch=4,
            batches=(2,),
            steps=2,
            repeats=1,
            images=32,
            inception=(1, 75),
            unet=(8, 8, 8, 8),
            text=(16, 1),
            latents=8,
            adapter_batches=(1,),
            emoji=small | {"patch_size": 4},
            emoji_resolution=32,
            train_seconds=1,
            train_kimg=(0.064, 0.064),
            retargeted="emoji-people-32",
            run={"pool": 200, "audit": 50, "budget": 0.064, "batch_size": 16, "steps": 4, "calibration": 50},
        )


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


def memory() -> dict[str, Any]:
    """The most that was held on a GPU since it was last asked."""
    if DEVICE.type != "cuda":
        return {}
    most = torch.cuda.max_memory_allocated() / 2**30
    torch.cuda.reset_peak_memory_stats()
    return {"peak GiB": most}


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


def adapter(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """An adapter on a UNet of Stable Diffusion's size, on latents of 512 x 512 pixels: steps of its training, sampling.

    UNet, text encoder and scheduler have the published configuration, weights at random; the decoder is a small one.
    """
    opened: list[PipelineModel] = []

    def opening() -> dict[str, Any]:
        began = time.perf_counter()
        opened.append(opened_pipeline(scratch / "pipeline", sizes))
        size = sum(p.numel() for p in opened[0].pipeline.network.parameters())
        return {"M parameters": size / 1e6, "seconds": time.perf_counter() - began}

    def on(measure: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
        if not opened:
            raise Unable("no pipeline was made")
        return measure(opened[0], *given)

    yield "made and opened", 20, opening
    for batch in sizes.adapter_batches:
        yield f"LoRA of rank 16, batch {batch}", 8, partial(on, adapter_steps, batch, False, sizes)
    last = sizes.adapter_batches[-1]
    yield f"LoRA of rank 16, batch {last}, checkpointing", 10, partial(on, adapter_steps, last, True, sizes)
    yield f"sampling, guidance 7.5, batch {last}", 10, partial(on, prompted, last)


def opened_pipeline(folder: Path, sizes: Sizes) -> PipelineModel:
    try:
        make_pipeline(folder, sizes)
        prompting = Prompting(prompts=("a photo of a nurse", ""), steps=10 if sizes.latents > 8 else 2)
        return PipelineModel(ModelSpec(base=str(folder), precision="bfloat16", prompting=prompting))
    except (ImportError, FairsimsError) as e:
        raise Unable(str(e)) from None


def make_pipeline(folder: Path, sizes: Sizes) -> None:
    """A folder of a Stable Diffusion pipeline of random weights."""
    diffusers = library()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = list(string.ascii_lowercase)
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77)
    width, layers = sizes.text
    told = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(DEVICE):
        unet = diffusers.UNet2DConditionModel(
            sample_size=sizes.latents,
            block_out_channels=sizes.unet,
            cross_attention_dim=width,
            attention_head_dim=8 if sizes.unet[0] > 8 else 2,
            norm_num_groups=32 if sizes.unet[0] > 8 else 4,
        )
        text = CLIPTextModel(told)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=8 * sizes.latents,
        )
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    diffusers.StableDiffusionPipeline(
        unet=unet.to(torch.bfloat16),
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(**levels, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def adapter_steps(model: PipelineModel, batch: int, checkpointing: bool, sizes: Sizes) -> dict[str, Any]:
    memory()
    shape = model.noise_shape
    latents = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    data = LatentSet(name="noise", digest="", latents=latents, conditions=torch.arange(64) % 2)
    tick = 2 * batch / 1000
    config = adapter_settings(model, tick * 1000, batch_size=batch, tick_kimg=tick, state_kimg=tick)
    network: Trainable = model.trainable(AdapterConfig(checkpointing=checkpointing))
    try:
        ticks = train(network, data, config)
        next(ticks)
        seconds = min(timed(lambda: next(ticks)) for _ in range(sizes.repeats)) / 2
        trained = sum(p.numel() for p in network.parameters())
    finally:
        network.detach()  # type: ignore[operator]
    found = {"batch": batch, "steps/s": 1 / seconds, "images/s": batch / seconds}
    return found | {"M trained": trained / 1e6} | memory()


def prompted(model: PipelineModel, batch: int) -> dict[str, Any]:
    seeds = [range(batch)]
    list(model.images(seeds))
    seconds = timed(lambda: list(model.images(seeds)))
    return {"batch": batch, "evaluations/s": batch * model.evaluations_per_image / seconds} | memory()


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
