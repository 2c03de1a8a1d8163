"""SIMS guidance: a denoiser made of two denoisers; and merging, its single-network relative."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.models.base import Denoiser, NetworkDenoiser

D = TypeVar("D", bound=NetworkDenoiser)

ENCODER, DECODER = ("enc", "down_blocks"), ("dec", "up_blocks")
"""Names of the modules that hold the two halves of a UNet, of ours and of diffusers'."""


class SIMSGuidance(Denoiser):
    """D_w(x; sigma) = (1 + omega) D_base(x; sigma) - omega D_aux(x; sigma).

    Alemohammad et al. 2024 (arXiv 2408.16333): the score `(1 + w) s_base - w s_aux`, which in denoiser form is the same
    affine rule because `s = (D - x) / sigma**2`. omega = 0 is the base, bit for bit, and never calls the auxiliary;
    omega = -1 is the auxiliary. Autoguidance's g is `1 + omega`.

    With `positive` the rule is D_base + omega (D_positive - D_aux), a paired contrast: what two auxiliaries of the same
    training do alike cancels. Without, the base stands in its place, which is SIMS.

    `interval` = (lo, hi): the auxiliaries are called only for sigma in [lo, hi] (Kynkäänniemi et al. 2024,
    arXiv 2404.07724); elsewhere the base alone acts.
    Raises InputError when they were made for images of different shape.
    """

    def __init__(
        self,
        base: Denoiser,
        aux: Denoiser,
        omega: float,
        *,
        interval: tuple[float, float] | None = None,
        positive: Denoiser | None = None,
    ) -> None:
        super().__init__()
        for part in (aux, positive or aux):
            if base.shape != part.shape:
                raise InputError(
                    f"the base makes images of shape {base.shape}, the auxiliary of {part.shape}; "
                    "fine-tune the auxiliary from this base"
                )
        self.base, self.aux, self.positive, self.omega, self.interval = base, aux, positive, float(omega), interval
        self.img_resolution, self.img_channels = base.img_resolution, base.img_channels
        self.sigma_min, self.sigma_max = base.sigma_min, base.sigma_max
        self.label_dim = base.label_dim

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        d_base = self.base(x, sigma, labels)
        if not self.omega or not self._inside(sigma):
            return d_base
        towards = d_base if self.positive is None else self.positive(x, sigma, labels)
        return d_base + self.omega * (towards - self.aux(x, sigma, labels))

    def evaluations_at(self, sigma: float) -> int:
        both = bool(self.omega) and self._inside(torch.tensor(sigma, dtype=torch.float64))
        return sum(part.evaluations_at(sigma) for part in (self.parts if both else self.parts[:1]))

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.base.round_sigma(sigma)

    @property
    def precision(self) -> str:
        return self.base.precision

    @precision.setter
    def precision(self, value: str) -> None:
        for part in self.parts:
            part.precision = value

    @property
    def parts(self) -> tuple[Denoiser, ...]:
        """The denoisers it is made of: base, auxiliary and, of a paired contrast, the positive one."""
        return (self.base, self.aux) if self.positive is None else (self.base, self.aux, self.positive)

    def _inside(self, sigma: Tensor) -> bool:
        if self.interval is None:
            return True
        low, high = self.interval
        return bool(((sigma >= low) & (sigma <= high)).all())


def merge(base: D, aux: D, weight: float, positive: D | None = None, *, blocks: tuple[float, float] | None = None) -> D:
    """One network with parameters (1 + w) theta_base - w theta_aux: an ordinary checkpoint at the base's cost.

    Neon's merge (Alemohammad et al. 2025, arXiv 2510.03597), here with an auxiliary trained on a complement set. With
    `positive` theta_base + w (theta_positive - theta_aux), as in `SIMSGuidance`. `blocks` are factors of w in the
    encoder and in the decoder; what is in neither has w. Done in float64 and rounded once. Buffers are the base's.
    Raises InputError when the networks differ in structure.
    """
    theta_base: dict[str, Tensor] = dict(base.named_parameters())
    theta_aux: dict[str, Tensor] = dict(aux.named_parameters())
    theta_positive: dict[str, Tensor] = theta_base if positive is None else dict(positive.named_parameters())
    shapes = {k: v.shape for k, v in theta_base.items()}
    if any({k: v.shape for k, v in theta.items()} != shapes for theta in (theta_aux, theta_positive)):
        raise InputError(
            "the base and the auxiliary differ in their networks; merging needs a fine-tuned copy of the base"
        )
    merged, theta_aux = copy.deepcopy(base), base.alike(aux)
    theta_positive = theta_base if positive is None else base.alike(positive)
    with torch.no_grad():
        for name, parameter in merged.named_parameters():
            b, a = theta_base[name].double(), theta_aux[name].double()
            half = half_of(name)
            w = weight if blocks is None or half is None else weight * blocks[half]
            if positive is None:
                parameter.copy_((1 + w) * b - w * a)
            else:
                parameter.copy_(b + w * (theta_positive[name].double() - a))
    return merged


def half_of(parameter: str) -> int | None:
    """0 for a parameter of the encoder, 1 for one of the decoder, None for what is in neither."""
    modules = parameter.split(".")
    return next((k for k, names in enumerate((ENCODER, DECODER)) if any(n in modules for n in names)), None)
