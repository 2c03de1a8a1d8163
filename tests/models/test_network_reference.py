"""NCSN++, ADM and DDPM++ against a plain float64 implementation in numpy that works on the state dict by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from fairsims.models import EDMDenoiser
from fairsims.models.dhariwal import DhariwalUNet
from fairsims.models.layers import Conv2d
from fairsims.models.songunet import SongUNet

Array = NDArray[np.float64]
Weights = dict[str, Array]


# --- The reference: loops and sums, no torch.


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def convolve(x: Array, w: Array, pad: int) -> Array:
    k = w.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[2] - k + 1, x.shape[3] - k + 1
    return sum(
        np.einsum("bihw,oi->bohw", x[:, :, dy : dy + height, dx : dx + width], w[:, :, dy, dx])
        for dy in range(k)
        for dx in range(k)
    )  # type: ignore[return-value]


def halve(x: Array, f: Array, pad: int) -> Array:
    k = f.shape[-1]
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    out = np.zeros((*x.shape[:2], (x.shape[2] - k) // 2 + 1, (x.shape[3] - k) // 2 + 1))
    for i in range(out.shape[2]):
        for j in range(out.shape[3]):
            out[:, :, i, j] = (x[:, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] * f).sum(axis=(2, 3))
    return out


def double(x: Array, f: Array, pad: int) -> Array:
    k, (height, width) = f.shape[-1], x.shape[2:]
    out = np.zeros((*x.shape[:2], 2 * height - 2 + k, 2 * width - 2 + k))
    for i in range(height):
        for j in range(width):
            out[:, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += 4 * f * x[:, :, i : i + 1, j : j + 1]
    return out[:, :, pad : out.shape[2] - pad, pad : out.shape[3] - pad]


def conv(weights: Weights, name: str, x: Array, *, up: bool = False, down: bool = False, fused: bool = False) -> Array:
    w, b, f = (weights.get(f"{name}.{part}") for part in ("weight", "bias", "resample_filter"))
    f_pad = 0 if f is None else (f.shape[-1] - 1) // 2
    w_pad = 0 if w is None else w.shape[-1] // 2
    if fused:
        assert down
        assert w is not None
        assert f is not None
        x = halve(convolve(x, w, w_pad + f_pad), f[0, 0], 0)
    else:
        if up or down:
            assert f is not None
            x = (double if up else halve)(x, f[0, 0], f_pad)
        if w is not None:
            x = convolve(x, w, w_pad)
    return x if b is None else x + b[:, None, None]


def norm(weights: Weights, name: str, x: Array, eps: float) -> Array:
    b, c, height, width = x.shape
    groups = min(32, c // 4)
    g = x.reshape(b, groups, -1)
    g = (g - g.mean(axis=2, keepdims=True)) / np.sqrt(g.var(axis=2, keepdims=True) + eps)
    g = g.reshape(b, c, height, width)
    return g * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]


def linear(weights: Weights, name: str, x: Array) -> Array:
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", np.zeros(()))


def attend(weights: Weights, name: str, x: Array, eps: float, heads: int) -> Array:
    b, c, height, width = x.shape
    qkv = conv(weights, f"{name}.qkv", norm(weights, f"{name}.norm2", x, eps))
    qkv = qkv.reshape(b * heads, c // heads, 3, height * width)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    out = np.zeros_like(q)
    for n in range(len(q)):
        score = q[n].T @ k[n] / np.sqrt(c // heads)
        score = np.exp(score - score.max(axis=1, keepdims=True))
        out[n] = v[n] @ (score / score.sum(axis=1, keepdims=True)).T
    return conv(weights, f"{name}.proj", out.reshape(b, c, height, width))


def block(weights: Weights, name: str, x: Array, emb: Array, *, adm: bool) -> Array:
    eps, scale, up, down = (
        1e-5 if adm else 1e-6,
        1.0 if adm else np.sqrt(0.5),
        name.endswith("_up"),
        name.endswith("_down"),
    )
    h = conv(weights, f"{name}.conv0", silu(norm(weights, f"{name}.norm0", x, eps)), up=up, down=down)
    style = linear(weights, f"{name}.affine", emb)[:, :, None, None]
    if adm:
        half = style.shape[1] // 2
        h = style[:, half:] + norm(weights, f"{name}.norm1", h, eps) * (style[:, :half] + 1)
    else:
        h = norm(weights, f"{name}.norm1", h + style, eps)
    h = conv(weights, f"{name}.conv1", silu(h))
    if f"{name}.skip.weight" in weights or f"{name}.skip.resample_filter" in weights:
        x = conv(weights, f"{name}.skip", x, up=up, down=down)
    x = (h + x) * scale
    if f"{name}.qkv.weight" in weights:
        heads = x.shape[1] // 64 if adm else 1
        x = (x + attend(weights, name, x, eps, heads)) * scale
    return x


def position(c: Array, channels: int, *, endpoint: bool) -> Array:
    half = channels // 2
    angle = c[:, None] * (1 / 10000) ** (np.arange(half) / (half - endpoint))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def adm_network(weights: Weights, settings: dict[str, Any], x: Array, c: Array, y: Array, a: Array) -> Array:
    emb = position(c, settings["model_channels"], endpoint=False) + linear(weights, "map_augment", a)
    emb = linear(weights, "map_layer1", silu(linear(weights, "map_layer0", emb)))
    emb = silu(emb + linear(weights, "map_label", y))
    top, levels, blocks = settings["img_resolution"], len(settings["channel_mult"]), settings["num_blocks"]
    skips = []
    for level in range(levels):
        r = f"{top >> level}x{top >> level}"
        x = conv(weights, f"enc.{r}_conv", x) if level == 0 else block(weights, f"enc.{r}_down", x, emb, adm=True)
        skips.append(x)
        for i in range(blocks):
            x = block(weights, f"enc.{r}_block{i}", x, emb, adm=True)
            skips.append(x)
    for level in reversed(range(levels)):
        r = f"{top >> level}x{top >> level}"
        for first in ["in0", "in1"] if level == levels - 1 else ["up"]:
            x = block(weights, f"dec.{r}_{first}", x, emb, adm=True)
        for i in range(blocks + 1):
            x = block(weights, f"dec.{r}_block{i}", np.concatenate([x, skips.pop()], axis=1), emb, adm=True)
    assert not skips
    return conv(weights, "out_conv", silu(norm(weights, "out_norm", x, 1e-5)))


def song_network(weights: Weights, settings: dict[str, Any], x: Array, c: Array, y: Array, a: Array) -> Array:
    if settings.get("embedding_type") == "fourier":
        angle = 2 * np.pi * c[:, None] * weights["map_noise.freqs"]
        emb = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    else:
        cos_sin = position(c, settings["model_channels"] * settings.get("channel_mult_noise", 1), endpoint=True)
        cos, sin = np.split(cos_sin, 2, axis=1)
        emb = np.concatenate([sin, cos], axis=1)
    emb = emb + linear(weights, "map_label", y * np.sqrt(y.shape[1])) + linear(weights, "map_augment", a)
    emb = silu(linear(weights, "map_layer1", silu(linear(weights, "map_layer0", emb))))
    top, levels, blocks = settings["img_resolution"], len(settings["channel_mult"]), settings["num_blocks"]
    encoder, decoder = settings.get("encoder_type", "standard"), settings.get("decoder_type", "standard")
    skips, aux = [], x
    for level in range(levels):
        r = f"enc.{top >> level}x{top >> level}"
        if level == 0:
            x = conv(weights, f"{r}_conv", x)
        else:
            x = block(weights, f"{r}_down", x, emb, adm=False)
            if encoder == "residual":
                x = aux = (x + conv(weights, f"{r}_aux_residual", aux, down=True, fused=True)) / np.sqrt(2)
            elif encoder == "skip":
                aux = conv(weights, f"{r}_aux_down", aux, down=True)
                x = x + conv(weights, f"{r}_aux_skip", aux)
        skips.append(x)
        for i in range(blocks):
            x = block(weights, f"{r}_block{i}", x, emb, adm=False)
            skips.append(x)
    image: Array | None = None
    for level in reversed(range(levels)):
        r = f"dec.{top >> level}x{top >> level}"
        for first in ["in0", "in1"] if level == levels - 1 else ["up"]:
            x = block(weights, f"{r}_{first}", x, emb, adm=False)
        for i in range(blocks + 1):
            x = block(weights, f"{r}_block{i}", np.concatenate([x, skips.pop()], axis=1), emb, adm=False)
        if decoder == "skip" or level == 0:
            here = conv(weights, f"{r}_aux_conv", silu(norm(weights, f"{r}_aux_norm", x, 1e-6)))
            image = here if image is None else here + conv(weights, f"{r}_aux_up", image, up=True)
    assert not skips
    assert image is not None
    return image


# --- The comparison.

SMALL: dict[str, Any] = {"img_resolution": 8, "in_channels": 3, "out_channels": 3, "label_dim": 3, "augment_dim": 2}
NETWORKS: dict[str, tuple[type[nn.Module], Callable[..., Array], dict[str, Any]]] = {
    "ddpmpp": (
        SongUNet,
        song_network,
        {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]},
    ),
    "ncsnpp": (
        SongUNet,
        song_network,
        {
            "model_channels": 8,
            "channel_mult": [2, 1, 2],
            "num_blocks": 2,
            "attn_resolutions": [4],
            "embedding_type": "fourier",
            "encoder_type": "residual",
            "channel_mult_noise": 2,
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "skip": (
        SongUNet,
        song_network,
        {
            "model_channels": 8,
            "channel_mult": [1, 2, 2],
            "num_blocks": 1,
            "attn_resolutions": [],
            "encoder_type": "skip",
            "decoder_type": "skip",
            "channel_mult_noise": 2,
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "skip-box": (
        SongUNet,
        song_network,
        {
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [8],
            "encoder_type": "residual",
            "decoder_type": "skip",
            "embedding_type": "fourier",
        },
    ),
    "adm": (
        DhariwalUNet,
        adm_network,
        {"model_channels": 32, "channel_mult": [1, 2, 4], "num_blocks": 1, "attn_resolutions": [4, 2]},
    ),
    "adm-narrow": (
        DhariwalUNet,
        adm_network,
        {"model_channels": 8, "channel_mult": [2, 2], "num_blocks": 2, "attn_resolutions": [8, 4]},
    ),
}


def scrambled(network: nn.Module) -> nn.Module:
    """Every parameter at random, also those that training starts from zero."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            spread = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
            parameter.add_(spread * torch.randn(parameter.shape, generator=generator))
    return network.double().eval().requires_grad_(False)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_agree_with_the_plain_implementation(name: str) -> None:
    network_class, reference, changes = NETWORKS[name]
    settings = SMALL | changes
    torch.manual_seed(1)
    network = scrambled(network_class(**settings))
    rng = np.random.default_rng(2)
    x, c, y, a = rng.normal(size=(2, 3, 8, 8)), rng.normal(size=2), np.eye(3)[[2, 0]], rng.normal(size=(2, 2))
    found = network(*map(torch.from_numpy, (x, c, y, a))).numpy()
    weights = {k: v.numpy() for k, v in network.state_dict().items()}
    expected = reference(weights, settings, x, c, y, a)
    assert found.std() > 0.05
    assert np.abs(found - expected).max() < 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_has_an_effect(name: str) -> None:
    network_class, _, changes = NETWORKS[name]
    network = scrambled(network_class(**SMALL | changes)).requires_grad_(True)
    torch.manual_seed(0)
    x, c = torch.randn(2, 3, 8, 8).double(), torch.randn(2).double()
    network(x, c, torch.eye(3).double()[:2], torch.randn(2, 2).double()).square().sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_half_precision_and_channels_last_stay_near_float32(name: str, memory: torch.memory_format) -> None:
    network_class, _, changes = NETWORKS[name]
    settings = {k: v for k, v in (SMALL | changes).items() if k not in ("in_channels", "out_channels")}
    architecture = "dhariwal" if network_class is DhariwalUNet else "songunet"
    torch.manual_seed(0)
    denoiser = EDMDenoiser(img_channels=3, architecture=architecture, **settings)
    scrambled(denoiser).float()
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.1, 3.0])
    labels, augment = torch.eye(3)[:2], torch.randn(2, 2)
    expected = denoiser(x, sigma, labels, augment)
    denoiser = denoiser.to(memory_format=memory)
    x = x.to(memory_format=memory)
    assert (denoiser(x, sigma, labels, augment) - expected).abs().max() < 2e-5 * expected.abs().max()
    for precision, limit in (("bfloat16", 0.06), ("float16", 0.01)):
        denoiser.precision = precision
        found = denoiser(x, sigma, labels, augment)
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < limit * expected.abs().max()


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
@pytest.mark.parametrize("kernel", [0, 1, 3])
def test_resampling_convolutions_follow_their_definition(taps: tuple[int, ...], kernel: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 4).double()
    for way in ({"up": True}, {"down": True}, {"down": True, "fused": True}):
        if kernel == 0 and "fused" in way:
            continue
        layer = Conv2d(3, 3 if kernel == 0 else 5, kernel, resample_filter=taps, **way).double().requires_grad_(False)
        if layer.bias is not None:
            layer.bias.normal_()
        expected = conv({f"c.{k}": v.numpy() for k, v in layer.state_dict().items()}, "c", x.numpy(), **way)
        found = layer(x).numpy()
        assert found.shape[2:] == ((12, 8) if "up" in way else (3, 2))
        assert np.abs(found - expected).max() < 1e-12


def test_only_a_convolution_that_halves_can_be_fused() -> None:
    for options in ({"up": True}, {}, {"down": True}):
        with pytest.raises(ValueError, match="fused is True"):
            Conv2d(3, 3, 0 if "down" in options else 3, fused=True, **options)
