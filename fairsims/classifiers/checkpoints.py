"""Classifier folders: `config.json` and, where there are weights, `model.safetensors`. Nothing is unpickled.

What a classifier is named by: a folder, an embedded name, a table of labels (`labels.csv`, `labels.csv#gender`),
`faces` (`faces#age`), or the entry point of another package (`NAME` or `entry-point:NAME`).
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fairsims.classifiers import entry_points, face_attributes
from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.classifiers.kinds import KINDS
from fairsims.classifiers.trainer import Trainer
from fairsims.errors import InputError, closest
from fairsims.files import atomic, read_json, sha256_file, write_json
from fairsims.models.folders import tensor_bytes

FORMAT = "fairsims-classifier/1"


def save_classifier(
    folder: Path, card: Card, config: Mapping[str, Any], tensors: Mapping[str, Tensor], provenance: Mapping[str, Any]
) -> None:
    """Write a classifier with weights.

    `config` has its `input_size` and says how the kind builds it again, `{"network": ...}` of a cnn, `{"backbone":
    ...}` of a probe; `provenance` says how it was made and measured. The weights come first.
    """
    with atomic(folder / "model.safetensors") as temporary:
        temporary.write_bytes(tensor_bytes(tensors))
    write_json(
        folder / "config.json",
        {
            "format": FORMAT,
            **config,
            **card.to_json(),
            "weights_digest": sha256_file(folder / "model.safetensors"),
            **provenance,
        },
    )


def load_classifier(spec: str | Path, attribute: str = "") -> AttributeClassifier:
    """The classifier that `spec` names (see the module), in evaluation mode, on the GPU when there is one.

    `attribute` chooses where `spec` has several and names none of them; elsewhere it changes nothing.

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
    folder = _folder(spec)
    if folder is None:
        found = next((c for kind in KINDS.values() if (c := kind.named(str(spec), attribute)) is not None), None)
        if found is None:
            raise _unknown(spec)
    else:
        found = _open(folder)
    found.reopen = partial(load_classifier, spec, attribute)
    return found


def _open(folder: Path) -> AttributeClassifier:
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT or config.get("kind") not in KINDS:
        raise InputError(
            f"{folder}/config.json has format {config.get('format')!r}, kind {config.get('kind')!r}; "
            f"expected {FORMAT!r}, one of {', '.join(KINDS)}; give the folder of a classifier"
        )
    try:
        return KINDS[config["kind"]].open(folder, config, Card.from_json(config, folder), load_classifier)
    except (AttributeError, KeyError, TypeError, ValueError) as e:
        raise InputError(f"{folder}/config.json does not describe a classifier ({e}); restore it") from None


def trainer_of(config: Mapping[str, Any]) -> Trainer | None:
    """The trainer that made the classifier with this config.json; None for a kind that nothing is learned for.

    Raises InputError when it does not say.
    """
    make = KINDS[config["kind"]].trainer_of
    try:
        return make(config) if make else None
    except (KeyError, TypeError) as e:
        raise InputError(
            f"the config.json of {config.get('name')} does not say how it was trained ({e}); train it again"
        ) from None


PAGE = "docs/classifiers.md"
"""Where it is said how a classifier is made and given."""


def find_classifier(spec: str | Path) -> Path:
    """The folder of a classifier given by path or by the name of an embedded one. Raises InputError for neither."""
    folder = _folder(spec)
    if folder is None:
        raise _unknown(spec)
    return folder


def _unknown(spec: str | Path) -> InputError:
    if Path(spec).is_file():
        return InputError(
            f"found file {spec}; expected a folder of a classifier, or a table of labels named .csv, .tsv, .jsonl or "
            ".parquet; save it as one of them",
            page=PAGE,
        )
    known = [*embedded_classifiers(), face_attributes.NAME, *entry_points.installed_classifiers()]
    return InputError(
        f"no classifier folder {str(spec)!r} and no embedded classifier of that name{closest(str(spec), known)}",
        page=PAGE,
    )


def _folder(spec: str | Path) -> Path | None:
    return Path(spec) if Path(spec).is_dir() else embedded_classifiers().get(str(spec))


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
        config = read_json(folder / "config.json")
        # A probe has no network of its own; what it looks through sees colours.
        size, depth = config["input_size"], config.get("network", {}).get("channels", 3)
        if config["attribute"] == attribute and depth == channels and resolution > 0 and resolution % size == 0:
            return load_classifier(folder)
        known.append(f"{name} ({_case(config['attribute'], size, depth)})")
    raise InputError(
        f"no embedded classifier for {_case(attribute, resolution, channels)}; there is {', '.join(known)}; "
        "train one for your images or give its folder",
        page=PAGE,
    )


def _case(attribute: str, size: int, channels: int) -> str:
    return f"{attribute} at {size}x{size} {'grey' if channels == 1 else 'RGB'}"
