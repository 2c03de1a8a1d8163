"""Frozen image features by name: open_clip models, torchvision networks, classifiers of fairsims.

`clip:ViT-B-32:openai`, `clip:hf-hub:ORG/NAME`, `clip:local-dir:PATH`; `torchvision:resnet18:DEFAULT`,
`torchvision:resnet18:FILE`; `classifier:emoji-gender`, `classifier:FOLDER`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.classifiers import networks
from fairsims.classifiers.base import AttributeClassifier
from fairsims.classifiers.clip import clip_preprocessing, open_clip_model
from fairsims.data.base import ImageDataset
from fairsims.engine import device
from fairsims.errors import InputError, closest


class Features(Protocol):
    """uint8 images to features, float32, in evaluation mode."""

    input_size: int
    preprocessing: dict[str, Any]
    """What is done to an image before the network sees it, as JSON."""

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, d)`. Raises InputError when the images are not of a usable shape."""
        ...


class ResizingBackbone:
    """A network that takes square images of any size, resized and normalised as it was trained.

    `preprocessing` has size, mean, std and interpolation. Resizing is antialiased, the result rounded to 8 bits, as
    Pillow does; grey images are repeated to three channels.
    """

    def __init__(self, network: nn.Module, preprocessing: dict[str, Any], *, normalise: bool = False) -> None:
        self.digest = digest_of(network)
        self.network = network.eval().requires_grad_(False).float().to(device())
        self.preprocessing = preprocessing
        self.input_size = int(preprocessing["size"])
        self.normalise = normalise

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


Backbone = ResizingBackbone | AttributeClassifier
"""Features that can be named; `digest` stands for their weights."""


def open_backbone(spec: str, load: Callable[[str], AttributeClassifier]) -> Backbone:
    """The features named by `spec` (see the module); `load` opens classifiers.

    Raises InputError when it is unknown or cannot be loaded.
    """
    kind, _, rest = spec.partition(":")
    if kind == "clip" and rest:
        model = open_clip_model(rest)
        return ResizingBackbone(model.visual, clip_preprocessing(model), normalise=True)
    if kind == "torchvision" and rest:
        return _torchvision(spec, rest)
    if kind == "classifier" and rest:
        return load(rest)
    raise InputError(
        f"found backbone {spec!r}; expected clip:MODEL:PRETRAINED, clip:local-dir:PATH, "
        "torchvision:NETWORK:WEIGHTS or classifier:NAME"
    )


def backbone_facts(spec: str, backbone: Backbone) -> dict[str, Any]:
    """What a folder says about the features it stands on."""
    return {"spec": absolute(spec), "digest": backbone.digest, "preprocessing": backbone.preprocessing}


def read_features(backbone: Backbone, images: ImageDataset, indices: np.ndarray) -> Tensor:
    """Features of the images at `indices`, float32 `(n, d)` on the CPU."""
    with torch.inference_mode():
        chunks = np.array_split(indices, max(1, len(indices) // 256))
        return torch.cat([backbone.features(images.read(chunk)).cpu() for chunk in chunks])


def _torchvision(spec: str, rest: str) -> ResizingBackbone:
    architecture, _, weights = rest.partition(":")
    known = networks.architectures()
    if architecture not in known:
        raise InputError(f"torchvision has no network {architecture!r} to take{closest(architecture, known)}")
    if not weights:
        raise InputError(
            f"found backbone {spec!r} without weights; expected torchvision:{architecture}:DEFAULT or :FILE"
        )
    preprocessing = networks.preprocessing_of(architecture)
    trunk, _ = networks.cut(architecture, 1000, image_size=preprocessing["size"])
    networks.load_trunk(trunk, architecture, weights)
    return ResizingBackbone(trunk, preprocessing)


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
