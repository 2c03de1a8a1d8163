"""Pipeline folders of diffusers in and out. Only JSON and safetensors are read; nothing is downloaded or executed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import read_json, sha256_file, sha256_json, write_json
from fairsims.models.checkpoints import open_checkpoint
from fairsims.models.diffusers_unet import SCHEDULERS, DiffusersDenoiser, build, check_settings, library, parameters
from fairsims.models.folders import new_folder, tensor_bytes, write_import

LEVELS = "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Attention layers before diffusers 0.13, as in the DDPM models that Google released, and since."""


def read_pipeline(folder: str | Path) -> DiffusersDenoiser:
    """The denoiser in a local folder of an unconditional DDPM or DDIM pipeline, in evaluation mode.

    Both layouts are read: `unet/` and `scheduler/`, and the earlier one with everything at the top.
    Raises InputError, in one line, for what is missing, broken or of another kind, and without diffusers.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; expected a local diffusers pipeline with model_index.json")
    index = read_json(folder / "model_index.json")
    unet_config, scheduler_config = _settings(folder, index)
    state = _weights(_part(folder, "unet"))
    try:
        # Shapes are compared before anything is allocated: a config may ask for more than the machine has.
        with torch.device("meta"):
            wanted = build("UNet2DModel", unet_config).state_dict()
        _check_shapes(state, wanted)
        denoiser = DiffusersDenoiser(unet=unet_config, scheduler=scheduler_config, pipeline=index["_class_name"])
    except (TypeError, ValueError) as e:
        raise InputError(f"{folder} cannot be imported: {e}") from None
    denoiser.model.load_state_dict(state, strict=True)
    return denoiser.eval().requires_grad_(False)


def import_pipeline(folder: str | Path, out: Path) -> dict[str, Any]:
    """Write a pipeline folder of diffusers as a checkpoint folder, whole or not at all; returns what it holds.

    A folder that holds the same import already is left as it is. Raises InputError as `read_pipeline`, and when `out`
    holds anything else.
    """
    folder, out = Path(folder), Path(out)
    denoiser = read_pipeline(folder)
    parts = [_part(folder, n) / f for n, f in (("unet", "config.json"), ("scheduler", LEVELS), ("unet", WEIGHTS))]
    digest = sha256_json([sha256_file(p) for p in (folder / "model_index.json", *parts)])
    recipe = {"kind": "imported", "from": "diffusers", "file": folder.resolve().name, "sha256": digest}
    return {
        "checkpoint": str(out),
        "digest": write_import(out, digest, lambda: (denoiser, recipe)).digest,
        "shape": list(denoiser.shape),
        "parameters": sum(p.numel() for p in denoiser.parameters()),
        "prediction": denoiser.prediction,
        "levels": len(denoiser.levels),
        "sigma_min": denoiser.sigma_min,
        "sigma_max": denoiser.sigma_max,
        "ignored": _unknown(denoiser.config),
    }


def export_pipeline(checkpoint: str | Path, out: Path) -> dict[str, Any]:
    """Write a checkpoint that came from diffusers as a pipeline folder of diffusers, wholly or not at all.

    Raises InputError for any other checkpoint, and when `out` holds anything already.
    """
    out = Path(out)
    denoiser = open_checkpoint(checkpoint).denoiser
    if not isinstance(denoiser, DiffusersDenoiser):
        raise InputError(
            f"{checkpoint} is a {type(denoiser).__name__}; only a single network that came from diffusers can go back"
        )
    with new_folder(out) as part:
        _write_pipeline(part, denoiser)
    return {"pipeline": str(out), "class": denoiser.config["pipeline"]}


def _write_pipeline(folder: Path, denoiser: DiffusersDenoiser) -> None:
    config, version = denoiser.config, {"_diffusers_version": library().__version__}
    scheduler_class = config["scheduler"]["_class_name"]
    parts = {"scheduler": ["diffusers", scheduler_class], "unet": ["diffusers", "UNet2DModel"]}
    write_json(folder / "model_index.json", {"_class_name": config["pipeline"], **version, **parts})
    write_json(folder / "scheduler" / LEVELS, {**version, **config["scheduler"]})
    write_json(folder / "unet" / "config.json", {"_class_name": "UNet2DModel", **version, **config["unet"]})
    (folder / "unet" / WEIGHTS).write_bytes(tensor_bytes(denoiser.model.state_dict(), {"format": "pt"}))


def _settings(folder: Path, index: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the UNet and the scheduler are made with, once it is clear that the folder is a pipeline of our kind."""
    pipeline = index.get("_class_name")
    others = sorted(k for k, v in index.items() if k[0] != "_" and k not in ("unet", "scheduler") and v != [None, None])
    if others:
        raise InputError(
            f"{folder} is a {pipeline} with {', '.join(others)}; expected an unconditional pipeline of pixels, "
            "with a unet and a scheduler only"
        )
    for name in ("unet", "scheduler"):
        source, _ = index[name] if isinstance(index.get(name), list) and len(index[name]) == 2 else (None, None)
        if source != "diffusers":
            raise InputError(f"{folder} is a {pipeline} and its {name} comes from {source}; expected one of diffusers")
    unet = read_json(_part(folder, "unet") / "config.json")
    scheduler = read_json(_part(folder, "scheduler") / LEVELS)
    try:
        check_settings(unet, scheduler, str(pipeline))
        if unet.get("_class_name") != "UNet2DModel":
            raise ValueError(f"its UNet is a {unet.get('_class_name')}; expected a UNet2DModel")
    except (TypeError, ValueError) as e:
        raise InputError(f"{folder} cannot be imported: {e}") from None
    kept = {k: v for k, v in scheduler.items() if k[0] != "_"}
    return {k: v for k, v in unet.items() if k[0] != "_"}, kept | {"_class_name": scheduler["_class_name"]}


def _part(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _weights(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    if not path.is_file():
        found = ", ".join(sorted(p.name for p in folder.glob("diffusion_pytorch_model*"))) or "no weights"
        raise InputError(
            f"{folder} has {found}; expected {WEIGHTS} (pickled .bin files are not read: load the pipeline with "
            "diffusers and save it again)"
        )
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as e:
        raise InputError(f"{path} is corrupt ({e}); restore it") from None
    former = re.compile(rf"(.*attentions\.\d+)\.({'|'.join(FORMER_NAMES)})\.(weight|bias)")
    return {former.sub(lambda m: f"{m[1]}.{FORMER_NAMES[m[2]]}.{m[3]}", k): v for k, v in state.items()}


def _check_shapes(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in [*wanted, *state]:
        found, expected = (list(s[name].shape) if name in s else "nothing" for s in (state, wanted))
        if found != expected:
            raise ValueError(f"{WEIGHTS} has {found} for {name}, where unet/config.json asks for {expected}")


def _unknown(config: dict[str, Any]) -> list[str]:
    """Settings that the installed diffusers knows for none of its classes at hand, and therefore leaves out."""
    known = {k for name in SCHEDULERS for k in parameters(name)} | {"_class_name"}
    return [*(set(config["unet"]) - set(parameters("UNet2DModel"))), *(set(config["scheduler"]) - known)]
