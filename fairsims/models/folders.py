"""Checkpoint folders: `config.json` + `model.safetensors`. Nothing in a file is executed, loading is strict."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import atomic, read_json, sha256_json, write_json
from fairsims.models.base import Denoiser, NetworkDenoiser, Trainable
from fairsims.models.families import DENOISERS

FORMAT = "fairsims-checkpoint/1"
OTHERS = {
    "model_index.json": "a diffusers pipeline; give --prompts if it is text-to-image, else: fairsims import diffusers",
    "pool.json": "a pool of images; expected a checkpoint, give the model that makes them",
    "status.json": "a run; expected a checkpoint, give its folder merged, guided or auxiliary",
}
"""By a file that is in it: what a folder is that is given for a checkpoint by mistake."""


def save_checkpoint(folder: Path, denoiser: Trainable, *, recipe: Mapping[str, Any] | None = None) -> None:
    """Write a network; `recipe` says how it was made. The weights come first, so a config means a whole checkpoint."""
    folder = Path(folder)
    with atomic(folder / "model.safetensors") as temporary:
        temporary.write_bytes(tensor_bytes(denoiser.state_dict()))
    _write_config(folder, type(denoiser).__name__, denoiser.config, recipe)


def save_guided(
    folder: Path,
    base: str,
    aux: str,
    strength: float,
    *,
    interval: tuple[float, float] | None = None,
    positive: str | None = None,
    recipe: Mapping[str, Any] | None = None,
) -> None:
    """Write SIMS guidance as a checkpoint folder that names its networks.

    `base`, `aux` and `positive` are names of embedded models, absolute paths or paths relative to `folder`.
    """
    config: dict[str, Any] = {"base": base, "aux": aux, "strength": strength, "interval": interval}
    _write_config(folder, "SIMSGuidance", config | ({} if positive is None else {"positive": positive}), recipe)


def _write_config(folder: Path, name: str, config: dict[str, Any], recipe: Mapping[str, Any] | None) -> None:
    told = {"format": FORMAT, "class": name, "config": config, "recipe": dict(recipe or {})}
    write_json(folder / "config.json", told)


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a checkpoint folder holds, read once: network or guided pair, digest and recipe are of the same bytes."""

    name: str
    """What it was opened by: a path or the name of an embedded model."""
    denoiser: Denoiser
    """In evaluation mode, on the CPU."""
    digest: str
    """SHA-256 over what decides the samples: the weights and the networks' configuration."""
    recipe: dict[str, Any]
    """How it was made, as far as it says."""

    @property
    def network(self) -> NetworkDenoiser:
        """The single network. Raises InputError for a guided pair."""
        if not isinstance(self.denoiser, NetworkDenoiser):
            raise InputError(f"{self.name} holds a guided pair; expected a single network's checkpoint")
        return self.denoiser


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out` that becomes it on success and is removed on any failure.

    Raises InputError when `out` holds anything already.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} holds something else already; give a new folder")
    part = out.with_name(f".{out.name}.{uuid.uuid4().hex[:12]}.part")
    try:
        yield part
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_import(out: Path, sha256: str, read: Callable[[], tuple[NetworkDenoiser, dict[str, Any]]]) -> Checkpoint:
    """Write what `read` makes of files of that digest, a network and its recipe, as a checkpoint, whole or not at all.

    A folder that holds the same import already is left as it is; another process may write it at the same time. Raises
    InputError when `out` holds anything else.
    """

    def there() -> bool:
        recipe = read_json(out / "config.json").get("recipe") if (out / "config.json").is_file() else None
        return isinstance(recipe, Mapping) and recipe.get("kind") == "imported" and recipe.get("sha256") == sha256

    if not there():
        try:
            with new_folder(out) as part:
                denoiser, recipe = read()
                save_checkpoint(part, denoiser, recipe=recipe)
        except (OSError, InputError):
            if not there():  # another process was faster
                raise
    return read_network(out)


def read_network(folder: Path, *, name: str = "") -> Checkpoint:
    """The single network in a checkpoint folder; `name` is what the folder was found by.

    Raises InputError, naming the file, when something is missing, corrupt or does not fit its configuration.
    """
    meta = read_meta(folder)
    if meta.get("class") not in DENOISERS:
        raise InputError(f"{folder} holds a {meta.get('class')}; expected a single network's checkpoint")
    weights = read_weights(folder)
    return Checkpoint(
        name=name or str(folder),
        denoiser=_built(folder, meta, weights),
        digest=sha256_json([hashlib.sha256(weights).hexdigest(), meta["class"], meta["config"]]),
        recipe=dict(meta.get("recipe") or {}),
    )


def read_weights(folder: Path) -> bytes:
    """The bytes of a checkpoint's weights. Raises InputError where they are missing or cannot be read."""
    weights = folder / "model.safetensors"
    try:
        return weights.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{weights} is missing; restore it or train the model again") from None
    except OSError as e:
        raise InputError(f"{weights} is corrupt ({e}); restore it or train the model again") from None


def _built(folder: Path, meta: Mapping[str, Any], weights: bytes) -> NetworkDenoiser:
    """The network of a configuration with these weights."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = folder / "model.safetensors"
    try:
        denoiser: NetworkDenoiser = network_class(meta["class"])(**meta["config"])
        state = load(weights)
    except SafetensorError as e:
        raise InputError(f"{file} is corrupt ({e}); restore it or train the model again") from None
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as e:
        raise InputError(f"{folder}/config.json does not describe a model ({e}); restore it") from None
    try:
        denoiser.load_state_dict(state, strict=True)
    except RuntimeError as e:
        raise InputError(f"{file} does not fit {folder}/config.json ({first_mismatch(e)}); restore both") from None
    return denoiser.eval().requires_grad_(False)


def read_meta(folder: Path) -> dict[str, Any]:
    """A checkpoint's `config.json`. Raises InputError for other formats."""
    for marker, other in OTHERS.items():
        if (folder / marker).exists():
            raise InputError(f"{folder} is {other}")
    meta = read_json(folder / "config.json")
    if meta.get("format") != FORMAT:
        raise InputError(f"{folder}/config.json has format {meta.get('format')!r}; expected {FORMAT!r}")
    return meta


def network_digest(denoiser: Trainable) -> str:
    """The digest that the checkpoint of a network in memory would have."""
    return sha256_json(
        [hashlib.sha256(tensor_bytes(denoiser.state_dict())).hexdigest(), type(denoiser).__name__, denoiser.config]
    )


def guided_digest(
    base: str, aux: str, omega: float, interval: Sequence[float] | None, positive: str | None = None
) -> str:
    """The digest of guidance, from those of its networks."""
    return sha256_json(
        [base, aux, omega, None if interval is None else list(interval), *([] if positive is None else [positive])]
    )


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file.

    Written as bytes a full disk is an OSError like everywhere else, and others may read the file.
    """
    from safetensors.torch import save

    return save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, metadata)


def network_class(name: str) -> type[NetworkDenoiser]:
    """The class of a row of `DENOISERS`."""
    found: type[NetworkDenoiser] = getattr(importlib.import_module(DENOISERS[name]), name)
    return found


def first_mismatch(e: RuntimeError) -> str:
    """The first complaint of `load_state_dict`."""
    lines = [line.strip() for line in str(e).splitlines()[1:] if line.strip()]
    return lines[0][:160] if lines else str(e)[:160]
