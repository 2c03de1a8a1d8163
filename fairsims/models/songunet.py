"""The DDPM++ and NCSN++ UNets (Song et al. 2021) in EDM's parametrisation (Karras et al. 2022, appendix F.1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.models.layers import Conv2d, FourierEmbedding, GroupNorm, Linear, PositionalEmbedding, UNetBlock

CHOICES = {
    "embedding_type": ("positional", "fourier"),
    "encoder_type": ("standard", "skip", "residual"),
    "decoder_type": ("standard", "skip"),
}


class SongUNet(nn.Module):
    """Raw network F(x; c_noise), `(B, in_channels, R, R) -> (B, out_channels, R, R)`.

    The defaults are DDPM++. NCSN++ is `embedding_type="fourier", encoder_type="residual", channel_mult_noise=2,
    resample_filter=[1, 3, 3, 1]`. A `skip` or `residual` encoder feeds the shrunken input image to every level; a
    `skip` decoder sums an image over the levels (Song et al. 2021, arXiv 2011.13456, appendix H; StyleGAN2, fig. 7).
    Parameter names are EDM's (`enc.16x16_block0.conv0.weight`, ...), so its weights load strictly.
    `attn_resolutions` and the resolutions in names are those after the pixel-unshuffle by `patch_size`.
    Raises ValueError for an unknown type, or when the resolution cannot be halved as often as `channel_mult` asks.
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
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: Sequence[float] = (1, 1),
        patch_size: int = 1,
    ) -> None:
        super().__init__()
        types = {"embedding_type": embedding_type, "encoder_type": encoder_type, "decoder_type": decoder_type}
        for name, value in types.items():
            if value not in CHOICES[name]:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(CHOICES[name])}")
        check_halvings(img_resolution, channel_mult, patch_size)
        self.patch_size, self.label_dropout = patch_size, label_dropout
        emb_channels, noise_channels = model_channels * channel_mult_emb, model_channels * channel_mult_noise

        embedding = FourierEmbedding if embedding_type == "fourier" else PositionalEmbedding
        self.map_noise = embedding(noise_channels)
        self.map_label = Linear(label_dim, noise_channels) if label_dim else None
        self.map_augment = Linear(augment_dim, noise_channels, bias=False) if augment_dim else None
        self.map_layer0 = Linear(noise_channels, emb_channels)
        self.map_layer1 = Linear(emb_channels, emb_channels)

        taps = resample_filter
        block = partial(UNetBlock, emb_channels=emb_channels, dropout=dropout, resample_filter=taps)
        top = img_resolution // patch_size
        widths = [model_channels * m for m in channel_mult]
        image_in, image_out = in_channels * patch_size**2, out_channels * patch_size**2
        self.enc = nn.ModuleDict({f"{top}x{top}_conv": Conv2d(image_in, model_channels, 3)})
        skips, aux = [model_channels], image_in
        for level, (cin, cout) in enumerate(pairwise([model_channels, *widths])):
            res = f"{top >> level}x{top >> level}"
            if level > 0:
                self.enc[f"{res}_down"] = block(cin, cin, down=True)
                skips.append(cin)
                if encoder_type == "skip":
                    self.enc[f"{res}_aux_down"] = Conv2d(aux, aux, 0, down=True, resample_filter=taps)
                    self.enc[f"{res}_aux_skip"] = Conv2d(aux, cin, 1)
                elif encoder_type == "residual":
                    self.enc[f"{res}_aux_residual"] = Conv2d(aux, cin, 3, down=True, resample_filter=taps, fused=True)
                    aux = cin
            for i in range(num_blocks):
                attention = top >> level in attn_resolutions
                self.enc[f"{res}_block{i}"] = block(cin if i == 0 else cout, cout, attention=attention)
                skips.append(cout)

        self.dec = nn.ModuleDict()
        channels, lowest = widths[-1], len(widths) - 1
        for level in reversed(range(len(widths))):
            res = f"{top >> level}x{top >> level}"
            if level == lowest:
                self.dec[f"{res}_in0"] = block(channels, channels, attention=True)
                self.dec[f"{res}_in1"] = block(channels, channels)
            else:
                self.dec[f"{res}_up"] = block(channels, channels, up=True)
            for i in range(num_blocks + 1):
                attention = i == num_blocks and top >> level in attn_resolutions
                self.dec[f"{res}_block{i}"] = block(channels + skips.pop(), widths[level], attention=attention)
                channels = widths[level]
            if decoder_type == "skip" and level < lowest:
                self.dec[f"{res}_aux_up"] = Conv2d(image_out, image_out, 0, up=True, resample_filter=taps)
            if decoder_type == "skip" or level == 0:
                self.dec[f"{res}_aux_norm"] = GroupNorm(channels, eps=1e-6)
                self.dec[f"{res}_aux_conv"] = Conv2d(channels, image_out, 3, init_weight=1e-5)

    def forward(
        self, x: Tensor, noise_labels: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        emb = self._embed(noise_labels, labels, augment_labels)
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        aux, skips = x, list[Tensor]()
        for name, layer in self.enc.items():
            if name.endswith("_aux_down"):
                aux = layer(aux)
            elif name.endswith("_aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("_aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) / math.sqrt(2)
            else:
                x = layer(x, emb) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)
        image: Tensor | None = None
        for name, layer in self.dec.items():
            if name.endswith("_aux_up"):
                image = layer(image)
            elif name.endswith("_aux_norm"):
                normed = F.silu(layer(x))
            elif name.endswith("_aux_conv"):
                image = layer(normed) if image is None else layer(normed) + image
            else:
                if x.shape[1] != layer.in_channels:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb)
        assert image is not None
        return F.pixel_shuffle(image, self.patch_size) if self.patch_size > 1 else image

    def _embed(self, noise_labels: Tensor, labels: Tensor | None, augment_labels: Tensor | None) -> Tensor:
        cos, sin = self.map_noise(noise_labels).chunk(2, dim=1)
        emb = torch.cat([sin, cos], dim=1)
        if self.map_label is not None:
            given = drop_labels(labels, self.map_label, self.label_dropout if self.training else 0.0, emb)
            emb = emb + self.map_label(given * self.map_label.in_features**0.5)
        if self.map_augment is not None and augment_labels is not None:
            emb = emb + self.map_augment(augment_labels.to(emb))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))


def check_halvings(img_resolution: int, channel_mult: Sequence[int], patch_size: int = 1) -> None:
    """Raises ValueError when an image cannot be halved between the levels of a UNet."""
    if img_resolution % (patch_size * 2 ** (len(channel_mult) - 1)):
        raise ValueError(
            f"img_resolution {img_resolution} is not a multiple of patch_size {patch_size} times "
            f"2**{len(channel_mult) - 1}; change channel_mult or patch_size"
        )


def drop_labels(labels: Tensor | None, layer: nn.Linear, rate: float, like: Tensor) -> Tensor:
    """Class labels `(B or 1, label_dim)` for the layer that embeds them: zeros where none are given or dropped."""
    if labels is None:
        labels = like.new_zeros(1, layer.in_features)
    if rate:
        labels = labels * (torch.rand(len(like), 1, device=like.device) >= rate).to(labels)
    return labels.to(like)
