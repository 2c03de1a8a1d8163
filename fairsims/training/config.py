"""Settings of a training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from fairsims.models.precondition import PRECISIONS
from fairsims.options import check_choices, check_fields, choice
from fairsims.training.averages import WIDEST, power_beta

FINETUNE_LR = 3e-4
"""Learning rate of an auxiliary's fine-tune when nothing else is asked for."""
SINCE = ("beta2", "weight_decay", "decay", "decay_batches", "ema_stds", "averages_kimg")
"""Settings that earlier trainings did not have."""
EDM2: dict[str, Any] = {"beta2": 0.99, "decay": "inverse-sqrt", "ema_stds": (0.05, 0.1), "clip_norm": 1e6}
"""How EDM2 networks are trained (arXiv 2312.02696, table 6): no clipping to speak of."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training or fine-tuning."""

    kimg: float
    """Budget in thousands of images (kimg)."""
    batch_size: int = 64
    """Images per optimiser step, over all processes."""
    micro_batch: int | None = None
    """Most images at once on each device, gradients summed up to the batch; all of its part by default."""
    lr: float = 1e-3
    """Peak learning rate of Adam."""
    lr_final: float = 0.1
    """Share of `lr` that the cosine decay ends at; 1 keeps it constant."""
    decay: str = choice("cosine", "inverse-sqrt")
    """How the learning rate falls: half a cosine, or with the inverse square root of the steps (EDM2)."""
    decay_batches: float = 70_000
    """Steps after which the inverse square root begins."""
    beta2: float = 0.999
    """Adam's second beta."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW): each step multiplies the weights by 1 - lr * weight_decay."""
    warmup_kimg: float = 0.0
    """Linear ramp of the learning rate.

    0 for a fine-tune: a ramp meant for a long run would starve a short one."""
    ema_halflife_kimg: float = 44.0
    """Half-life of the weight average; 0 keeps the raw weights."""
    ema_ramp: float = 0.1
    """Cap of the half-life as a share of the images seen: a longer average would be mostly initial noise."""
    ema_stds: tuple[float, ...] = ()
    """Relative widths of power-function weight averages (EDM2) in place of the half-life.

    The first is the network that is kept. All are saved for `fairsims average`."""
    averages_kimg: float = 0.0
    """How often these averages are saved; 16 times over the training at most when 0."""
    P_mean: float = -1.2
    """Mean of ln(sigma) in the loss."""
    P_std: float = 1.2
    """Standard deviation of ln(sigma) in the loss."""
    xflip: bool = False
    """Mirror each image with probability 1/2."""
    augment: float = 0.0
    """Probability of each distortion of the non-leaky augmentation, which the network is told about; 0 is none."""
    clip_norm: float = 1.0
    """Largest gradient norm."""
    tick_kimg: float = 4.0
    """How often progress is yielded."""
    state_kimg: float = 16.0
    """How often the state that a killed run resumes from is saved."""
    precision: str = choice(*PRECISIONS)
    """Type of the network's matrix products; float16 trains with a scaled loss."""
    seed: int = 0
    """Chooses the weights of a new network, the order of the images and the noise."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "ema_stds", tuple(self.ema_stds))
        positive = (
            "kimg",
            "batch_size",
            "lr",
            "P_std",
            "tick_kimg",
            "state_kimg",
            "clip_norm",
            "ema_ramp",
            "decay_batches",
        )
        check_fields(self, "a positive number", lambda v: 0 < v < math.inf, *positive)
        check_fields(
            self,
            "0 or more",
            lambda v: 0 <= v < math.inf,
            "warmup_kimg",
            "ema_halflife_kimg",
            "averages_kimg",
            "weight_decay",
        )
        check_fields(self, "1 or more", lambda v: v >= 1, "micro_batch")
        check_fields(self, "a share in (0, 1]", lambda v: 0 < v <= 1, "lr_final")
        check_fields(self, "a probability in [0, 1]", lambda v: 0 <= v <= 1, "augment")
        check_fields(self, "a finite number", math.isfinite, "P_mean")
        check_fields(self, "a number in (0, 1)", lambda v: 0 < v < 1, "beta2")
        widths = set(self.ema_stds)
        if len(widths) < len(self.ema_stds) or not all(0 < v < WIDEST for v in widths):
            raise ValueError(f"ema_stds is {self.ema_stds}; expected different widths between 0 and {WIDEST}")
        check_choices(self)

    def as_dict(self) -> dict[str, Any]:
        """For a training's settings and a checkpoint's recipe; what earlier ones did not have only where it is used."""
        default = TrainConfig(kimg=1)
        return {k: v for k, v in asdict(self).items() if k not in SINCE or v != getattr(default, k)}

    @property
    def steps(self) -> int:
        """Optimiser steps the budget makes, at least one."""
        return self.steps_at(self.kimg)

    def steps_at(self, kimg: float) -> int:
        """Steps after which `kimg` are seen."""
        return max(1, math.ceil(kimg * 1000 / self.batch_size))

    def lr_at(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine from `lr` to `lr_final * lr`.

        With `inverse-sqrt` it stays at `lr` for `decay_batches`, then falls as 1 / sqrt(steps) (EDM2, eq. 67).
        """
        ramp = min(1.0, (step + 1) * self.batch_size / (self.warmup_kimg * 1000)) if self.warmup_kimg else 1.0
        if self.decay == "inverse-sqrt":
            return self.lr * ramp / math.sqrt(max(step / self.decay_batches, 1.0))
        cosine = (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.lr * ramp * (self.lr_final + (1 - self.lr_final) * cosine)

    def betas_at(self, step: int) -> tuple[float, ...]:
        """How much of each weight average stays when the step, the first is 1, is taken in."""
        seen = step * self.batch_size
        if self.ema_stds:
            return tuple(power_beta(std, seen, self.batch_size) for std in self.ema_stds)
        # An average over a half-life longer than the run so far would be mostly initial noise: cap it at a share of it.
        halflife = min(self.ema_halflife_kimg * 1000, seen * self.ema_ramp)
        return (0.5 ** (self.batch_size / halflife) if halflife > 0 else 0.0,)

    def saved_at(self) -> list[int]:
        """Steps after which the power-function averages are saved; the last one is the end."""
        if not self.ema_stds:
            return []
        every = max(1, math.ceil((self.averages_kimg or self.kimg / 16) * 1000 / self.batch_size))
        return sorted({*range(every, self.steps, every), self.steps})


def finetune_config(kimg: float, **changes: Any) -> TrainConfig:
    """Defaults of an auxiliary's fine-tune: a constant rate from the first step on, a short weight average."""
    base = TrainConfig(
        kimg=kimg,
        lr=FINETUNE_LR,
        lr_final=1.0,
        warmup_kimg=0.0,
        ema_halflife_kimg=0.5,
        P_mean=-0.8,
        tick_kimg=max(0.05, kimg / 40),
        state_kimg=max(0.05, kimg / 8),
    )
    return replace(base, **changes)
