"""Classifier folders: `config.json` and, where there are weights, `model.safetensors`. Nothing is unpickled.

What a classifier is named by: a folder, an embedded name, a table of labels (`labels.csv`, `labels.csv#gender`), or
the entry point of another package (`NAME` or `entry-point:NAME`).
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.classifiers import entry_points, table
from fairsims.classifiers.backbones import Backbone, open_backbone
from fairsims.classifiers.base import AttributeClassifier, Card, Confusion
from fairsims.classifiers.cnn import ConvNet, NetworkBackbone, NetworkConfig
from fairsims.classifiers.linear import LinearClassifier
from fairsims.classifiers.torchvision_nets import TorchvisionConfig, TorchvisionNet
from fairsims.data.attributes import Attribute
from fairsims.engine import device
from fairsims.errors import InputError, closest
from fairsims.files import atomic, read_json, sha256_file, sha256_json, write_json

FORMAT = "fairsims-classifier/1"
WEIGHTS = ("cnn", "probe", "clip")
KINDS = (*WEIGHTS, "table", "entry-point")


def save_classifier(
    folder: str | Path,
    kind: str,
    model: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    name: str,
    attribute: Attribute,
    temperature: float,
    threshold: float = 0.0,
    confusions: Mapping[str, Confusion],
    default_split: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write a classifier with weights. `model` is `{"network": ...}` of a cnn, `{"backbone": ...}` of the others;
    `provenance` says how it was made and measured. The weights come first.
    """
    from safetensors.torch import save

    folder = Path(folder)
    with atomic(folder / "model.safetensors") as temporary:
        # `save_file` would leave a file that only its owner can read.
        temporary.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))
    size = model["network"]["input_size"] if kind == "cnn" else model["backbone"]["preprocessing"].get("size", 0)
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "kind": kind,
            "name": name,
            "attribute": attribute.name,
            "classes": list(attribute.classes),
            "input_size": size,
            **model,
            "temperature": temperature,
            "threshold": threshold,
            "weights_digest": sha256_file(folder / "model.safetensors"),
            "default_split": default_split,
            "confusions": {split: c.to_json() for split, c in confusions.items()},
            **provenance,
        },
    )


def backbone_facts(backbone: Any) -> dict[str, Any]:
    """What a folder says about the features it stands on."""
    return {"spec": backbone.spec, "digest": backbone.digest, "preprocessing": backbone.preprocessing}


def load_classifier(spec: str | Path) -> AttributeClassifier:
    """The classifier that `spec` names (see the module), in evaluation mode, on the GPU when there is one.

    Its `label(images)` gives the class probabilities of a data set or pool, `(N, K)` float32; `confusions` are its
    errors on held-out images. Raises InputError, naming the file, when something is missing, corrupt or does not fit
    its configuration.

    >>> from fairsims.data import open_dataset
    >>> classifier = load_classifier("emoji-gender")
    >>> classifier.attribute.classes, classifier.confusions["variant"].counts
    (('man', 'woman'), ((624, 16), (27, 637)))
    >>> classifier.label(open_dataset("emoji-people", resolution=32).subset(range(8))).shape
    (8, 2)
    """
    text = str(spec)
    points = entry_points.installed_classifiers()
    if text.startswith(entry_points.PREFIX):
        point = text.removeprefix(entry_points.PREFIX)
        if point not in points:
            raise InputError(f"no installed package offers a classifier {point!r}{closest(point, points)}")
        return entry_points.ThirdPartyClassifier(points[point])
    if text.partition("#")[0].endswith(table.SUFFIXES):
        return table.read_table(text)
    if not Path(spec).is_dir() and text not in embedded_classifiers() and text in points:
        return entry_points.ThirdPartyClassifier(points[text])
    folder = find_classifier(spec)
    meta = read_json(folder / "config.json")
    if meta.get("format") != FORMAT or meta.get("kind") not in KINDS:
        raise InputError(
            f"{folder}/config.json has format {meta.get('format')!r}, kind {meta.get('kind')!r}; "
            f"expected {FORMAT!r}, one of {', '.join(KINDS)}; give the folder of a classifier"
        )
    try:
        known: dict[str, Any] = {
            "name": str(meta["name"]),
            "kind": meta["kind"],
            "confusions": {s: Confusion.from_json(s, c) for s, c in meta["confusions"].items()},
            "default_split": meta["default_split"],
        }
        if meta["kind"] == "table":
            return table.read_table(f"{folder / meta['table']}#{meta['attribute']}", **known)
        if meta["kind"] == "entry-point":
            return _measured_entry_point(folder, meta, known)
        known |= {
            "attribute": Attribute(name=meta["attribute"], classes=tuple(meta["classes"])),
            "temperature": float(meta["temperature"]),
            "threshold": float(meta.get("threshold", 0.0)),
        }
        return _with_weights(folder, meta, known)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{folder}/config.json does not describe a classifier ({e}); restore it") from None


