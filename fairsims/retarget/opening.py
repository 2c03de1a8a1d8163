"""Opening what a retargeting's settings name, with every check that can be made before anything is computed."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairsims.audit.joint import MOST_CELLS
from fairsims.audit.power import planned_power, verdicts
from fairsims.audit.references import reference_weights
from fairsims.audit.shares import check_confusion
from fairsims.audit.targets import Target, parse_target
from fairsims.classifiers import AttributeClassifier, classifier_for, load_classifier
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.models import DenoiserModel, open_model
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.each import asked_attribute
from fairsims.retarget.retargeting import Retargeting, fine_tuning
from fairsims.run import new_run_folder
from fairsims.training import check_settings


def prepare(config: RetargetConfig, *, each: bool = True) -> Retargeting:
    """Open what the configuration names. Raises InputError for what cannot work, before any file is written.

    `each`: whether a target may hold in each class that the model is asked for; a comparison and a sweep have one in
    all images together.
    """
    model = open_model(config.spec())
    # Refuses a guided pair.
    network = model.base.network
    classifiers = tuple(open_classifier(name, config.classifiers.get(name), model.image_shape) for name in config.names)
    asked = None
    if each and config.target_for == "each" and len(model.conditions) > 1:
        asked = asked_attribute(model.conditions)
        _check_cells(config, classifiers, asked)
    targets = tuple(_target(t, c, asked) for t, c in zip(config.targets, classifiers, strict=False))
    reference = _reference(config, model)
    _check_reference(reference, classifiers, targets)
    check_settings(network, fine_tuning(config, model.recipe, config.kimg))
    judged = [
        v
        for t, c in zip(targets, classifiers, strict=False)
        for v in verdicts(t, config.tolerance, c.confusions[c.default_split])
    ]
    digests: dict[str, Any] = {"base_digest": model.digest}
    digests["classifier_digest"] = classifiers[0].digest
    digests |= {f"{c.attribute.name}_classifier_digest": c.digest for c in classifiers[1:]}
    digests |= {"guide_digest": model.guide.digest} if model.guide else {}
    digests["reference_digest"] = reference.digest if reference else None
    others = _others(config, reference, model.image_shape)
    digests |= {"others": {c.attribute.name: c.digest for c in others}} if others else {}
    work = Retargeting(
        config=config,
        model=model,
        classifiers=classifiers,
        others=others,
        targets=targets,
        asked=asked,
        reference=reference,
        power=planned_power(judged, wanted=config.power, images=config.audit),
        settings=json.loads(json.dumps(config.as_dict() | digests)),
    )
    # Refuses more joint cells than shares can be measured of.
    _ = work.cells
    check_interval(work, config.interval)
    return work


def find_run(label: str, settings: Mapping[str, Any], root: Path) -> Path:
    """The run under `root` that these settings began, else a new numbered folder."""
    for folder in sorted(root.glob(f"[0-9][0-9][0-9][0-9][0-9]-{label}")):
        path = folder / "config.json"
        if not path.exists() or read_json(path) == settings:
            return folder
    return new_run_folder(root, label)


def check_interval(work: Retargeting, interval: tuple[float, float] | None) -> None:
    """Raises InputError where guidance would never call the auxiliary, so that selection would do all the work."""
    if interval is None:
        return
    model = work.model
    # The base stands in for the auxiliary: their networks are the same.
    guided = model.retargeted(model.spec.base, 1.0, "guided", interval)
    if guided.evaluations_per_image > model.evaluations_per_image:
        return
    levels = model.spec.sampler.sigmas(model.denoiser)[:-1]
    raise InputError(
        f"--interval {interval[0]:g},{interval[1]:g} holds none of the {len(levels)} noise levels that the sampler "
        f"visits, {float(levels[-1]):g} to {float(levels[0]):g}; give a wider one"
    )


def open_classifier(name: str, spec: str | None, shape: tuple[int, int, int]) -> AttributeClassifier:
    """The classifier of an attribute, with errors that were measured; by name and shape where no spec is given.

    Raises InputError for one of another attribute or shape, or of unknown errors.
    """
    found = load_classifier(spec, name) if spec else classifier_for(name, shape[1], shape[0])
    if found.attribute.name != name:
        raise InputError(
            f"the classifier {found.name} labels {found.attribute.name!r}, --attr is {name!r}; "
            "give the attribute it labels or another --classifier"
        )
    if not found.confusions:
        raise InputError(
            f"the errors of the classifier {found.name} were never measured, so that no share can be steered by it; "
            "measure them with `fairsims classifier evaluate`, or give another --classifier"
        )
    check_confusion(found.attribute.classes, found.confusions[found.default_split])
    # Refuses images of a shape that it was not made for.
    found.probabilities(torch.zeros(1, *shape, dtype=torch.uint8))
    return found


def _others(
    config: RetargetConfig, reference: ImageDataset | None, shape: tuple[int, int, int]
) -> tuple[AttributeClassifier, ...]:
    """The classifiers at hand for what is neither targeted nor preserved: those given, and embedded ones for the
    attributes that the real data have.

    An embedded classifier of images of the same size may be for quite other ones.
    """
    given = {name: spec for name, spec in config.classifiers.items() if name not in config.names}
    found = [open_classifier(name, spec, shape) for name, spec in given.items()]
    for name in () if reference is None else reference.attributes:
        if name in config.classifiers:
            continue
        with contextlib.suppress(InputError):
            classifier = classifier_for(name, shape[1], shape[0])
            if name not in config.names and classifier.confusions:
                found.append(classifier)
    return tuple(found)


def _check_cells(config: RetargetConfig, classifiers: Sequence[AttributeClassifier], asked: Attribute) -> None:
    """Raises InputError where there are too many classes for a target in each."""
    cells = math.prod(len(c.attribute.classes) for c in classifiers)
    if cells * len(asked.classes) > MOST_CELLS:
        raise InputError(
            f"{' x '.join(config.names)} in each of the {len(asked.classes)} classes of {config.model} are "
            f"{cells * len(asked.classes)} joint cells; expected {MOST_CELLS} at most: give --target-for overall"
        )


def _target(text: str, classifier: AttributeClassifier, asked: Attribute | None) -> Target:
    target = parse_target(text, classifier.attribute)
    if asked is not None and target.number not in (None, 0.5):
        raise InputError(
            f"--target {text} is one number; classes differ in what they have too little of, so only 0.5 can be meant "
            f"for each: give {','.join(f'{c}=...' for c in classifier.attribute.determined)}, or --target-for overall"
        )
    if target.number in (0, 1) or max(target.shares or (0,)) == 1:
        raise InputError(
            f"--target {text} leaves one class only; expected shares below 1: strength moves shares, it does "
            "not remove a class; select images by their labels instead"
        )
    return target


def _reference(config: RetargetConfig, model: DenoiserModel) -> ImageDataset | None:
    """The real data of the audit: as asked for, else what the base was trained on if that is at hand."""
    spec = config.reference or model.recipe.get("data")
    if spec is None:
        return None
    data = open_dataset(str(spec), resolution=model.image_shape[1])
    if data.channels == model.image_shape[0]:
        return data
    if config.reference is None:
        return None
    raise InputError(
        f"the reference {data.name} has {data.channels} channels; expected {model.image_shape[0]}; give a data set of "
        "the model's shape"
    )


def _check_reference(
    reference: ImageDataset | None, classifiers: Sequence[AttributeClassifier], targets: Sequence[Target]
) -> None:
    """Raises InputError where the reference has labels and lacks a class, or several together, that are wanted."""
    if reference is None:
        return
    # What is wanted at all does not hang on the base's shares.
    wanted = [
        (c, t.resolve(np.full(len(c.attribute.classes), 1 / len(c.attribute.classes))))
        for c, t in zip(classifiers, targets, strict=False)
        if c.attribute.name in reference.attributes
    ]
    if wanted:
        reference_weights(reference, wanted)
