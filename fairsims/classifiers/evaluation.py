"""What a classifier gets wrong on images it has not seen: held-out splits, out-of-fold logits, errors, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F

from fairsims.classifiers.base import Confusion, IntArray, Tally
from fairsims.classifiers.labelled import Labelled
from fairsims.classifiers.trainer import Prepared, Trainer
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.options import check_fields

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A cross-validation that measures how a classifier errs on one kind of unseen image."""

    name: str
    description: str
    group_by: tuple[str, ...] = ()
    """Images that agree in these label columns are held out together; none: every image by itself."""
    folds: int = 5
    """Parts that the images are cut into, each held out once."""
    near_duplicates: float = 0.0
    """Grey levels by which images may differ and still be held out together; 0: same pixels."""

    def __post_init__(self) -> None:
        check_fields(self, "2 or more", lambda v: v >= 2, "folds")
        check_fields(self, "grey levels from 0 to 127", lambda v: 0 <= v < 128, "near_duplicates")

    @classmethod
    def parse(cls, text: str, **settings: Any) -> HeldOut:
        """`concept,skin_tone`, or with a name `variant:concept,skin_tone`; "" holds out single images.

        `settings` are folds and near_duplicates.
        """
        name, _, columns = text.rpartition(":")
        group_by = tuple(c.strip() for c in columns.split(",") if c.strip())
        together = f"images that share {', '.join(group_by)} held out together"
        return cls(
            name=name.strip() or "+".join(group_by) or "image",
            description=together if group_by else "single images held out",
            group_by=group_by,
            **settings,
        )

    @classmethod
    def measured_before(cls, name: str, config: Mapping[str, Any]) -> HeldOut:
        """The split of that name by which the classifier with this config.json was measured."""
        metrics, described = config["metrics"][name], config["confusions"][name]["description"]
        return cls(
            name=name,
            description=described.removesuffix(_IN_FOLDS.format(metrics["folds"])),
            group_by=tuple(metrics["held_out_together"]),
            folds=metrics["folds"],
            near_duplicates=metrics.get("near_duplicates", 0.0),
        )


_IN_FOLDS = "; in {} folds, a classifier trained for each"


