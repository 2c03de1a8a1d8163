"""Distances and ratios against a target, and what they would be were it met."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from fairsims.audit.measures import distances, measures, null_shares
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError

CLASSES = ("light", "medium", "dark")
GOOD = Confusion(counts=((180, 20), (10, 190)), split="s", description="d")
THREE = Confusion(counts=((160, 20, 20), (15, 170, 15), (30, 10, 160)), split="s", description="d")
mixes = (
    st.lists(st.floats(0, 1), min_size=3, max_size=3).filter(lambda v: sum(v) > 0.1).map(lambda v: np.array(v) / sum(v))
)


def test_by_hand() -> None:
    """p = (.6, .3, .1) against (.5, .25, .25): gaps .1, .05, .15."""
    found = measures(corrected_shares(CLASSES, [60, 30, 10], None), {"light": 0.5, "medium": 0.25, "dark": 0.25})
    assert found.representation_ratio == pytest.approx({"light": 1.2, "medium": 1.2, "dark": 0.4})
    assert found.least_ratio == pytest.approx(0.4)
    assert found.min_over_max == pytest.approx(1 / 6)
    assert found.total_variation == pytest.approx(0.15)
    assert found.fairness_discrepancy == pytest.approx(np.sqrt(0.01 + 0.0025 + 0.0225))
    assert found.largest_gap == pytest.approx(0.15)
    assert found.null == {}
    assert found.achieved_shift == {}


def test_the_extremes() -> None:
    """All in one class where it should be in the other: every distance is the largest there is."""
    found = distances([1.0, 0.0], [0.0, 1.0])
    assert found["total_variation"] == found["jensen_shannon"] == found["largest_gap"] == pytest.approx(1)
    assert found["fairness_discrepancy"] == pytest.approx(np.sqrt(2))
    empty = measures(corrected_shares(CLASSES, [50, 50, 0], None), [0.5, 0.5, 0.0])
    assert empty.representation_ratio["dark"] is None
    assert empty.least_ratio == 1
    assert empty.min_over_max == 0
    assert empty.jensen_shannon == 0


@settings(deadline=None)
@given(mixes, mixes)
def test_jensen_shannon_equals_scipy(p: np.ndarray, t: np.ndarray) -> None:
    ours = distances(p, t)["jensen_shannon"]
    assert ours == pytest.approx(jensenshannon(p, t, base=2), abs=1e-6)
    assert ours == pytest.approx(distances(t, p)["jensen_shannon"], abs=1e-9)


@settings(deadline=None)
@given(mixes, mixes, st.permutations(range(3)))
def test_distances_know_no_order_and_keep_theirs(p: np.ndarray, t: np.ndarray, order: list[int]) -> None:
    here, there = distances(p, t), distances(p[order], t[order])
    for name, value in here.items():
        assert value == pytest.approx(there[name], abs=1e-9)
    assert here["largest_gap"] <= here["total_variation"] + 1e-12 <= 1 + 1e-9
    assert here["largest_gap"] <= here["fairness_discrepancy"] + 1e-12


def test_achieved_shift() -> None:
    before, after = (corrected_shares(CLASSES, c, None) for c in ([60, 20, 20], [45, 35, 20]))
    found = measures(after, [0.4, 0.4, 0.2], before=before)
    assert found.achieved_shift["light"] == pytest.approx(0.75)
    assert found.achieved_shift["medium"] == pytest.approx(0.75)
    assert found.achieved_shift["dark"] is None


@pytest.mark.parametrize(("confusion", "target"), [(GOOD, [0.5, 0.5]), (THREE, [0.4, 0.35, 0.25])])
def test_distances_at_the_target_stay_inside_the_envelope(
    monkeypatch: pytest.MonkeyPatch, confusion: Confusion, target: list[float]
) -> None:
    """95 in 100 of the pools whose true shares are the target; the noise makes every distance larger than 0."""
    monkeypatch.setattr("fairsims.audit.measures.DRAWS", 500)
    monkeypatch.setattr("fairsims.audit.intervals.DRAWS", 500)
    rng = np.random.default_rng(0)
    classes, rates = CLASSES[: len(target)], confusion.rates()
    names = ("total_variation", "jensen_shannon", "fairness_discrepancy", "largest_gap")
    inside = dict.fromkeys(names, 0)
    for _ in range(200):
        rows = tuple(tuple(int(v) for v in rng.multinomial(200, rates[:, k])) for k in range(len(target)))
        errors = Confusion(counts=rows, split="s", description="d")
        estimate = corrected_shares(classes, rng.multinomial(2000, rates @ target), errors)
        found = measures(estimate, target, null=null_shares(target, 2000, [errors]))
        for name in names:
            inside[name] += getattr(found, name) <= found.null[name]
    assert all(0.9 <= v / 200 <= 0.99 for v in inside.values())
    assert found.null["level"] == 0.95
    plain = measures(estimate, target, null=null_shares(target, 2000, [])).null
    assert 0 < plain["total_variation"] < found.null["total_variation"]


def test_null_of_joint_cells_takes_each_confusion() -> None:
    target = np.outer([0.5, 0.5], [0.4, 0.35, 0.25]).reshape(-1)
    found = null_shares(target, 5000, [GOOD, THREE])
    assert found.sum(axis=1) == pytest.approx(1)
    assert np.abs(found.mean(axis=0) - target).max() < 0.01


def test_a_wrong_target_is_refused() -> None:
    with pytest.raises(InputError, match="sums to 1.1"):
        measures(corrected_shares(CLASSES, [60, 30, 10], None), [0.5, 0.3, 0.3])
