"""Measure a classifier that exists on labelled images, and write its errors beside its weights."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.base import AttributeClassifier
from fairsims.classifiers.checkpoints import FORMAT, WEIGHTS, embedded_classifiers, load_classifier
from fairsims.classifiers.evaluation import HeldOut, assign_folds, measured, out_of_fold
from fairsims.classifiers.labelled import Labelled, groups_of
from fairsims.classifiers.seen import seen_by
from fairsims.classifiers.trainers import trainer_of
from fairsims.errors import InputError
from fairsims.files import read_json, write_json

Report = Callable[[int, int], None]


def evaluate_classifier(
    spec: str,
    data: Labelled,
    split: HeldOut,
    *,
    name: str | None = None,
    default: bool = False,
    out: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
    report: Report = lambda done, total: None,
) -> dict[str, Any]:
    """Confusion, accuracy and calibration of the classifier `spec` on labelled images.

    On the data it was trained on, a `cnn` or `probe` is fitted again for every fold and measured on the images left
    out. On other data, and for every other kind, its calls are counted as they are; images that it was trained on are
    left out. The result goes into the classifier's folder, or into a copy of it at `out`, under `name` (by default the
    split's when it is fitted again, else the data set's); `default` makes it what corrects shares. Raises InputError
    when all images were trained on, or the classes are others.
    """
    classifier = load_classifier(spec)
    folder, config = _folder_of(spec)
    own, unseen = is_refitted(spec, data), 0
    if own:
        probabilities, groups = _refitted(config, data, split, seed, say, report)
    else:
        trained = folder is not None and config["kind"] in ("cnn", "probe")
        fresh = _unseen(data, folder, classifier) if folder is not None and trained else data
        data, unseen = fresh, len(data) - len(fresh)
        groups = groups_of(data, split.group_by, split.near_duplicates)
        probabilities = torch.from_numpy(classifier.label(data.dataset.subset(data.indices), report))
    if own:
        split = replace(split, name=name or split.name)
    else:
        alike = f", those with the same {', '.join(split.group_by)} taken as dependent" if split.group_by else ""
        text = f"images of {data.dataset.name}, none trained on{alike}"
        split = replace(split, name=name or data.dataset.name, description=text)
    confusion, metrics = measured(probabilities, data, groups, split, refitted=own)
    metrics |= {"data": data.facts(), **({"left_out_as_trained_on": unseen} if unseen else {})}
    written = _write(spec, folder, out, classifier, {split.name: confusion.to_json()}, {split.name: metrics}, default)
    return {
        "classifier": classifier.name,
        "split": split.name,
        "how": "fitted again for every fold" if own else "as it is",
        **{k: v for k, v in metrics.items() if k != "data"},
        "classes": list(classifier.attribute.classes),
        "confusion": [list(row) for row in confusion.counts],
        "written": str(written) if written else "nowhere: it ships with fairsims or is no folder; give --out",
    }


def is_refitted(spec: str, data: Labelled) -> bool:
    """Whether `evaluate_classifier` fits the classifier again for every fold: on the data that it was trained on."""
    _, config = _folder_of(spec)
    return config.get("kind") in ("cnn", "probe") and config.get("data", {}).get("digest") == data.dataset.digest


def _folder_of(spec: str) -> tuple[Path | None, dict[str, Any]]:
    """The folder of a classifier and its config.json; None and nothing where it has none."""
    folder = Path(spec) if Path(spec).is_dir() else embedded_classifiers().get(spec)
    return folder, read_json(folder / "config.json") if folder is not None else {}


def _refitted(
    config: dict[str, Any],
    data: Labelled,
    split: HeldOut,
    seed: int,
    say: Callable[[str], None],
    report: Report,
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Out-of-fold probabilities at the classifier's own temperature and threshold, and the groups."""
    trainer = trainer_of(config)
    groups = groups_of(data, split.group_by, split.near_duplicates)
    folds = assign_folds(data, groups, split.folds, seed)
    rows = trainer.prepared(data)
    with tempfile.TemporaryDirectory() as kept:
        logits = out_of_fold(trainer, rows, data, folds, kept=Path(kept), say=say, report=report)
    p = F.softmax(logits / float(config["temperature"]), dim=1)
    return with_undetermined(p, float(config.get("threshold", 0.0))), groups


def _unseen(data: Labelled, folder: Path, classifier: AttributeClassifier) -> Labelled:
    """The images that the classifier did not learn from. Raises InputError when a class has none left."""
    fresh = ~seen_by(folder, data, classifier.input_size)
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
    folder: Path | None,
    out: Path | None,
    classifier: AttributeClassifier,
    confusion: dict[str, Any],
    metrics: dict[str, Any],
    default: bool,
) -> Path | None:
    """Add a measured split to a folder's config.json; the first one is the default until another is to be."""
    if out is None:
        if folder is None or spec in embedded_classifiers():
            return None
        out = folder
    elif folder is not None and folder.resolve() != out.resolve():
        shutil.copytree(folder, out, dirs_exist_ok=True)
    config = read_json(out / "config.json") if folder is not None else _new_config(out, classifier)
    config["confusions"] = config.get("confusions", {}) | confusion
    config["metrics"] = config.get("metrics", {}) | metrics
    config["default_split"] = next(iter(confusion)) if default else config["default_split"] or next(iter(confusion))
    write_json(out / "config.json", config)
    return out


def _new_config(out: Path, classifier: AttributeClassifier) -> dict[str, Any]:
    """The folder of a classifier that had none: a table's copy, or the name of another package's."""
    config = {
        "format": FORMAT,
        "kind": classifier.facts()["kind"],
        "name": classifier.name,
        "attribute": classifier.attribute.name,
        "classes": list(classifier.attribute.classes),
        "digest": classifier.digest,
        "default_split": "",
    }
    return config | classifier.keep(out)


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
    folder = Path(spec) if Path(spec).is_dir() else embedded_classifiers().get(spec)
    made: dict[str, Any] = {}
    if folder is not None and classifier.facts()["kind"] in WEIGHTS:
        config = read_json(folder / "config.json")
        made = {k: config[k] for k in ("data", "created") if k in config}
    return {
        **{k: v for k, v in classifier.facts().items() if k != "splits"},
        "default_split": classifier.default_split,
        "splits": splits or "none: nobody measured its errors, so shares stay uncorrected",
        **made,
    }
