"""Make and measure classifiers: what `fairsims classifier` calls."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fairsims import __version__
from fairsims.classifiers.abstention import Abstention, fit_threshold, with_undetermined
from fairsims.classifiers.backbones import open_backbone
from fairsims.classifiers.base import Confusion
from fairsims.classifiers.calibration import fit_temperature
from fairsims.classifiers.checkpoints import FORMAT, backbone_facts, save_classifier
from fairsims.classifiers.evaluation import HeldOut, assign_folds, measured, out_of_fold
from fairsims.classifiers.labelled import Labelled, groups_of
from fairsims.classifiers.prompts import Prompts, zero_shot_head
from fairsims.classifiers.seen import SEEN, write_seen
from fairsims.classifiers.trainers import Trainer
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.run import refuse_foreign, settle_settings

Say = Callable[[str], None]
Report = Callable[[str, int, int], None]
WIDE = (0.01, 100.0)
"""Where the temperature of logits is looked for that no training has put on a scale."""


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
    report: Report = lambda stage, done, total: None,
) -> Path:
    """Measure by cross-validation, train on all images of the attribute's classes with the same settings, save.

    The first split is the one audits use; its out-of-fold probabilities fit temperature and threshold. Called again
    with the same settings it goes on after the last finished fold. Raises InputError when the data do not bear it,
    ChangedSettings when `folder` holds the unfinished work of other settings.
    """
    if not splits:
        raise InputError(f"{name} has no held-out split; expected at least one")
    check_rule(data, abstain)
    folder, started = Path(folder), time.monotonic()
    work = folder / ".work"
    _refuse_other(folder)
    groupings = [groups_of(data, s.group_by, s.near_duplicates) for s in splits]
    folded = [assign_folds(data, g, s.folds, seed) for g, s in zip(groupings, splits, strict=True)]
    rows = trainer.prepared(data)
    settings = {"kind": trainer.kind, **trainer.model(), **trainer.recipe_facts(), "data": data.facts(), "seed": seed}
    settle_settings(work / "settings.json", settings | {"classes": list(data.attribute.classes)})
    found: list[Tensor] = []
    for split, folds in zip(splits, folded, strict=True):
        kept = work / f"{split.name}-{'-'.join(split.group_by)}-{split.folds}-{split.near_duplicates:g}"
        found.append(out_of_fold(trainer, rows, data, folds, kept=kept, say=say, report=_stage(report, split.name)))
    determined = data.labels < len(data.attribute.classes)
    known = torch.from_numpy(determined)
    bounds = (0.2, 5.0) if trainer.kind == "cnn" else WIDE
    temperature = round(fit_temperature(found[0][known], data.labels[determined], bounds=bounds), 4)
    calibrated = [F.softmax(logits / temperature, dim=1) for logits in found]
    threshold = _threshold(calibrated[0], data, abstain)
    confusions, metrics = {}, {}
    for split, p, groups in zip(splits, calibrated, groupings, strict=True):
        p = with_undetermined(p, threshold)
        confusions[split.name], metrics[split.name] = measured(p, data, groups, split, refitted=True)
        say(f"{split.name}: {confusions[split.name].accuracy:.1%} right, {confusions[split.name].counts}")
    took = time.monotonic() - started
    fitted = trainer.fit(rows[known], data.labels[determined], -1, _stage(report, "train"))
    model = trainer.model()
    write_seen(folder, data, model.get("network", {}).get("input_size", 0))
    save_classifier(
        folder,
        trainer.kind,
        model,
        fitted.tensors,
        name=name,
        attribute=abstaining(data.attribute, threshold),
        temperature=temperature,
        threshold=threshold,
        confusions=confusions,
        default_split=splits[0].name,
        provenance={
            "metrics": metrics,
            **trainer.recipe_facts(),
            **({"abstain": str(abstain)} if abstain else {}),
            "data": data.facts(),
            "parameters": sum(t.numel() for t in fitted.tensors.values()),
            "seconds": {"measure": round(took, 1), "train": round(time.monotonic() - started - took, 1)},
            **origin(command),
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
    """A zero-shot classifier's folder; labelled images fit its temperature and threshold, and measure it.

    The temperature changes no call and the threshold is one number, so the same images serve both. Raises InputError
    when the classes of `data` are not those of the prompts.
    """
    check_rule(data, abstain)
    _refuse_other(folder)
    weight, bias = zero_shot_head(prompts)
    backbone = open_backbone(prompts.spec)
    attribute = Attribute(name=prompts.attribute, classes=tuple(prompts.classes))
    temperature, threshold = float(prompts.temperature), float(prompts.undetermined)
    confusions: dict[str, Confusion] = {}
    metrics: dict[str, Any] = {}
    if data is not None:
        check_classes(attribute, data)
        assert split is not None
        groups = groups_of(data, split.group_by, split.near_duplicates)
        chunks = np.array_split(data.indices, max(1, len(data) // 64))
        with torch.inference_mode():
            features = torch.cat([backbone.features(data.dataset.read(c)).cpu() for c in chunks])
        logits, determined = F.linear(features, weight, bias), torch.from_numpy(data.labels < len(attribute.classes))
        temperature = round(fit_temperature(logits[determined], data.labels[determined.numpy()], bounds=WIDE), 4)
        probabilities = F.softmax(logits / temperature, dim=1)
        threshold = _threshold(probabilities, data, abstain) or threshold
        p = with_undetermined(probabilities, threshold)
        confusions[split.name], metrics[split.name] = measured(p, data, groups, split, refitted=False)
    save_classifier(
        folder,
        "clip",
        {"backbone": backbone_facts(backbone)},
        {"weight": weight, "bias": bias},
        name=prompts.name,
        attribute=abstaining(attribute, threshold),
        temperature=temperature,
        threshold=threshold,
        confusions=confusions,
        default_split=next(iter(confusions), ""),
        provenance={
            "prompts": prompts.facts(),
            "metrics": metrics,
            **({"abstain": str(abstain)} if abstain else {}),
            **({"data": data.facts()} if data else {}),
            **origin(command),
        },
    )
    return folder


def _refuse_other(folder: Path) -> None:
    """Raises InputError when a folder holds anything but a classifier, or what is unfinished of one."""
    config = folder / "config.json"
    own = (folder / ".work").is_dir() or (config.is_file() and read_json(config).get("format") == FORMAT)
    refuse_foreign(folder, (config.name, "model.safetensors", SEEN) if own else ())


def abstaining(attribute: Attribute, threshold: float) -> Attribute:
    """The attribute with `undetermined` as its last class where there is a threshold."""
    return replace(attribute, classes=(*attribute.classes, UNDETERMINED)) if threshold else attribute


def check_classes(attribute: Attribute, data: Labelled) -> None:
    """Raises InputError when labelled images have other classes than a classifier, or the same in another order."""
    classes = attribute.determined
    if classes != data.attribute.classes:
        raise InputError(
            f"{data.dataset.name} has {data.attribute.name} classes {list(data.attribute.classes)}, the classifier "
            f"{list(classes)}; expected the same; choose with --classes, and name labels of none with --undetermined"
        )


def origin(command: str) -> dict[str, Any]:
    """When and by what a folder was made."""
    return {
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "versions": {"fairsims": __version__, "torch": torch.__version__},
        "command": command,
    }


def check_rule(data: Labelled | None, abstain: Abstention | None) -> None:
    """Raises InputError when there are no images to choose a threshold on, before anything is trained."""
    if abstain is not None and data is None:
        raise InputError("--abstain needs labelled images to choose the threshold on; give --data")
    if abstain is not None and data is not None and abstain.rule == "balanced" and UNDETERMINED not in data.counts:
        raise InputError(
            f"no image is labelled undetermined in {data.dataset.name}; expected some for --abstain balanced; "
            "name their label with --undetermined, or abstain by error or coverage"
        )


def _threshold(probabilities: Tensor, data: Labelled, abstain: Abstention | None) -> float:
    if abstain is None:
        if UNDETERMINED in data.counts:
            abstain = Abstention(rule="balanced")
        else:
            return 0.0
    return fit_threshold(probabilities.double().numpy(), data.labels, abstain)


def _stage(report: Report, stage: str) -> Callable[[int, int], None]:
    return lambda done, total: report(stage, done, total)
