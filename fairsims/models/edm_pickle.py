"""Snapshots of NVlabs/edm and NVlabs/edm2 (`.pkl`) as checkpoint folders. Nothing in a snapshot is executed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import cache_folder, sha256_file
from fairsims.models.base import NetworkDenoiser
from fairsims.models.edm2 import EDM2Denoiser
from fairsims.models.edm2_arguments import EDM2_CLASS, check_attributes, describe_edm2, encoder_facts
from fairsims.models.edm_arguments import constructed_with, describe, plain
from fairsims.models.folders import Checkpoint, first_mismatch, write_import
from fairsims.models.inert_pickle import MAX_BYTES, Bag, Persistent, first_line, printable, read_pickle
from fairsims.models.precondition import EDMDenoiser, iddpm_levels

MAX_MODULES = 50_000
LICENCE = "that of the snapshot; weights released by NVIDIA are CC BY-NC-SA 4.0, and so is all that is made from them"


class Snapshot(NamedTuple):
    """What a file holds: the averaged network, and the facts that go into its checkpoint's recipe."""

    denoiser: NetworkDenoiser
    recipe: dict[str, Any]


def import_edm(path: str | Path, out: str | Path) -> Checkpoint:
    """Write a snapshot of EDM or EDM2 as a checkpoint folder, whole or not at all; returns the checkpoint, opened.

    A folder that holds the same import already is left as it is. Raises InputError, naming the file and the reason,
    when the snapshot cannot be read, and when `out` holds anything else.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is no file; expected an EDM snapshot (.pkl)")
    return write_import(Path(out), sha256_file(Path(path)), partial(read_snapshot, path))


def cached_import(path: Path) -> Path:
    """The checkpoint folder of a snapshot under `$FAIRSIMS_CACHE` (or `~/.cache/fairsims`), imported when missing."""
    folder = cache_folder("edm") / sha256_file(path)
    if not (folder / "config.json").exists():
        import_edm(path, folder)
    return folder


def read_snapshot(path: str | Path) -> Snapshot:
    """The `ema` network of a snapshot, checked: strict names and shapes, and an output that is finite.

    Raises InputError, naming the file and the reason.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path} has {path.stat().st_size} bytes; expected {MAX_BYTES} at most")
    data = path.read_bytes()
    try:
        content = read_pickle(data)
        if not isinstance(content, dict) or not isinstance(content.get("ema"), Persistent):
            raise InputError("it holds no network named 'ema'; expected a training snapshot of NVlabs/edm or edm2")
        ema = content["ema"]
        edm2 = ema.class_name == EDM2_CLASS
        config, facts = describe_edm2(ema) if edm2 else describe(ema)
        denoiser = _build(config, _tensors(ema), EDM2Denoiser if edm2 else EDMDenoiser)
        if isinstance(denoiser, EDM2Denoiser):
            check_attributes(ema, denoiser)
            facts |= encoder_facts(content.get("encoder"), denoiser.img_channels)
    except InputError as e:
        raise InputError(f"{path} was not imported: {e}") from None
    dataset = plain(content.get("dataset_kwargs"))
    recipe = {
        "kind": "imported",
        "from": "edm2" if edm2 else "edm",
        "file": printable(path.name, 200),
        "sha256": hashlib.sha256(data).hexdigest(),
        "module_src_sha256": hashlib.sha256(ema.module_src.encode("utf-8", "surrogatepass")).hexdigest(),
        **facts,
        "dataset": dataset,
        "loss": constructed_with(content.get("loss_fn")),
        "augment": constructed_with(content.get("augment_pipe")),
        "train": {"xflip": dataset.get("xflip") is True},
        "licence": LICENCE,
    }
    return Snapshot(denoiser=denoiser, recipe=recipe)


def _tensors(ema: Persistent) -> dict[str, Tensor]:
    """Parameters and buffers under their state-dict names, float32."""
    state: dict[str, Tensor] = {}
    storages: set[int] = set()
    todo: list[tuple[str, Any]] = [("", ema)]
    for _ in range(MAX_MODULES):
        if not todo:
            return state
        prefix, module = todo.pop()
        if not isinstance(module, (Persistent, Bag)):
            raise InputError(f"its {printable(prefix)} is {printable(module)}; expected a module")
        for group in ("_parameters", "_buffers"):
            for name, value in _items(module, group):
                if not isinstance(value, Tensor) or not (name.isascii() and name.isidentifier()):
                    raise InputError(f"its {printable(prefix + name)} is {printable(value)}; expected a tensor")
                place = value.untyped_storage().data_ptr()
                if place in storages and place:
                    raise InputError(f"its {printable(prefix + name)} shares its storage; expected one for each tensor")
                storages.add(place)
                state[prefix + name] = value.float().contiguous()
        todo += [(f"{prefix}{name}.", child) for name, child in _items(module, "_modules")]
        if len(todo) > MAX_MODULES or len(prefix) > 200:
            break
    raise InputError("its modules hold each other without end; expected a network of NVlabs/edm")


def _items(module: Persistent | Bag, group: str) -> list[tuple[str, Any]]:
    found = module.state.get(group)
    return [(k, v) for k, v in found.items() if v is not None] if isinstance(found, dict) else []


def _build(
    config: dict[str, Any], state: dict[str, Tensor], network: type[EDMDenoiser | EDM2Denoiser]
) -> NetworkDenoiser:
    """The denoiser with these weights. It takes no memory before they are known to fit."""
    u = state.get("u")
    if config.get("preconditioning") == "iddpm" and u is not None and u.numel() > 1:
        config |= {"sigma_min": max(0.002, float(u.flatten()[-2])), "sigma_max": min(80.0, float(u.flatten()[0]))}
    try:
        with torch.device("meta"):
            denoiser: NetworkDenoiser = network(**config)
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as e:
        raise InputError(f"its constructor arguments describe no network ({first_line(e)})") from None
    try:
        denoiser.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as e:
        raise InputError(
            f"its weights do not fit its constructor arguments ({printable(first_mismatch(e), 160)})"
        ) from None
    if isinstance(denoiser, EDMDenoiser):
        _check_buffers(denoiser, config)
    x = torch.randn(1, *denoiser.shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            found = denoiser.eval().requires_grad_(False)(x, torch.ones(()))
    except RuntimeError as e:
        raise InputError(f"its network does not run ({first_line(e)})") from None
    if not found.isfinite().all():
        raise InputError("its network gives numbers that are not finite; take a snapshot from before it diverged")
    return denoiser


def _check_buffers(denoiser: EDMDenoiser, config: Mapping[str, Any]) -> None:
    """Raises InputError when the fixed numbers in a file are not those that its constructor arguments ask for."""
    taps = torch.tensor(config.get("resample_filter", [1, 1]), dtype=torch.float32)
    taps = torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    for name, buffer in denoiser.named_buffers():
        # EDM computes u in float32, where its small levels lose digits.
        expected = torch.tensor(iddpm_levels(**denoiser.schedule)) if name == "u" else taps
        if name.endswith(("resample_filter", "u")) and not torch.allclose(buffer, expected, rtol=0.02, atol=1e-6):
            raise InputError(f"its {name} is not what its constructor arguments give; expected a network of NVlabs/edm")
