"""The DDPM++ UNet (Song et al. 2021) in EDM's parametrisation (Karras et al. 2022, arXiv 2206.00364, appendix F.1)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.denoisers.layers import Conv2d, GroupNorm, Linear, PositionalEmbedding, UNetBlock


class SongUNet(nn.Module):
    """Raw network F(x; c_noise), `(B, in_channels, R, R) -> (B, out_channels, R, R)`.

    Parameter names are EDM's (`enc.16x16_block0.conv0.weight`, ...), so its DDPM++ weights load strictly.
    `attn_resolutions` and the resolutions in names are those after the pixel-unshuffle by `patch_size`.
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
        model_channels: int = 128,
        channel_mult: Sequence[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: Sequence[int] = (16,),
        dropout: float = 0.1,
        label_dropout: float = 0.0,
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        if img_resolution % (patch_size * 2 ** (len(channel_mult) - 1)):
            raise ValueError(
                f"img_resolution {img_resolution} is not a multiple of patch_size {patch_size} times "
                f"2**{len(channel_mult) - 1}; change channel_mult or patch_size"
            )
        self.patch_size, self.label_dropout = patch_size, label_dropout
        emb_channels = model_channels * channel_mult_emb

        self.map_noise = PositionalEmbedding(model_channels)
        self.map_label = Linear(label_dim, model_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, model_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(model_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        def block(cin: int, cout: int, *, attention: bool = False, up: bool = False, down: bool = False) -> UNetBlock:
            return UNetBlock(cin, cout, emb_channels, attention=attention, up=up, down=down, dropout=dropout)

        top = img_resolution // patch_size
        widths = [model_channels * m for m in channel_mult]
        self.enc = nn.ModuleDict({f"{top}x{top}_conv": Conv2d(in_channels * patch_size**2, model_channels, 3)})
        skips = [model_channels]
        for level, (cin, cout) in enumerate(pairwise([model_channels, *widths])):
            res = top >> level
            if level > 0:
                self.enc[f"{res}x{res}_down"] = block(cin, cin, down=True)
                skips.append(cin)
            for i in range(num_blocks):
                self.enc[f"{res}x{res}_block{i}"] = block(
                    cin if i == 0 else cout, cout, attention=res in attn_resolutions
                )
                skips.append(cout)

        self.dec = nn.ModuleDict()
        channels = widths[-1]
        for level in reversed(range(len(widths))):
            res = top >> level
            if level == len(widths) - 1:
                self.dec[f"{res}x{res}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{res}x{res}_in1"] = block(channels, channels)
            else:
                self.dec[f"{res}x{res}_up"] = block(channels, channels, up=True)
            for i in range(num_blocks + 1):
                attention = i == num_blocks and res in attn_resolutions
                self.dec[f"{res}x{res}_block{i}"] = block(channels + skips.pop(), widths[level], attention=attention)
                channels = widths[level]
        self.dec[f"{top}x{top}_aux_norm"] = GroupNorm(channels, eps=1e-6)
        self.dec[f"{top}x{top}_aux_conv"] = Conv2d(channels, out_channels * patch_size**2, 3, init_weight=1e-5)

    def forward(
        self, x: Tensor, noise_labels: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self._embed(noise_labels, labels, augment_labels)
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        skips: list[Tensor] = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
            skips.append(x)
        *blocks, aux_norm, aux_conv = self.dec.values()
        for layer in blocks:
            if x.shape[1] != layer.in_channels:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, emb)
        x = aux_conv(F.silu(aux_norm(x)))
        return F.pixel_shuffle(x, self.patch_size) if self.patch_size > 1 else x

    def _embed(self, noise_labels: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        cos, sin = self.map_noise(noise_labels).chunk(2, dim=1)
        emb = torch.cat([sin, cos], dim=1)
        if self.map_label is not None:
            if labels is None:
                labels = emb.new_zeros(1, self.map_label.in_features)
            if self.training and self.label_dropout:
                keep = torch.rand(len(emb), 1, device=emb.device) >= self.label_dropout
                labels = labels * keep.to(labels)
            emb = emb + self.map_label(labels.to(emb) * self.map_label.in_features**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))
