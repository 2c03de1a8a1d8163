"""open_clip's models: found, loaded with their weights, and what they expect of an image."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairsims.errors import InputError, closest
from fairsims.files import read_json


def open_clip_model(rest: str) -> Any:
    """The open_clip model `NAME:PRETRAINED`, `hf-hub:ORG/NAME` or `local-dir:PATH`, float32, in evaluation mode.

    Weights are always loaded, never left random: a local folder needs open_clip_config.json, with its `preprocess_cfg`,
    and the weights beside it. Raises InputError in one line for whatever open_clip makes of the rest.
    """
    import open_clip

    schema, _, place = rest.partition(":")
    if schema == "local-dir":
        _check_local_clip(Path(place))
    name, pretrained = (rest, None) if schema in ("local-dir", "hf-hub") else (schema, place)
    if name == schema and (not pretrained or pretrained not in open_clip.list_pretrained_tags_by_model(name)):
        if name not in open_clip.list_models():
            raise InputError(f"open_clip has no model {name!r}{closest(name, open_clip.list_models())}")
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise InputError(f"open_clip has no weights {pretrained!r} of {name}{closest(pretrained or '', tags)}")
    try:
        with _quiet():
            model = open_clip.create_model_from_pretrained(name, pretrained=pretrained, return_transform=False)
    except Exception as e:  # open_clip and what it calls raise whatever they meet
        reason = " ".join(str(e).split())[:200]
        raise InputError(
            f"the open_clip model {rest!r} cannot be loaded ({type(e).__name__}: {reason}); give local-dir:PATH of a "
            "folder with open_clip_config.json and its weights, or connect to fetch it"
        ) from None
    return model.eval().requires_grad_(False).float()


def _check_local_clip(folder: Path) -> None:
    config = read_json(folder / "open_clip_config.json")
    missing = {"mean", "std"} - set(config.get("preprocess_cfg", {}))
    if missing or "model_cfg" not in config:
        raise InputError(
            f"{folder}/open_clip_config.json has no {'preprocess_cfg with mean and std' if missing else 'model_cfg'}; "
            "expected both model_cfg and preprocess_cfg, as in the model's folder on the hub"
        )


def clip_preprocessing(model: Any) -> dict[str, Any]:
    """What an open_clip model expects of an image. Raises InputError when it is not square."""
    config = model.visual.preprocess_cfg
    size = config["size"]
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise InputError(f"the open_clip model takes images of {size}; expected a square input; take another model")
    interpolation = config["interpolation"] if config["interpolation"] == "bilinear" else "bicubic"
    return {
        "size": sides.pop(),
        "mean": list(config["mean"]),
        "std": list(config["std"]),
        "interpolation": interpolation,
        "resize": "whole image, antialiased, rounded to 8 bits",
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings or retries on stderr: what goes wrong is raised, and told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
