"""Layers of the EDM networks, with EDM's parameter names so that its weights load by a plain `load_state_dict`.

Written from Karras et al. 2022 (arXiv 2206.00364, appendix F) and Song et al. 2021 (arXiv 2011.13456).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """Affine layer, Xavier-uniform weights scaled by `init_weight`, zero bias."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True, init_weight: float = 1.0) -> None:
        super().__init__(in_features, out_features, bias)
        _xavier_(self.weight, in_features, out_features, init_weight)
        if bias:
            nn.init.zeros_(self.bias)


class Conv2d(nn.Module):
    """Same-padded convolution that can halve (before it) or double (before it) the resolution with a fixed filter.

    `resample_filter` is the separable low-pass filter; DDPM++ uses [1, 1] (mean of 2x2, nearest neighbour).
    """

    resample_filter: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[int] = (1, 1),
        init_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.up, self.down, self.padding = up, down, kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        _xavier_(self.weight, in_channels * kernel**2, out_channels * kernel**2, init_weight)
        taps = torch.as_tensor(resample_filter, dtype=torch.float32)
        taps2d = torch.outer(taps, taps) / taps.sum() ** 2
        self.register_buffer("resample_filter", taps2d[None, None] if up or down else None)

    def forward(self, x: Tensor) -> Tensor:
        if self.resample_filter is not None:
            x = self._resample(x, self.resample_filter.to(x.dtype))
        return F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def _resample(self, x: Tensor, taps: Tensor) -> Tensor:
        width = taps.shape[-1]
        if width == 2:  # [1, 1] is the only sensible filter of two taps; these kernels are several times faster
            return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(x, 2)
        channels, padding = x.shape[1], (width - 1) // 2
        tiled = taps.tile(channels, 1, 1, 1)
        if self.up:
            return F.conv_transpose2d(x, tiled * 4, groups=channels, stride=2, padding=padding)
        return F.conv2d(x, tiled, groups=channels, stride=2, padding=padding)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with at most 32 groups of at least 4 channels (fewer where 32 do not divide them)."""

    def __init__(self, channels: int, *, eps: float) -> None:
        most = max(1, min(32, channels // 4))
        super().__init__(next(g for g in range(most, 0, -1) if channels % g == 0), channels, eps)


class PositionalEmbedding(nn.Module):
    """Sinusoidal features of the noise label, `(B,) -> (B, channels)`: first cosines, then sines."""

    def __init__(self, channels: int, *, max_positions: int = 10000) -> None:
        super().__init__()
        self.channels, self.max_positions = channels, max_positions

    def forward(self, x: Tensor) -> Tensor:
        half = self.channels // 2
        exponent = torch.arange(half, dtype=x.dtype, device=x.device) / (half - 1)
        angle = torch.outer(x, (1 / self.max_positions) ** exponent)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class UNetBlock(nn.Module):
    """Residual block with additive noise embedding, optional resampling and single-head self-attention."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        dropout: float = 0.0,
        resample_filter: Sequence[int] = (1, 1),
        skip_scale: float = math.sqrt(0.5),
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.skip_scale, self.dropout = (
            in_channels,
            out_channels,
            skip_scale,
            dropout,
        )
        taps = resample_filter
        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, resample_filter=taps)
        self.affine = Linear(emb_channels, out_channels)
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init_weight=1e-5)
        needs_skip = out_channels != in_channels or up or down
        self.skip = Conv2d(in_channels, out_channels, 1, up=up, down=down, resample_filter=taps) if needs_skip else None
        self.norm2 = GroupNorm(out_channels, eps=eps) if attention else None
        if attention:
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, init_weight=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, init_weight=1e-5)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = F.silu(self.norm1(h + self.affine(emb)[:, :, None, None].to(h.dtype)))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.norm2 is not None:
            x = (self.proj(self._attend(self.qkv(self.norm2(x)))) + x) * self.skip_scale
        return x

    @staticmethod
    def _attend(qkv: Tensor) -> Tensor:
        b, c3, height, width = qkv.shape
        # EDM interleaves q, k and v along the channels: channel 3i is query i.
        q, k, v = qkv.reshape(b, c3 // 3, 3, height * width).permute(2, 0, 3, 1).unbind(0)
        a = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return a.transpose(1, 2).reshape(b, c3 // 3, height, width)


def _xavier_(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    with torch.no_grad():
        weight.uniform_(-1, 1).mul_(math.sqrt(6 / (fan_in + fan_out)) * scale)
