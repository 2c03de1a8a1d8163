"""The EDM loss, EMA, and `train()`: a generator of a record per tick. Budgets count images (kimg), not steps."""

from __future__ import annotations

import copy
import io
import json
import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsims.datasets.base import ImageDataset, to_float
from fairsims.denoisers.base import NetworkDenoiser
from fairsims.denoisers.checkpoints import save_checkpoint
from fairsims.denoisers.precondition import PRECISIONS
from fairsims.errors import Diverged, InputError
from fairsims.runs import atomic, read_jsonl, settle_settings, write_text
from fairsims.seeds import derive, numpy_generator, torch_generator


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training or fine-tuning."""

    kimg: float
    """Budget: thousands of images seen."""
    batch_size: int = 64
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    lr_final: float = 0.1
    """Share of `lr` that the cosine decay ends at; 1 keeps it constant."""
    warmup_kimg: float = 0.0
    """Linear ramp of the learning rate. 0 for a fine-tune: a ramp meant for a long run would starve a short one."""
    ema_halflife_kimg: float = 44.0
    """Half-life of the weight average; 0 keeps the raw weights."""
    P_mean: float = -1.2
    """Mean of ln(sigma) in the loss."""
    P_std: float = 1.2
    """Standard deviation of ln(sigma) in the loss."""
    xflip: bool = False
    """Mirror each image with probability 1/2."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    tick_kimg: float = 4.0
    """How often progress is yielded."""
    state_kimg: float = 16.0
    """How often the state that a killed run resumes from is saved."""
    precision: str = "float32"
    """Autocast type of the network: float32, bfloat16 or float16."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("kimg", "batch_size", "lr", "P_std", "tick_kimg", "state_kimg", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        for name in ("warmup_kimg", "ema_halflife_kimg"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 < self.lr_final <= 1:
            raise ValueError(f"lr_final is {self.lr_final}; expected a share in (0, 1]")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")

    @property
    def steps(self) -> int:
        """Optimiser steps the budget makes, at least one."""
        return max(1, math.ceil(self.kimg * 1000 / self.batch_size))

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine from `lr` to `lr_final * lr`."""
        ramp = min(1.0, (step + 1) * self.batch_size / (self.warmup_kimg * 1000)) if self.warmup_kimg else 1.0
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.lr * ramp * (self.lr_final + (1 - self.lr_final) * cosine)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One progress record of `train()`."""

    step: int
    nimg: int
    loss: float
    """Mean EDM loss since the last tick."""
    lr: float
    grad_norm: float
    seconds: float
    """Time since the last tick."""
    ema: NetworkDenoiser
    """The averaged network so far (live; copy it to keep it)."""
    state: dict[str, Any] = field(repr=False)
    """What `train(..., state=)` resumes from (live tensors)."""

    @property
    def record(self) -> dict[str, float]:
        """The numbers, for `stats.jsonl`."""
        names = ("step", "nimg", "loss", "lr", "grad_norm", "seconds")
        return {n: round(getattr(self, n), 8) for n in names}


def edm_loss(
    denoiser: NetworkDenoiser,
    images: Tensor,
    config: TrainConfig,
    generator: torch.Generator,
    labels: Tensor | None = None,
) -> Tensor:
    """Weighted denoising error, a scalar (Karras et al. 2022, arXiv 2206.00364, eq. 2 and table 1).

    ln(sigma) ~ N(P_mean, P_std**2), weight 1 / c_out(sigma)**2.
    """
    ln_sigma = torch.randn(len(images), generator=generator) * config.P_std + config.P_mean
    sigma = ln_sigma.exp().to(images)
    noise = torch.randn(images.shape, generator=generator).to(images)
    s = sigma.reshape(-1, 1, 1, 1)
    error = denoiser(images + s * noise, sigma, labels) - images
    return torch.mean(denoiser.loss_weight(s) * error**2)


def train(
    denoiser: NetworkDenoiser, dataset: ImageDataset, config: TrainConfig, *, state: dict[str, Any] | None = None
) -> Iterator[Tick]:
    """Train `denoiser` in place, yielding a Tick every `tick_kimg` and at the end.

    With the `state` of an earlier tick it goes on from there: order, noise and dropout are functions of
    (seed, images seen), so the outcome equals that of an uninterrupted run bit for bit.
    Raises InputError when the data set does not fit the network, Diverged on a non-finite loss.
    """
    if (dataset.channels, dataset.resolution) != (denoiser.img_channels, denoiser.img_resolution):
        raise InputError(
            f"{dataset.name} has {dataset.channels}x{dataset.resolution}x{dataset.resolution} images, the model makes "
            f"{'x'.join(map(str, denoiser.shape))}; give data or a model of the same shape"
        )
    device = denoiser.device
    denoiser.train().requires_grad_(True)
    denoiser.precision = config.precision
    ema = copy.deepcopy(denoiser).eval().requires_grad_(False)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=config.lr, betas=(0.9, 0.999), eps=1e-8)
    step = 0
    if state is not None:
        step = state["step"]
        denoiser.load_state_dict(state["net"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])

    tick_steps = max(1, round(config.tick_kimg * 1000 / config.batch_size))
    losses: list[float] = []
    clock = time.perf_counter()
    while step < config.steps:
        images = _batch(dataset, config, step).to(device)
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        torch.manual_seed(derive(config.seed, "dropout", step))
        loss = edm_loss(denoiser, images, config, torch_generator(config.seed, "noise", step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(denoiser.parameters(), config.clip_norm)
        losses.append(float(loss.detach()))
        if not (math.isfinite(losses[-1]) and math.isfinite(float(norm))):
            raise Diverged(f"the loss became {losses[-1]} at step {step}; lower --lr or use --precision float32")
        optimizer.step()
        step += 1
        _update_ema(ema, denoiser, config, step)
        if step % tick_steps == 0 or step == config.steps:
            now = time.perf_counter()
            yield Tick(
                step=step,
                nimg=step * config.batch_size,
                loss=float(np.mean(losses)),
                lr=config.lr_at(step - 1),
                grad_norm=float(norm),
                seconds=now - clock,
                ema=ema,
                state={
                    "step": step,
                    "net": denoiser.state_dict(),
                    "ema": ema.state_dict(),
                    "optimizer": optimizer.state_dict(),
                },
            )
            losses, clock = [], time.perf_counter()


def train_folder(
    denoiser: NetworkDenoiser, dataset: ImageDataset, config: TrainConfig, folder: Path, *, recipe: dict[str, Any]
) -> Iterator[Tick]:
    """`train()` into a checkpoint folder: `stats.jsonl` on the way, the averaged weights at the end.

    Killed at any moment, the same call goes on from the last saved state. A finished folder yields nothing.
    Raises ChangedSettings when the folder was begun with other settings.
    """
    settle_settings(folder / "training.json", {**recipe, "train": asdict(config), "data_digest": dataset.digest})
    state_file, stats = folder / "state.pt", folder / "stats.jsonl"
    if (folder / "config.json").exists():
        state_file.unlink(missing_ok=True)
        return
    state = _read_state(state_file, denoiser.device) if state_file.exists() else None
    done = state["step"] if state else 0
    kept = [json.dumps(r) + "\n" for r in read_jsonl(stats) if r["step"] <= done]
    write_text(stats, "".join(kept))
    state_steps = max(1, round(config.state_kimg * 1000 / config.batch_size))
    ema = denoiser
    for tick in train(denoiser, dataset, config, state=state):
        with stats.open("a", encoding="utf-8") as f:
            f.write(json.dumps(tick.record) + "\n")
        if tick.step - done >= state_steps and tick.step < config.steps:
            with atomic(state_file) as temporary:
                buffer = io.BytesIO()
                torch.save(tick.state, buffer)
                temporary.write_bytes(buffer.getbuffer())
            done = tick.step
        ema = tick.ema
        yield tick
    save_checkpoint(folder, ema, recipe={**recipe, "train": asdict(config)})
    state_file.unlink(missing_ok=True)


def _read_state(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        return dict(torch.load(path, map_location=device, weights_only=True))
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, TypeError, ValueError) as e:
        reason = (str(e).splitlines() or [""])[0][:160]
        raise InputError(f"{path} is corrupt ({reason}); delete it to train again from the start") from None


def finetune_config(kimg: float, **changes: Any) -> TrainConfig:
    """Defaults of an auxiliary's fine-tune: a constant rate from the first step on, a short weight average."""
    base = TrainConfig(kimg=kimg, lr=3e-4, lr_final=1.0, warmup_kimg=0.0, ema_halflife_kimg=0.5, P_mean=-0.8)
    return replace(base, **changes)


def _batch(dataset: ImageDataset, config: TrainConfig, step: int) -> Tensor:
    """Images of a step: each epoch is a permutation of its own; mirrored at random where asked."""
    positions = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
    epochs = positions // len(dataset)
    order = {e: numpy_generator(config.seed, "order", int(e)).permutation(len(dataset)) for e in np.unique(epochs)}
    indices = np.array([order[e][p % len(dataset)] for e, p in zip(epochs, positions, strict=True)])
    images = to_float(dataset.read(indices))
    if config.xflip:
        flip = torch.rand(len(images), generator=torch_generator(config.seed, "flip", step)) < 0.5
        images = torch.where(flip[:, None, None, None], images.flip(3), images)
    return images


def _update_ema(ema: NetworkDenoiser, net: NetworkDenoiser, config: TrainConfig, step: int) -> None:
    # An average over a half-life longer than the run so far would be mostly initial noise: cap it at a tenth of it.
    halflife = min(config.ema_halflife_kimg * 1000, step * config.batch_size * 0.1)
    beta = 0.5 ** (config.batch_size / halflife) if halflife > 0 else 0.0
    with torch.no_grad():
        torch._foreach_lerp_(list(ema.parameters()), list(net.parameters()), 1 - beta)
