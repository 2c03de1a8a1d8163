"""EDM2's network in plain numpy, and the names and shapes of its weights, from the published description alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


DEFAULTS: dict[str, Any] = {
    "model_channels": 192,
    "channel_mult": [1, 2, 3, 4],
    "channel_mult_noise": None,
    "channel_mult_emb": None,
    "num_blocks": 3,
    "attn_resolutions": [16, 8],
    "channels_per_head": 64,
    "resample_filter": [1, 1],
    "res_balance": 0.3,
    "attn_balance": 0.3,
    "clip_act": 256,
    "label_balance": 0.5,
    "concat_balance": 0.5,
    "sigma_data": 0.5,
    "logvar_channels": 128,
    "dropout": 0.0,
}
"""What EDM2 takes where a snapshot does not say."""


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


def denoised(weights: dict[str, Array], s: dict[str, Any], x: Array, sigma: Array, labels: Array | None) -> Array:
    inner = {k.removeprefix("unet."): v for k, v in weights.items() if k.startswith("unet.")}
    level = sigma[:, None, None, None]
    total = np.sqrt(level**2 + s["sigma_data"] ** 2)
    raw = unet(inner, s, x / total, np.log(sigma) / 4, labels)
    return x * (s["sigma_data"] / total) ** 2 + raw * (level * s["sigma_data"] / total)


def logvar(weights: dict[str, Array], sigma: Array) -> Array:
    angles = np.log(sigma)[:, None] / 4 * weights["logvar_fourier.freqs"] + weights["logvar_fourier.phases"]
    return layer(weights, "logvar_linear", np.cos(angles) * np.sqrt(2))[:, 0]


def shapes(s: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every parameter and buffer of a network with these settings."""
    base, top, blocks, depth = s["model_channels"], s["img_resolution"], s["num_blocks"], len(s["channel_mult"])
    widths = [base * m for m in s["channel_mult"]]
    noise = widths[0] if s["channel_mult_noise"] is None else base * s["channel_mult_noise"]
    emb = max(widths) if s["channel_mult_emb"] is None else base * s["channel_mult_emb"]
    found: dict[str, tuple[int, ...]] = {"out_gain": (), "emb_noise.weight": (emb, noise)}
    found |= {f"emb_fourier.{k}": (noise,) for k in ("freqs", "phases")}
    if s["label_dim"]:
        found["emb_label.weight"] = (emb, s["label_dim"])

    def make(name: str, inputs: int, outputs: int, attention: bool = False) -> None:
        first = outputs if name.startswith("enc") else inputs
        found[f"{name}.emb_gain"] = ()
        found[f"{name}.emb_linear.weight"] = (outputs, emb)
        found[f"{name}.conv_res0.weight"] = (outputs, first, 3, 3)
        found[f"{name}.conv_res1.weight"] = (outputs, outputs, 3, 3)
        if inputs != outputs:
            found[f"{name}.conv_skip.weight"] = (outputs, inputs, 1, 1)
        if attention and outputs // s["channels_per_head"]:
            found[f"{name}.attn_qkv.weight"] = (3 * outputs, outputs, 1, 1)
            found[f"{name}.attn_proj.weight"] = (outputs, outputs, 1, 1)

    now, skips = widths[0], []
    for level in range(depth):
        side = top >> level
        if level:
            make(f"enc.{side}x{side}_down", now, now)
        else:
            found[f"enc.{side}x{side}_conv.weight"] = (now, s["img_channels"] + 1, 3, 3)
        skips.append(now)
        for i in range(blocks):
            make(f"enc.{side}x{side}_block{i}", now, widths[level], side in s["attn_resolutions"])
            now = widths[level]
            skips.append(now)
    for level in reversed(range(depth)):
        side = top >> level
        if level == depth - 1:
            make(f"dec.{side}x{side}_in0", now, now, attention=True)
            make(f"dec.{side}x{side}_in1", now, now)
        else:
            make(f"dec.{side}x{side}_up", now, now)
        for i in range(blocks + 1):
            make(f"dec.{side}x{side}_block{i}", now + skips.pop(), widths[level], side in s["attn_resolutions"])
            now = widths[level]
    found["out_conv.weight"] = (s["img_channels"], now, 3, 3)
    outer = {"logvar_linear.weight": (1, s["logvar_channels"])}
    outer |= {f"logvar_fourier.{k}": (s["logvar_channels"],) for k in ("freqs", "phases")}
    return outer | {f"unet.{k}": v for k, v in found.items()}
