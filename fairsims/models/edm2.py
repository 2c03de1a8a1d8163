"""EDM2's network and preconditioning (Karras et al. 2024, arXiv 2312.02696), written from the paper.

Every layer keeps the magnitude of its inputs: weights and activations are normalised where they are used, sums and
concatenations are scaled, and there are no biases. Parameters have the names that EDM2's own snapshots use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.models.base import NetworkDenoiser, sigma_column
from fairsims.models.objective import Batch

EPS = 1e-4
"""Added to the root mean square that something is divided by."""


def normalize(x: Tensor, dims: Sequence[int]) -> Tensor:
    """x over its root mean square along `dims`, which is computed in float32 at least (eq. 30, 44, 47)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rms = wide.square().mean(dim=list(dims), keepdim=True).sqrt()
    return x / (rms + EPS).to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of standard normal inputs (eq. 81)."""
    return F.silu(x) / 0.596


def mp_sum(a: Tensor, b: Tensor, t: float) -> Tensor:
    """(1 - t) a + t b, scaled to keep the magnitude of independent inputs (eq. 88)."""
    return a.lerp(b, t) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a and b along the channels, with shares 1 - t and t of the magnitude (eq. 103)."""
    n_a, n_b = a.shape[1], b.shape[1]
    scale = math.sqrt((n_a + n_b) / ((1 - t) ** 2 + t**2))
    return torch.cat([a * (scale * (1 - t) / math.sqrt(n_a)), b * (scale * t / math.sqrt(n_b))], dim=1)


class MPFourier(nn.Module):
    """Random Fourier features sqrt(2) cos(freqs c + phases), `(B,) -> (B, channels)` (eq. 75)."""

    freqs: Tensor
    phases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(channels))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels))

    def forward(self, c: Tensor) -> Tensor:
        kind = torch.promote_types(c.dtype, self.freqs.dtype)
        angles = c.to(kind)[:, None] * self.freqs.to(kind) + self.phases.to(kind)
        return angles.cos() * math.sqrt(2)


class MPConv(nn.Module):
    """A linear layer or convolution whose weights are normalised for each output channel (eq. 47).

    `kernel` is () for a linear layer. In training the stored weights are first set to their normalised selves: forced
    weight normalisation (eq. 66). `half_gain`: sampling rounds the gain over the root of the fan-in to float16, as
    EDM2 does with a snapshot's weights.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, ...] = (), *, half_gain: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, *kernel))
        self.half_gain = half_gain

    def forward(self, x: Tensor, gain: Tensor | None = None) -> Tensor:
        dims = range(1, self.weight.ndim)
        if self.training:
            with torch.no_grad():
                self.weight.copy_(normalize(self.weight, dims))
        weight = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        weight = normalize(weight, dims) * self._scale(gain, weight)
        weight = weight.to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2)

    def _scale(self, gain: Tensor | None, weight: Tensor) -> Tensor | float:
        root = math.sqrt(weight[0].numel())
        if gain is None:
            return 1 / root
        quotient = gain.to(weight.dtype) / root
        if self.half_gain and not self.training and weight.dtype == torch.float32:
            return quotient.half().float()
        return quotient


class Block(nn.Module):
    """A residual block, with attention where it has heads (figure 21, config G).

    `flavor`: an encoder's block normalises its input, which both paths take; a decoder's does not. `resample`: "keep",
    or first "down" or "up" by two.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        *,
        flavor: str,
        resample: str = "keep",
        attention: bool = False,
        channels_per_head: int = 64,
        resample_filter: Sequence[float] = (1, 1),
        dropout: float = 0.0,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256,
        half_gain: bool = False,
    ) -> None:
        super().__init__()
        self.flavor, self.resample, self.taps = flavor, resample, tuple(resample_filter)
        self.heads = outputs // channels_per_head if attention else 0
        self.dropout, self.clip_act = dropout, clip_act
        self.res_balance, self.attn_balance = res_balance, attn_balance
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv(outputs if flavor == "enc" else inputs, outputs, (3, 3))
        self.emb_linear = MPConv(embedding, outputs, half_gain=half_gain)
        self.conv_res1 = MPConv(outputs, outputs, (3, 3))
        self.conv_skip = MPConv(inputs, outputs, (1, 1)) if inputs != outputs else None
        self.attn_qkv = MPConv(outputs, 3 * outputs, (1, 1)) if self.heads else None
        self.attn_proj = MPConv(outputs, outputs, (1, 1)) if self.heads else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = resampled(x, self.resample, self.taps)
        if self.flavor == "enc":
            x = normalize(x if self.conv_skip is None else self.conv_skip(x), (1,))
        y = self.conv_res0(mp_silu(x))
        style = self.emb_linear(emb, self.emb_gain) + 1
        y = mp_silu(y * style[:, :, None, None].to(y.dtype))
        y = self.conv_res1(F.dropout(y, self.dropout, training=self.training))
        if self.flavor == "dec" and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = mp_sum(x, y, self.res_balance)
        if self.attn_qkv is not None and self.attn_proj is not None:
            x = mp_sum(x, self.attn_proj(self._attend(self.attn_qkv(x))), self.attn_balance)
        return x if self.clip_act is None else x.clip(-self.clip_act, self.clip_act)

    def _attend(self, qkv: Tensor) -> Tensor:
        """Cosine attention; channels of `qkv` are ordered head, channel in head, and q, k or v last (eq. 33)."""
        height, width = qkv.shape[-2:]
        parts = qkv.reshape(len(qkv), self.heads, -1, 3, height * width)
        q, k, v = normalize(parts, (2,)).permute(3, 0, 1, 4, 2).unbind(0)
        found = F.scaled_dot_product_attention(q, k, v)
        return found.transpose(2, 3).reshape(len(qkv), -1, height, width)


