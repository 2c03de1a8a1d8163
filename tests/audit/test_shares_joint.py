"""Joint cells of several attributes: corrected shares with intervals, lift, and change."""

from __future__ import annotations

import numpy as np
import pytest

from fairsims.audit.draws import counted
from fairsims.audit.intervals import kronecker
from fairsims.audit.joint import Cells, joint_shares
from fairsims.audit.labelled import labelled_pool
from fairsims.audit.pairs import cell_changes, counted_side, labelled_side
from fairsims.audit.result import JointSide
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError

CELLS = Cells(
    attributes=(
        Attribute(name="gender", classes=("man", "woman")),
        Attribute(name="tone", classes=("light", "medium", "dark")),
    )
)
GENDER = Confusion(counts=((190, 10), (12, 188)), split="v", description="d")
TONE = Confusion(counts=((180, 15, 5), (10, 180, 10), (4, 16, 180)), split="v", description="d")
TRUTH = np.array([0.30, 0.15, 0.05, 0.20, 0.20, 0.10])


def of(side: JointSide, name: str) -> np.ndarray:
    """A number of every cell, `(cells,)`; NaN for None."""
    return np.array([getattr(c, name) for c in side.cells], dtype=float)


def test_errors_taken_as_independent_are_undone_and_said_so() -> None:
    counts = np.round(kronecker([GENDER, TONE]) @ TRUTH * 1_000_000)
    found = counted_side(CELLS, counts, [GENDER, TONE])
    assert of(found, "share") == pytest.approx(TRUTH, abs=1e-5)
    assert of(found, "share") == pytest.approx(joint_shares(CELLS, counts, [GENDER, TONE]))
    assert "independent" in found.method
    assert "independent of each other" in found.assumption
    assert any("nobody measured them together" in w for w in found.warnings)
    for k, errors in enumerate((GENDER, TONE)):
        alone = corrected_shares(CELLS.attributes[k].classes, CELLS.marginal(counts, k), errors)
        assert CELLS.marginal(of(found, "share"), k) == pytest.approx(alone.share, abs=1e-6)


def test_lift_by_hand() -> None:
    """.30 of light men, where men are .5 and light ones .5: lift 1.2; the interval shrinks with the images."""
    found = counted_side(CELLS, TRUTH * 10_000, [])
    assert found.tier == "C"
    assert of(found, "lift")[0] == pytest.approx(1.2)
    assert of(found, "lift")[2] == pytest.approx(0.05 / (0.5 * 0.15))
    low, high = of(found, "lift_low"), of(found, "lift_high")
    assert ((low < of(found, "lift")) & (of(found, "lift") < high)).all()
    assert high[0] - low[0] < 0.1
    wide = counted_side(CELLS, TRUTH * 100, [])
    assert of(wide, "lift_high")[0] - of(wide, "lift_low")[0] > 2 * (high[0] - low[0])


def test_lift_of_an_absent_class_is_none() -> None:
    found = counted_side(CELLS, [50, 0, 50, 60, 0, 40], [])
    assert [c.lift is None for c in found.cells] == [False, True, False] * 2
    assert [c.lift_high is None for c in found.cells] == [False, True, False] * 2


def test_independent_attributes_have_a_lift_of_one() -> None:
    even = CELLS.independent([[0.5, 0.5], [0.5, 0.3, 0.2]])
    counts = np.round(kronecker([GENDER, TONE]) @ even * 100_000)
    found = counted_side(CELLS, counts, [GENDER, TONE])
    assert of(found, "lift") == pytest.approx([1] * 6, abs=1e-3)


def test_cells_of_few_images_are_named() -> None:
    found = counted_side(CELLS, [500, 300, 29, 200, 100, 30], [GENDER, TONE])
    assert any("fewer than 30 images were called man & dark 29" in w for w in found.warnings)


def test_difference_of_cells() -> None:
    errors, after = [GENDER, TONE], np.full(6, 1 / 6)
    sides = [np.round(kronecker(errors) @ p * 50_000) for p in (TRUTH, after)]
    found = cell_changes(CELLS, counted(sides[1], errors, "after").minus(counted(sides[0], errors, "before")))
    assert [c.delta for c in found] == pytest.approx(after - TRUTH, abs=2e-3)
    assert found[0].classes == ("man", "light")
    assert all(c.low <= c.delta <= c.high for c in found)
    assert found[0].high < 0 < found[2].low
    apart = [counted_side(CELLS, s, errors).cells[0] for s in sides]
    assert found[0].high - found[0].low < sum(c.high - c.low for c in apart)


def test_people_may_label_cells() -> None:
    rng = np.random.default_rng(3)
    true = rng.choice(6, 5000, p=TRUTH)
    predicted = np.where(rng.random(5000) < 0.3, rng.integers(0, 6, 5000), true)
    labelled = labelled_pool(CELLS.names, predicted, np.arange(600), true[:600])
    found = labelled_side(CELLS, labelled)
    assert found.tier == "A"
    inside = (of(found, "low") <= TRUTH) & (of(found, "high") >= TRUTH)
    assert inside.sum() >= 5
    with pytest.raises(InputError, match="expected the 6 joint cells"):
        labelled_side(CELLS, labelled_pool(("a", "b"), [0, 1], [0], [0]))


def test_undetermined_of_one_attribute_has_no_true_share_in_any_cell() -> None:
    tone = Attribute(name="tone", classes=("light", "dark", "undetermined"))
    cells = Cells(attributes=(CELLS.attributes[0], tone))
    errors = Confusion(counts=((180, 5, 15), (10, 160, 30), (0, 0, 0)), split="v", description="d")
    truth = np.array([0.4, 0.2, 0.0, 0.1, 0.3, 0.0])
    counts = np.round(kronecker([GENDER, errors]) @ truth * 100_000)
    found = counted_side(cells, counts, [GENDER, errors])
    assert of(found, "share") == pytest.approx(truth, abs=1e-4)
    assert of(found, "raw")[2] > 0.04
    assert any("tone: no held-out image is undetermined" in w for w in found.warnings)


@pytest.mark.parametrize("counts", [[1, 2, 3], [0] * 6, [1, 2, 3, 4, 5, -1]])
def test_bad_counts(counts: list[int]) -> None:
    with pytest.raises(InputError):
        counted_side(CELLS, counts, [GENDER, TONE])
