"""Writes networks in the pickle format of NVlabs/edm, with a stand-in for the module that reconstructs its objects.

Only the form is EDM's: every object is a call of `torch_utils.persistence._reconstruct_persistent_obj` with its class
name and its attributes. The embedded source is whatever the caller gives; nothing of NVIDIA's is in it.
"""

from __future__ import annotations

import io
import math
import pickle
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fairsims.models import EDMDenoiser

CLASSES = {"edm": "EDMPrecond", "vp": "VPPrecond", "ve": "VEPrecond", "iddpm": "iDDPMPrecond"}
NETWORKS = {"songunet": "SongUNet", "dhariwal": "DhariwalUNet"}
TRAINED = {"edm": (0, math.inf), "ve": (0.02, 100)}
RECONSTRUCT = "torch_utils.persistence._reconstruct_persistent_obj"
TINY: dict[str, Any] = {
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 8,
    "channel_mult": [1],
    "num_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks", "_load_state_dict_pre_hooks")


class Call:
    """Pickles as the call of a function of that name, which has to exist or be given to `dumps`."""

    def __init__(self, name: str, *arguments: Any) -> None:
        self.name, self.arguments = name, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        module, _, name = self.name.rpartition(".")
        return (getattr(sys.modules[module], name), self.arguments)


class Persistent:
    """Pickles as an object of EDM's persistence mechanism."""

    def __init__(self, class_name: str, state: Any, **changes: Any) -> None:
        self.class_name, self.state, self.changes = class_name, state, changes

    def __reduce__(self) -> tuple[Any, ...]:
        meta = {"type": "class", "version": 6, "module_src": "", "class_name": self.class_name, "state": self.state}
        return Call(RECONSTRUCT, meta | self.changes).__reduce__()


@contextmanager
def stubs(*names: str) -> Iterator[None]:
    """Functions that do not exist here, for as long as something is pickled by their names."""
    made = []
    try:
        for full in (RECONSTRUCT, *names):
            module, _, name = full.rpartition(".")
            parts = module.split(".")
            for path in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if path not in sys.modules:
                    sys.modules[path] = types.ModuleType(path)
                    made.append(path)
            function = types.FunctionType((lambda *_: None).__code__, {}, name)
            function.__module__, function.__qualname__ = module, name
            setattr(sys.modules[module], name, function)
        yield
    finally:
        for path in made:
            del sys.modules[path]


def tiny(**changes: Any) -> EDMDenoiser:
    """A network for 8x8 grey images in which every layer has an effect."""
    torch.manual_seed(0)
    network = EDMDenoiser(**TINY | changes)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network.eval().requires_grad_(False)


def snapshot(denoiser: EDMDenoiser, *, module_src: str = "", **arguments: Any) -> dict[str, Any]:
    """What EDM's training loop pickles, to be changed and then given to `dumps`."""
    config = dict(denoiser.config)
    kind, architecture = config.pop("preconditioning", "edm"), config.pop("architecture", "songunet")
    if kind != "edm":
        del config["sigma_data"]
    del config["sigma_min"], config["sigma_max"]
    network = {k: v for k, v in config.items() if k not in ("img_channels", "sigma_data", *denoiser.schedule)}
    if kind in TRAINED:
        config["sigma_min"], config["sigma_max"] = TRAINED[kind]
    config |= {"model_type": NETWORKS[architecture], "use_fp16": False, **arguments}
    channels = denoiser.img_channels
    network |= {"in_channels": channels, "out_channels": channels * (2 if kind == "iddpm" else 1)}
    ema = record(denoiser, CLASSES[kind], config, module_src)
    ema.state |= {k: v for k, v in config.items() if k.startswith(("sigma", "img"))} | denoiser.schedule
    ema.state["_modules"]["model"] = record(denoiser.model, NETWORKS[architecture], network, module_src)
    return {
        "ema": ema,
        "loss_fn": Persistent("EDMLoss", {"P_mean": -1.2, "_init_args": (), "_init_kwargs": {"P_mean": -1.2}}),
        "augment_pipe": None,
        "dataset_kwargs": {"class_name": "training.dataset.ImageFolderDataset", "path": "d.zip", "xflip": True},
    }


def record(module: nn.Module, class_name: str, arguments: dict[str, Any], module_src: str = "") -> Persistent:
    """A module as EDM pickles it, with everything in it."""
    state: dict[str, Any] = {"training": False, **{hook: OrderedDict() for hook in HOOKS}}
    state |= {"_parameters": dict(module._parameters), "_buffers": dict(module._buffers)}
    state["_non_persistent_buffers_set"] = set()
    state["_modules"] = {}
    for name, child in module._modules.items():
        if isinstance(child, nn.ModuleDict):
            bag = nn.ModuleDict()
            bag.__dict__["_modules"] = {k: record(v, type(v).__name__, {}, module_src) for k, v in child.items()}
            state["_modules"][name] = bag
        elif child is not None:
            state["_modules"][name] = record(child, type(child).__name__, {}, module_src)
    # A number of numpy's, as the blocks of EDM have.
    state |= {"skip_scale": np.sqrt(0.5), "_init_args": (), "_init_kwargs": dict(arguments)}
    return Persistent(class_name, state, module_src=module_src)


def dumps(content: Any, *names: str, protocol: int = 4) -> bytes:
    """Pickle with the stand-ins, and with further ones for `names`."""
    with stubs(*names):
        buffer = io.BytesIO()
        pickle.dump(content, buffer, protocol=protocol)
        return buffer.getvalue()


def write_snapshot(path: Path, denoiser: EDMDenoiser, **arguments: Any) -> Path:
    """A denoiser as a snapshot file of EDM."""
    path.write_bytes(dumps(snapshot(denoiser, **arguments)))
    return path
