"""Joint cells: numbering, raking, and shares corrected for the errors of several classifiers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairsims.audit.intervals import kronecker
from fairsims.audit.joint import Cells, joint_shares, rake, raked_weights, smoothed
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget, InputError

GENDER = Attribute(name="gender", classes=("man", "woman"))
TONE = Attribute(name="tone", classes=("light", "medium", "dark"))
VENDOR = Attribute(name="vendor", classes=("noto", "twemoji"))
CELLS = Cells(attributes=(GENDER, TONE))
CUBE = Cells(attributes=(GENDER, TONE, VENDOR))

Shares = NDArray[np.float64]


def shares(size: int, least: float = 0.02) -> st.SearchStrategy[Shares]:
    raw = st.lists(st.floats(least, 1), min_size=size, max_size=size)
    return raw.map(lambda v: np.array(v) / sum(v))


def odds_ratios(table: Shares) -> Shares:
    """Of every 2 x 2 block against the first row and column."""
    return np.asarray(table[1:, 1:] * table[:1, :1] / (table[1:, :1] * table[:1, 1:]))


def confusion(*counts: tuple[int, ...]) -> Confusion:
    return Confusion(counts=counts, split="s", description="d")


ERRS_GENDER = confusion((930, 70), (60, 940))
ERRS_TONE = confusion((900, 80, 20), (40, 920, 40), (10, 60, 930))


def test_cells_are_numbered_in_c_order() -> None:
    assert CELLS.names == (
        "man & light",
        "man & medium",
        "man & dark",
        "woman & light",
        "woman & medium",
        "woman & dark",
    )
    assert CELLS.place([[0, 1, 1, -1], [2, 0, 2, 1]]).tolist() == [2, 3, 5, -1]
    assert CELLS.counts([[0, 1, 1, -1], [2, 0, 2, 1]]).tolist() == [0, 0, 1, 1, 0, 1]
    assert Cells(attributes=(GENDER,)).names == GENDER.classes


@settings(deadline=None)
@given(shares(12))
def test_marginals_are_sums_over_the_others(joint: Shares) -> None:
    table = joint.reshape(2, 3, 2)
    for k, axes in enumerate([(1, 2), (0, 2), (0, 1)]):
        assert CUBE.marginal(joint, k) == pytest.approx(table.sum(axis=axes))
    stacked = CUBE.marginal(np.stack([joint, joint[::-1]]), 1)
    assert stacked == pytest.approx(np.stack([CUBE.marginal(joint, 1), CUBE.marginal(joint[::-1], 1)]))


def test_probabilities_multiply() -> None:
    gender, tone = np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    joint = CELLS.probabilities([gender, tone])
    assert joint.sum(axis=1) == pytest.approx(1)
    assert joint[1].argmax() == CELLS.place([[1], [2]])[0]
    assert joint[0].reshape(2, 3) == pytest.approx(np.outer(gender[0], tone[0]))


def test_attributes_are_named_once_and_not_too_many() -> None:
    with pytest.raises(InputError, match="expected different ones"):
        Cells(attributes=(GENDER, GENDER))
    wide = Attribute(name="wide", classes=tuple(map(str, range(60))))
    with pytest.raises(InputError, match="gender x wide have 120 joint cells"):
        Cells(attributes=(GENDER, wide))


@settings(deadline=None)
@given(shares(6), shares(2), shares(3))
def test_raking_meets_the_marginals_and_keeps_the_odds_ratios(joint: Shares, gender: Shares, tone: Shares) -> None:
    raked = rake(CELLS, joint, {0: gender, 1: tone})
    assert CELLS.marginal(raked, 0) == pytest.approx(gender, abs=1e-8)
    assert CELLS.marginal(raked, 1) == pytest.approx(tone, abs=1e-8)
    assert odds_ratios(raked.reshape(2, 3)) == pytest.approx(odds_ratios(joint.reshape(2, 3)), rel=1e-5)


@settings(deadline=None)
@given(shares(12), shares(2))
def test_an_attribute_without_a_target_keeps_its_distribution_given_the_targeted_ones(
    joint: Shares, gender: Shares
) -> None:
    raked = rake(CUBE, joint, {0: gender}).reshape(2, -1)
    before = joint.reshape(2, -1)
    assert raked / raked.sum(axis=1, keepdims=True) == pytest.approx(before / before.sum(axis=1, keepdims=True))


@settings(deadline=None)
@given(shares(12), shares(2))
def test_a_held_attribute_keeps_its_shares(joint: Shares, gender: Shares) -> None:
    raked = rake(CUBE, joint, {0: gender, 1: CUBE.marginal(joint, 1)})
    assert CUBE.marginal(raked, 1) == pytest.approx(CUBE.marginal(joint, 1), abs=1e-8)
    assert CUBE.marginal(raked, 0) == pytest.approx(gender, abs=1e-8)


@settings(deadline=None)
@given(shares(6))
def test_raking_to_the_marginals_there_are_changes_nothing(joint: Shares) -> None:
    assert rake(CELLS, joint, dict(enumerate(CELLS.marginals(joint)))) == pytest.approx(joint, abs=1e-9)


def test_raking_is_nearest_in_divergence() -> None:
    joint = np.array([0.3, 0.2, 0.1, 0.1, 0.2, 0.1])
    wanted = [np.array([0.5, 0.5]), np.array([0.2, 0.5, 0.3])]
    raked = rake(CELLS, joint, dict(enumerate(wanted)))

    def divergence(p: Shares) -> float:
        return float((p * np.log(p / joint)).sum())

    # Every change that leaves all marginals as they are is a sum of such swaps.
    for i, j in [(0, 1), (0, 2), (1, 2)]:
        swap = np.zeros((2, 3))
        swap[0, i], swap[0, j], swap[1, i], swap[1, j] = 1, -1, -1, 1
        for step in (-0.01, 0.01):
            assert divergence(raked + step * swap.reshape(-1)) > divergence(raked)


def test_raking_keeps_empty_cells_and_refuses_what_they_rule_out() -> None:
    joint = np.array([0.4, 0.2, 0.0, 0.1, 0.1, 0.2])
    raked = rake(CELLS, joint, {0: np.array([0.5, 0.5])})
    assert raked[2] == 0
    assert CELLS.marginal(raked, 0) == pytest.approx([0.5, 0.5])
    with pytest.raises(InfeasibleTarget, match="shares of gender, tone"):
        # All dark ones are women, so there can't be more dark ones than women.
        rake(CELLS, joint, {0: np.array([0.8, 0.2]), 1: np.array([0.3, 0.3, 0.4])})


@settings(deadline=None)
@given(shares(6, 0.0001), st.integers(1, 100_000))
def test_smoothing_keeps_the_marginals_and_fills_cells(joint: Shares, n: int) -> None:
    joint[0] = 0
    joint /= joint.sum()
    smooth = smoothed(CELLS, joint, n)
    assert smooth.min() > 0
    for k in range(2):
        assert CELLS.marginal(smooth, k) == pytest.approx(CELLS.marginal(joint, k))
    alone = np.array([0.0, 1.0])
    assert smoothed(Cells(attributes=(GENDER,)), alone, n) == pytest.approx(alone)
    assert np.abs(smoothed(CELLS, joint, 10**9) - joint).max() < 1e-6


def test_joint_shares_undo_independent_errors() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([0.35, 0.25, 0.05, 0.05, 0.1, 0.2])
    true = rng.choice(6, 200_000, p=truth)
    called = [
        (rng.random(len(true))[:, None] > c.rates().cumsum(axis=0)[:, k].T).sum(axis=1)
        for c, k in zip((ERRS_GENDER, ERRS_TONE), np.unravel_index(true, CELLS.shape), strict=True)
    ]
    counts = CELLS.counts(called)
    found = joint_shares(CELLS, counts, [ERRS_GENDER, ERRS_TONE])
    actual = np.bincount(true, minlength=6) / len(true)
    assert np.abs(found - actual).max() < 0.004
    assert np.abs(counts / len(true) - actual).max() > 0.01, "uncorrected it would not have been"
    # The correction of each attribute by itself is the marginal of the joint one.
    for k, errors in enumerate((ERRS_GENDER, ERRS_TONE)):
        alone = corrected_shares(CELLS.attributes[k].classes, np.bincount(called[k]).astype(float), errors).share
        assert CELLS.marginal(found, k) == pytest.approx(alone, abs=1e-8)


@settings(deadline=None)
@given(shares(6))
def test_the_joint_confusion_is_the_product_of_the_rates(joint: Shares) -> None:
    rates = kronecker([ERRS_GENDER, ERRS_TONE])
    assert rates.sum(axis=0) == pytest.approx(1)
    predicted = rates @ joint
    assert CELLS.marginal(predicted, 1) == pytest.approx(ERRS_TONE.rates() @ CELLS.marginal(joint, 1))
    assert rates[CELLS.place([[1], [2]])[0], CELLS.place([[0], [1]])[0]] == pytest.approx(
        ERRS_GENDER.rates()[1, 0] * ERRS_TONE.rates()[2, 1]
    )


def test_weights_give_labelled_images_the_wanted_shares() -> None:
    rng = np.random.default_rng(1)
    gender, tone = rng.choice(2, 500, p=[0.8, 0.2]), rng.choice(3, 500, p=[0.5, 0.3, 0.2])
    gender[:10] = -1
    wanted = [np.array([0.5, 0.5]), np.array([1, 1, 1]) / 3]
    weights = raked_weights(CELLS, [gender, tone], wanted)
    assert (weights[:10] == 0).all()
    assert weights[10:].mean() == pytest.approx(1)
    for labels, want in zip((gender, tone), wanted, strict=True):
        found = np.bincount(labels[10:], weights=weights[10:]) / weights.sum()
        assert found == pytest.approx(want)
    classes = np.array([0] * 75 + [1] * 25 + [-1] * 10)
    alone = raked_weights(Cells(attributes=(GENDER,)), [classes], wanted[:1])
    assert (alone[0], alone[80], alone[105]) == (pytest.approx(2 / 3), pytest.approx(2), 0)