def find_classifier(spec: str | Path) -> Path:
    """The folder of a classifier given by path or by the name of an embedded one. Raises InputError for neither."""
    if Path(spec).is_dir():
        return Path(spec)
    folders = embedded_classifiers()
    if str(spec) in folders:
        return folders[str(spec)]
    known = [*folders, *entry_points.installed_classifiers()]
    raise InputError(
        f"no classifier folder {str(spec)!r} and no embedded classifier of that name{closest(str(spec), known)}"
    )


def embedded_classifiers() -> dict[str, Path]:
    """Name to folder of the classifiers that ship with the package."""
    root = Path(str(importlib.resources.files("fairsims") / "assets" / "classifiers"))
    return {p.name: p for p in sorted(root.glob("*")) if (p / "config.json").exists()}


def classifier_for(attribute: str, resolution: int, channels: int) -> AttributeClassifier:
    """The embedded classifier of an attribute for images of this resolution and number of channels.

    Raises InputError naming what there is when none fits.
    """
    known = []
    for name, folder in embedded_classifiers().items():
        meta = read_json(folder / "config.json")
        size, depth = meta["network"]["input_size"], meta["network"]["channels"]
        if meta["attribute"] == attribute and depth == channels and resolution > 0 and resolution % size == 0:
            return load_classifier(folder)
        known.append(f"{name} ({_case(meta['attribute'], size, depth)})")
    raise InputError(
        f"no embedded classifier for {_case(attribute, resolution, channels)}; there is {', '.join(known)}; "
        "train one for your images or give its folder"
    )


def network_of(settings: Mapping[str, Any]) -> NetworkConfig | TorchvisionConfig:
    """The network that a config.json describes: torchvision's when it names an architecture."""
    if "architecture" in settings:
        return TorchvisionConfig(**settings)
    return NetworkConfig(**{**settings, "widths": tuple(settings["widths"])})


def build_network(config: NetworkConfig | TorchvisionConfig) -> ConvNet | TorchvisionNet:
    """The network of that shape, with random weights."""
    return ConvNet(config) if isinstance(config, NetworkConfig) else TorchvisionNet(config)


def _with_weights(folder: Path, meta: dict[str, Any], known: dict[str, Any]) -> LinearClassifier:
    kind, weights = meta["kind"], folder / "model.safetensors"
    config = network_of(meta["network"]) if kind == "cnn" else None
    tensors = _tensors(weights)
    digest = sha256_file(weights)
    if meta.get("weights_digest", digest) != digest:
        raise InputError(f"{weights} is not the file that {folder}/config.json was written with; restore both")
    identity = [kind, meta["network"] if kind == "cnn" else meta["backbone"]["digest"]]
    identity += [meta["attribute"], meta["classes"], known["temperature"]]
    if known["threshold"]:
        identity.append(known["threshold"])
    card = Card(**known, digest=sha256_json([digest, *identity]), weights_digest=digest)
    backbone: Backbone
    if config is not None:
        network = build_network(config)
        try:
            network.load_state_dict(tensors, strict=True)
        except RuntimeError as e:
            reason = (str(e).splitlines() + [""])[1].strip()[:160]
            raise InputError(f"{weights} does not fit {folder}/config.json ({reason}); restore both") from None
        backbone, head = NetworkBackbone(network.to(device())), network.head
        return LinearClassifier(backbone, head.weight, head.bias, card)
    if set(tensors) != {"weight", "bias"} or tensors["weight"].ndim != 2 or tensors["bias"].ndim != 1:
        raise InputError(f"{weights} does not fit {folder}/config.json (it holds {sorted(tensors)}); restore both")
    backbone = open_backbone(meta["backbone"]["spec"])
    if backbone.digest != meta["backbone"]["digest"]:
        raise InputError(
            f"the features {meta['backbone']['spec']} of {folder} have other weights than when it was made; "
            "restore them or make the classifier again"
        )
    return LinearClassifier(backbone, tensors["weight"], tensors["bias"], card)


def _tensors(weights: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(weights)
    except FileNotFoundError:
        raise InputError(f"{weights} is missing; restore it or train the classifier again") from None
    except (SafetensorError, OSError) as e:
        raise InputError(f"{weights} is corrupt ({e}); restore it or train the classifier again") from None
    broken = next((k for k, v in tensors.items() if not torch.isfinite(v).all()), None)
    if broken is not None:
        raise InputError(f"{weights} is corrupt ({broken} is not finite); restore it or train the classifier again")
    return tensors


def _measured_entry_point(
    folder: Path, meta: dict[str, Any], known: dict[str, Any]
) -> entry_points.ThirdPartyClassifier:
    """Another package's classifier with the errors that were measured here."""
    points, wanted = entry_points.installed_classifiers(), meta["entry_point"]
    if wanted not in points:
        raise InputError(f"no installed package offers the classifier {wanted!r} of {folder}; install it")
    found = entry_points.ThirdPartyClassifier(points[wanted], **known)
    if found.digest != meta["digest"]:
        raise InputError(f"the classifier {wanted!r} has changed since {folder} was measured; measure it again")
    return found


def _case(attribute: str, size: int, channels: int) -> str:
    return f"{attribute} at {size}x{size} {'grey' if channels == 1 else 'RGB'}"
