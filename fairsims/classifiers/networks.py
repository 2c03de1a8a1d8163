"""The networks of classifiers: a small residual one, and torchvision's, to train or to take features from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fairsims.errors import InputError, closest
from fairsims.options import check_fields

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, on the scale [0, 1]: what torchvision's weights were trained on."""
UNFIT = ("googlenet", "inception_v3", "squeezenet1_0", "squeezenet1_1")
"""Networks with auxiliary outputs or without a linear last layer."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a network takes and gives."""

    input_size: int
    """Native resolution in pixels."""
    channels: int
    """1 (grey) or 3 (RGB)."""
    classes: int

    def __post_init__(self) -> None:
        check_fields(self, "a positive number", lambda v: v >= 1, "input_size")
        check_fields(self, "1 or 3", lambda v: v in (1, 3), "channels")
        check_fields(self, "2 or more", lambda v: v >= 2, "classes")


@dataclass(frozen=True, kw_only=True)
class TorchvisionConfig(Shape):
    """Which network, for what images."""

    architecture: str
    """torchvision's name, e.g. "resnet18"."""

    def __post_init__(self) -> None:
        super().__post_init__()
        known = architectures()
        if self.architecture not in known:
            hint = closest(self.architecture, known).removeprefix("; ")
            raise ValueError(f"architecture is {self.architecture!r}; expected small or a torchvision network; {hint}")


class TorchvisionNet(nn.Module):
    """A torchvision network cut before its last linear layer, on images in [-1, 1] like `ConvNet`."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TorchvisionConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk, self.head = cut(config.architecture, config.classes, image_size=config.input_size)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(STD)[:, None, None], persistent=False)

    def features(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to `(B, d)`."""
        return torch.as_tensor(self.trunk((x.expand(-1, 3, -1, -1) / 2 + 0.5 - self.mean) / self.std))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to logits `(B, K)`."""
        return torch.as_tensor(self.head(self.features(x)))


def architectures() -> list[str]:
    """Names of torchvision's classification networks that end in one linear layer."""
    from torchvision import models

    return [name for name in models.list_models(module=models) if name not in UNFIT]


def cut(architecture: str, classes: int, *, image_size: int) -> tuple[nn.Module, nn.Linear]:
    """A network without weights as trunk `(B, 3, H, W) -> (B, d)` and head `(B, d) -> (B, classes)`."""
    from torchvision import models

    # Vision transformers are built for one size of image; the other networks take no such argument.
    size = {"image_size": image_size} if architecture.startswith("vit_") else {}
    try:
        network = models.get_model(architecture, weights=None, num_classes=classes, **size)
    except (RuntimeError, ValueError) as e:
        raise InputError(f"{architecture} cannot be built for {image_size} pixels ({e}); take another size") from None
    path = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)][-1]
    head = network.get_submodule(path)
    assert isinstance(head, nn.Linear)
    parent, _, last = path.rpartition(".")
    setattr(network.get_submodule(parent), last, nn.Identity())
    return network, head


def pretrained(architecture: str, weights: str) -> dict[str, Tensor]:
    """State of a network with weights: the path of a .safetensors or .pth file, or a name of torchvision's (DEFAULT).

    Named weights are downloaded into torch's cache once. Pickles are read with `weights_only=True`. Raises InputError
    when the weights are missing, corrupt, unknown or cannot be downloaded.
    """
    from torchvision import models

    if Path(weights).suffix in (".safetensors", ".pth", ".pt"):
        return read_tensors(Path(weights), "give the path of a file that torchvision's weights are in")
    known = models.get_model_weights(architecture).__members__
    if weights not in known:
        raise InputError(f"{architecture} has no weights {weights!r}{closest(weights, known)}; or give a file")
    try:
        return dict(known[weights].get_state_dict(check_hash=True, progress=False))
    except (OSError, RuntimeError) as e:
        raise InputError(
            f"the weights {weights} of {architecture} cannot be downloaded ({e}); give a .safetensors or .pth file"
        ) from None


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Tensors of a .safetensors file or of a pickle, read without executing it; all of them finite.

    Raises InputError naming the file and what to do, the `remedy`.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        safe = path.suffix == ".safetensors"
        state = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path} is missing; {remedy}") from None
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as e:
        raise InputError(f"{path} is corrupt ({str(e).splitlines()[0][:120]}); {remedy}") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no plain table of tensors; expected a state dict; save it as safetensors")
    broken = next((k for k, v in state.items() if not torch.isfinite(v).all()), None)
    if broken is not None:
        raise InputError(f"{path} is corrupt ({broken} is not finite); {remedy}")
    return dict(state)


