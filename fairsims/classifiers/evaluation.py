"""What a classifier gets wrong on images it has not seen, and the command that builds one with its errors measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from fairsims import __version__
from fairsims.classifiers.base import Confusion
from fairsims.classifiers.checkpoints import save_classifier
from fairsims.classifiers.cnn import NetworkConfig
from fairsims.classifiers.training import ClassifierRecipe, predict_logits, train_network
from fairsims.datasets.attributes import Attribute
from fairsims.datasets.base import ImageDataset
from fairsims.errors import InputError, closest

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A cross-validation that measures how a classifier errs on one kind of unseen image."""

    name: str
    description: str
    group_by: tuple[str, ...] = ()
    """Images that agree in these label columns are held out together; none: every image by itself."""
    folds: int = 5

    def __post_init__(self) -> None:
        if self.folds < 2:
            raise ValueError(f"folds is {self.folds}; expected 2 or more")


def assign_folds(dataset: ImageDataset, indices: IntArray, labels: IntArray, split: HeldOut, seed: int) -> IntArray:
    """Fold of each image `(n,)`, classes spread evenly. Images with the same pixels are never in different folds.

    Raises InputError when a column is missing or there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    missing = [c for c in split.group_by if c not in dataset.table.columns]
    if missing:
        raise InputError(
            f"{dataset.name} has no column {missing[0]!r} to hold out by{closest(missing[0], dataset.table.columns)}"
        )
    keys: list[list[object]] = [[image.tobytes()] for image in dataset.read(indices).numpy()]
    if split.group_by:
        rows = dataset.table.iloc[indices][list(split.group_by)].astype(str).itertuples(index=False, name=None)
        for key, row in zip(keys, rows, strict=True):
            key.append(row)
    groups = _joined(keys)
    if len(set(groups)) < split.folds:
        raise InputError(f"{dataset.name} has {len(set(groups))} groups for {split.folds} folds; use fewer folds")
    folds = np.empty(len(indices), dtype=np.int64)
    cutter = StratifiedGroupKFold(split.folds, shuffle=True, random_state=seed)
    for k, (_, held_out) in enumerate(cutter.split(groups, labels, groups)):
        folds[held_out] = k
    return folds


def cross_validate(
    images: Tensor, labels: IntArray, folds: IntArray, config: NetworkConfig, recipe: ClassifierRecipe
) -> Iterator[tuple[IntArray, Tensor]]:
    """Yields for every fold its positions `(n,)` and the logits `(n, K)` of a network trained on the other folds."""
    for k in range(int(folds.max()) + 1):
        inside, held_out = np.flatnonzero(folds != k), np.flatnonzero(folds == k)
        seeded = replace(recipe, seed=recipe.seed + 1000 * (k + 1))
        network = train_network(images[torch.from_numpy(inside)], labels[inside], config, seeded)
        yield held_out, predict_logits(network, images[torch.from_numpy(held_out)])


def fit_temperature(logits: Tensor, labels: IntArray) -> float:
    """T that minimises the cross-entropy of `softmax(logits / T)` (Guo et al. 2017), within [0.2, 5]."""
    target = torch.from_numpy(labels)
    found = minimize_scalar(
        lambda log_t: float(F.cross_entropy(logits.double() / float(np.exp(log_t)), target)),
        bounds=(np.log(0.2), np.log(5.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def calibration_error(probabilities: Tensor, labels: IntArray, bins: int = 10) -> float:
    """Expected calibration error: mean over images of |accuracy - confidence| in bins of confidence."""
    confidence, predicted = probabilities.max(dim=1)
    right = predicted.numpy() == labels
    place = np.minimum((confidence.numpy() * bins).astype(int), bins - 1)
    gaps = [abs(right[place == b].sum() - confidence.numpy()[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(labels))


def build_classifier(
    folder: str | Path,
    dataset: ImageDataset,
    attribute: Attribute,
    *,
    name: str,
    config: NetworkConfig,
    recipe: ClassifierRecipe,
    splits: Sequence[HeldOut],
    command: str = "",
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Measure by cross-validation, train on all images of the attribute's classes with the same recipe, save.

    The first split is the one audits use; its out-of-fold logits fit the temperature. `say` gets a line per fold.
    Raises InputError when the dataset does not have the attribute, the columns or the shape asked for.
    """
    if (dataset.resolution, dataset.channels) != (config.input_size, config.channels):
        raise InputError(
            f"{dataset.name} has {dataset.channels} channels at {dataset.resolution} pixels; "
            f"expected {config.channels} at {config.input_size}"
        )
    if attribute.name not in dataset.table.columns or not splits:
        raise InputError(f"{dataset.name} has no column {attribute.name!r}, or there is no split; give both")
    started = time.monotonic()
    place = {c: k for k, c in enumerate(attribute.classes)}
    every = np.array([place.get(value, -1) for value in dataset.table[attribute.name]], dtype=np.int64)
    indices = np.flatnonzero(every >= 0)
    labels, images = every[indices], dataset.read(indices)
    confusions: dict[str, Confusion] = {}
    metrics: dict[str, Any] = {}
    temperature = 1.0
    for number, split in enumerate(splits):
        folds = assign_folds(dataset, indices, labels, split, recipe.seed)
        logits = torch.zeros(len(labels), len(attribute.classes))
        for held_out, found in cross_validate(images, labels, folds, config, recipe):
            logits[torch.from_numpy(held_out)] = found
            right = float((found.argmax(dim=1).numpy() == labels[held_out]).mean())
            say(f"{split.name}: {len(held_out)} held out, {right:.1%} right, {time.monotonic() - started:.0f} s")
        if number == 0:
            temperature = fit_temperature(logits, labels)
        predicted = logits.argmax(dim=1).numpy()
        confusions[split.name] = Confusion.of(
            labels, predicted, size=len(attribute.classes), split=split.name, description=split.description
        )
        metrics[split.name] = {
            "accuracy": round(confusions[split.name].accuracy, 4),
            "recall": {c: round(float((predicted[labels == k] == k).mean()), 4) for c, k in place.items()},
            "calibration_error": round(calibration_error(F.softmax(logits / temperature, dim=1), labels), 4),
            "folds": split.folds,
            "held_out_together": list(split.group_by),
        }
        say(f"{split.name}: {confusions[split.name].accuracy:.1%} right, {confusions[split.name].counts}")
    measured = time.monotonic() - started
    network = train_network(images, labels, config, recipe)
    trained = time.monotonic() - started - measured
    provenance = {
        "metrics": metrics,
        "recipe": asdict(recipe),
        "data": {
            "name": dataset.name,
            "digest": dataset.digest,
            "images": {c: int((labels == k).sum()) for c, k in place.items()},
        },
        "parameters": sum(p.numel() for p in network.parameters()),
        "seconds": {"measure": round(measured, 1), "train": round(trained, 1)},
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"fairsims": __version__, "torch": torch.__version__},
        "command": command,
    }
    save_classifier(
        folder,
        network,
        name=name,
        attribute=attribute,
        temperature=round(temperature, 4),
        confusions=confusions,
        default_split=splits[0].name,
        provenance=provenance,
    )
    say(f"{folder}: trained on {len(labels)} images in {trained:.0f} s")
    return Path(folder)


def _joined(keys: Sequence[Sequence[object]]) -> IntArray:
    """Number of the connected component of each item; items are connected by any common key."""
    parent = list(range(len(keys)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[object, int] = {}
    for i, own in enumerate(keys):
        for key in own:
            parent[root(i)] = root(first.setdefault(key, i))
    roots = [root(i) for i in range(len(keys))]
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)
