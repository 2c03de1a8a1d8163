"""Frozen image features by name: open_clip models, torchvision networks, classifiers of fairsims.

`clip:ViT-B-32:openai`, `clip:hf-hub:ORG/NAME`, `clip:local-dir:PATH`; `torchvision:resnet18:DEFAULT`,
`torchvision:resnet18:FILE`; `classifier:emoji-gender`, `classifier:FOLDER`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.classifiers import torchvision_nets
from fairsims.engine import device
from fairsims.errors import InputError, closest

KINDS = ("clip", "torchvision", "classifier")


class Backbone(Protocol):
    """uint8 images to features, float32, in evaluation mode."""

    @property
    def input_size(self) -> int: ...

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is done to an image before the network sees it, as JSON."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        ...


class ResizingBackbone:
    """A network that takes square images of any size, resized and normalised as it was trained.

    `preprocessing` has size, mean, std and interpolation. Resizing is antialiased, the result rounded to 8 bits, as
    Pillow does; grey images are repeated to three channels.
    """

    def __init__(
        self, network: nn.Module, preprocessing: dict[str, Any], *, spec: str, digest: str, normalise: bool = False
    ) -> None:
        self.network = network.eval().requires_grad_(False).float().to(device())
        self.preprocessing = preprocessing
        self.spec = spec
        self.digest = digest
        self.normalise = normalise

    @property
    def input_size(self) -> int:
        return int(self.preprocessing["size"])

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`; of a clip model with length 1."""
        # Convolutions in TF32 would make labels depend on the GPU's generation.
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            found = self.network(resized(images, self.preprocessing, device()))
        # CoCa gives its tokens as well.
        found = (found[0] if isinstance(found, tuple) else found).flatten(1)
        return F.normalize(found, dim=-1) if self.normalise else found


def resized(images: Tensor, preprocessing: Mapping[str, Any], where: torch.device | None = None) -> Tensor:
    """uint8 `(B, 1 or 3, S, S)` to normalised float32 `(B, 3, size, size)`. Raises InputError for other shapes."""
    usable = images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[2] == images.shape[3] > 0
    if images.dtype != torch.uint8 or not usable:
        raise InputError(
            f"got {str(images.dtype).removeprefix('torch.')} images {tuple(images.shape)}; "
            "expected uint8 (B, 1 or 3, S, S)"
        )
    x, size = images.to(where).float(), int(preprocessing["size"])
    if x.shape[-1] != size:
        mode = preprocessing["interpolation"]
        x = F.interpolate(x, size=(size, size), mode=mode, antialias=True, align_corners=False).round().clamp(0, 255)
    mean, std = (torch.tensor(preprocessing[k], device=x.device)[:, None, None] for k in ("mean", "std"))
    return (x.expand(-1, 3, -1, -1) / 255 - mean) / std


def open_backbone(spec: str) -> ResizingBackbone | Any:
    """The features named by `spec` (see the module). Raises InputError when it is unknown or cannot be loaded."""
    kind, _, rest = spec.partition(":")
    if kind not in KINDS or not rest:
        raise InputError(
            f"found backbone {spec!r}; expected clip:MODEL:PRETRAINED, clip:local-dir:PATH, "
            "torchvision:NETWORK:WEIGHTS or classifier:NAME"
        )
    if kind == "clip":
        model = load_clip(rest)
        return ResizingBackbone(
            model.visual, clip_preprocessing(model), spec=absolute(spec), digest=digest_of(model.visual), normalise=True
        )
    if kind == "torchvision":
        return _torchvision(spec, rest)
    return ClassifierBackbone(rest)


class ClassifierBackbone:
    """The features of another classifier."""

    def __init__(self, spec: str) -> None:
        # Folders of probes name backbones, backbones may be classifiers.
        from fairsims.classifiers.checkpoints import load_classifier

        self.classifier = load_classifier(spec)
        self.spec = absolute(f"classifier:{spec}")
        self.digest = self.classifier.digest

    @property
    def input_size(self) -> int:
        return self.classifier.input_size

    @property
    def preprocessing(self) -> dict[str, Any]:
        return dict(self.classifier.facts().get("preprocessing", {}))

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`."""
        return self.classifier.features(images)


def _torchvision(spec: str, rest: str) -> ResizingBackbone:
    architecture, _, weights = rest.partition(":")
    known = torchvision_nets.architectures()
    if architecture not in known:
        raise InputError(f"torchvision has no network {architecture!r} to take{closest(architecture, known)}")
    if not weights:
        raise InputError(
            f"found backbone {spec!r} without weights; expected torchvision:{architecture}:DEFAULT or :FILE"
        )
    state = torchvision_nets.pretrained(architecture, weights)
    preprocessing = torchvision_nets.preprocessing_of(architecture)
    trunk, _ = torchvision_nets.cut(architecture, 1000, image_size=preprocessing["size"])
    wanted = set(trunk.state_dict())
    try:
        trunk.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=True)
    except RuntimeError as e:
        raise torchvision_nets.misfit(weights, architecture, e) from None
    return ResizingBackbone(trunk, preprocessing, spec=absolute(spec), digest=digest_of(trunk))


def load_clip(rest: str) -> Any:
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
    from fairsims.files import read_json

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


def digest_of(network: nn.Module) -> str:
    """SHA-256 over names, shapes and values of a network's state: the same weights, however they came here."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous()
        total.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        total.update(array.numpy().tobytes())
    return total.hexdigest()


def absolute(spec: str) -> str:
    """The spec with what is a path made absolute, so that it means the same from any folder."""
    head, _, place = spec.rpartition(":")
    is_file = head.startswith("torchvision") and Path(place).is_file()
    if is_file or (head in ("clip:local-dir", "local-dir", "classifier") and Path(place).is_dir()):
        return f"{head}:{Path(place).resolve()}"
    return spec


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
