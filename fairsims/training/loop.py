"""The weight average, whether a training still makes sense, and `train()`: a generator of a record per tick."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsims import engine
from fairsims.data.base import ImageDataset
from fairsims.data.latents import LatentSet
from fairsims.errors import Diverged, InputError
from fairsims.models.base import Trainable
from fairsims.models.objective import Batch
from fairsims.seeds import derive
from fairsims.training.augmentation import AUGMENT_DIM
from fairsims.training.batches import batches
from fairsims.training.config import TrainConfig

WINDOW = 64
"""Losses that the running median is taken over."""
LEAST = 16
"""Losses before which nothing is called an explosion."""
EXPLOSION = 50.0
"""An explosion is a loss this many times the running median. Batches differ by noise level, but never so much."""
MOST_SKIPS = 24
"""float16: overflowing steps in a row. Each halves the loss scale from 65536, so after 24 it is not to blame."""
ADVICE = "lower --lr or use --precision float32"


class LossWatch:
    """Sees every step; `check()` raises Diverged for the first bad one since the last check.

    With `skips` (float16) a step with an infinite gradient is passed over by the optimiser: only many in a row are bad.
    """

    def __init__(self, *, skips: bool = False) -> None:
        self.skips = skips
        self.recent: list[float] = []
        self.skipped = 0
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Note a step's loss and gradient norm, scalars that may still be under way on the device."""
        self._pending.append((step, loss.detach(), norm.detach()))

    def check(self) -> list[float]:
        """Losses of the steps noted since the last check, all of them good."""
        found = []
        for step, loss, norm in self._pending:
            found.append(float(loss))
            self._judge(step, found[-1], float(norm))
        self._pending = []
        return found

    def _judge(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {step}; {ADVICE}")
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped > (MOST_SKIPS if self.skips else 0):
            raise Diverged(f"the gradient became {norm} at step {step}; {ADVICE}")
        median = statistics.median(self.recent) if len(self.recent) >= LEAST else math.inf
        if loss > EXPLOSION * median:
            raise Diverged(
                f"the loss rose to {loss:.4g} at step {step}, its running median being {median:.4g}; {ADVICE}"
            )
        self.recent = [*self.recent[1 - WINDOW :], loss]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the uninterrupted one would."""
        return {"recent": list(self.recent), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.skipped = list(state["recent"]), int(state["skipped"])


CHECK_STEPS = 16
"""On a GPU losses are looked at this often: looking waits for all that was launched."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One progress record of `train()`."""

    step: int
    nimg: int
    loss: float
    """Mean loss since the last tick."""
    lr: float
    grad_norm: float
    seconds: float
    """Time since the last tick."""
    averages: tuple[Trainable, ...]
    """The averaged networks so far (live; copy one to keep it): one, or one of each of `ema_stds`."""
    state: dict[str, Any] = field(repr=False)
    """What `train(..., state=)` resumes from (live tensors)."""

    @property
    def ema(self) -> Trainable:
        """The averaged network that is kept."""
        return self.averages[0]

    @property
    def record(self) -> dict[str, float]:
        """The numbers, for `stats.jsonl`."""
        names = ("step", "nimg", "loss", "lr", "grad_norm", "seconds")
        return {n: round(getattr(self, n), 8) for n in names}


def train(
    denoiser: Trainable,
    dataset: ImageDataset | LatentSet,
    config: TrainConfig,
    *,
    state: dict[str, Any] | None = None,
    marks: Collection[int] = (),
) -> Iterator[Tick]:
    """Train `denoiser` in place, yielding a Tick every `tick_kimg` (or `state_kimg`, when that is less), after each of
    the steps in `marks` and at the end.

    With the `state` of an earlier tick it goes on from there: order, noise, distortions and dropout are functions of
    (seed, images seen), so the outcome equals that of an uninterrupted run bit for bit. Under torchrun each process
    takes a part of every batch and all hold the same weights; dropout aside, the outcome is that of one process up to
    rounding, and so it is with `micro_batch`.
    Raises InputError when the data set or the settings do not fit the network, Diverged when the loss or the gradient
    is not finite or the loss explodes.
    """
    check_fit(denoiser, dataset, config)
    device = denoiser.device
    denoiser.train().requires_grad_(True)
    denoiser.precision = config.precision
    averages = tuple(copy.deepcopy(denoiser).eval().requires_grad_(False) for _ in config.betas_at(1))
    fused = {"fused": True} if device.type == "cuda" else {}
    decay: dict[str, Any] = {"weight_decay": config.weight_decay, "decoupled_weight_decay": config.weight_decay > 0}
    optimizer = torch.optim.Adam(
        denoiser.parameters(), lr=config.lr, betas=(0.9, config.beta2), eps=1e-8, **decay, **fused
    )
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    watch = LossWatch(skips=scaler.is_enabled())
    step = 0
    if state is not None:
        step = state["step"]
        denoiser.load_state_dict(state["net"])
        for average, kept in zip(averages, (state["ema"], *state.get("averages", ())), strict=True):
            average.load_state_dict(kept)
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
        watch.load_state_dict(state["watch"])

    rows = engine.share(config.batch_size)
    check_steps = 1 if device.type == "cpu" else CHECK_STEPS
    # A state can be saved at a tick only.
    tick_steps = max(1, round(min(config.tick_kimg, config.state_kimg) * 1000 / config.batch_size))
    losses: list[float] = []
    clock = time.perf_counter()
    for batch in batches(dataset, denoiser, config, first=step, rows=rows):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss = _gradients(denoiser, batch, config, step, rows, scaler)
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(denoiser.parameters(), config.clip_norm)
        watch.add(step, loss, norm)
        if step % check_steps == 0:
            losses += watch.check()
        scaler.step(optimizer)
        scaler.update()
        step += 1
        for average, beta in zip(averages, config.betas_at(step), strict=True):
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(denoiser.parameters()), 1 - beta)
        if step % tick_steps == 0 or step in marks or step == config.steps:
            losses += watch.check()
            now = time.perf_counter()
            yield Tick(
                step=step,
                nimg=step * config.batch_size,
                loss=float(np.mean(losses)),
                lr=config.lr_at(step - 1),
                grad_norm=float(norm),
                seconds=now - clock,
                averages=averages,
                state={
                    "step": step,
                    "net": denoiser.state_dict(),
                    "ema": averages[0].state_dict(),
                    **({"averages": [a.state_dict() for a in averages[1:]]} if averages[1:] else {}),
                    "optimizer": optimizer.state_dict(),
                    "scaler": scaler.state_dict(),
                    "watch": watch.state_dict(),
                },
            )
            losses, clock = [], time.perf_counter()


