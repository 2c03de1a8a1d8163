"""Tier A: labels by people on the pool itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.labelled import (
    held_out_errors_fit,
    labelled_difference,
    labelled_null,
    labelled_pool,
    labelled_shares,
    next_to_label,
    neyman_allocation,
)
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError

GENDER = ("man", "woman")
THREE = ("man", "woman", "undetermined")
Ints = NDArray[np.int64]


def shares_of(*pool: Any) -> ShareEstimate:
    return labelled_shares(labelled_pool(*pool))


def pool(rng: np.random.Generator, n: int, shares: list[float], rates: list[list[float]]) -> tuple[Ints, Ints]:
    """True and predicted classes; rates[i][j] = P(predicted i | true j)."""
    true = rng.choice(len(shares), n, p=shares)
    cut = np.cumsum(rates, axis=0)[:, true]
    return true, (rng.random(n) > cut).sum(axis=0)


def test_by_hand() -> None:
    """Called man: 6 images, of 3 labelled 2 are men; called woman: 4, of 2 labelled none: .6 * 2/3 = .4."""
    predicted = [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]
    found = shares_of(GENDER, predicted, [0, 2, 5, 7, 8], [0, 1, 0, 1, 1])
    assert found.share == pytest.approx((0.4, 0.6))
    assert found.raw == pytest.approx((0.6, 0.4))
    assert (found.n, found.tier) == (10, "A")
    assert "taken as true" in found.assumption
    assert "only 5 images were labelled" in found.warnings[0]
    assert "man 3, woman 2" in found.warnings[1]


def test_all_labelled_is_a_count() -> None:
    rng = np.random.default_rng(0)
    true, predicted = pool(rng, 500, [0.3, 0.7], [[0.6, 0.3], [0.4, 0.7]])
    found = shares_of(GENDER, predicted, np.arange(500), true)
    assert found.share == pytest.approx(np.bincount(true) / 500)
    assert found.warnings == ()


def test_without_calls_the_interval_is_that_of_a_proportion() -> None:
    """One stratum: 60 of 200. Jeffreys' interval is the Beta(60.5, 140.5) quantiles; N is large."""
    from statsmodels.stats.proportion import proportion_confint

    found = shares_of(GENDER, np.zeros(100_000, dtype=int), np.arange(200), [0] * 60 + [1] * 140)
    assert (found.low[0], found.high[0]) == pytest.approx(proportion_confint(60, 200, method="jeffreys"), abs=0.003)


@pytest.mark.parametrize("design", ["random", "equal", "skewed"])
def test_unbiased_for_a_classifier_that_is_wrong_on_these_images(design: str) -> None:
    """Its errors are nothing like the held-out ones: corrected by those, the share would be off by .2."""
    rng = np.random.default_rng(1)
    truth, rates = [0.65, 0.35], [[0.75, 0.3], [0.25, 0.7]]
    found, hits = [], 0
    for _ in range(200):
        true, predicted = pool(rng, 4000, truth, rates)
        called = [np.flatnonzero(predicted == k) for k in (0, 1)]
        each = {"equal": (150, 150), "skewed": (40, 260)}.get(design)
        sample = (
            rng.choice(4000, 300, replace=False)
            if each is None
            else np.concatenate([rng.choice(c, k, replace=False) for c, k in zip(called, each, strict=True)])
        )
        estimate = shares_of(GENDER, predicted, sample, true[sample])
        found.append(estimate.share[0])
        hits += estimate.low[0] <= 0.65 <= estimate.high[0]
    assert abs(np.mean(found) - 0.65) < 4 * np.std(found) / np.sqrt(200)
    assert 0.9 <= hits / 200 <= 0.99
    held_out = Confusion(counts=((475, 25), (15, 485)), split="s", description="d")
    assert corrected_shares(GENDER, np.bincount(predicted), held_out).share[0] < 0.62


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_shares_are_shares_inside_their_interval(size: int, n: int, seed: int, swap: bool) -> None:
    rng = np.random.default_rng(seed)
    classes = [f"c{k}" for k in range(size)]
    predicted, sample = rng.integers(0, size, 60), rng.choice(60, n, replace=False)
    true = rng.integers(0, size, n)
    found = shares_of(classes, predicted, sample, true)
    assert sum(found.share) == pytest.approx(1)
    assert all(0 <= lo <= s <= hi <= 1 for lo, s, hi in zip(found.low, found.share, found.high, strict=True))
    assert found == shares_of(classes, predicted, sample, true)
    order = rng.permutation(size)
    renamed = shares_of([classes[k] for k in np.argsort(order)], order[predicted], sample, order[true])
    assert [renamed.share[k] for k in order] == pytest.approx(found.share)
    assert [renamed.high[k] for k in order] == pytest.approx(found.high, abs=0.08)


def test_more_labels_narrow_the_interval() -> None:
    rng = np.random.default_rng(3)
    true, predicted = pool(rng, 5000, [0.6, 0.4], [[0.8, 0.2], [0.2, 0.8]])
    widths = []
    for n in (50, 200, 800, 3200):
        found = shares_of(GENDER, predicted, np.arange(n), true[:n])
        widths.append(found.high[0] - found.low[0])
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < widths[0] / 4


