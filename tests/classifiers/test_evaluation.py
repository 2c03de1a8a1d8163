"""Held-out splits hold out what they say, calibration by hand, and a classifier built from start to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fairsims.classifiers import load_classifier
from fairsims.classifiers.abstention import Abstention
from fairsims.classifiers.cnn import CNNTrainer
from fairsims.classifiers.evaluation import HeldOut, assign_folds, measured, out_of_fold
from fairsims.classifiers.labelled import Labelled, groups_of, labelled
from fairsims.classifiers.making import build_classifier
from fairsims.classifiers.trainer import Prepared
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json

SMALL = CNNTrainer(
    widths=(4, 8),
    recipe=ClassifierRecipe(kimg=0.3, precision="float32"),
)
SINGLE = HeldOut(name="variant", description="single images", folds=3)


def few_digits(n: int = 240) -> ImageDataset:
    return open_dataset("digits").subset(range(n))


def parity(n: int = 240) -> Labelled:
    return labelled(few_digits(n), "parity")


@pytest.mark.parametrize("columns", [("concept",), ("concept", "skin_tone", "vendor")])
def test_groups_stay_together(columns: tuple[str, ...]) -> None:
    data = labelled(open_dataset("emoji-people", resolution=32), "gender", ("man", "woman"))
    folds = assign_folds(data, groups_of(data, columns, 0.0), 5, 0)
    assert set(folds) == set(range(5))
    table = data.dataset.table.iloc[data.indices].assign(fold=folds)
    assert (table.groupby(list(columns))["fold"].nunique() == 1).all()
    pixels = pd.Series([image.numpy().tobytes() for image in data.dataset.read(data.indices)])
    assert (pd.Series(folds).groupby(pixels).nunique() == 1).all()
    shares = table.groupby("fold")["gender"].value_counts(normalize=True)
    assert shares.between(0.4, 0.6).all()


def test_variants_of_a_concept_are_on_both_sides() -> None:
    people = open_dataset("emoji-people", resolution=32)
    farmers = people.subset(np.flatnonzero(people.table["concept"] == "farmer"))
    data = labelled(farmers, "gender", ("man", "woman"))
    assert len(set(assign_folds(data, groups_of(data, ("skin_tone", "vendor"), 0.0), 5, 0))) == 5


def test_identical_images_are_never_apart() -> None:
    digits = few_digits(60)
    data = labelled(digits.subset([*range(60), *range(60)]), "parity")
    folds = assign_folds(data, groups_of(data, (), 0.0), 3, 0)
    assert np.array_equal(folds[:60], folds[60:])


def test_folds_refuse() -> None:
    data = parity(60)
    with pytest.raises(InputError, match="no column 'digits' to hold out by; did you mean 'digit'"):
        groups_of(data, ("digits",), 0.0)
    with pytest.raises(InputError, match="2 groups for 5 folds"):
        assign_folds(data, groups_of(data, ("parity",), 0.0), 5, 0)
    with pytest.raises(InputError, match="1 groups with 'odd' for 3 folds"):
        assign_folds(data, np.where(data.labels == 1, 0, np.arange(60) + 1), 3, 0)
    with pytest.raises(ValueError, match="folds is 1"):
        HeldOut(name="s", description="d", folds=1)
    with pytest.raises(ValueError, match="near_duplicates is nan"):
        HeldOut(name="s", description="d", near_duplicates=float("nan"))


def test_splits_are_read() -> None:
    found = HeldOut.parse("variant:concept, skin_tone", folds=4, near_duplicates=2.0)
    assert (found.name, found.group_by, found.folds, found.near_duplicates) == (
        "variant",
        ("concept", "skin_tone"),
        4,
        2.0,
    )
    assert HeldOut.parse("concept,vendor", folds=5, near_duplicates=0).name == "concept+vendor"
    assert HeldOut.parse("", folds=5, near_duplicates=0).name == "image"


def test_every_image_is_judged_by_a_network_that_has_not_seen_it(tmp_path: Path) -> None:
    """A trainer that remembers: it knows the rows it learned from, and gives the rest away."""

    class Memory(CNNTrainer):
        def fit(
            self, prepared: Prepared, chosen: torch.Tensor, labels: np.ndarray, fold: int, progress: object = None
        ) -> object:
            known = {row.numpy().tobytes() for row in prepared.rows[chosen]}
            assert (labels < 2).all()

            class Found:
                @staticmethod
                def logits(rows: torch.Tensor) -> torch.Tensor:
                    return torch.tensor([[float(row.numpy().tobytes() in known), float(fold)] for row in rows])

            return Found

    digits = few_digits(90)
    data = labelled(digits, "digit", ("1", "2"), ["3"])
    folds = assign_folds(data, groups_of(data, (), 0.0), 3, 0)
    trainer = Memory()
    logits = out_of_fold(trainer, trainer.prepared(data, load_classifier), data, folds, kept=tmp_path)
    assert (logits[:, 0] == 0).all()
    assert np.array_equal(logits[:, 1].numpy(), folds)


def test_build_measures_and_saves(tmp_path: Path) -> None:
    lines: list[str] = []
    folder = build_classifier(tmp_path / "c", parity(), SMALL, name="c", splits=[SINGLE], say=lines.append)
    classifier = load_classifier(folder)
    confusion = classifier.confusions["variant"]
    assert confusion.totals.sum() == 240
    config = read_json(folder / "config.json")
    metrics = config["metrics"]["variant"]
    assert config["data"]["images"] == {"even": int(confusion.totals[0]), "odd": int(confusion.totals[1])}
    assert metrics["images"] == config["data"]["images"]
    assert metrics["accuracy"] == pytest.approx(confusion.accuracy, abs=1e-4)
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert config["recipe"]["kimg"] == 0.3
    assert len(lines) == 5
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "seen.npy"}
    again = build_classifier(tmp_path / "d", parity(), SMALL, name="c", splits=[SINGLE])
    assert load_classifier(again).digest == classifier.digest
    assert load_classifier(again).confusions == classifier.confusions


def test_an_interrupted_build_goes_on(tmp_path: Path) -> None:
    """Stopped after two of three folds: the third only is trained, and the result is the uninterrupted one."""
    whole = build_classifier(tmp_path / "whole", parity(), SMALL, name="c", splits=[SINGLE])

    def stop(line: str) -> None:
        if line.startswith("fold 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_classifier(tmp_path / "c", parity(), SMALL, name="c", splits=[SINGLE], say=stop)
    assert not (tmp_path / "c" / "config.json").exists()
    with pytest.raises(ChangedSettings, match=r"recipe.kimg = 0.3, now recipe.kimg = 0.4"):
        longer = CNNTrainer(widths=SMALL.widths, recipe=ClassifierRecipe(kimg=0.4, precision="float32"))
        build_classifier(tmp_path / "c", parity(), longer, name="c", splits=[SINGLE])
    lines: list[str] = []
    resumed = build_classifier(tmp_path / "c", parity(), SMALL, name="c", splits=[SINGLE], say=lines.append)
    assert [line[:6] for line in lines if line.startswith("fold")] == ["fold 3"]
    assert load_classifier(resumed).digest == load_classifier(whole).digest
    assert load_classifier(resumed).confusions == load_classifier(whole).confusions


def test_build_leaves_other_classes_out(tmp_path: Path) -> None:
    data = labelled(few_digits(), "digit", ("3", "7"))
    folder = build_classifier(tmp_path / "c", data, SMALL, name="c", splits=[SINGLE])
    counts = few_digits().table["digit"].value_counts()
    assert load_classifier(folder).confusions["variant"].totals.tolist() == [counts["3"], counts["7"]]


def test_build_refuses(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no held-out split"):
        build_classifier(tmp_path / "c", parity(), SMALL, name="c", splits=[])
    with pytest.raises(InputError, match="no image is labelled undetermined"):
        build_classifier(
            tmp_path / "c", parity(), SMALL, name="c", splits=[SINGLE], abstain=Abstention(rule="balanced")
        )
    assert not (tmp_path / "c").exists()


def test_abstention_is_measured_by_hand() -> None:
    """Of 4 with a class 3 get a call, 2 of these are right; of 2 undetermined images one gets a call."""
    digits = few_digits(60)
    data = labelled(digits, "digit", ("0", "1"), ["2"])
    chosen = [int(np.flatnonzero(data.labels == k)[i]) for k in range(3) for i in range(2)]
    data = replace(data, indices=data.indices[chosen], labels=data.labels[chosen])
    p = torch.tensor([[6, 1, 3], [1, 6, 3], [1, 6, 3], [3, 2, 5], [2, 1, 7], [6, 1, 3]]) / 10
    confusion, metrics = measured(p, data, np.arange(6), SINGLE, refitted=False)
    assert confusion.counts == ((1, 1, 0), (0, 1, 1), (1, 0, 1))
    assert (metrics["coverage"], metrics["called"], metrics["selective_accuracy"]) == (0.75, 4, 0.5)
    assert metrics["images"] == {"0": 2, "1": 2, "undetermined": 2}
