"""Training of a small classifier network: augmented, class-balanced, weights averaged. The same seed repeats it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.classifiers.augment import Augmentation, augment
from fairsims.data.base import to_float
from fairsims.engine import device
from fairsims.errors import Diverged, InputError
from fairsims.options import check_choices, check_fields, choice
from fairsims.seeds import derive, torch_generator

N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class ClassifierRecipe:
    """Settings of one training."""

    kimg: float = 60.0
    """Budget in thousands of images (kimg)."""
    batch_size: int = 64
    """Images per step."""
    lr: float = 2e-3
    """Peak learning rate of AdamW; a short ramp up to it, half a cosine down to 0."""
    weight_decay: float = 0.05
    """Decay of AdamW, of the kernels alone."""
    label_smoothing: float = 0.1
    """Share of each target that is spread over all classes."""
    average_from: float = 0.5
    """Share of the budget after which the weights are averaged (half-life about 70 steps)."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    precision: str = choice("bfloat16", "float32")
    """Autocast type in training; a finished network runs in float32."""
    seed: int = 0
    """Chooses folds, weights and the order of the images."""

    def __post_init__(self) -> None:
        check_fields(self, "a positive number", lambda v: v > 0, "kimg", "batch_size", "lr")
        check_fields(self, "0 or more", lambda v: v >= 0, "weight_decay")
        check_fields(self, "a share below 1", lambda v: 0 <= v < 1, "label_smoothing", "average_from")
        check_choices(self)

    @property
    def steps(self) -> int:
        """Optimiser steps the budget makes, at least one."""
        return max(1, math.ceil(self.kimg * 1000 / self.batch_size))


def train_network(
    images: Tensor,
    labels: np.ndarray,
    network: Callable[[], N],
    recipe: ClassifierRecipe,
    *,
    classes: int,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> N:
    """A network trained on uint8 images `(N, C, H, W)` of classes `labels` `(N,)`, in evaluation mode, on the CPU.

    `network` makes it, its random weights a function of the recipe's seed. Every batch holds the classes in equal
    numbers. `report` gets images seen and images in all. The GPU is used when there is one. Raises InputError when a
    class has no image, Diverged when the loss is not finite.
    """
    members = [torch.from_numpy(np.flatnonzero(labels == k)) for k in range(classes)]
    if any(len(m) == 0 for m in members):
        raise InputError(f"the training images per class are {[len(m) for m in members]}; expected some of every class")
    generator = torch_generator("classifier", recipe.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive("classifier weights", recipe.seed))
        where = device()
        model = network()
        model.to(device=where, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        average = copy.deepcopy(model)
        optimizer = torch.optim.AdamW(_groups(model, recipe.weight_decay), betas=(0.9, 0.99))
        for step in range(recipe.steps):
            ramp = min(1.0, (step + 1) / 50) * (1 + math.cos(math.pi * step / recipe.steps)) / 2
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * ramp
            x, target = _batch(images, members, recipe, generator)
            with torch.autocast(where.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = model(x.to(where))
            loss = F.cross_entropy(logits.float(), target.to(where))
            if not torch.isfinite(loss):
                raise Diverged(f"the classifier's loss is {loss.item()} at step {step}; lower lr ({recipe.lr})")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            _accumulate(average, model, 0.01 if step >= recipe.average_from * recipe.steps else 1.0)
            report((step + 1) * recipe.batch_size, recipe.steps * recipe.batch_size)
    average.cpu().eval().requires_grad_(False)
    return average


def predict_logits(network: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Logits of uint8 images `(N, C, H, W)`, `(N, K)` float32 on the CPU."""
    where = device()
    network.to(where)
    with torch.inference_mode():
        return torch.cat([network(to_float(chunk.to(where))).cpu() for chunk in torch.split(images, batch_size)])


def _batch(
    images: Tensor, members: list[Tensor], recipe: ClassifierRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Augmented images and smoothed targets `(B, K)`; B is a multiple of K."""
    each = max(1, recipe.batch_size // len(members))
    chosen = torch.cat([m[torch.randint(len(m), (each,), generator=generator)] for m in members])
    classes = torch.arange(len(members)).repeat_interleave(each)
    x = augment(to_float(images[chosen]), recipe.augmentation, generator)
    target = F.one_hot(classes, len(members)).float()
    return x, target * (1 - recipe.label_smoothing) + recipe.label_smoothing / len(members)


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Decay for the kernels only: norms and biases have no scale to hold down."""
    kernels = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def _accumulate(average: nn.Module, network: nn.Module, rate: float) -> None:
    for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, rate)
        else:
            mean.copy_(value)
