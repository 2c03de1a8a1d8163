"""Writes networks in the pickle format of NVlabs/edm2; the form alone is EDM2's, as in `edm_snapshots`."""

from __future__ import annotations

import io
import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from edm_snapshots import HOOKS, Persistent, stubs
from torch import nn

from fairsims.models.edm2 import Block, EDM2Denoiser, EDM2UNet, MPConv, MPFourier

CLASSES = {EDM2Denoiser: "Precond", EDM2UNet: "UNet", Block: "Block", MPConv: "MPConv", MPFourier: "MPFourier"}
TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 8,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
    "label_dim": 0,
    "logvar_channels": 16,
}


def tiny2(seed: int = 0, **changes: Any) -> EDM2Denoiser:
    """A network for 8x8 grey images in which every layer has an effect and every number is one of float16."""
    torch.manual_seed(seed)
    network = EDM2Denoiser(**TINY | {"half_gain": True} | changes)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return network.half().float().eval().requires_grad_(False)


def encoder(scale: Any = (0.12, 0.11, 0.13, 0.15), bias: Any = (-0.7, -0.35, 0.0, 0.3)) -> Persistent:
    """An encoder of latents with these constants."""
    state = {"vae_name": "stabilityai/sd-vae-ft-mse", "batch_size": 8, "_vae": None, "_init_args": ()}
    arrays = {"scale": np.array(scale, np.float32), "bias": np.array(bias, np.float32)}
    return Persistent("StabilityVAEEncoder", {**state, **arrays, "_init_kwargs": {"vae_name": state["vae_name"]}})


def snapshot2(denoiser: EDM2Denoiser, **arguments: Any) -> dict[str, Any]:
    """What EDM2's training loop pickles, to be changed and then given to `dumps2`."""
    config = {k: v for k, v in denoiser.config.items() if k != "half_gain"}
    ema = record(denoiser)
    ema.state |= {k: config[k] for k in ("img_resolution", "img_channels", "label_dim", "sigma_data")}
    ema.state |= {"use_fp16": True, "_init_kwargs": {**config, "use_fp16": True, **arguments}}
    rgb = Persistent("StandardRGBEncoder", {"_init_args": (), "_init_kwargs": {}})
    loss = {"P_mean": -0.8, "P_std": 1.6}
    return {
        "encoder": encoder() if denoiser.img_channels == 4 else rgb,
        "dataset_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "path": "d.zip", "use_labels": True},
        "loss_fn": Persistent("EDM2Loss", {**loss, "sigma_data": 0.5, "_init_args": (), "_init_kwargs": loss}),
        "ema": ema,
    }


def of_weights(arguments: dict[str, Any], weights: dict[str, np.ndarray]) -> dict[str, Any]:
    """The same of weights by their names and of the constructor's arguments, without any module of ours."""
    top: dict[str, Any] = {}
    for name, value in weights.items():
        *path, last = name.split(".")
        place = top
        for part in path:
            place = place.setdefault(part, {})
        tensor = torch.from_numpy(np.array(value))
        place[last] = tensor if last in ("freqs", "phases") else nn.Parameter(tensor, requires_grad=False)

    def made(name: str, held: dict[str, Any]) -> Any:
        kinds = {"unet": "UNet", "emb_fourier": "MPFourier", "logvar_fourier": "MPFourier"}
        kind = kinds.get(name, "Block" if "emb_gain" in held else "MPConv")
        children = {k: made(k, v) for k, v in held.items() if isinstance(v, dict)}
        if name in ("enc", "dec"):
            bag = nn.ModuleDict()
            bag.__dict__["_modules"] = children
            return bag
        state: dict[str, Any] = {"training": False, **{hook: {} for hook in HOOKS}, "_modules": children}
        state["_parameters"] = {k: v for k, v in held.items() if isinstance(v, nn.Parameter)}
        state["_buffers"] = {k: v for k, v in held.items() if type(v) is torch.Tensor}
        state |= {"_non_persistent_buffers_set": set(), "_init_args": (), "_init_kwargs": {}}
        return Persistent(kind if name else "Precond", state)

    ema = made("", top)
    ema.state |= {k: arguments[k] for k in ("img_resolution", "img_channels", "label_dim")}
    ema.state["_init_kwargs"] = dict(arguments)
    return {"encoder": None, "dataset_kwargs": {}, "loss_fn": None, "ema": ema}


def record(module: nn.Module) -> Persistent:
    """A module as EDM2 pickles it: float16, and absent parts as attributes that are None."""
    state: dict[str, Any] = {"training": False, **{hook: {} for hook in HOOKS}, "_modules": {}}
    state["_parameters"] = {k: nn.Parameter(p.half(), requires_grad=False) for k, p in module._parameters.items()}  # type: ignore[union-attr]
    state["_buffers"] = {k: b.half() for k, b in module._buffers.items()}  # type: ignore[union-attr]
    state |= {"_non_persistent_buffers_set": set(), "_init_args": (), "_init_kwargs": {}}
    for name, child in module._modules.items():
        if isinstance(child, nn.ModuleDict):
            bag = nn.ModuleDict()
            bag.__dict__["_modules"] = {k: record(v) for k, v in child.items()}
            state["_modules"][name] = bag
        elif child is None:
            state[name] = None
        else:
            state["_modules"][name] = record(child)
    if isinstance(module, Block):
        acting = ("flavor", "dropout", "res_balance", "attn_balance", "clip_act")
        state |= {k: getattr(module, k) for k in acting} | {"num_heads": module.heads}
        state |= {"resample_mode": module.resample, "resample_filter": list(module.taps)}
    if isinstance(module, EDM2UNet):
        state |= {"label_balance": module.label_balance, "concat_balance": module.concat_balance}
    return Persistent(CLASSES[type(module)], state)


def dumps2(content: dict[str, Any], *names: str) -> bytes:
    """Pickle as an `EasyDict` with the stand-ins, and with further ones for `names`."""
    with stubs(*names):
        for path in ("dnnlib", "dnnlib.util"):
            sys.modules.setdefault(path, types.ModuleType(path))
        easy = type("EasyDict", (dict,), {"__module__": "dnnlib.util"})
        sys.modules["dnnlib.util"].EasyDict = easy  # type: ignore[attr-defined]
        try:
            buffer = io.BytesIO()
            whole = {k: easy(v) if k == "dataset_kwargs" else v for k, v in content.items()}
            pickle.dump(easy(whole), buffer, protocol=4)
            return buffer.getvalue()
        finally:
            del sys.modules["dnnlib.util"], sys.modules["dnnlib"]


def write_snapshot2(path: Path, denoiser: EDM2Denoiser, **arguments: Any) -> Path:
    """A denoiser as a snapshot file of EDM2."""
    path.write_bytes(dumps2(snapshot2(denoiser, **arguments)))
    return path
