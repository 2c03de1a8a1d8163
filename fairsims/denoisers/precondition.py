"""EDM preconditioning (Karras et al. 2022, arXiv 2206.00364, table 1 and section 5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.denoisers.base import NetworkDenoiser, sigma_column
from fairsims.denoisers.songunet import SongUNet

PRECISIONS = ("float32", "bfloat16", "float16")


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where the hardware multiplies it natively (GPUs; CPUs with AVX512-BF16 or AMX), else float32."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return "float32"
    return "bfloat16" if device.type == "cpu" and ("avx512_bf16" in flags or "amx_bf16" in flags) else "float32"


class EDMDenoiser(NetworkDenoiser):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) with the raw network F = `model` (eq. 7).

    `precision` is the autocast type of the network's matrix products; inputs, outputs and the preconditioning stay in
    the type of x.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        sigma_data: float = 0.5,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        **network: Any,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, sigma_min, sigma_max
        self.config: dict[str, Any] = {
            "img_resolution": img_resolution,
            "img_channels": img_channels,
            "label_dim": label_dim,
            "sigma_data": sigma_data,
            "sigma_min": sigma_min,
            "sigma_max": sigma_max,
            **network,
        }
        self.model = SongUNet(
            img_resolution=img_resolution,
            in_channels=img_channels,
            out_channels=img_channels,
            label_dim=label_dim,
            **network,
        )

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        s = sigma_column(sigma, x)
        total = s**2 + self.sigma_data**2
        c_noise = (s.flatten().log() / 4).expand(len(x))
        scaled = x * total.rsqrt()
        raw: Tensor
        if self.precision == "float32":
            raw = self.model(scaled, c_noise, labels, augment_labels)
        else:
            with torch.autocast(x.device.type, dtype=getattr(torch, self.precision)):
                raw = self.model(scaled, c_noise, labels, augment_labels)
        return x * (self.sigma_data**2 / total) + raw.to(x.dtype) * (s * self.sigma_data * total.rsqrt())

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
