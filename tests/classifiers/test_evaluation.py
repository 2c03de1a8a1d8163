"""Held-out splits hold out what they say, calibration by hand, and a classifier built from start to end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairsims.classifiers import load_classifier
from fairsims.classifiers.cnn import NetworkConfig
from fairsims.classifiers.embedded import BLUEPRINTS, build_embedded
from fairsims.classifiers.evaluation import (
    HeldOut,
    assign_folds,
    build_classifier,
    calibration_error,
    cross_validate,
    fit_temperature,
)
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.datasets import Attribute, ImageDataset, open_dataset
from fairsims.errors import InputError
from fairsims.runs import read_json

PARITY = Attribute(name="parity", classes=("even", "odd"))
SMALL = NetworkConfig(input_size=8, channels=1, classes=2, widths=(4, 8))
BRIEF = ClassifierRecipe(kimg=0.3)
SINGLE = HeldOut(name="variant", description="single images", folds=3)


def few_digits(n: int = 240) -> ImageDataset:
    return open_dataset("digits").subset(range(n))


@pytest.mark.parametrize("columns", [("concept",), ("concept", "skin_tone", "vendor")])
def test_groups_stay_together(columns: tuple[str, ...]) -> None:
    people = open_dataset("emoji-people", resolution=32)
    indices = np.flatnonzero(people.table["gender"].isin(["man", "woman"]))
    labels = people.class_indices("gender")[indices]
    folds = assign_folds(people, indices, labels, HeldOut(name="s", description="d", group_by=columns), 0)
    assert set(folds) == set(range(5))
    table = people.table.iloc[indices].assign(fold=folds)
    assert (table.groupby(list(columns))["fold"].nunique() == 1).all()
    pixels = pd.Series([people.read([int(i)]).numpy().tobytes() for i in indices])
    assert (pd.Series(folds).groupby(pixels).nunique() == 1).all()
    shares = table.groupby("fold")["gender"].value_counts(normalize=True)
    assert shares.between(0.4, 0.6).all()


def test_variants_of_a_concept_are_on_both_sides() -> None:
    people = open_dataset("emoji-people", resolution=32)
    indices = np.flatnonzero(people.table["concept"] == "farmer")
    labels = np.arange(len(indices)) % 2
    split = HeldOut(name="s", description="d", group_by=("concept", "skin_tone", "vendor"))
    assert len(set(assign_folds(people, indices, labels, split, 0))) == 5


def test_identical_images_are_never_apart() -> None:
    digits = few_digits(60)
    twice = digits.subset([*range(60), *range(60)])
    labels = twice.class_indices("parity")
    folds = assign_folds(twice, np.arange(120), labels, SINGLE, 0)
    assert np.array_equal(folds[:60], folds[60:])


def test_folds_refuse() -> None:
    digits = few_digits(60)
    labels = digits.class_indices("parity")
    with pytest.raises(InputError, match="no column 'digits' to hold out by; did you mean 'digit'"):
        assign_folds(digits, np.arange(60), labels, HeldOut(name="s", description="d", group_by=("digits",)), 0)
    with pytest.raises(InputError, match="2 groups for 5 folds"):
        assign_folds(digits, np.arange(60), labels, HeldOut(name="s", description="d", group_by=("parity",)), 0)
    with pytest.raises(ValueError, match="folds is 1"):
        HeldOut(name="s", description="d", folds=1)


def test_every_image_is_held_out_once() -> None:
    digits = few_digits()
    labels = digits.class_indices("parity")
    folds = assign_folds(digits, np.arange(240), labels, SINGLE, 0)
    found = list(cross_validate(digits.read(range(240)), labels, folds, SMALL, BRIEF))
    assert np.array_equal(np.sort(np.concatenate([held_out for held_out, _ in found])), np.arange(240))
    assert all(logits.shape == (len(held_out), 2) for held_out, logits in found)


def test_temperature_is_recovered() -> None:
    """Labels drawn from softmax(logits / 2.5)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 3, generator=generator) * 4
    labels = torch.multinomial((logits / 2.5).softmax(dim=1), 1, generator=generator)[:, 0].numpy()
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(2.5, rel=0.05)
    assert calibration_error((logits / found).softmax(dim=1), labels) < 0.02
    assert calibration_error(logits.softmax(dim=1), labels) > 0.08


def test_calibration_error_by_hand() -> None:
    """Two images at 0.9 of which one is right, two at 0.6 both right: (|1 - 1.8| + |2 - 1.2|)/4."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx(0.4)


def test_build_measures_and_saves(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = build_classifier(
        tmp_path / "c", few_digits(), PARITY, name="c", config=SMALL, recipe=BRIEF, splits=[SINGLE], say=lines.append
    )
    classifier = load_classifier(folder)
    confusion = classifier.confusions["variant"]
    assert confusion.totals.sum() == 240
    config = read_json(folder / "config.json")
    assert config["data"]["images"] == {"even": int(confusion.totals[0]), "odd": int(confusion.totals[1])}
    assert config["metrics"]["variant"]["accuracy"] == pytest.approx(confusion.accuracy, abs=1e-4)
    assert config["recipe"]["kimg"] == 0.3
    assert len(lines) == 5
    again = build_classifier(
        tmp_path / "d", few_digits(), PARITY, name="c", config=SMALL, recipe=BRIEF, splits=[SINGLE]
    )
    assert load_classifier(again).digest == classifier.digest
    assert load_classifier(again).confusions == classifier.confusions


def test_build_leaves_other_classes_out(tmp_path: Path) -> None:
    attribute = Attribute(name="digit", classes=("3", "7"))
    folder = build_classifier(
        tmp_path / "c", few_digits(), attribute, name="c", config=SMALL, recipe=BRIEF, splits=[SINGLE]
    )
    counts = few_digits().table["digit"].value_counts()
    assert load_classifier(folder).confusions["variant"].totals.tolist() == [counts["3"], counts["7"]]


def test_build_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="1 channels at 8 pixels; expected 3 at 32"):
        build_classifier(
            tmp_path / "c",
            few_digits(),
            PARITY,
            name="c",
            config=BLUEPRINTS["emoji-gender"].config,
            recipe=BRIEF,
            splits=[SINGLE],
        )
    with pytest.raises(InputError, match="no column 'age'"):
        build_classifier(
            tmp_path / "c",
            few_digits(),
            Attribute(name="age", classes=("old", "young")),
            name="c",
            config=SMALL,
            recipe=BRIEF,
            splits=[SINGLE],
        )
    with pytest.raises(InputError, match="did you mean 'emoji-gender'"):
        build_embedded("emoji-genders", tmp_path / "c")


@pytest.mark.parametrize("name", sorted(BLUEPRINTS))
def test_the_shipped_files_are_of_the_blueprint(name: str) -> None:
    """A changed recipe without new weights, or new data without new errors, is caught here."""
    import dataclasses
    import importlib.resources
    import json

    plan = BLUEPRINTS[name]
    config = json.loads((importlib.resources.files("fairsims") / f"assets/classifiers/{name}/config.json").read_text())
    assert config["recipe"] == json.loads(json.dumps(dataclasses.asdict(plan.recipe)))
    assert config["network"] == json.loads(json.dumps(dataclasses.asdict(plan.config)))
    assert list(config["confusions"]) == [s.name for s in plan.splits]
    data = open_dataset(plan.dataset, resolution=plan.config.input_size)
    assert config["data"]["digest"] == data.digest
    counts = data.table[plan.attribute.name].value_counts()
    assert config["data"]["images"] == {c: int(counts[c]) for c in plan.attribute.classes}
