"""Classifier folders: `config.json` + `model.safetensors`. Nothing is unpickled, loading is strict."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fairsims.classifiers.base import AttributeClassifier, Confusion
from fairsims.classifiers.cnn import CNNClassifier, ConvNet, NetworkConfig
from fairsims.datasets.attributes import Attribute
from fairsims.errors import InputError, closest
from fairsims.runs import atomic, read_json, sha256_file, sha256_json, write_json

FORMAT = "fairsims-classifier/1"


def save_classifier(
    folder: str | Path,
    network: ConvNet,
    *,
    name: str,
    attribute: Attribute,
    temperature: float,
    confusions: Mapping[str, Confusion],
    default_split: str,
    provenance: Mapping[str, Any],
) -> None:
    """Write a classifier; `provenance` says how it was made and measured. The weights come first."""
    from safetensors.torch import save

    folder = Path(folder)
    state = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    with atomic(folder / "model.safetensors") as temporary:
        # `save_file` would leave a file that only its owner can read.
        temporary.write_bytes(save(state))
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            "kind": "cnn",
            "name": name,
            "attribute": attribute.name,
            "classes": list(attribute.classes),
            "input_size": network.config.input_size,
            "network": asdict(network.config),
            "temperature": temperature,
            "default_split": default_split,
            "confusions": {split: c.to_json() for split, c in confusions.items()},
            **provenance,
        },
    )


def load_classifier(spec: str | Path) -> AttributeClassifier:
    """The classifier in a folder, in evaluation mode, or the embedded one of that name ("emoji-gender").

    Raises InputError, naming the file, when something is missing, corrupt or does not fit its configuration.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = find_classifier(spec)
    meta = read_json(folder / "config.json")
    if (meta.get("format"), meta.get("kind")) != (FORMAT, "cnn"):
        raise InputError(
            f"{folder}/config.json has format {meta.get('format')!r}, kind {meta.get('kind')!r}; "
            f"expected {FORMAT!r}, 'cnn'; give the folder of a classifier"
        )
    weights = folder / "model.safetensors"
    try:
        network = ConvNet(NetworkConfig(**meta["network"] | {"widths": tuple(meta["network"]["widths"])}))
        details: dict[str, Any] = {
            "name": str(meta["name"]),
            "attribute": Attribute(name=meta["attribute"], classes=tuple(meta["classes"])),
            "temperature": float(meta["temperature"]),
            "confusions": {s: Confusion.from_json(s, c) for s, c in meta["confusions"].items()},
            "default_split": meta["default_split"],
        }
        identity = [meta["kind"], meta["network"], meta["attribute"], meta["classes"], details["temperature"]]
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{folder}/config.json does not describe a classifier ({e}); restore it") from None
    sizes = {len(c.counts) for c in details["confusions"].values()} | {network.config.classes}
    if sizes != {len(details["attribute"].classes)} or details["default_split"] not in details["confusions"]:
        raise InputError(f"{folder}/config.json contradicts itself (classes, confusions, default split); restore it")
    try:
        network.load_state_dict(load_file(weights), strict=True)
    except FileNotFoundError:
        raise InputError(f"{weights} is missing; restore it or train the classifier again") from None
    except (SafetensorError, OSError) as e:
        raise InputError(f"{weights} is corrupt ({e}); restore it or train the classifier again") from None
    except RuntimeError as e:
        reason = (str(e).splitlines() + [""])[1].strip()[:160]
        raise InputError(f"{weights} does not fit {folder}/config.json ({reason}); restore both") from None
    return CNNClassifier(network, digest=sha256_json([sha256_file(weights), *identity]), **details)


def find_classifier(spec: str | Path) -> Path:
    """The folder of a classifier given by path or by the name of an embedded one. Raises InputError for neither."""
    if Path(spec).is_dir():
        return Path(spec)
    folders = embedded_classifiers()
    if str(spec) in folders:
        return folders[str(spec)]
    raise InputError(
        f"no classifier folder {str(spec)!r} and no embedded classifier of that name{closest(str(spec), folders)}"
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


def _case(attribute: str, size: int, channels: int) -> str:
    return f"{attribute} at {size}x{size} {'grey' if channels == 1 else 'RGB'}"
