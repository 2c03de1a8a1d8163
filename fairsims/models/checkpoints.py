"""Checkpoints by path or name: folders, EDM snapshots, guided pairs and what ships with the package."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fairsims.errors import InputError, closest
from fairsims.models.edm_pickle import cached_import
from fairsims.models.folders import Checkpoint, guided_digest, read_meta, read_network
from fairsims.models.guidance import SIMSGuidance


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a folder, of an EDM snapshot (`.pkl`) or the embedded one of that name.

    Raises InputError, naming the file, when something is missing, corrupt or does not fit its configuration.
    """
    folder = find_checkpoint(path)
    meta = read_meta(folder)
    if meta.get("class") != "SIMSGuidance":
        return read_network(folder, name=str(path))
    base, aux, *more = map(open_checkpoint, _guided_parts(folder, meta))
    omega, interval = _strength(meta["config"]), meta["config"]["interval"]
    positive, positive_digest = (more[0].network, more[0].digest) if more else (None, None)
    guided = SIMSGuidance(base.network, aux.network, omega, interval=interval, positive=positive).eval()
    digest = guided_digest(base.digest, aux.digest, omega, interval, positive_digest)
    return Checkpoint(name=str(path), denoiser=guided, digest=digest, recipe=dict(meta.get("recipe") or {}))


def find_checkpoint(path: str | Path) -> Path:
    """The folder of a checkpoint given by path or by the name of an embedded one.

    An EDM snapshot (`.pkl`) is imported into the cache and stands for the folder it has there.
    Raises InputError when there is none, and for a snapshot that cannot be imported.
    """
    if Path(path).is_dir():
        return Path(path)
    if Path(path).is_file():
        if Path(path).suffix != ".pkl":
            raise InputError(
                f"{path} is a file; expected a checkpoint folder, an EDM snapshot (.pkl) or a model's name"
            )
        return cached_import(Path(path))
    names = [*embedded_models(), *embedded_pipelines()]
    if str(path) in names:
        return _assets() / str(path)
    raise InputError(
        f"no checkpoint folder {str(path)!r} and no embedded model of that name{closest(str(path), names)}"
    )


def embedded_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(p.name for p in _assets().glob("*") if (p / "config.json").exists())


def embedded_pipelines() -> list[str]:
    """Names of the text-to-image pipelines that ship with the package."""
    return sorted(p.name for p in _assets().glob("*") if (p / "model_index.json").exists())


def _assets() -> Path:
    return Path(str(importlib.resources.files("fairsims") / "assets" / "models"))


def _guided_parts(folder: Path, meta: Mapping[str, Any]) -> list[str | Path]:
    """Base, auxiliary and, of a paired contrast, the positive one."""
    config = meta.get("config")
    if not isinstance(config, dict) or not {"base", "aux", "interval"} <= config.keys() or _strength(config) is None:
        raise InputError(f"{folder}/config.json does not describe a guided pair of networks; restore it")
    parts = [config[name] for name in ("base", "aux", "positive") if name in config]
    return [folder / p if (folder / p).is_dir() else p for p in parts]


def _strength(config: Mapping[str, Any]) -> Any:
    """That of a guided pair, which earlier versions called omega; None where it is not said."""
    return config.get("strength", config.get("omega"))
