"""Make classifiers: learned from labelled images, or of prompts; measured, saved."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims import __version__
from fairsims.classifiers.abstention import Abstention, fit_threshold, with_undetermined
from fairsims.classifiers.backbones import backbone_facts, open_backbone, read_features
from fairsims.classifiers.base import Card, IntArray
from fairsims.classifiers.checkpoints import FORMAT, load_classifier, save_classifier
from fairsims.classifiers.clip import Prompts, zero_shot_head
from fairsims.classifiers.evaluation import (
    HeldOut,
    Say,
    assign_folds,
    check_classes,
    fit_temperature,
    measured,
    out_of_fold,
)
from fairsims.classifiers.labelled import SEEN, Labelled, groups_of, write_seen
from fairsims.classifiers.trainer import WIDE, Trainer
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError
from fairsims.files import now, read_json, sha256_json
from fairsims.run import refuse_foreign, settle_settings

Report = Callable[[str, int, int], None]


def build_classifier(
    folder: str | Path,
    data: Labelled,
    trainer: Trainer,
    *,
    name: str,
    splits: Sequence[HeldOut],
    abstain: Abstention | None = None,
    seed: int = 0,
    command: str = "",
    say: Say = lambda line: None,
    progress: Report = lambda stage, done, total: None,
) -> Path:
    """Measure by cross-validation, train on all images of the attribute's classes with the same settings, save.

    The first split is the one audits use; its out-of-fold probabilities fit temperature and threshold. Called again
    with the same settings it goes on after the last finished fold. Raises InputError when the data do not bear it,
    ChangedSettings when `folder` holds the unfinished work of other settings.
    """
    if not splits:
        raise InputError(f"{name} has no held-out split; expected at least one")
    _check_rule(data, abstain)
    folder, started = Path(folder), time.monotonic()
    work = folder / ".work"
    _refuse_other(folder)
    groupings = [groups_of(data, s.group_by, s.near_duplicates) for s in splits]
    folded = [assign_folds(data, g, s.folds, seed) for g, s in zip(groupings, splits, strict=True)]
    prepared = trainer.prepared(data, load_classifier)
    settings = {"kind": trainer.kind, **prepared.model, **trainer.facts(), "data": data.facts(), "seed": seed}
    settings |= {"classes": list(data.attribute.classes), "folds": [sha256_json(f.tolist())[:16] for f in folded]}
    settle_settings(work / "settings.json", settings)
    found: list[Tensor] = []
    for split, folds in zip(splits, folded, strict=True):
        kept = work / f"{split.name}-{'-'.join(split.group_by)}-{split.folds}-{split.near_duplicates:g}"
        tally = partial(progress, split.name)
        found.append(out_of_fold(trainer, prepared, data, folds, kept=kept, say=say, progress=tally))
    card = Card(kind=trainer.kind, name=name, attribute=data.attribute)
    card, metrics = _judged(card, found, data, splits, groupings, trainer.temperatures, abstain, refitted=True)
    for held_out, confusion in card.confusions.items():
        say(f"{held_out}: {confusion.accuracy:.1%} right, {confusion.counts}")
    took = time.monotonic() - started
    determined = data.determined
    tally = partial(progress, "train")
    fitted = trainer.fit(prepared, torch.from_numpy(determined), data.labels[determined], -1, tally)
    write_seen(folder, data, prepared.input_size)
    save_classifier(
        folder,
        card,
        {"input_size": prepared.input_size, **prepared.model},
        fitted.tensors,
        {
            "metrics": metrics,
            **trainer.facts(),
            **({"abstain": str(abstain)} if abstain else {}),
            "data": data.facts(),
            "parameters": sum(t.numel() for t in fitted.tensors.values()),
            "seconds": {"measure": round(took, 1), "train": round(time.monotonic() - started - took, 1)},
            **_origin(command),
        },
    )
    shutil.rmtree(work)
    say(f"{folder}: trained on {int(determined.sum())} images")
    return folder


def make_clip(
    prompts: Prompts,
    folder: Path,
    *,
    data: Labelled | None = None,
    split: HeldOut | None = None,
    abstain: Abstention | None = None,
    command: str = "",
) -> Path:
    """A zero-shot classifier's folder; labelled images fit its temperature and threshold, and measure it by `split`.

    The temperature changes no call and the threshold is one number, so the same images serve both. Raises InputError
    when the classes of `data` are not those of the prompts.
    """
    _check_rule(data, abstain)
    _refuse_other(folder)
    weight, bias = zero_shot_head(prompts)
    backbone = open_backbone(prompts.spec, load_classifier)
    attribute = Attribute(name=prompts.attribute, classes=tuple(prompts.classes))
    card = Card(kind="clip", name=prompts.name, attribute=attribute, temperature=float(prompts.temperature))
    card, metrics = _abstaining(card, float(prompts.undetermined)), dict[str, Any]()
    if data is not None:
        check_classes(attribute, data)
        split = split or HeldOut.parse("")
        groups = groups_of(data, split.group_by, split.near_duplicates)
        logits = F.linear(read_features(backbone, data.dataset, data.indices), weight, bias)
        card, metrics = _judged(card, [logits], data, [split], [groups], WIDE, abstain)
    save_classifier(
        folder,
        card,
        {"input_size": backbone.input_size, "backbone": backbone_facts(prompts.spec, backbone)},
        {"weight": weight, "bias": bias},
        {
            "prompts": prompts.facts(),
            "metrics": metrics,
            **({"abstain": str(abstain)} if abstain else {}),
            **({"data": data.facts()} if data else {}),
            **_origin(command),
        },
    )
    return folder


def _abstaining(card: Card, threshold: float, **measured: Any) -> Card:
    """The card with a threshold, with which `undetermined` follows the classes, and with what was measured."""
    classes = (*card.attribute.determined, UNDETERMINED) if threshold else card.attribute.determined
    return replace(card, attribute=replace(card.attribute, classes=classes), threshold=threshold, **measured)


def _judged(
    card: Card,
    logits: Sequence[Tensor],
    data: Labelled,
    splits: Sequence[HeldOut],
    groupings: Sequence[IntArray],
    temperatures: tuple[float, float],
    abstain: Abstention | None,
    *,
    refitted: bool = False,
) -> tuple[Card, dict[str, Any]]:
    """The card with what logits `(N, K)` of unseen images, for each split, say: temperature, threshold, confusions;
    and metrics.

    The first split decides temperature and threshold; the card's threshold stays where no rule asks for one.
    """
    determined = data.determined
    labels = data.labels[determined]
    temperature = round(fit_temperature(logits[0][torch.from_numpy(determined)], labels, bounds=temperatures), 4)
    calibrated = [F.softmax(found / temperature, dim=1) for found in logits]
    if abstain is None and UNDETERMINED in data.counts:
        abstain = Abstention(rule="balanced")
    threshold = fit_threshold(calibrated[0].double().numpy(), data.labels, abstain) if abstain else card.threshold
    confusions, metrics = {}, {}
    for split, p, groups in zip(splits, calibrated, groupings, strict=True):
        p = with_undetermined(p, threshold)
        confusions[split.name], metrics[split.name] = measured(p, data, groups, split, refitted=refitted)
    found = {"temperature": temperature, "confusions": confusions, "default_split": splits[0].name}
    return _abstaining(card, threshold, **found), metrics


def _refuse_other(folder: Path) -> None:
    """Raises InputError when a folder holds anything but a classifier, or what is unfinished of one."""
    config = folder / "config.json"
    own = (folder / ".work").is_dir() or (config.is_file() and read_json(config).get("format") == FORMAT)
    refuse_foreign(folder, (config.name, "model.safetensors", SEEN) if own else ())


def _origin(command: str) -> dict[str, Any]:
    """When and by what a folder was made."""
    return {
        "created": now(),
        "versions": {"fairsims": __version__, "torch": torch.__version__},
        "command": command,
    }


def _check_rule(data: Labelled | None, abstain: Abstention | None) -> None:
    """Raises InputError when there are no images to choose a threshold on, before anything is trained."""
    if abstain is None:
        return
    if data is None:
        raise InputError("--abstain needs labelled images to choose the threshold on; give --data")
    if abstain.rule == "balanced" and UNDETERMINED not in data.counts:
        raise InputError(
            f"no image is labelled undetermined in {data.dataset.name}; expected some for --abstain balanced; "
            "name their label with --undetermined, or abstain by error or coverage"
        )
