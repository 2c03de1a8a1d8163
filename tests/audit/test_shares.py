"""Corrected shares against closed forms, coverage by simulation, and conventions."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

from fairsims.audit import intervals
from fairsims.audit.draws import counted
from fairsims.audit.estimates import reached
from fairsims.audit.shares import BINARY, corrected_shares, sensitivity, share_difference
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError

GENDER = ("man", "woman")
COLOURS = ("red", "green", "blue")


def confusion(*rows: tuple[int, ...]) -> Confusion:
    return Confusion(counts=rows, split="variant", description="test")


GOOD = confusion((180, 20), (10, 190))
THREE = confusion((160, 20, 20), (15, 170, 15), (30, 10, 160))

binary = st.tuples(st.integers(1, 400), st.integers(1, 400), st.integers(1, 400), st.integers(1, 400)).filter(
    lambda t: t[0] / (t[0] + t[1]) + t[3] / (t[2] + t[3]) > 1.1
)


def test_binary_by_hand() -> None:
    """q = .4 of class 0, Se = .9, Sp = .95: (0.4 + 0.95 - 1)/(0.9 + 0.95 - 1) = 0.35/0.85."""
    found = corrected_shares(GENDER, [400, 600], GOOD)
    assert found.raw == (0.4, 0.6)
    assert found.share == pytest.approx((0.35 / 0.85, 0.5 / 0.85))
    assert found.method == BINARY
    assert found.warnings == ()


def test_lang_reiczigel_by_hand() -> None:
    n, z, se, sp, n1, n0 = 1000, float(norm.ppf(0.975)), 181 / 202, 191 / 202, 202, 202
    q, nn = (400 + z**2 / 2) / (n + z**2), n + z**2
    pi = (q + sp - 1) / (se + sp - 1)
    shift = 2 * z**2 * (pi * se * (1 - se) / n1 - (1 - pi) * sp * (1 - sp) / n0)
    variance = (q * (1 - q) / nn + pi**2 * se * (1 - se) / n1 + (1 - pi) ** 2 * sp * (1 - sp) / n0) / (se + sp - 1) ** 2
    found = corrected_shares(GENDER, [400, 600], GOOD)
    assert found.low[0] == pytest.approx(pi + shift - z * math.sqrt(variance))
    assert found.high[0] == pytest.approx(pi + shift + z * math.sqrt(variance))


def test_uncorrected_equals_statsmodels() -> None:
    found = corrected_shares(GENDER, [37, 163], None)
    assert (found.low[0], found.high[0]) == pytest.approx(proportion_confint(37, 200, method="wilson"))
    assert found.share == found.raw
    assert found.tier == "C"
    assert "sampling error only" in found.method
    assert found.assumption.startswith("Uncorrected")


def test_uncorrected_difference_equals_statsmodels() -> None:
    found = share_difference(GENDER, [48, 32], [56, 14], None)
    theirs = confint_proportions_2indep(56, 70, 48, 80, method="newcomb")
    assert (found.low[0], found.high[0]) == pytest.approx(theirs)


def test_corrected_says_what_it_assumes() -> None:
    found = corrected_shares(GENDER, [400, 600], GOOD)
    assert found.tier == "B"
    assert "as it does on the held-out ones (variant: test)" in found.assumption


@settings(deadline=None)
@given(binary, st.integers(0, 500), st.integers(1, 500))
def test_swapping_the_classes_swaps_the_answer(cells: tuple[int, int, int, int], k: int, rest: int) -> None:
    a, b, c, d = cells
    one = corrected_shares(GENDER, [k, rest], confusion((a, b), (c, d)))
    two = corrected_shares(GENDER[::-1], [rest, k], confusion((d, c), (b, a)))
    for ours, theirs in ((one.share, two.share), (one.low, two.low), (one.high, two.high)):
        assert ours == pytest.approx(theirs[::-1], abs=1e-9)


@settings(deadline=None)
@given(binary, st.integers(0, 500), st.integers(1, 500), st.booleans())
def test_interval_holds_the_share(cells: tuple[int, int, int, int], k: int, rest: int, corrected: bool) -> None:
    a, b, c, d = cells
    found = corrected_shares(GENDER, [k, rest], confusion((a, b), (c, d)) if corrected else None)
    assert sum(found.share) == pytest.approx(1)
    for low, share, high in zip(found.low, found.share, found.high, strict=True):
        assert 0 <= low <= share <= high <= 1


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=3, max_size=3).filter(any))
def test_many_classes_solve_the_constrained_problem(counts: list[int]) -> None:
    found = corrected_shares(COLOURS, counts, THREE)
    rates, q = THREE.rates(), np.array(counts) / sum(counts)
    theirs = minimize(
        lambda p: float(((rates @ p - q) ** 2).sum()),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    assert found.share == pytest.approx(theirs.x, abs=2e-4)
    assert all(0 <= lo <= s <= hi <= 1 for lo, s, hi in zip(found.low, found.share, found.high, strict=True))


def test_inside_the_simplex_many_classes_are_inverted_exactly() -> None:
    p = np.array([0.5, 0.3, 0.2])
    counts = np.round(THREE.rates() @ p * 1_000_000)
    assert corrected_shares(COLOURS, counts, THREE).share == pytest.approx(p, abs=1e-5)


def test_two_classes_by_either_method_agree() -> None:
    closed = corrected_shares(GENDER, [4000, 6000], GOOD)
    (low,), (high,) = counted([4000, 6000], [GOOD]).interval()
    assert low == pytest.approx(closed.low, abs=0.006)
    assert high == pytest.approx(closed.high, abs=0.006)


def test_repeatable() -> None:
    assert corrected_shares(COLOURS, [50, 30, 20], THREE) == corrected_shares(COLOURS, [50, 30, 20], THREE)
    assert share_difference(COLOURS, [50, 30, 20], [20, 40, 40], THREE) == share_difference(
        COLOURS, [50, 30, 20], [20, 40, 40], THREE
    )


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(3)), st.lists(st.integers(5, 300), min_size=3, max_size=3))
def test_renaming_three_classes_renames_the_answer(order: list[int], counts: list[int]) -> None:
    one = corrected_shares(COLOURS, counts, THREE)
    rows = tuple(tuple(THREE.counts[i][j] for j in order) for i in order)
    two = corrected_shares([COLOURS[i] for i in order], [counts[i] for i in order], confusion(*rows))
    assert two.share == pytest.approx([one.share[i] for i in order], abs=1e-9)
    # Up to the noise of 4,000 draws.
    assert two.low == pytest.approx([one.low[i] for i in order], abs=0.02)
    assert two.high == pytest.approx([one.high[i] for i in order], abs=0.02)


@pytest.mark.parametrize(("classes", "held_out"), [(GENDER, GOOD), (COLOURS, THREE), (GENDER, None)])
def test_more_images_and_more_held_out_ones_narrow_the_interval(
    classes: tuple[str, ...], held_out: Confusion | None
) -> None:
    def width(times: int, held_out_times: int) -> float:
        rows = None if held_out is None else [tuple(v * held_out_times for v in r) for r in held_out.counts]
        counts = [(k + 2) * 20 * times for k in range(len(classes))]
        found = corrected_shares(classes, counts, None if rows is None else confusion(*rows))
        return float(np.subtract(found.high, found.low).max())

    assert width(10, 1) < 0.95 * width(1, 1)
    if held_out is not None:
        assert width(10, 10) < 0.8 * width(10, 1)


ABSTAINS = confusion((176, 8, 16), (6, 134, 60), (0, 0, 0))
THREE_WAYS = (*GENDER, "undetermined")


def test_undetermined_calls_are_spread_by_the_held_out_errors_and_never_dropped() -> None:
    """With rates C of the two classes, q = C p is met exactly: what is called undetermined counts."""
    rates = np.array(ABSTAINS.counts[:2]).T / 200
    q = rates @ [0.7, 0.3]
    found = corrected_shares(THREE_WAYS, np.round(q * 100_000), ABSTAINS)
    assert found.share == pytest.approx((0.7, 0.3, 0.0), abs=2e-5)
    assert found.raw == pytest.approx(q, abs=1e-5)
    assert found.n == 100_000
    (said,) = found.warnings
    assert "taken as 0: the 14.6% of calls" in said
    assert "explain 14.6%" in said
    # Dropping them would have been wrong: women are undetermined more often.
    assert q[0] / q[:2].sum() != pytest.approx(0.7, abs=0.02)
    change = share_difference(THREE_WAYS, np.round(q * 1e5), np.round(rates @ [0.5, 0.5] * 1e5), ABSTAINS)
    assert change.delta == pytest.approx((-0.2, 0.2, 0.0), abs=5e-5)


def test_more_undetermined_calls_than_the_errors_explain_are_told() -> None:
    (said,) = corrected_shares(THREE_WAYS, [300, 300, 400], ABSTAINS).warnings
    assert "40.0% of calls" in said
    measured = confusion((176, 8, 16), (6, 134, 60), (4, 6, 90))
    found = corrected_shares(THREE_WAYS, [300, 300, 400], measured)
    assert found.warnings == ()
    assert 0.2 < found.share[2] < 0.35


def test_only_undetermined_may_lack_held_out_images() -> None:
    with pytest.raises(InputError, match="no image of class blue"):
        corrected_shares(COLOURS, [5, 5, 5], ABSTAINS)
    with pytest.raises(InputError, match="no image of class 1"):
        corrected_shares(THREE_WAYS, [5, 5, 5], confusion((5, 1, 1), (0, 0, 0), (0, 0, 0)))


def test_sensitivity_of_two_classes_is_the_closed_form() -> None:
    """d pi/d Se = -pi/J, d pi/d Sp = (1 - pi)/J."""
    estimate = corrected_shares(GENDER, [400, 600], GOOD)
    found = sensitivity(estimate, GOOD, points=0.01)
    pi, j = estimate.share[0], 0.85
    assert found.slopes["man"]["man"] == pytest.approx(-pi / j)
    assert found.slopes["woman"]["man"] == pytest.approx((1 - pi) / j)
    assert found.high["man"] - pi == pytest.approx(0.01 / j)
    assert found.low["woman"] == pytest.approx(1 - pi - 0.01 / j)


def test_sensitivity_is_the_derivative_of_the_share() -> None:
    """Against a finite difference: recall of red up, its errors shrunk in proportion."""
    counts = [5000, 3000, 2000]
    found = sensitivity(corrected_shares(COLOURS, counts, THREE), THREE)
    rates, step = THREE.rates(), 1e-6
    moved = rates.copy()
    moved[:, 0] += step * np.array([1.0, -0.5, -0.5])
    change = (np.linalg.solve(moved, np.array(counts) / 1e4) - np.linalg.solve(rates, np.array(counts) / 1e4)) / step
    assert [found.slopes["red"][c] for c in COLOURS] == pytest.approx(change, abs=1e-4)


def simulate_confusion(rng: np.random.Generator, rates: np.ndarray, per_class: int) -> Confusion:
    rows = [tuple(int(v) for v in rng.multinomial(per_class, rates[:, k])) for k in range(len(rates))]
    return confusion(*rows)


@pytest.mark.parametrize(("pi", "se", "sp"), [(0.65, 0.947, 0.983), (0.1, 0.9, 0.95), (0.5, 0.93, 0.9)])
def test_coverage_with_two_classes(pi: float, se: float, sp: float) -> None:
    """300 repetitions: the corrected interval covers about 95 %, the uncorrected one does not."""
    rng = np.random.default_rng(5)
    rates = np.array([[se, 1 - sp], [1 - se, sp]])
    hits = plain = 0
    for _ in range(300):
        counts = rng.multinomial(5000, rates @ [pi, 1 - pi])
        found = corrected_shares(GENDER, counts, simulate_confusion(rng, rates, 200))
        hits += found.low[0] <= pi <= found.high[0]
        naive = corrected_shares(GENDER, counts, None)
        plain += naive.low[0] <= pi <= naive.high[0]
    assert 0.91 <= hits / 300 <= 0.99
    assert plain / 300 < 0.85


@pytest.mark.parametrize("p", [(0.5, 0.3, 0.2), (0.8, 0.18, 0.02)])
def test_coverage_with_three_classes(monkeypatch: pytest.MonkeyPatch, p: tuple[float, ...]) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 500)
    rng, rates = np.random.default_rng(6), THREE.rates()
    hits = np.zeros(3)
    for _ in range(300):
        counts = rng.multinomial(2000, rates @ p)
        found = corrected_shares(COLOURS, counts, simulate_confusion(rng, rates, 200))
        hits += (np.array(found.low) <= p) & (p <= np.array(found.high))
    assert (hits / 300 >= 0.9).all()


def test_coverage_of_the_difference() -> None:
    """One confusion for both pools: about 95 %, and narrower than two intervals put together."""
    rng = np.random.default_rng(7)
    rates = np.array([[0.947, 0.017], [0.053, 0.983]])
    hits, ours, apart = 0, 0.0, 0.0
    for _ in range(300):
        before, after = (rng.multinomial(5000, rates @ [p, 1 - p]) for p in (0.65, 0.5))
        held_out = simulate_confusion(rng, rates, 200)
        found = share_difference(GENDER, before, after, held_out)
        hits += found.low[0] <= -0.15 <= found.high[0]
        a, b = (corrected_shares(GENDER, c, held_out) for c in (before, after))
        ours += found.high[0] - found.low[0]
        apart += (a.high[0] - a.low[0]) + (b.high[0] - b.low[0])
    assert 0.91 <= hits / 300 <= 0.99
    assert ours < 0.75 * apart


@pytest.mark.parametrize("kind", ["binary", "three", "plain"])
def test_difference_is_after_minus_before(kind: str) -> None:
    classes, held_out, before, after = {
        "binary": (GENDER, GOOD, [700, 300], [480, 520]),
        "three": (COLOURS, THREE, [700, 200, 100], [400, 300, 300]),
        "plain": (GENDER, None, [700, 300], [480, 520]),
    }[kind]
    found = share_difference(classes, before, after, held_out)
    ends = [corrected_shares(classes, c, held_out).share for c in (before, after)]
    assert found.delta == pytest.approx(np.subtract(ends[1], ends[0]))
    assert found.delta[0] < 0
    assert found.high[0] < 0 < found.low[-1]
    assert sum(found.delta) == pytest.approx(0)


@settings(deadline=None)
@given(binary, st.integers(0, 99), st.integers(0, 99))
def test_difference_interval_holds_the_difference(cells: tuple[int, int, int, int], k: int, m: int) -> None:
    a, b, c, d = cells
    for held_out in (confusion((a, b), (c, d)), None):
        found = share_difference(GENDER, [k, 100 - k], [m, 100 - m], held_out)
        for low, delta, high in zip(found.low, found.delta, found.high, strict=True):
            assert -1 <= low <= delta <= high <= 1


def test_newcombe_by_hand() -> None:
    """56/70 against 48/80, Newcombe 1998 table II (a), method 10: 0.0524 to 0.3339."""
    found = share_difference(GENDER, [48, 32], [56, 14], None)
    assert (found.low[0], found.high[0]) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(
    ("counts", "held_out", "words"),
    [
        ([990, 10], GOOD, "outside [0.050, 0.900]"),
        ([500, 500], confusion((120, 80), (80, 120)), "is 0.20; below 0.5"),
        ([500, 500], confusion((18, 2), (10, 190)), "man 20"),
        ([20, 20], GOOD, "only 40 images"),
    ],
)
def test_warnings_for_two_classes(counts: list[int], held_out: Confusion, words: str) -> None:
    (found,) = corrected_shares(GENDER, counts, held_out).warnings
    assert words in found


def test_warnings_for_more_classes() -> None:
    near = confusion((100, 90, 10), (90, 100, 10), (5, 5, 190))
    assert any("condition number" in w for w in corrected_shares(COLOURS, [300, 300, 400], near).warnings)
    assert any("held-out errors allow" in w for w in corrected_shares(COLOURS, [1000, 0, 0], THREE).warnings)
    assert corrected_shares(COLOURS, [400, 300, 300], THREE).warnings == ()


@pytest.mark.parametrize(
    ("counts", "held_out", "words"),
    [
        ([math.nan, 3], GOOD, "whole numbers"),
        ([-1, 3], GOOD, "whole numbers"),
        ([1.5, 3], GOOD, "whole numbers"),
        ([1, 2, 3], GOOD, "got 3 predicted counts for 2 classes"),
        ([0, 0], GOOD, "no image was counted"),
        ([5, 5], THREE, "3 classes, the counts have 2"),
        ([5, 5], confusion((5, 5), (5, 5)), "does not tell the classes apart"),
        ([5, 5], confusion((5, 5), (0, 0)), "no image of class 1"),
    ],
)
def test_bad_counts(counts: list[float], held_out: Confusion, words: str) -> None:
    for call in (
        lambda: corrected_shares(GENDER, np.array(counts), held_out),
        lambda: share_difference(GENDER, [5, 5], np.array(counts), held_out),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_reached_is_equivalence() -> None:
    base = corrected_shares(GENDER, [5000, 5000], None)
    estimate = dataclasses.replace(base, low=(0.48, 0.49), high=(0.51, 0.52))
    assert reached(estimate, {"woman": 0.5, "man": 0.5}, 0.03) is True
    assert reached(estimate, [0.5, 0.5], 0.02) is True
    assert reached(estimate, [0.5, 0.5], 0.01) is None
    assert reached(estimate, [0.7, 0.3], 0.03) is False
    assert reached(estimate, [0.5, 0.5], {"man": 0.02, "woman": 0.01}) is None


@pytest.mark.parametrize(
    ("target", "tolerance", "words"),
    [
        ({"man": 1.0}, 0.03, "a share for each of man, woman"),
        ([0.5, 0.6], 0.03, "sums to 1.1"),
        ([1.5, -0.5], 0.03, "between 0 and 1"),
        ([0.5, 0.5], 0.0, "positive"),
        ([math.nan, 0.5], 0.03, "between 0 and 1"),
    ],
)
def test_reached_refuses(target: list[float], tolerance: float, words: str) -> None:
    with pytest.raises(InputError, match=words):
        reached(corrected_shares(GENDER, [500, 500], GOOD), target, tolerance)
