"""The ADM UNet (Dhariwal & Nichol 2021) in EDM's parametrisation (Karras et al. 2022, appendix F.1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.models.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock
from fairsims.models.songunet import check_halvings, drop_labels


class DhariwalUNet(nn.Module):
    """Raw network F(x; c_noise), `(B, in_channels, R, R) -> (B, out_channels, R, R)` (arXiv 2105.05233, section 3).

    Parameter names are EDM's (`enc.16x16_block0.conv0.weight`, ...), so its weights load strictly. Attention has heads
    of 64 channels; a block of fewer channels has none.
    Raises ValueError when the resolution cannot be halved as often as `channel_mult` asks.
    """

    def __init__(
        self,
        *,
        img_resolution: int,
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: Sequence[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: Sequence[int] = (32, 16, 8),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_halvings(img_resolution, channel_mult)
        self.label_dropout = label_dropout
        emb_channels = model_channels * channel_mult_emb

        self.map_noise = PositionalEmbedding(model_channels, endpoint=False)
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)
        self.map_label = Linear(label_dim, emb_channels, bias=False) if label_dim else None

        block = partial(
            UNetBlock,
            emb_channels=emb_channels,
            dropout=dropout,
            channels_per_head=64,
            resample_proj=False,
            adaptive_scale=True,
            skip_scale=1.0,
            eps=1e-5,
        )
        widths = [model_channels * m for m in channel_mult]
        self.enc = nn.ModuleDict()
        channels, skips = widths[0], list[int]()
        for level, width in enumerate(widths):
            res = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == 0:
                self.enc[f"{res}_conv"] = Conv2d(in_channels, channels, 3)
            else:
                self.enc[f"{res}_down"] = block(channels, channels, down=True)
            skips.append(channels)
            for i in range(num_blocks):
                attention = img_resolution >> level in attn_resolutions
                self.enc[f"{res}_block{i}"] = block(channels, width, attention=attention)
                channels = width
                skips.append(channels)

        self.dec = nn.ModuleDict()
        for level in reversed(range(len(widths))):
            res = f"{img_resolution >> level}x{img_resolution >> level}"
            if level == len(widths) - 1:
                self.dec[f"{res}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{res}_in1"] = block(channels, channels)
            else:
                self.dec[f"{res}_up"] = block(channels, channels, up=True)
            for i in range(num_blocks + 1):
                attention = img_resolution >> level in attn_resolutions
                self.dec[f"{res}_block{i}"] = block(channels + skips.pop(), widths[level], attention=attention)
                channels = widths[level]
        self.out_norm = GroupNorm(channels, eps=1e-5)
        self.out_conv = Conv2d(channels, out_channels, 3)
        self._initialise()

    def forward(
        self, x: Tensor, noise_labels: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self._embed(noise_labels, labels, augment_labels)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        for layer in self.dec.values():
            if x.shape[1] != layer.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, emb)
        out: Tensor = self.out_conv(F.silu(self.out_norm(x)))
        return out

    def _embed(self, noise_labels: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        emb = self.map_noise(noise_labels)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            emb = emb + self.map_label(drop_labels(labels, self.map_label, self.label_dropout * self.training, emb))
        return F.silu(emb)

    def _initialise(self) -> None:
        """As ADM: torch's own ranges, standard normal class embeddings, zeros in the last layer of every branch."""
        for name, layer in self.named_modules():
            if not isinstance(layer, (Conv2d, Linear)) or layer.weight is None:
                continue
            bound = layer.weight[0].numel() ** -0.5
            if name.endswith(("conv1", "proj", "out_conv", "map_augment")):
                bound = 0.0
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -bound, bound)
        if self.map_label is not None:
            self.map_label.weight.data = torch.randn(self.map_label.weight.shape)