def resampled(x: Tensor, way: str, taps: Sequence[float]) -> Tensor:
    """x `(B, C, H, W)` as it is, or at half or twice its size, through a separable filter of an even length."""
    if way == "keep":
        return x
    if tuple(taps) == (1, 1):
        return F.avg_pool2d(x, 2) if way == "down" else F.interpolate(x, scale_factor=2.0, mode="nearest")
    line = torch.tensor(taps, dtype=torch.float64)
    line = line / line.sum()
    square = torch.outer(line, line)[None, None].to(x).repeat(x.shape[1], 1, 1, 1)
    pad = (len(taps) - 1) // 2
    if way == "down":
        return F.conv2d(x, square, groups=x.shape[1], stride=2, padding=pad)
    return F.conv_transpose2d(x, 4 * square, groups=x.shape[1], stride=2, padding=pad)


class EDM2UNet(nn.Module):
    """The raw network F(x; c_noise), `(B, img_channels, R, R)` of its own shape (appendix B, config G).

    Raises ValueError for sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (16, 8),
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        half_gain: bool = False,
        **block: Any,
    ) -> None:
        super().__init__()
        if not channel_mult or img_resolution % 2 ** (len(channel_mult) - 1):
            raise ValueError(
                f"img_resolution is {img_resolution} with {len(channel_mult)} levels; expected one that halves as often"
            )
        taps = block.get("resample_filter", (1, 1))
        if len(taps) % 2 or not sum(taps) > 0:
            raise ValueError(f"resample_filter is {list(taps)}; expected an even number of taps with a positive sum")
        widths = [model_channels * m for m in channel_mult]
        noise = widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        embedding = max(widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        self.label_dim, self.label_balance, self.concat_balance = label_dim, label_balance, concat_balance
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = MPFourier(noise)
        self.emb_noise = MPConv(noise, embedding)
        self.emb_label = MPConv(label_dim, embedding) if label_dim else None

        def make(inputs: int, outputs: int, flavor: str, **options: Any) -> Block:
            return Block(inputs, outputs, embedding, flavor=flavor, half_gain=half_gain, **options, **block)

        sides = [img_resolution >> level for level in range(len(widths))]
        self.enc = nn.ModuleDict()
        self.enc[f"{sides[0]}x{sides[0]}_conv"] = MPConv(img_channels + 1, widths[0], (3, 3))
        now, skips = widths[0], [widths[0]]
        for level, (side, width) in enumerate(zip(sides, widths, strict=True)):
            if level:
                self.enc[f"{side}x{side}_down"] = make(now, now, "enc", resample="down")
                skips.append(now)
            for i in range(num_blocks):
                self.enc[f"{side}x{side}_block{i}"] = make(now, width, "enc", attention=side in attn_resolutions)
                now = width
                skips.append(now)
        self.dec = nn.ModuleDict()
        for level, (side, width) in reversed(list(enumerate(zip(sides, widths, strict=True)))):
            if level == len(widths) - 1:
                self.dec[f"{side}x{side}_in0"] = make(now, now, "dec", attention=True)
                self.dec[f"{side}x{side}_in1"] = make(now, now, "dec")
            else:
                self.dec[f"{side}x{side}_up"] = make(now, now, "dec", resample="up")
            for i in range(num_blocks + 1):
                name = f"{side}x{side}_block{i}"
                self.dec[name] = make(now + skips.pop(), width, "dec", attention=side in attn_resolutions)
                now = width
        self.out_conv = MPConv(now, img_channels, (3, 3), half_gain=half_gain)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """x `(B, C, R, R)`, c_noise `(B,)` or `(1,)`, labels `(B, label_dim)`; no labels are a row of zeros."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if self.emb_label is not None:
            labels = c_noise.new_zeros(1, self.label_dim) if labels is None else labels
            emb = mp_sum(emb, self.emb_label(labels.to(emb) * math.sqrt(self.label_dim)), self.label_balance)
        emb = mp_silu(emb)
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            if "_block" in name:
                x = mp_cat(x, skips.pop(), self.concat_balance)
            x = layer(x, emb)
        found: Tensor = self.out_conv(x, self.out_gain)
        return found


