"""Classifier resampling: the kept images have the target's true shares."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairsims.audit.joint import Cells
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget
from fairsims.retarget.selection import Selection, accept, plan_selection, selected_joint_shares

TWO = np.array([[0.95, 0.08], [0.05, 0.92]])
THREE = np.array([[0.9, 0.05, 0.02], [0.06, 0.9, 0.08], [0.04, 0.05, 0.9]])


def simulate(
    shares: np.ndarray, confusion: np.ndarray, n: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes of n images."""
    true = rng.choice(len(shares), n, p=shares)
    cumulative = confusion.cumsum(axis=0)
    return true, (rng.random(n)[:, None] > cumulative[:, true].T).sum(axis=1)


def frequencies(values: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(values, minlength=k) / len(values)


@pytest.mark.parametrize(
    ("shares", "confusion", "target"),
    [
        ((0.75, 0.25), TWO, (0.5, 0.5)),
        ((0.4, 0.6), TWO, (0.3, 0.7)),
        ((0.6, 0.3, 0.1), THREE, (0.4, 0.35, 0.25)),
        ((0.75, 0.25), np.eye(2), (0.5, 0.5)),
    ],
)
def test_kept_images_have_the_target_shares(
    shares: tuple[float, ...], confusion: np.ndarray, target: tuple[float, ...]
) -> None:
    selection = plan_selection(np.array(shares), confusion, np.array(target))
    n = 60_000
    true, predicted = simulate(np.array(shares), confusion, n, np.random.default_rng(0))
    kept = accept(np.arange(n), predicted, selection)
    found = frequencies(true[kept], len(shares))
    assert np.abs(found - target).max() < 4 * np.sqrt(0.25 / kept.sum())
    assert n / kept.sum() == pytest.approx(selection.images_per_kept, rel=0.03)
    assert max(selection.keep) == pytest.approx(1)
    assert min(selection.keep) >= 0


def test_a_perfect_classifier_costs_the_largest_ratio() -> None:
    selection = plan_selection(np.array([0.75, 0.25]), np.eye(2), np.array([0.5, 0.5]))
    assert selection.images_per_kept == pytest.approx(2.0)
    assert selection.keep == pytest.approx((1 / 3, 1.0))


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.floats(0, 0.3), st.floats(0, 0.3))
def test_the_plan_is_exact(first: float, wanted: float, miss: float, alarm: float) -> None:
    confusion = np.array([[1 - alarm, miss], [alarm, 1 - miss]])
    p, tau = np.array([first, 1 - first]), np.array([wanted, 1 - wanted])
    joint = confusion * p
    posterior = joint / joint.sum(axis=1, keepdims=True)
    purest = posterior.max(axis=0)
    assume((np.abs(purest - tau) > 1e-6).all())
    if (tau > purest).any():
        with pytest.raises(InfeasibleTarget, match="at best"):
            plan_selection(p, confusion, tau)
        return
    keep = np.array(plan_selection(p, confusion, tau).keep)
    kept = (joint * keep[:, None]).sum(axis=0)
    assert kept / kept.sum() == pytest.approx(tau, abs=1e-9)


def test_a_mix_purer_than_the_classifier_is_refused() -> None:
    with pytest.raises(InfeasibleTarget, match="more accurate classifier"):
        plan_selection(np.array([0.9, 0.1]), np.array([[0.8, 0.3], [0.2, 0.7]]), np.array([0.3, 0.7]))


def test_acceptance_is_a_function_of_seed_and_prediction() -> None:
    selection = Selection(keep=(0.3, 1.0), images_per_kept=2.0)
    seeds, predicted = np.arange(4000), np.arange(4000) % 2
    kept = accept(seeds, predicted, selection)
    shuffled = np.random.default_rng(0).permutation(4000)
    assert np.array_equal(accept(seeds[shuffled], predicted[shuffled], selection), kept[shuffled])
    assert kept[predicted == 1].all()
    assert kept[predicted == 0].mean() == pytest.approx(0.3, abs=0.03)
    assert not accept(seeds, predicted, Selection(keep=(0.0, 0.0), images_per_kept=1.0)).any()


@pytest.mark.parametrize(
    ("shares", "confusion", "target"), [((0.6, 0.4), TWO, (0.3, 0.7)), ((0.6, 0.3, 0.1), THREE, (0.4, 0.35, 0.25))]
)
def test_selected_shares_are_measured_and_covered(
    shares: tuple[float, ...], confusion: np.ndarray, target: tuple[float, ...]
) -> None:
    rng, classes = np.random.default_rng(1), tuple("abc"[: len(shares)])
    cells = Cells(attributes=(Attribute(name="letter", classes=classes),))
    selection = plan_selection(np.array(shares), confusion, np.array(target))
    covered, errors, naive = [], [], []
    for repeat in range(60):
        counts = tuple(tuple(int(v) for v in rng.multinomial(600, column)) for column in confusion.T)
        matrix = Confusion(counts=counts, split="s", description="d")
        true, predicted = simulate(np.array(shares), confusion, 3000, rng)
        kept = accept(np.arange(3000) + repeat * 10_000, predicted, selection)
        k = len(shares)
        candidates, chosen = (np.bincount(v, minlength=k) for v in (predicted, predicted[kept]))
        (estimate,) = selected_joint_shares(cells, candidates, chosen, [matrix])
        actual = frequencies(true[kept], k)
        errors.append(np.array(estimate.share) - actual)
        covered.append((np.array(estimate.low) <= actual) & (actual <= np.array(estimate.high)))
        naive.append(np.array(corrected_shares(classes, chosen, matrix).share) - actual)
        assert sum(estimate.share) == pytest.approx(1)
        assert estimate.n == kept.sum()
    assert np.mean(covered) > 0.9
    assert np.abs(np.mean(errors, axis=0)).max() < 0.01
    # Correcting the kept counts as if they were drawn at random overshoots: selection changed P(predicted | true).
    assert np.abs(np.mean(naive, axis=0)).max() > 2 * np.abs(np.mean(errors, axis=0)).max()
    assert any("selected by the classifier" in w for w in estimate.warnings)