def test_undetermined_is_a_class_like_any_other() -> None:
    """The classifier never says it, people do: it keeps its share."""
    predicted = np.repeat([0, 1], [600, 400])
    sample = np.concatenate([np.arange(100), 600 + np.arange(100)])
    true = np.array([0] * 80 + [2] * 20 + [1] * 90 + [2] * 10)
    found = shares_of(THREE, predicted, sample, true)
    assert found.share == pytest.approx((0.48, 0.36, 0.16))
    assert found.low[2] > 0.1
    assert found.raw == pytest.approx((0.6, 0.4, 0.0))


def test_a_class_that_nobody_looked_at_is_told_and_widens_the_interval() -> None:
    predicted = np.repeat([0, 1], [600, 400])
    found = shares_of(GENDER, predicted, np.arange(100), np.zeros(100, dtype=int))
    assert any("no label among those called woman (400 images)" in w for w in found.warnings)
    assert found.high[1] - found.low[1] > 0.35


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sample": [0, 0], "true": [0, 1]}, "labelled twice"),
        ({"sample": [0, 9], "true": [0, 1]}, "position 9; expected 0 to 3"),
        ({"sample": [0, -1], "true": [0, 1]}, "position -1"),
        ({"sample": [0, 1], "true": [0, -1]}, "label -1; expected 0 to 1"),
        ({"sample": [0, 1], "true": [0, 2]}, "label 2"),
        ({"predicted": [0, 1, 2, 0]}, "predicted class 2"),
        ({"sample": [], "true": []}, "0 positions"),
        ({"sample": [0], "true": [0, 1]}, "1 positions and 2 labels"),
        ({"predicted": []}, "got 0 images"),
    ],
)
def test_bad_labels(change: dict[str, object], words: str) -> None:
    given = {"predicted": [0, 1, 1, 0], "sample": [0, 1], "true": [0, 1]} | change
    with pytest.raises(InputError) as caught:
        labelled_pool(GENDER, **given)  # type: ignore[arg-type]
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_difference_of_two_labelled_pools() -> None:
    rng = np.random.default_rng(4)
    hits, sides = 0, []
    for _ in range(200):
        sides = []
        # The classifier changes as well: nothing is carried from one pool to the other.
        for share, rates in ((0.65, [[0.9, 0.1], [0.1, 0.9]]), (0.5, [[0.7, 0.2], [0.3, 0.8]])):
            true, predicted = pool(rng, 3000, [share, 1 - share], rates)
            sample = rng.choice(3000, 250, replace=False)
            sides.append(labelled_pool(GENDER, predicted, sample, true[sample]))
        found = labelled_difference(*sides)
        hits += found.low[0] <= -0.15 <= found.high[0]
    assert 0.9 <= hits / 200 <= 0.99
    assert sum(found.delta) == pytest.approx(0)
    assert found.delta == pytest.approx(sides[1].shares() - sides[0].shares())
    with pytest.raises(InputError, match="expected the same"):
        labelled_difference(sides[0], labelled_pool(THREE, [0, 1], [0], [0]))


def test_labels_before_do_not_serve_after() -> None:
    """P(true | predicted) changes with the mix: .65 -> .50 would read as .52, whatever their number."""
    rng = np.random.default_rng(5)
    rates = [[0.947, 0.017], [0.053, 0.983]]
    before, after = (pool(rng, 200_000, [p, 1 - p], rates) for p in (0.65, 0.5))
    purity = [float((before[0][before[1] == k] == 0).mean()) for k in (0, 1)]
    q = np.bincount(after[1]) / 200_000
    assert float(q @ purity) == pytest.approx(0.5245, abs=0.004)


def test_null_is_what_is_measured_when_the_target_is_met() -> None:
    rng = np.random.default_rng(6)
    rates = [[0.8, 0.2], [0.2, 0.8]]
    true, predicted = pool(rng, 3000, [0.7, 0.3], rates)
    sample = rng.choice(3000, 300, replace=False)
    null = labelled_null(labelled_pool(GENDER, predicted, sample, true[sample]), [0.5, 0.5])
    measured = []
    for _ in range(300):
        true, predicted = pool(rng, 3000, [0.5, 0.5], rates)
        sample = rng.choice(3000, 300, replace=False)
        measured.append(labelled_pool(GENDER, predicted, sample, true[sample]).shares()[0])
    assert null.sum(axis=1) == pytest.approx(1)
    assert null[:, 0].mean() == pytest.approx(0.5, abs=0.005)
    assert null[:, 0].std() == pytest.approx(np.std(measured), rel=0.2)


HELD_OUT = Confusion(counts=((282, 18), (12, 288)), split="variant", description="d")