class EDM2Denoiser(NetworkDenoiser):
    """D(x; sigma) of EDM2: EDM's preconditioning around `unet`, and the learnt uncertainty u(sigma) of its error.

    Options are those of `EDM2UNet` and `Block`. `half_gain` says that sampling rounds gains as EDM2 does with the
    float16 weights of a snapshot; training never does. `precision` is the type of the network's activations; the
    embedding, the weights' norms and all of the preconditioning stay float32, as EDM2's do.
    Raises ValueError or TypeError for options that make no network.
    """

    raw = "unet"

    def __init__(
        self,
        *,
        img_resolution: int,
        img_channels: int,
        label_dim: int = 0,
        sigma_data: float = 0.5,
        logvar_channels: int = 128,
        half_gain: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.sigma_data = sigma_data
        shape: dict[str, Any] = {"img_resolution": img_resolution, "img_channels": img_channels, "label_dim": label_dim}
        self.config = {**shape, "sigma_data": sigma_data, "logvar_channels": logvar_channels, **options}
        if half_gain:
            self.config["half_gain"] = True
        self.unet = EDM2UNet(**shape, half_gain=half_gain, **options)
        self.logvar_fourier = MPFourier(logvar_channels)
        self.logvar_linear = MPConv(logvar_channels, 1)

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        s = sigma_column(sigma, x)
        total = s**2 + self.sigma_data**2
        inside = x.dtype if self.precision == "float32" else getattr(torch, self.precision)
        raw: Tensor = self.unet((x / total.sqrt()).to(inside), s.flatten().log() / 4, labels)
        return x * (self.sigma_data**2 / total) + raw.to(x.dtype) * (s * self.sigma_data / total.sqrt())

    def logvar(self, sigma: Tensor) -> Tensor:
        """u(sigma), the logarithm of the expected weighted error, `(B, 1, 1, 1)` (eq. 17)."""
        found: Tensor = self.logvar_linear(self.logvar_fourier(sigma.flatten().log() / 4))
        return found.reshape(-1, 1, 1, 1)

    def alike(self, other: NetworkDenoiser) -> dict[str, Tensor]:
        """Parameters of a fine-tuned copy with the magnitude of this network's weights, channel by channel.

        Training sets every weight to unit magnitude, averaging lowers it, and neither changes what a network does:
        their raw differences would be mostly that.
        """
        found: dict[str, Tensor] = dict(other.named_parameters())
        for name, part in self.named_modules():
            if isinstance(part, MPConv):
                key, dims = f"{name}.weight", list(range(1, part.weight.ndim))
                own, theirs = (w.double().square().mean(dims, keepdim=True) for w in (part.weight, found[key]))
                found[key] = found[key].double() * (own / theirs.clamp(min=1e-12)).sqrt()
        return found

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def loss(self, batch: Batch) -> Tensor:
        """The denoising error weighted by the learnt uncertainty, a scalar (eq. 21)."""
        s = batch.sigma.reshape(-1, 1, 1, 1)
        denoised = self(batch.images + s * batch.noise, batch.sigma, batch.labels)
        u = self.logvar(batch.sigma)
        return torch.mean(self.loss_weight(s) / u.exp() * (denoised - batch.images) ** 2 + u)
