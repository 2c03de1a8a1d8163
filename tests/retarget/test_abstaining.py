"""What steering makes of a classifier that abstains, and of one whose errors were never measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fairsims.audit.joint import Cells
from fairsims.audit.references import reference_weights
from fairsims.audit.targets import parse_target
from fairsims.classifiers import load_classifier
from fairsims.classifiers.abstention import with_undetermined
from fairsims.classifiers.base import Confusion
from fairsims.classifiers.checkpoints import find_classifier
from fairsims.data import ImageDataset
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError
from fairsims.retarget.calibration import focus_values
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.drawing import draw_complement
from fairsims.retarget.goal import set_goal
from fairsims.retarget.opening import prepare
from fairsims.retarget.selection import accept, plan_selection

ABSTAINS = Confusion(counts=((90, 4, 6), (2, 88, 10), (0, 0, 0)), split="variant", description="")
"""The third class is `undetermined`: no held-out image truly is."""


def calls(n: int, shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """True classes of n images and what the classifier calls them."""
    rng = np.random.default_rng(0)
    true = rng.choice(3, n, p=shares)
    return true, (rng.random(n)[:, None] > ABSTAINS.rates().cumsum(axis=0)[:, true].T).sum(axis=1)


def test_the_controlled_share_is_corrected_for_abstentions() -> None:
    true, predicted = calls(40_000, (0.7, 0.3, 0.0))
    values = focus_values(predicted, ABSTAINS.rates(), np.array([False, True, False]))
    assert (predicted == 2).mean() > 0.05
    assert values.mean() == pytest.approx((true == 1).mean(), abs=4 * values.std() / np.sqrt(len(values)))


def test_kept_images_have_the_target_shares() -> None:
    shares, target = np.array([0.7, 0.3, 0.0]), np.array([0.5, 0.5, 0.0])
    true, predicted = calls(40_000, (0.7, 0.3, 0.0))
    selection = plan_selection(shares, ABSTAINS.rates(), target)
    kept = accept(np.arange(40_000), predicted, selection)
    assert (true[kept] == 1).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(kept.sum()))


def test_without_measured_errors_nothing_is_steered(tmp_path: Path) -> None:
    folder = tmp_path / "unmeasured"
    shutil.copytree(find_classifier("digits-parity"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"confusions": {}, "default_split": ""}))
    asked = RetargetConfig(model="digits-8", attr="parity", target="0.5", classifier=str(folder))
    with pytest.raises(InputError, match="errors of the classifier digits-parity were never measured"):
        prepare(asked)


GENDER = Attribute(name="gender", classes=("man", "woman", "undetermined"))
TONE = Attribute(name="tone", classes=("light", "dark"))


def test_the_floor_is_of_the_classes_and_not_of_the_abstention() -> None:
    """With theta 0.8 no class has more than 1/1.8 of a row, and `undetermined` never more than 0.8/1.8."""
    own = torch.tensor([[0.97, 0.03]] * 60 + [[0.04, 0.96]] * 40 + [[0.85, 0.15]] * 20 + [[0.6, 0.4]] * 30)
    called = with_undetermined(own, 0.8).numpy()
    found = Cells(attributes=(GENDER,)).probabilities([called])
    assert found.sum(axis=1) == pytest.approx(1)
    assert (found.argmax(axis=1) == called.argmax(axis=1)).all()
    assert found[0] == pytest.approx([0.97, 0.03, 0])
    assert found[-1] == pytest.approx([0, 0, 1])
    chosen = draw_complement(found, np.array([0.5, 0.3, 0.2]), floor=0.9)
    assert np.bincount(found[chosen].argmax(axis=1)).tolist() == [60, 36, 24]
    assert found[chosen].max(axis=1).min() > 0.9, "the twenty of 0.85 are too unsure"


def test_a_table_without_a_label_is_undetermined() -> None:
    found = Cells(attributes=(TONE, GENDER)).probabilities([np.array([[0.0, 1.0]]), np.array([[0.0, 0.0, 1.0]])])
    assert found.tolist() == [[0, 0, 0, 0, 0, 1]]


def test_a_class_without_candidates_is_named() -> None:
    with pytest.raises(InputError, match="no image of woman in the pool has a probability of 0.9 or more"):
        draw_complement(np.array([[0.95, 0.05, 0.0]]), np.array([0.5, 0.5, 0.0]), names=GENDER.classes)


def test_a_rare_undetermined_stays_beside_another_attribute() -> None:
    exact = [
        Confusion(counts=tuple(map(tuple, (500 * np.eye(k, dtype=int)).tolist())), split="", description="")
        for k in (3, 2)
    ]
    called = np.repeat([0, 1, 2], [2200, 869, 3])
    tones = np.arange(len(called)) % 2
    goal = set_goal(
        Cells(attributes=(GENDER, TONE)),
        [called, tones],
        exact,
        (parse_target("0.5", GENDER),),
        tolerance=0.03,
        drift=0.03,
    )
    assert goal.wanted[0][2] == pytest.approx(3 / 3072, abs=2e-4)
    assert goal.wanted[0][0] == pytest.approx(goal.wanted[0][1])


def test_a_reference_whose_images_all_show_a_class_keeps_the_proportions(digits: ImageDataset) -> None:
    """Labels that people made know no `undetermined`, of which the target keeps what the base makes."""
    found = load_classifier("digits-parity")
    found.attribute = Attribute(name="parity", classes=("even", "odd", "undetermined"))
    weights, by = reference_weights(digits, [(found, np.array([0.6, 0.3, 0.1]))])
    assert by == "its own"
    parity = digits.class_indices("parity")
    assert [weights[parity == k].sum() / weights.sum() for k in (0, 1)] == pytest.approx([2 / 3, 1 / 3])