def _gradients(
    denoiser: Trainable, batch: Batch, config: TrainConfig, step: int, rows: range, scaler: torch.amp.GradScaler
) -> Tensor:
    """Leave the gradient of the whole batch's mean loss in the parameters, on every process; returns that loss."""
    total = torch.zeros((), device=batch.images.device)
    size = config.micro_batch or len(rows)
    for start in range(0, len(rows), size):
        part = batch.part(start, start + size)
        # The first part of a batch keeps the seed that a batch in one piece has.
        place = () if rows[start] == 0 else (rows[start],)
        torch.manual_seed(derive(config.seed, "dropout", step, *place))
        loss = denoiser.loss(part) * (len(part.images) / config.batch_size)
        scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    engine.all_sum([*(p.grad for p in denoiser.parameters() if p.grad is not None), total])
    return total


def check_fit(denoiser: Trainable, dataset: ImageDataset | LatentSet, config: TrainConfig) -> None:
    """Raises InputError when the data set or the settings do not fit the network."""
    if dataset.shape != denoiser.shape:
        found, wanted = ("x".join(map(str, shape)) for shape in (dataset.shape, denoiser.shape))
        raise InputError(
            f"{dataset.name} has {found} images, the model makes {wanted}; give data or a model of the same shape"
        )
    if isinstance(dataset, LatentSet) and (config.xflip or config.augment):
        raise InputError("latents cannot be mirrored or distorted; leave xflip and augment out")
    check_settings(denoiser, config)


def check_settings(denoiser: Trainable, config: TrainConfig) -> None:
    """Raises InputError when the settings do not fit the network."""
    if config.augment and denoiser.augment_dim != AUGMENT_DIM:
        raise InputError(
            f"the model takes {denoiser.augment_dim} augment labels; expected {AUGMENT_DIM} for --augment: "
            "without them it would learn to make distorted images; leave --augment out, or take a model trained with it"
        )
    if config.batch_size < engine.world():
        raise InputError(
            f"batch_size is {config.batch_size} for {engine.world()} processes; expected at least an image each"
        )
