"""Measure a classifier that exists on labelled images, and write its errors beside its weights."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.base import AttributeClassifier, Confusion, IntArray, Tally
from fairsims.classifiers.checkpoints import FORMAT, embedded_classifiers, load_classifier, trainer_of
from fairsims.classifiers.evaluation import HeldOut, Say, assign_folds, check_classes, measured, out_of_fold
from fairsims.classifiers.kinds import KINDS
from fairsims.classifiers.labelled import Labelled, groups_of, seen_by
from fairsims.classifiers.trainer import Trainer
from fairsims.errors import InputError
from fairsims.files import read_json, write_json


def evaluate_classifier(
    spec: str,
    data: Labelled,
    split: HeldOut,
    *,
    name: str | None = None,
    default: bool = False,
    out: Path | None = None,
    seed: int = 0,
    say: Say = lambda line: None,
    progress: Tally = lambda done, total: None,
) -> dict[str, Any]:
    """Confusion, accuracy and calibration of the classifier `spec` on labelled images.

    On the data it was trained on, a kind that learns is fitted again for every fold and measured on the images left
    out. On other data, and for every other kind, its calls are counted as they are, whatever the folds and the seed;
    images that it was trained on are left out. The result goes into the classifier's folder, or into a copy of it at
    `out`, under `name` (by default the split's when it is fitted again, else the data set's); `default` makes it what
    corrects shares. Raises InputError when all images were trained on, or the classes are others.
    """
    classifier = load_classifier(spec)
    check_classes(classifier.attribute, data)
    config = _config_of(classifier)
    trainer = trainer_of(config) if config else None
    own, unseen = is_refitted(classifier, data), 0
    if trainer is not None and own:
        split = replace(split, name=name or split.name)
        probabilities, groups = _refitted(trainer, config, data, split, seed, say, progress)
    else:
        fresh = _unseen(data, classifier) if trainer is not None else data
        data, unseen = fresh, len(data) - len(fresh)
        groups = groups_of(data, split.group_by, split.near_duplicates)
        probabilities = torch.from_numpy(classifier.label(data.dataset.subset(data.indices), progress))
        alike = f", those with the same {', '.join(split.group_by)} taken as dependent" if split.group_by else ""
        text = f"images of {data.dataset.name}, none trained on{alike}"
        split = replace(split, name=name or data.dataset.name, description=text)
    confusion, metrics = measured(probabilities, data, groups, split, refitted=own)
    metrics |= {"data": data.facts(), **({"left_out_as_trained_on": unseen} if unseen else {})}
    written = _write(spec, out, classifier, confusion, metrics, default)
    return {
        "classifier": classifier.name,
        "split": split.name,
        "how": "fitted again for every fold" if own else "as it is",
        **{k: v for k, v in metrics.items() if k != "data"},
        "classes": list(classifier.attribute.classes),
        "confusion": [list(row) for row in confusion.counts],
        "written": str(written) if written else "nowhere: it ships with fairsims or is no folder; give --out",
    }


def is_refitted(classifier: AttributeClassifier, data: Labelled) -> bool:
    """Whether `evaluate_classifier` fits it again for every fold: a kind that learns, on what it was trained on."""
    config = _config_of(classifier)
    learns = bool(config) and KINDS[config["kind"]].trainer_of is not None
    return learns and config.get("data", {}).get("digest") == data.dataset.digest


def _config_of(classifier: AttributeClassifier) -> dict[str, Any]:
    """The config.json of a classifier that has a folder; else nothing."""
    folder = classifier.card.folder
    return read_json(folder / "config.json") if folder else {}


def _refitted(
    trainer: Trainer,
    config: Mapping[str, Any],
    data: Labelled,
    split: HeldOut,
    seed: int,
    say: Say,
    progress: Tally,
) -> tuple[Tensor, IntArray]:
    """Out-of-fold probabilities at the classifier's own temperature and threshold, and the groups."""
    groups = groups_of(data, split.group_by, split.near_duplicates)
    folds = assign_folds(data, groups, split.folds, seed)
    prepared = trainer.prepared(data, load_classifier)
    if any(config[key] != value for key, value in json.loads(json.dumps(prepared.model)).items()):
        raise InputError(
            f"{data.dataset.name} at {data.dataset.resolution} pixels is not what {config['name']} was trained on; "
            f"expected images of {config['input_size']} pixels; give --resolution"
        )
    with tempfile.TemporaryDirectory() as kept:
        logits = out_of_fold(trainer, prepared, data, folds, kept=Path(kept), say=say, progress=progress)
    p = F.softmax(logits / float(config["temperature"]), dim=1)
    return with_undetermined(p, float(config.get("threshold", 0.0))), groups


def _unseen(data: Labelled, classifier: AttributeClassifier) -> Labelled:
    """The images that the classifier did not learn from. Raises InputError when a class has none left."""
    fresh = ~seen_by(classifier, data)
    if not fresh.any():
        raise InputError(
            f"{classifier.name} was trained on all {len(data)} images of {data.dataset.name}; expected others, "
            "or the very data set it was trained on, for which it is fitted again in every fold"
        )
    empty = next((c for k, c in enumerate(data.attribute.classes) if not (data.labels[fresh] == k).any()), None)
    if empty is not None:
        raise InputError(f"{classifier.name} was trained on every {empty!r} of {data.dataset.name}; label others")
    return replace(data, indices=data.indices[fresh], labels=data.labels[fresh])


def _write(
    spec: str,
    out: Path | None,
    classifier: AttributeClassifier,
    confusion: Confusion,
    metrics: dict[str, Any],
    default: bool,
) -> Path | None:
    """Add a measured split to a folder's config.json; the first one is the default until another is to be."""
    folder = classifier.card.folder
    if out is None:
        if folder is None or spec in embedded_classifiers():
            return None
        out = folder
    elif folder is not None and folder.resolve() != out.resolve():
        shutil.copytree(folder, out, dirs_exist_ok=True)
    if folder is not None:
        config = read_json(out / "config.json")
    else:
        config = {"format": FORMAT, **classifier.card.to_json(), "digest": classifier.digest, **classifier.keep(out)}
    config["confusions"] = config["confusions"] | {confusion.split: confusion.to_json()}
    config["metrics"] = config.get("metrics", {}) | {confusion.split: metrics}
    config["default_split"] = confusion.split if default else config["default_split"] or confusion.split
    write_json(out / "config.json", config)
    return out


def describe_classifier(spec: str) -> dict[str, Any]:
    """What `fairsims classifier info` prints: the classifier's facts, and every measured split."""
    classifier = load_classifier(spec)
    splits = {
        name: {
            "accuracy": c.accuracy,
            "n": {k: int(n) for k, n in zip(classifier.attribute.classes, c.totals, strict=True)},
            "counts": [list(row) for row in c.counts],
            "description": c.description,
        }
        for name, c in classifier.confusions.items()
    }
    config = _config_of(classifier)
    return {
        **{k: v for k, v in classifier.facts().items() if k != "splits"},
        "default_split": classifier.default_split,
        "splits": splits or "none: nobody measured its errors, so shares stay uncorrected",
        **{k: config[k] for k in ("data", "created") if k in config},
    }
