"""EDM2's network against NVlabs' own answers, and against a plain implementation in numpy for other shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from edm2_snapshots import TINY, tiny2
from numpy.typing import NDArray
from torch import Tensor

from fairsims.errors import InputError
from fairsims.models import SIMSGuidance
from fairsims.models.edm2 import EDM2Denoiser, EDM2UNet, MPConv, normalize
from fairsims.models.edm_pickle import read_snapshot
from fairsims.models.objective import Batch
from fairsims.models.sampling import SamplerConfig, solve

EDM2 = Path(__file__).parents[1] / "fixtures" / "edm2"
NAMES = ("uncond", "cond", "cond-guide")
Array = NDArray[np.float64]


def stored(name: str) -> dict[str, Tensor]:
    with np.load(EDM2 / f"{name}.npz") as found:
        return {k: torch.from_numpy(v) for k, v in found.items()}


def opened(name: str, kind: str) -> EDM2Denoiser:
    """As EDM2 runs a file ("half"), with its weights widened first ("wide"), or in float64."""
    network = read_snapshot(EDM2 / f"{name}.pkl").denoiser
    assert isinstance(network, EDM2Denoiser)
    if kind == "wide":
        for part in network.modules():
            if isinstance(part, MPConv):
                part.half_gain = False
    return network.double() if kind == "64" else network


# --- NVlabs' answers.

KINDS = {"half": ("32", "", 2e-5), "wide": ("32_wide", "_wide", 2e-5), "64": ("64", "64", 1e-10)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_denoisers_equal_edm2s(name: str, kind: str) -> None:
    suffix, _, limit = KINDS[kind]
    found, network = stored(name), opened(name, kind)
    x, sigma = found["x"], found["sigma"]
    x, sigma = (x.double(), sigma.double()) if kind == "64" else (x, sigma)
    labels = found.get("labels")
    assert (network(x, sigma, labels) - found[f"y{suffix}"]).abs().max() < limit
    total = (sigma**2 + 0.25).sqrt().reshape(-1, 1, 1, 1)
    assert (network.unet(x / total, sigma.log() / 4, labels) - found[f"f{suffix}"]).abs().max() < limit
    if kind != "wide":
        assert (network.logvar(sigma) - found[f"logvar{suffix}"]).abs().max() < limit
    if labels is not None:
        assert (network(x, sigma) - found[f"y{suffix}_nolabel"]).abs().max() < limit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["uncond", "cond", "guided"])
def test_samplers_give_edm2s_images(name: str, kind: str) -> None:
    found = stored("cond" if name == "guided" else name)
    network: Any = opened("cond" if name == "guided" else name, kind)
    if name == "guided":
        network = SIMSGuidance(network, opened("cond-guide", kind), 1.0)  # their g of 2
    latents = found["latents"].double() if kind == "64" else found["latents"]
    images = solve(network, latents, SamplerConfig(solver="heun", steps=6), labels=found.get("sample_labels"))
    expected = found[("images_guided" if name == "guided" else "images") + KINDS[kind][1]]
    assert (images - expected).abs().max() < (1e-10 if kind == "64" else 1e-4)


# --- Other shapes.


def norm(x: Array, axes: tuple[int, ...]) -> Array:
    return x / (np.sqrt((x**2).mean(axis=axes, keepdims=True)) + 1e-4)


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x)) / 0.596


def add(a: Array, b: Array, t: float) -> Array:
    return ((1 - t) * a + t * b) / np.hypot(1 - t, t)


def layer(weights: dict[str, Array], name: str, x: Array, gain: Any = 1.0) -> Array:
    w = weights[f"{name}.weight"]
    w = norm(w, tuple(range(1, w.ndim))) * gain / np.sqrt(w[0].size)
    if w.ndim == 2:
        return x @ w.T
    k, (height, width) = w.shape[-1], x.shape[2:]
    x = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    shifted = [
        np.einsum("bihw,oi->bohw", x[:, :, i : i + height, j : j + width], w[:, :, i, j])
        for i in range(k)
        for j in range(k)
    ]
    return np.sum(shifted, axis=0)


def resample(x: Array, way: str, taps: list[float]) -> Array:
    f = np.outer(taps, taps) / np.sum(taps) ** 2
    k, pad, (height, width) = len(taps), (len(taps) - 1) // 2, x.shape[2:]
    if way == "down":
        x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
        out = np.zeros((*x.shape[:2], height // 2, width // 2))
        for i, j in np.ndindex(*out.shape[2:]):
            out[:, :, i, j] = (x[:, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] * f).sum(axis=(2, 3))
        return out
    out = np.zeros((*x.shape[:2], 2 * height + 2 * pad, 2 * width + 2 * pad))
    for i, j in np.ndindex(height, width):
        out[:, :, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += 4 * f * x[:, :, i : i + 1, j : j + 1]
    return out[:, :, pad : pad + 2 * height, pad : pad + 2 * width]


def attend(weights: dict[str, Array], name: str, x: Array, heads: int) -> Array:
    b, c, height, width = x.shape
    qkv = layer(weights, f"{name}.attn_qkv", x).reshape(b, heads, c // heads, 3, height * width)
    q, k, v = (norm(qkv[:, :, :, i], (2,)) for i in range(3))
    score = np.exp(np.einsum("nhcq,nhck->nhqk", q, k) / np.sqrt(c // heads))
    found = np.einsum("nhqk,nhck->nhcq", score / score.sum(axis=3, keepdims=True), v)
    return layer(weights, f"{name}.attn_proj", found.reshape(b, c, height, width))


def block(weights: dict[str, Array], name: str, x: Array, emb: Array, s: dict[str, Any]) -> Array:
    for way in ("down", "up"):
        if name.endswith(f"_{way}"):
            x = resample(x, way, s["resample_filter"])
    skip, first = f"{name}.conv_skip.weight" in weights, name.startswith("enc")
    if first:
        x = norm(layer(weights, f"{name}.conv_skip", x) if skip else x, (1,))
    style = layer(weights, f"{name}.emb_linear", emb, weights[f"{name}.emb_gain"]) + 1
    y = silu(layer(weights, f"{name}.conv_res0", silu(x)) * style[:, :, None, None])
    y = layer(weights, f"{name}.conv_res1", y)
    x = add(x if first or not skip else layer(weights, f"{name}.conv_skip", x), y, s["res_balance"])
    if f"{name}.attn_qkv.weight" in weights:
        x = add(x, attend(weights, name, x, x.shape[1] // s["channels_per_head"]), s["attn_balance"])
    return x if s["clip_act"] is None else np.clip(x, -s["clip_act"], s["clip_act"])


def unet(weights: dict[str, Array], s: dict[str, Any], x: Array, c: Array, labels: Array | None) -> Array:
    emb = np.cos(c[:, None] * weights["emb_fourier.freqs"] + weights["emb_fourier.phases"]) * np.sqrt(2)
    emb = layer(weights, "emb_noise", emb)
    if s["label_dim"]:
        labels = np.zeros((len(x), s["label_dim"])) if labels is None else labels
        emb = add(emb, layer(weights, "emb_label", labels * np.sqrt(s["label_dim"])), s["label_balance"])
    emb = silu(emb)
    x = np.concatenate([x, np.ones_like(x[:, :1])], axis=1)
    top, levels, skips = s["img_resolution"], len(s["channel_mult"]), []
    for level in range(levels):
        r = f"enc.{top >> level}x{top >> level}"
        x = block(weights, f"{r}_down", x, emb, s) if level else layer(weights, f"{r}_conv", x)
        skips.append(x)
        for i in range(s["num_blocks"]):
            x = block(weights, f"{r}_block{i}", x, emb, s)
            skips.append(x)
    for level in reversed(range(levels)):
        r, t = f"dec.{top >> level}x{top >> level}", s["concat_balance"]
        for first in ["in0", "in1"] if level == levels - 1 else ["up"]:
            x = block(weights, f"{r}_{first}", x, emb, s)
        for i in range(s["num_blocks"] + 1):
            skip = skips.pop()
            na, nb = x.shape[1], skip.shape[1]
            scale = np.sqrt(na + nb) / np.hypot(1 - t, t)
            parts = [x * scale * (1 - t) / np.sqrt(na), skip * scale * t / np.sqrt(nb)]
            x = block(weights, f"{r}_block{i}", np.concatenate(parts, axis=1), emb, s)
    assert not skips
    return layer(weights, "out_conv", x, weights["out_gain"])


DEFAULTS = {
    "resample_filter": [1, 1],
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "label_balance": 0.5,
    "concat_balance": 0.5,
}
SHAPES: dict[str, dict[str, Any]] = {
    "two heads": {"channel_mult": [1, 2], "channels_per_head": 8, "label_dim": 3},
    "three levels": {"img_resolution": 16, "channel_mult": [1, 2, 3], "attn_resolutions": [8, 4], "num_blocks": 2},
    "balances": {
        "label_dim": 2,
        "label_balance": 0.3,
        "concat_balance": 0.4,
        "res_balance": 0.2,
        "attn_balance": 0.6,
        "clip_act": 0.5,
    },
    "widths": {"channel_mult": [2, 1], "channel_mult_noise": 3, "channel_mult_emb": 4, "clip_act": None},
    "filter": {"resample_filter": [1, 3, 3, 1], "attn_resolutions": [], "channels_per_head": 100},
    "one level": {"channel_mult": [1], "img_resolution": 4, "img_channels": 4},
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_agree_with_the_plain_implementation(name: str) -> None:
    settings = TINY | SHAPES[name]
    network = tiny2(**settings).double()
    rng = np.random.default_rng(0)
    x, c = rng.normal(size=(3, *network.shape)), rng.normal(size=3)
    labels = np.eye(settings["label_dim"])[[0, 1, 0]] if settings["label_dim"] else None
    found = network.unet(*(None if v is None else torch.from_numpy(v) for v in (x, c, labels))).numpy()
    weights = {k: v.numpy() for k, v in network.unet.state_dict().items()}
    expected = unet(weights, DEFAULTS | settings, x, c, labels)
    assert found.std() > 0.01
    assert np.abs(found - expected).max() < 1e-12 * max(1, np.abs(expected).max())


def test_every_parameter_has_an_effect() -> None:
    network = tiny2(label_dim=3, half_gain=False).requires_grad_(True)
    x, sigma = torch.randn(4, 1, 8, 8), torch.tensor([0.05, 0.4, 2.0, 20.0])
    batch = Batch(images=x, sigma=sigma, noise=torch.randn_like(x), labels=torch.eye(3)[[0, 1, 2, 0]])
    network.loss(batch).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32(precision: str) -> None:
    found, network = stored("cond"), opened("cond", "half")
    x, sigma, labels = found["x"], found["sigma"], found["labels"]
    expected = network(x, sigma, labels)
    network.precision = precision
    half = network(x, sigma, labels)
    assert half.dtype == torch.float32
    assert 0 < (half - expected).abs().max() < 0.02 * expected.abs().max()


# --- What the paper promises.


def test_magnitudes_are_kept() -> None:
    torch.manual_seed(0)
    network = EDM2UNet(img_resolution=16, img_channels=3, model_channels=64, channel_mult=[1, 2], num_blocks=1)
    network.eval().requires_grad_(False)
    x = torch.randn(8, 64, 16, 16)
    for name, part in network.enc.items():
        if "_block0" in name and "16x16" in name:
            found = part(x, torch.randn(8, 128))
            assert 0.8 < float(found.std()) < 1.2
    assert float(network(torch.randn(2, 3, 16, 16), torch.zeros(2)).abs().max()) == 0  # its gains start at 0


def test_training_forces_unit_weights_and_sampling_leaves_them() -> None:
    torch.manual_seed(0)
    conv = MPConv(4, 8, (3, 3))
    with torch.no_grad():
        conv.weight.mul_(3)
    x = torch.randn(2, 4, 8, 8)
    before = conv.weight.clone()
    sampled = conv.eval()(x)
    assert torch.equal(conv.weight, before)
    trained = conv.train()(x)
    assert torch.allclose(conv.weight, normalize(before, (1, 2, 3)))
    # The small constant counts twice in training.
    assert torch.allclose(trained, sampled, rtol=1e-3, atol=1e-4)
    assert float(conv.weight.detach()[0].square().mean().sqrt()) == pytest.approx(1, abs=2e-4)


def test_the_uncertainty_lowers_the_loss_at_its_best() -> None:
    network, x = tiny2(), torch.randn(16, 1, 8, 8)
    batch = Batch(images=x, sigma=torch.full((16,), 0.5), noise=torch.randn_like(x))
    with torch.no_grad():
        s = batch.sigma.reshape(-1, 1, 1, 1)
        error = network.loss_weight(s) * (network(x + s * batch.noise, batch.sigma) - x) ** 2
        u = network.logvar(batch.sigma)
        assert float(network.loss(batch)) == pytest.approx(float((error / u.exp() + u).mean()), rel=1e-5)


def test_sizes_that_make_no_network_are_named() -> None:
    for changes, message in (
        ({"img_resolution": 9}, "img_resolution is 9 with 2 levels"),
        ({"resample_filter": [1, 2, 1]}, "expected an even number of taps"),
        ({"channel_mult": []}, "0 levels"),
    ):
        with pytest.raises(ValueError, match=message):
            EDM2Denoiser(**TINY | changes)
    with pytest.raises(InputError, match="images of shape"):
        SIMSGuidance(tiny2(), tiny2(img_channels=3), 1.0)