def assign_folds(data: Labelled, groups: IntArray, folds: int, seed: int) -> IntArray:
    """Fold of each image `(N,)`, classes spread evenly, no group in two folds.

    Raises InputError when there are fewer groups than folds, in all or with a class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    name = data.dataset.name
    if len(set(groups)) < folds:
        raise InputError(f"{name} has {len(set(groups))} groups for {folds} folds; use fewer folds")
    for k, c in enumerate(data.attribute.classes):
        if (found := len(set(groups[data.labels == k]))) < folds:
            raise InputError(f"{name} has {found} groups with {c!r} for {folds} folds; use fewer folds or label more")
    found_folds = np.empty(len(data), dtype=np.int64)
    cutter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    # Undetermined images too few to be spread over the folds by themselves go with those of the last class.
    few = 0 < int((~data.determined).sum()) < folds
    labels = np.minimum(data.labels, len(data.attribute.classes) - 1) if few else data.labels
    for k, (_, held_out) in enumerate(cutter.split(groups, labels, groups)):
        found_folds[held_out] = k
    return found_folds


def out_of_fold(
    trainer: Trainer,
    prepared: Prepared,
    data: Labelled,
    folds: IntArray,
    *,
    kept: Path,
    say: Say = lambda line: None,
    progress: Tally = lambda done, total: None,
) -> Tensor:
    """Logits `(N, K)` of every image by a classifier that learned from the other folds only.

    `undetermined` images are held out and never learned from. What a fold gave is kept under `kept`, so that the same
    call goes on after an interruption.
    """
    logits = torch.zeros(len(data), len(data.attribute.classes))
    total = int(folds.max()) + 1
    for k in range(total):
        held_out = torch.from_numpy(np.flatnonzero(folds == k))
        place = kept / f"fold-{k}.npy"
        if place.exists():
            logits[held_out] = torch.from_numpy(np.load(place))
            continue

        def tally(done: int, of: int, k: int = k) -> None:
            progress(k * of + min(done, of), (total + 1) * of)

        inside = np.flatnonzero((folds != k) & data.determined)
        fitted = trainer.fit(prepared, torch.from_numpy(inside), data.labels[inside], k, tally)
        logits[held_out] = fitted.logits(prepared.rows[held_out])
        with atomic(place) as temporary, temporary.open("wb") as stream:
            np.save(stream, logits[held_out].numpy())
        right = (logits[held_out].argmax(dim=1).numpy() == data.labels[held_out.numpy()])[data.determined[held_out]]
        say(f"fold {k + 1} of {total}: {len(held_out)} held out, {right.mean():.1%} right")
    return logits


def measured(
    probabilities: Tensor, data: Labelled, groups: IntArray, split: HeldOut, *, refitted: bool
) -> tuple[Confusion, dict[str, Any]]:
    """Confusion and metrics of probabilities `(N, K)` or, with `undetermined` as the last column, `(N, K + 1)`.

    Intervals are 95% and take images of a group as dependent. An `undetermined` call on an image that has a class is
    no right call; `coverage` and `selective_accuracy` say how often a class is called, and how often then rightly.
    """
    classes, size = data.attribute.classes, probabilities.shape[1]
    predicted = probabilities.argmax(dim=1).numpy()
    judged = np.flatnonzero(data.labels < size)
    labels, groups = data.labels[judged], _renumbered(groups[judged])
    right = predicted[judged] == labels
    confidences = probabilities[:, : len(classes)]
    sums = confidences.sum(dim=1, keepdim=True)
    # A table may give all of an image to `undetermined`: there is no confidence in a class to judge.
    told = (sums[:, 0] > 0).numpy()[judged] & (labels < len(classes))
    determined, confidences = judged[told], confidences / sums

    def error(positions: IntArray) -> float:
        return calibration_error(confidences[determined[positions]], data.labels[determined[positions]])

    together = _IN_FOLDS.format(split.folds) if refitted else ""
    confusion = Confusion.of(
        labels, predicted[judged], size=size, split=split.name, description=split.description + together
    )
    low, high = accuracy_interval(right, groups)
    error_low, error_high = bootstrap_interval(error, _renumbered(groups[told]))
    names = (*classes, UNDETERMINED)[:size]
    metrics: dict[str, Any] = {
        "images": {c: int((labels == k).sum()) for k, c in enumerate(names)},
        "groups": int(groups.max()) + 1,
        "accuracy": round(float(right.mean()), 4),
        "accuracy_low": round(low, 4),
        "accuracy_high": round(high, 4),
        "recall": {c: round(float(right[labels == k].mean()), 4) for k, c in enumerate(names) if (labels == k).any()},
        "calibration_error": round(error(np.arange(len(determined))), 4),
        "calibration_error_low": round(error_low, 4),
        "calibration_error_high": round(error_high, 4),
        "held_out_together": list(split.group_by),
        "near_duplicates": split.near_duplicates,
    }
    if refitted:
        metrics["folds"] = split.folds
    if size > len(classes):
        called = predicted[judged] < len(classes)
        metrics["coverage"] = round(float(called[labels < len(classes)].mean()), 4)
        metrics["selective_accuracy"] = round(float(right[called].mean()), 4) if called.any() else None
        metrics["called"] = int(called.sum())
    return confusion, metrics


def _renumbered(groups: IntArray) -> IntArray:
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def check_classes(attribute: Attribute, data: Labelled) -> None:
    """Raises InputError when labelled images have other classes than a classifier, or the same in another order."""
    classes = attribute.determined
    if classes != data.attribute.classes:
        raise InputError(
            f"{data.dataset.name} has {data.attribute.name} classes {list(data.attribute.classes)}, the classifier "
            f"{list(classes)}; expected the same; choose with --classes, and name labels of none with --undetermined"
        )


RESAMPLES = 500


def fit_temperature(logits: Tensor, labels: IntArray, *, bounds: tuple[float, float] = (0.2, 5.0)) -> float:
    """T that minimises the cross-entropy of `softmax(logits / T)` (Guo et al. 2017), within `bounds`."""
    target = torch.from_numpy(labels)
    found = minimize_scalar(
        lambda log_t: float(F.cross_entropy(logits.double() / float(np.exp(log_t)), target)),
        bounds=(np.log(bounds[0]), np.log(bounds[1])),
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


def accuracy_interval(right: npt.NDArray[np.bool_], groups: IntArray) -> tuple[float, float]:
    """95% Wilson interval for the share of True among `right` `(N,)`, whose images come in `groups` `(N,)`.

    N is divided by the design effect (Kish 1965) of the groups, estimated from the linearised variance of the mean
    over groups and never taken below 1. Where all or none are right it cannot be estimated: N becomes the groups.
    """
    n, p = len(right), float(right.mean())
    sizes, count = np.bincount(groups), int(groups.max()) + 1
    if 0 < p < 1 and count > 1:
        residuals = np.bincount(groups, weights=right - p)
        variance = count / (count - 1) * float((residuals**2).sum()) / n**2
        effective = n / max(1.0, variance / (p * (1 - p) / n))
    else:
        effective = float((sizes > 0).sum())
    z2 = 1.959964**2
    centre = (p + z2 / (2 * effective)) / (1 + z2 / effective)
    half = math.sqrt(z2 * (p * (1 - p) / effective + z2 / (4 * effective**2))) / (1 + z2 / effective)
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_interval(statistic: Callable[[IntArray], float], groups: IntArray, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of `statistic(positions)`, whole groups `(N,)` drawn with replacement 500 times."""
    members = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    rng = np.random.default_rng(seed)
    values = [
        statistic(np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))]))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