def load_trunk(trunk: nn.Module, architecture: str, weights: str) -> None:
    """Give a trunk pretrained weights, those of the head left out. Raises InputError when they do not fit."""
    state, wanted = pretrained(architecture, weights), set(trunk.state_dict())
    try:
        trunk.load_state_dict({k: v for k, v in state.items() if k in wanted}, strict=True)
    except RuntimeError as e:
        raise misfit(weights, architecture, e, "give the weights of that network") from None


def misfit(weights: object, network: object, error: RuntimeError, remedy: str) -> InputError:
    """One line for weights of another network."""
    reason = (str(error).splitlines() + [""])[1].strip()[:160]
    return InputError(f"{weights} does not fit {network} ({reason}); {remedy}")


def preprocessing_of(architecture: str) -> dict[str, Any]:
    """Size, mean, std and interpolation that torchvision's default weights of a network expect."""
    from torchvision import models

    wanted = models.get_model_weights(architecture)["DEFAULT"].transforms()
    return {
        "size": int(wanted.crop_size[0]),
        "mean": list(wanted.mean),
        "std": list(wanted.std),
        "interpolation": wanted.interpolation.value,
        "resize": "whole image, antialiased, rounded to 8 bits",
    }


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Shape):
    """The small network."""

    widths: tuple[int, ...]
    """Channels of the full-resolution stem, then of every stage; a stage halves the resolution. The last is d."""
    dropout: float = 0.2
    """Before the last layer, in training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fields(self, "at least one positive number", lambda v: v and min(v) >= 1, "widths")
        check_fields(self, "a probability below 1", lambda v: 0 <= v < 1, "dropout")
        if self.input_size < 2 ** (len(self.widths) - 1):
            raise ValueError(f"input_size is {self.input_size}; too small for {len(self.widths) - 1} halvings")

    @classmethod
    def default(cls, *, input_size: int, channels: int, classes: int) -> NetworkConfig:
        """Stages until at most 4 pixels a side are left, no stage wider than 128."""
        stages = max(1, math.ceil(math.log2(input_size / 4)))
        widths = tuple([16, 32, 64, 80, 96, 112, 128][: stages + 1])
        return cls(input_size=input_size, channels=channels, classes=classes, widths=widths)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip (He et al. 2016), same width and resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _convolution(width, width)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x + self.second(self.first(x)))


class ConvNet(nn.Module):
    """Stem, stages of a halving convolution and a residual block, spatial mean, linear layer."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        layers: list[nn.Module] = [_convolution(config.channels, config.widths[0])]
        for before, width in zip(config.widths, config.widths[1:], strict=False):
            layers += [_convolution(before, width, stride=2), Residual(width)]
        self.body = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.widths[-1], config.classes)

    def features(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to `(B, d)`."""
        return torch.as_tensor(self.body(x.contiguous(memory_format=torch.channels_last)).mean(dim=(2, 3)))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `(B, C, H, W)` in [-1, 1] to logits `(B, K)`."""
        return torch.as_tensor(self.head(self.dropout(self.features(x))))


def network_of(settings: Mapping[str, Any]) -> NetworkConfig | TorchvisionConfig:
    """The network that a config.json describes: torchvision's when it names an architecture."""
    if "architecture" in settings:
        return TorchvisionConfig(**settings)
    return NetworkConfig(**{**settings, "widths": tuple(settings["widths"])})


def build_network(config: NetworkConfig | TorchvisionConfig) -> ConvNet | TorchvisionNet:
    """The network of that shape, with random weights."""
    return ConvNet(config) if isinstance(config, NetworkConfig) else TorchvisionNet(config)


def box_reduced(images: Tensor, factor: int) -> Tensor:
    """uint8 `(B, C, H, W)` to `(B, C, H/factor, W/factor)`: box means, halves rounded up, as Pillow does."""
    if factor == 1:
        return images
    return torch.floor(F.avg_pool2d(images.to(torch.float32), factor) + 0.5).to(torch.uint8)


def _convolution(before: int, after: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.SiLU()
    )
