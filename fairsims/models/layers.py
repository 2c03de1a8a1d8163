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
    """Affine layer, Xavier-uniform weights, zero bias."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        _xavier_(self.weight, in_features, out_features, 1.0)
        if bias:
            nn.init.zeros_(self.bias)


class Conv2d(nn.Module):
    """Same-padded convolution that can halve or double the resolution with a fixed low-pass filter before it.

    `resample_filter` is the separable filter: DDPM++ and ADM use [1, 1] (mean of 2x2, nearest neighbour), NCSN++
    [1, 3, 3, 1]. With `fused`, a halving filter comes after the convolution and sees no zeros but those around the
    image. Kernel 0 resamples only: it has neither weight nor bias.
    """

    resample_filter: Tensor | None
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        up: bool = False,
        down: bool = False,
        resample_filter: Sequence[float] = (1, 1),
        fused: bool = False,
        init_weight: float = 1.0,
    ) -> None:
        super().__init__()
        if fused and not (down and kernel):
            raise ValueError(f"fused is True with kernel {kernel}, down={down}; expected a convolution that halves")
        self.up, self.down, self.fused, self.padding = up, down, fused, kernel // 2
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(out_channels)) if kernel else None
        if self.weight is not None:
            _xavier_(self.weight, in_channels * kernel**2, out_channels * kernel**2, init_weight)
        # From numbers, not by tensor arithmetic: that takes seconds to get going when shapes alone are wanted ("meta").
        taps = [[a * b / sum(resample_filter) ** 2 for b in resample_filter] for a in resample_filter]
        self.register_buffer("resample_filter", torch.tensor([[taps]], dtype=torch.float32) if up or down else None)
        self.box = len(resample_filter) == 2 and resample_filter[0] == resample_filter[1]

    def forward(self, x: Tensor) -> Tensor:
        taps = None if self.resample_filter is None else self.resample_filter.to(x.dtype)
        pad = 0 if taps is None else (taps.shape[-1] - 1) // 2
        if self.fused and taps is not None and self.weight is not None:
            # The filter has unit gain and needs no padding here, so the bias may as well come before it.
            return self._resample(F.conv2d(x, self.weight, self.bias, padding=self.padding + pad), taps, 0)
        if taps is not None:
            x = self._resample(x, taps, pad)
        return x if self.weight is None else F.conv2d(x, self.weight, self.bias, padding=self.padding)

    def _resample(self, x: Tensor, taps: Tensor, padding: int) -> Tensor:
        if self.box:  # the same numbers from kernels that are several times faster
            return F.interpolate(x, scale_factor=2, mode="nearest") if self.up else F.avg_pool2d(x, 2)
        tiled = taps.tile(x.shape[1], 1, 1, 1)
        if self.up:
            return F.conv_transpose2d(x, tiled * 4, groups=x.shape[1], stride=2, padding=padding)
        return F.conv2d(x, tiled, groups=x.shape[1], stride=2, padding=padding)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with at most 32 groups of at least 4 channels (fewer where 32 do not divide them)."""

    def __init__(self, channels: int, *, eps: float) -> None:
        most = max(1, min(32, channels // 4))
        super().__init__(next(g for g in range(most, 0, -1) if channels % g == 0), channels, eps)


class PositionalEmbedding(nn.Module):
    """Sinusoidal features of the noise label, `(B,) -> (B, channels)`: first cosines, then sines.

    Frequencies fall from 1 to 1 / 10000; without `endpoint` they stop one step before it (ADM).
    """

    def __init__(self, channels: int, *, endpoint: bool = True) -> None:
        super().__init__()
        check_even(channels)
        self.channels, self.endpoint = channels, endpoint

    def forward(self, x: Tensor) -> Tensor:
        half = self.channels // 2
        exponent = torch.arange(half, dtype=x.dtype, device=x.device) / (half - int(self.endpoint))
        angle = torch.outer(x, (1 / 10000) ** exponent)
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class FourierEmbedding(nn.Module):
    """Random Fourier features of the noise label, `(B,) -> (B, channels)`: first cosines, then sines (NCSN++)."""

    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        check_even(channels)
        self.register_buffer("freqs", torch.randn(channels // 2).mul_(16))

    def forward(self, x: Tensor) -> Tensor:
        angle = torch.outer(x, (2 * math.pi * self.freqs).to(x.dtype))
        return torch.cat([angle.cos(), angle.sin()], dim=1)


class UNetBlock(nn.Module):
    """Residual block with noise embedding, optional resampling and self-attention.

    The embedding is added, or with `adaptive_scale` it scales and shifts the second normalisation. `channels_per_head`
    None is one attention head; otherwise there are `out_channels // channels_per_head`, and with none no attention.
    Where the resolution changes at equal width, the skip path is a 1x1 convolution or, without `resample_proj`, the
    resampling alone. Raises ValueError when the channels do not split evenly over the heads.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        up: bool = False,
        down: bool = False,
        attention: bool = False,
        channels_per_head: int | None = None,
        dropout: float = 0.0,
        resample_filter: Sequence[float] = (1, 1),
        resample_proj: bool = True,
        adaptive_scale: bool = False,
        skip_scale: float = math.sqrt(0.5),
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.dropout = in_channels, out_channels, dropout
        self.adaptive_scale, self.skip_scale = adaptive_scale, skip_scale
        self.heads = 0 if not attention else out_channels // channels_per_head if channels_per_head else 1
        if self.heads and out_channels % self.heads:
            raise ValueError(f"out_channels is {out_channels}; expected a multiple of the {self.heads} attention heads")
        taps = resample_filter
        self.norm0 = GroupNorm(in_channels, eps=eps)
        self.conv0 = Conv2d(in_channels, out_channels, 3, up=up, down=down, resample_filter=taps)
        self.affine = Linear(emb_channels, out_channels * (2 if adaptive_scale else 1))
        self.norm1 = GroupNorm(out_channels, eps=eps)
        self.conv1 = Conv2d(out_channels, out_channels, 3, init_weight=1e-5)
        self.skip: Conv2d | None = None
        if out_channels != in_channels or up or down:
            kernel = 1 if resample_proj or out_channels != in_channels else 0
            self.skip = Conv2d(in_channels, out_channels, kernel, up=up, down=down, resample_filter=taps)
        self.norm2 = GroupNorm(out_channels, eps=eps) if self.heads else None
        if self.heads:
            self.qkv = Conv2d(out_channels, out_channels * 3, 1, init_weight=math.sqrt(0.2))
            self.proj = Conv2d(out_channels, out_channels, 1, init_weight=1e-5)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        style = self.affine(emb)[:, :, None, None].to(h.dtype)
        if self.adaptive_scale:
            scale, shift = style.chunk(2, dim=1)
            h = F.silu(torch.addcmul(shift, self.norm1(h), scale + 1))
        else:
            h = F.silu(self.norm1(h + style))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * self.skip_scale
        if self.norm2 is not None:
            x = (self.proj(self._attend(self.qkv(self.norm2(x)))) + x) * self.skip_scale
        return x

    def _attend(self, qkv: Tensor) -> Tensor:
        b, c3, height, width = qkv.shape
        # EDM lays the channels out as (head, channel of the head, query/key/value).
        split = qkv.reshape(b, self.heads, c3 // 3 // self.heads, 3, height * width)
        q, k, v = split.permute(3, 0, 1, 4, 2).unbind(0)
        a = F.scaled_dot_product_attention(q, k, v)
        return a.transpose(2, 3).reshape(b, c3 // 3, height, width)


def check_even(channels: int) -> None:
    """Raises ValueError for a width that does not split into cosines and sines."""
    if channels % 2:
        raise ValueError(f"the noise embedding has {channels} channels; expected an even number")


def _xavier_(weight: Tensor, fan_in: int, fan_out: int, scale: float) -> None:
    with torch.no_grad():
        weight.uniform_(-1, 1).mul_(math.sqrt(6 / (fan_in + fan_out)) * scale)