@pytest.mark.parametrize("stratified", [False, True])
def test_labels_say_whether_the_held_out_errors_fit(stratified: bool) -> None:
    """False alarms near 5 in 100 when they do, found nearly always when the classifier errs three times as often."""
    rng, alarms = np.random.default_rng(7), {}
    for name, rates in (("same", HELD_OUT.rates().tolist()), ("worse", [[0.82, 0.12], [0.18, 0.88]])):
        alarms[name] = 0
        for _ in range(40):
            true, predicted = pool(rng, 3000, [0.6, 0.4], rates)
            called = [np.flatnonzero(predicted == k) for k in (0, 1)]
            sample = np.concatenate([c[:150] for c in called]) if stratified else rng.choice(3000, 300, replace=False)
            found = held_out_errors_fit(labelled_pool(GENDER, predicted, sample, true[sample]), HELD_OUT)
            assert found.fit in (False, None)
            alarms[name] += found.fit is False
    assert alarms["same"] <= 7
    assert alarms["worse"] >= 34
    assert "contradict the held-out errors (variant; p = " in found.says


def test_undetermined_images_contradict_errors_measured_without_any() -> None:
    errors = Confusion(counts=((270, 18, 12), (12, 276, 12), (0, 0, 0)), split="s", description="d")
    rng = np.random.default_rng(8)
    true, predicted = pool(rng, 2000, [0.4, 0.4, 0.2], [[0.9, 0.04, 0.3], [0.06, 0.92, 0.3], [0.04, 0.04, 0.4]])
    labelled = labelled_pool(THREE, predicted, np.arange(300), true[:300])
    found = held_out_errors_fit(labelled, errors)
    assert found.fit is False
    assert found.labels == 300
    with pytest.raises(InputError, match="labels of 3 classes and a confusion of 2"):
        held_out_errors_fit(labelled, HELD_OUT)


def test_allocation_by_hand() -> None:
    """Half of the images each; P from 9 labels with the prior: 10/11 against .5, so sqrt(2 P (1-P)) .407 : .707."""
    labels = [[9, 0], [4.5, 4.5]]
    found = neyman_allocation([5000, 5000], labels, 1000)
    assert found.sum() == 1000
    total = found + 9
    assert total[1] / total[0] == pytest.approx(np.sqrt(0.5 / (2 * 10 / 11 / 11)), rel=0.01)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 80), st.integers(0, 2**31))
def test_allocation_is_the_best_there_is(images: list[int], n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.array([rng.multinomial(rng.integers(0, m + 1), [0.7, 0.3]) for m in images])
    found = neyman_allocation(images, labels, n)
    done = labels.sum(axis=1)
    assert found.sum() == min(n, int(np.sum(images) - done.sum()))
    assert ((found >= 0) & (done + found <= images)).all()
    mix = (labels + 1) / (done[:, None] + 2)
    weight = (np.array(images) / np.sum(images)) ** 2 * (1 - (mix**2).sum(axis=1))
    total = done + found
    if (total == 0).any():
        return
    # No label is better spent elsewhere.
    for i in np.flatnonzero(found > 0):
        for j in np.flatnonzero(total < images):
            if i != j and total[i] > 1:
                lost = weight[i] * (1 / (total[i] - 1) - 1 / total[i])
                assert weight[j] * (1 / total[j] - 1 / (total[j] + 1)) <= lost + 1e-12


def test_nothing_labelled_yet_spreads_by_size() -> None:
    assert neyman_allocation([900, 100, 0], np.zeros((3, 3)), 100).tolist() == [90, 10, 0]


def test_next_to_label_is_repeatable_nested_and_new() -> None:
    predicted = np.random.default_rng(9).choice(3, 1000, p=[0.7, 0.2, 0.1])
    first = next_to_label(predicted, [], 100, 5)
    assert first.tolist() == next_to_label(predicted, [], 100, 5).tolist()
    assert first.tolist() != next_to_label(predicted, [], 100, 6).tolist()
    assert len(set(first)) == 100
    assert np.bincount(predicted[first]) == pytest.approx(np.bincount(predicted) / 10, abs=1)
    more = next_to_label(predicted, first, 50, 5)
    assert not set(more) & set(first)
    assert len(next_to_label(predicted, first, 10_000, 5)) == 900
    # Labelled in two goes, images of a class are those labelled in one.
    assert set(next_to_label(predicted, [], 150, 5)) == set(first) | set(more)


def test_next_labels_go_where_the_classifier_is_unsure() -> None:
    rng = np.random.default_rng(10)
    true, predicted = pool(rng, 4000, [0.5, 0.5], [[0.99, 0.45], [0.01, 0.55]])
    first = next_to_label(predicted, [], 200, 0)
    more = next_to_label(predicted, first, 200, 0, true=true[first])
    share = {name: float((predicted[s] == 0).mean()) for name, s in (("first", first), ("more", more))}
    assert share["first"] == pytest.approx(0.72, abs=0.03)
    assert share["more"] > 0.9
    with pytest.raises(InputError, match="asked for 0"):
        next_to_label(predicted, [], 0, 0)
    with pytest.raises(InputError, match="positions that the pool has"):
        next_to_label(predicted, [4000], 5, 0)
