"""Preconditioning in EDM's framework (Karras et al. 2022, arXiv 2206.00364, table 1 and section 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims import engine
from fairsims.models.base import NetworkDenoiser, sigma_column
from fairsims.models.families import NETWORKS

PRECISIONS = ("float32", "bfloat16", "float16")
SCHEDULES: dict[str, dict[str, float]] = {
    "edm": {},
    "vp": {"beta_d": 19.9, "beta_min": 0.1, "M": 1000, "epsilon_t": 1e-5},
    "ve": {},
    "iddpm": {"C_1": 0.001, "C_2": 0.008, "M": 1000},
}
"""The preconditionings, and the constants of each one's noise schedule with the published values."""


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it natively (GPUs; CPUs with AVX512-BF16 or AMX), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return "float32"
    return "bfloat16" if device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags) else "float32"


def resolve_precision(name: str) -> str:
    """`auto`: the fastest that this process's device does natively; anything else unchanged."""
    return fastest_precision(engine.device()) if name == "auto" else name


class EDMDenoiser(NetworkDenoiser):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) with the raw network F = `model` (eq. 7).

    `preconditioning` is one of table 1: `edm`; `vp` and `ve` (Song et al. 2021); `iddpm` (Nichol & Dhariwal 2021),
    whose network also gives a variance (not used here) and knows the noise levels `u` only. `architecture` is the
    network: `songunet` (DDPM++, NCSN++) or `dhariwal` (ADM). Other keywords go to it, but for the constants of the
    schedule (`SCHEDULES`). `sigma_min` and `sigma_max` are the range to sample; by default the trained one inside
    [0.002, 80]. `precision` is the autocast type of the network's matrix products; inputs, outputs and the
    preconditioning stay in the type of x.
    Raises ValueError for an unknown preconditioning or architecture, TypeError for an unknown keyword.
    """

    u: Tensor | None

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        sigma_data: float = 0.5,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        preconditioning: str = "edm",
        architecture: str = "songunet",
        **options: Any,
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("preconditioning", preconditioning, SCHEDULES),
            ("architecture", architecture, NETWORKS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(known)}")
        self.schedule = {k: options.pop(k, v) for k, v in SCHEDULES[preconditioning].items()}
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.augment_dim = int(options.get("augment_dim", 0))
        self.preconditioning, self.sigma_data = preconditioning, sigma_data
        levels = iddpm_levels(**self.schedule) if preconditioning == "iddpm" else None
        self.register_buffer("u", None if levels is None else torch.tensor(levels, dtype=torch.float32))
        low, high = trained_range(preconditioning, self.schedule)
        self.sigma_min = max(0.002, low) if sigma_min is None else sigma_min
        self.sigma_max = min(80.0, high) if sigma_max is None else sigma_max
        # What is at its default goes unnamed, so that checkpoints keep the digests they had before there was a choice.
        chosen = {"preconditioning": preconditioning, **self.schedule} if preconditioning != "edm" else {}
        if architecture != "songunet":
            chosen["architecture"] = architecture
        self.config: dict[str, Any] = {
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "label_dim": label_dim,
            "sigma_data": sigma_data,
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            **chosen,
            **options,
        }
        self.model = NETWORKS[architecture](
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=img_channels * (2 if preconditioning == "iddpm" else 1),
            label_dim=label_dim,
            **options,
        )

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma_column(sigma, x))
        scaled, noise_labels = x * c_in, c_noise.flatten().expand(len(x))
        raw: Tensor
        if self.precision == "float32":
            raw = self.model(scaled, noise_labels, labels, augment_labels)
        else:
            with torch.autocast(x.device.type, dtype=getattr(torch, self.precision)):
                raw = self.model(scaled, noise_labels, labels, augment_labels)
        return x * c_skip + raw[:, : self.img_channels].to(x.dtype) * c_out

    def coefficients(self, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in, c_noise) at noise levels s, each of its shape (table 1)."""
        if self.preconditioning == "edm":
            total = s**2 + self.sigma_data**2
            return self.sigma_data**2 / total, s * self.sigma_data * total.rsqrt(), total.rsqrt(), s.log() / 4
        one = torch.ones_like(s)
        if self.preconditioning == "ve":
            return one, s, one, (0.5 * s).log()
        c_in = 1 / (s**2 + 1).sqrt()
        if self.preconditioning == "vp":
            beta_d, beta_min = self.schedule["beta_d"], self.schedule["beta_min"]
            # The time t with sigma(t) = s. Not log1p: networks have seen the rounding of log(1 + s**2) in training.
            t = ((beta_min**2 + 2 * beta_d * (1 + s**2).log()).sqrt() - beta_min) / beta_d
            return one, -s, c_in, (self.schedule["M"] - 1) * t
        return one, -s, c_in, self.schedule["M"] - 1 - self._nearest(s).to(s)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return sigma if self.u is None else self.u[self._nearest(sigma)].to(sigma)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        if self.preconditioning == "edm":
            return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        return 1 / sigma**2

    def _nearest(self, sigma: Tensor) -> Tensor:
        """Index of the nearest level u_j, of sigma's shape."""
        assert self.u is not None
        return (sigma.to(self.u)[..., None] - self.u).abs().argmin(dim=-1)


def iddpm_levels(*, C_1: float, C_2: float, M: float) -> list[float]:
    """The noise levels u_0 > ... > u_M = 0 of iDDPM's cosine schedule (table 1, "time steps")."""

    def alpha_bar(j: int) -> float:
        return math.sin(0.5 * math.pi * j / M / (C_2 + 1)) ** 2

    u = [0.0]
    for j in range(int(M), 0, -1):
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(alpha_bar(j - 1) / alpha_bar(j), C_1) - 1))
    return u[::-1]


def trained_range(preconditioning: str, schedule: Mapping[str, float]) -> tuple[float, float]:
    """Lowest and highest noise level that a network of this kind was trained for."""
    if preconditioning == "vp":

        def sigma(t: float) -> float:
            return math.sqrt(math.expm1(0.5 * schedule["beta_d"] * t**2 + schedule["beta_min"] * t))

        return sigma(schedule["epsilon_t"]), sigma(1.0)
    if preconditioning == "iddpm":
        u = iddpm_levels(**schedule)
        return u[-2], u[0]
    return (0.02, 100.0) if preconditioning == "ve" else (0.0, math.inf)
