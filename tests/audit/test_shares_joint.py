"""Joint cells of several attributes: corrected shares with intervals, lift, and whether classifiers err together."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.contingency_tables import StratifiedTable

from fairsims.audit.joint import Cells, joint_shares
from fairsims.audit.shares import (
    corrected_shares,
    errors_independent,
    joint_confusion,
    joint_difference,
    joint_estimate,
    labelled_joint,
    labelled_pool,
)
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError

CELLS = Cells(
    attributes=(
        Attribute(name="gender", classes=("man", "woman")),
        Attribute(name="tone", classes=("light", "medium", "dark")),
    )
)
TWO = Cells(attributes=(CELLS.attributes[0], Attribute(name="glasses", classes=("with", "without"))))
GENDER = Confusion(counts=((190, 10), (12, 188)), split="v", description="d")
TONE = Confusion(counts=((180, 15, 5), (10, 180, 10), (4, 16, 180)), split="v", description="d")
TRUTH = np.array([0.30, 0.15, 0.05, 0.20, 0.20, 0.10])


def held_out(rng: np.random.Generator, each: int, together: float = 0.0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """True and called classes of both attributes; with chance `together` a hard image has both calls turned over."""
    true = np.unravel_index(np.repeat(np.arange(4), each), (2, 2))
    hard = rng.random(4 * each) < together
    called = [np.where(hard | (rng.random(4 * each) < 0.06), 1 - t, t) for t in true]
    return list(true), called


def test_errors_taken_as_independent_are_undone_and_said_so() -> None:
    counts = np.round(CELLS.confusion([GENDER, TONE]) @ TRUTH * 1_000_000)
    found = joint_estimate(CELLS, counts, [GENDER, TONE])
    assert found.share == pytest.approx(TRUTH, abs=1e-5)
    assert found.share == pytest.approx(joint_shares(CELLS, counts, [GENDER, TONE]))
    assert found.errors_independent
    assert "independent" in found.method
    assert "independent of each other" in found.assumption
    assert any("nobody measured them together" in w for w in found.warnings)
    for k, errors in enumerate((GENDER, TONE)):
        alone = corrected_shares(CELLS.attributes[k].classes, CELLS.marginal(counts, k), errors)
        assert CELLS.marginal(np.array(found.share), k) == pytest.approx(alone.share, abs=1e-6)


def test_lift_by_hand() -> None:
    """.30 of light men, where men are .5 and light ones .5: lift 1.2; the interval shrinks with the images."""
    found = joint_estimate(CELLS, TRUTH * 10_000, [])
    assert found.tier == "C"
    assert found.lift[0] == pytest.approx(1.2)
    assert found.lift[2] == pytest.approx(0.05 / (0.5 * 0.15))
    low, high = np.array(found.lift_low, dtype=float), np.array(found.lift_high, dtype=float)
    assert ((low < found.lift) & (found.lift < high)).all()
    assert high[0] - low[0] < 0.1
    wide = joint_estimate(CELLS, TRUTH * 100, [])
    assert wide.lift_high[0] - wide.lift_low[0] > 2 * (high[0] - low[0])  # type: ignore[operator]


def test_lift_of_an_absent_class_is_none() -> None:
    found = joint_estimate(CELLS, [50, 0, 50, 60, 0, 40], [])
    assert [v is None for v in found.lift] == [False, True, False] * 2
    assert [v is None for v in found.lift_high] == [False, True, False] * 2


def test_independent_attributes_have_a_lift_of_one() -> None:
    even = CELLS.independent([[0.5, 0.5], [0.5, 0.3, 0.2]])
    counts = np.round(CELLS.confusion([GENDER, TONE]) @ even * 100_000)
    found = joint_estimate(CELLS, counts, [GENDER, TONE])
    assert found.lift == pytest.approx([1] * 6, abs=1e-3)


def test_a_joint_confusion_serves_from_30_images_of_every_cell() -> None:
    """Errors that come together are undone by the joint confusion; taken as independent they bias the cells."""
    rng = np.random.default_rng(0)
    truth = np.array([0.4, 0.1, 0.1, 0.4])
    text = {"split": "v", "description": "d"}
    true, called = held_out(rng, 5000, together=0.15)
    joint = joint_confusion(TWO, true, called, **text)
    alone = [Confusion.of(t, c, size=2, **text) for t, c in zip(true, called, strict=True)]
    counts = np.round(joint.rates() @ truth * 100_000)
    found = joint_estimate(TWO, counts, alone, joint=joint)
    assert found.share == pytest.approx(truth, abs=1e-4)
    assert not found.errors_independent
    assert "independent" not in found.assumption
    apart = joint_estimate(TWO, counts, alone)
    assert np.abs(apart.share - truth).max() > 0.02
    few = joint_confusion(TWO, *held_out(rng, 20), **text)
    fallen = joint_estimate(TWO, counts, alone, joint=few)
    assert fallen.share == pytest.approx(apart.share)
    assert any("man & with 20" in w and "do not speak against" in w for w in fallen.warnings)


def test_cells_of_few_images_are_named() -> None:
    found = joint_estimate(CELLS, [500, 300, 29, 200, 100, 30], [GENDER, TONE])
    assert found.small == ("man & dark",)
    assert any("fewer than 30 images were called man & dark 29" in w for w in found.warnings)


@pytest.mark.parametrize("together", [0.0, 0.1])
def test_errors_together_are_found_as_statsmodels_finds_them(together: float) -> None:
    rng = np.random.default_rng(1)
    true, called = held_out(rng, 100, together)
    joint = joint_confusion(TWO, true, called, split="v", description="d")
    place, wrong = TWO.place(true), [t != c for t, c in zip(true, called, strict=True)]
    tables = [
        np.array(
            [[np.sum((wrong[0] == a) & (wrong[1] == b) & (place == c)) for b in (1, 0)] for a in (1, 0)], dtype=float
        )
        for c in range(4)
    ]
    theirs = StratifiedTable(tables).test_null_odds(correction=False).pvalue
    assert errors_independent(TWO, joint) == pytest.approx(theirs)
    assert (theirs < 0.001) == bool(together)


def test_the_false_alarms_of_that_test_are_as_many_as_stated() -> None:
    rng = np.random.default_rng(2)
    found = [
        errors_independent(TWO, joint_confusion(TWO, *held_out(rng, 60), split="v", description="d"))
        for _ in range(400)
    ]
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.08
    nothing = Confusion(
        counts=tuple(tuple(50 * (i == j) for j in range(4)) for i in range(4)), split="v", description="d"
    )
    assert errors_independent(TWO, nothing) == 1.0


@pytest.mark.parametrize("together", [False, True])
def test_difference_of_cells(together: bool) -> None:
    rates = CELLS.confusion([GENDER, TONE])
    joint = Confusion(
        counts=tuple(tuple(int(v) for v in np.round(r * 1000)) for r in rates.T), split="v", description="d"
    )
    after = np.full(6, 1 / 6)
    sides = [np.round(rates @ p * 50_000) for p in (TRUTH, after)]
    found = joint_difference(CELLS, *sides, [GENDER, TONE], joint=joint if together else None)
    assert found.delta == pytest.approx(after - TRUTH, abs=2e-3)
    assert found.high[0] < 0 < found.low[2]
    assert all(lo <= d <= hi for lo, d, hi in zip(found.low, found.delta, found.high, strict=True))
    apart = [joint_estimate(CELLS, s, [GENDER, TONE]) for s in sides]
    assert found.high[0] - found.low[0] < sum(e.high[0] - e.low[0] for e in apart)
    plain = joint_difference(CELLS, *sides, [])
    assert plain.delta == pytest.approx((sides[1] - sides[0]) / 50_000)


def test_people_may_label_cells() -> None:
    rng = np.random.default_rng(3)
    true = rng.choice(6, 5000, p=TRUTH)
    predicted = np.where(rng.random(5000) < 0.3, rng.integers(0, 6, 5000), true)
    labelled = labelled_pool(CELLS.names, predicted, np.arange(600), true[:600])
    found = labelled_joint(CELLS, labelled)
    assert found.tier == "A"
    inside = (np.array(found.low) <= TRUTH) & (np.array(found.high) >= TRUTH)
    assert inside.sum() >= 5
    assert not found.errors_independent
    with pytest.raises(InputError, match="expected the 6 joint cells"):
        labelled_joint(CELLS, labelled_pool(("a", "b"), [0, 1], [0], [0]))


def test_undetermined_of_one_attribute_has_no_true_share_in_any_cell() -> None:
    tone = Attribute(name="tone", classes=("light", "dark", "undetermined"))
    cells = Cells(attributes=(CELLS.attributes[0], tone))
    errors = Confusion(counts=((180, 5, 15), (10, 160, 30), (0, 0, 0)), split="v", description="d")
    truth = np.array([0.4, 0.2, 0.0, 0.1, 0.3, 0.0])
    counts = np.round(cells.confusion([GENDER, errors]) @ truth * 100_000)
    found = joint_estimate(cells, counts, [GENDER, errors])
    assert found.share == pytest.approx(truth, abs=1e-4)
    assert found.raw[2] > 0.04
    assert any("tone: no held-out image is undetermined" in w for w in found.warnings)


@pytest.mark.parametrize("counts", [[1, 2, 3], [0] * 6, [1, 2, 3, 4, 5, -1]])
def test_bad_counts(counts: list[int]) -> None:
    with pytest.raises(InputError):
        joint_estimate(CELLS, counts, [GENDER, TONE])
