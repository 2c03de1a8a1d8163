"""open_clip's models, and zero-shot classifiers: prompts in TOML become the rows of a linear layer."""

from __future__ import annotations

import contextlib
import logging
import math
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import InputError, closest
from fairsims.files import read_json
from fairsims.options import check_fields, from_mapping


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


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """An attribute in words."""

    attribute: str
    classes: Mapping[str, tuple[str, ...]]
    """Ordered; for each class the phrases that stand for it."""
    templates: tuple[str, ...] = ("a photo of a {}",)
    """Each has one `{}`, where a phrase goes."""
    model: str
    """open_clip's name, `hf-hub:ORG/NAME` or `local-dir:PATH`."""
    pretrained: str = ""
    """open_clip's name of the weights, with its name of a model only."""
    name: str = ""
    temperature: float = 1.0
    """Divides the model's own logits, as calibration would find it."""
    undetermined: float = 0.0
    """Threshold on the largest probability below which an image is undetermined; 0: never."""

    def __post_init__(self) -> None:
        check_fields(self, "a name", bool, "attribute", "model")
        check_fields(self, "a positive number", lambda v: 0 < v < math.inf, "temperature")
        check_fields(self, "0, or a positive number", lambda v: 0 <= v < math.inf, "undetermined")
        if len(self.classes) < 2 or UNDETERMINED in self.classes:
            raise InputError(
                f"the prompts have classes {list(self.classes)}; expected two or more, without undetermined: "
                "a threshold decides that, `undetermined = 0.6`"
            )
        for name, phrases in self.classes.items():
            if not phrases or not all(isinstance(p, str) and p.strip() for p in phrases):
                raise InputError(f"class {name!r} has prompts {list(phrases)}; expected phrases; give at least one")
        bad = [t for t in self.templates if not isinstance(t, str) or t.count("{}") != 1]
        if bad or not self.templates:
            raise InputError(f"template {bad[0] if bad else ''!r} is not usable; expected text with one {{}}")

    @property
    def spec(self) -> str:
        """The image features as `open_backbone` names them."""
        return f"clip:{self.model}" + (f":{self.pretrained}" if self.pretrained else "")

    def facts(self) -> dict[str, Any]:
        """For config.json."""
        return {k: v for k, v in asdict(self).items() if k in ("classes", "templates", "model", "pretrained")}


def read_prompts(path: Path) -> Prompts:
    """Prompts from TOML: the fields of `Prompts`, `[classes]` as a table. Raises InputError naming the file."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise InputError(
            f"{path} is not readable ({reason}); expected TOML with attribute, model and [classes]"
        ) from None
    if isinstance(classes := given.get("classes"), dict):
        given["classes"] = {k: [v] if isinstance(v, str) else v for k, v in classes.items()}
    try:
        return from_mapping(Prompts, {"name": path.stem, **given}, where=str(path))
    except ValueError as e:
        raise InputError(f"{path}: {e}") from None


def zero_shot_head(prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Weight `(K, d)` and bias `(K,)` on normalised image features: the model's scale times each class's ensemble.

    An ensemble is the mean of the normalised text features of all its phrases in all templates, normalised (Radford et
    al. 2021, section 3.1.4). A SigLIP model's bias is the same for all classes and leaves the softmax as it is. Raises
    InputError when the model has no text tower that can be used.
    """
    place = prompts.spec.removeprefix("clip:")
    model = open_clip_model(place)
    rows = []
    for phrases in prompts.classes.values():
        texts = [template.format(phrase) for phrase in phrases for template in prompts.templates]
        rows.append(F.normalize(text_features(model, place, texts).mean(dim=0), dim=0))
    weight = torch.stack(rows) * model.logit_scale.exp().float()
    if not torch.isfinite(weight).all():
        raise InputError(f"the scale of {place} is not finite; its weights are damaged, fetch them again")
    return weight, torch.zeros(len(weight))


def text_features(model: Any, place: str, texts: Sequence[str]) -> Tensor:
    """Normalised features `(n, d)` of texts by the model that `open_clip_model` has opened of that place.

    They are in the space of its image features. Raises InputError when the model has no text tower that can be used.
    """
    import open_clip

    name = place if place.startswith(("local-dir:", "hf-hub:")) else place.partition(":")[0]
    try:
        tokenize = open_clip.get_tokenizer(name)
        with torch.inference_mode():
            found: Tensor = model.encode_text(tokenize(list(texts)), normalize=True).float()
    except Exception as e:  # tokenizers raise whatever they meet
        raise InputError(
            f"the texts cannot be read by {name} ({type(e).__name__}: {' '.join(str(e).split())[:160]}); "
            "give a model with its tokenizer"
        ) from None
    if not torch.isfinite(found).all():
        raise InputError(f"the text features of {name} are not finite; its weights are damaged, fetch them again")
    return found
