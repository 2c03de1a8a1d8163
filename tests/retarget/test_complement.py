"""The complement rule as arithmetic, and the draw that follows it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fairsims.errors import InfeasibleTarget, InputError
from fairsims.retarget.complement import complement_shares, least_strength, plan_complement
from fairsims.retarget.drawing import draw_complement, largest_remainders

TWO, THREE = ("man", "woman"), ("light", "medium", "dark")


def shares(size: int, least: float = 0.0) -> st.SearchStrategy[np.ndarray]:
    raw = st.lists(st.floats(max(least, 1e-6), 1), min_size=size, max_size=size)
    return raw.map(lambda v: np.array(v) / sum(v))


sizes = st.integers(2, 5)
pairs = sizes.flatmap(lambda k: st.tuples(shares(k, 0.05), shares(k)))
omegas = st.floats(0.05, 5)


@given(pairs, omegas)
def test_the_rule_inverts_exactly(pair: tuple[np.ndarray, np.ndarray], omega: float) -> None:
    pi, tau = pair
    rho = complement_shares(pi, tau, omega)
    assert np.allclose((1 + omega) * pi - omega * rho, tau, atol=1e-9)
    assert rho.sum() == pytest.approx(1)


@given(pairs, omegas)
def test_feasible_means_no_negative_share(pair: tuple[np.ndarray, np.ndarray], omega: float) -> None:
    pi, tau = pair
    least = least_strength(pi, tau)
    assume(abs(omega - least) > 1e-6)
    assert (complement_shares(pi, tau, omega).min() >= -1e-9) == (omega > least)
    # For every class (1 + omega) pi - omega <= tau <= (1 + omega) pi, from rho in [0, 1].
    inside = ((1 + omega) * pi - omega <= tau + 1e-9) & (tau <= (1 + omega) * pi + 1e-9)
    assert inside.all() == (omega > least)


@given(pairs)
def test_at_the_least_strength_one_class_leaves_the_complement(pair: tuple[np.ndarray, np.ndarray]) -> None:
    pi, tau = pair
    least = least_strength(pi, tau)
    assume(least > 1e-3)
    rho = complement_shares(pi, tau, least)
    assert rho.min() == pytest.approx(0, abs=1e-9)
    assert rho[(tau / pi).argmax()] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("pi", "tau", "least"),
    [
        ((0.6, 0.4), (0.5, 0.5), 0.25),
        ((0.75, 0.25), (0.5, 0.5), 1.0),
        ((0.8, 0.2), (0.5, 0.5), 1.5),
        ((0.5, 0.5), (0.5, 0.5), 0.0),
        ((0.6, 0.3, 0.1), (0.45, 0.30, 0.25), 1.5),
        ((0.6, 0.3, 0.1), (1 / 3, 1 / 3, 1 / 3), 7 / 3),
        ((1.0, 0.0), (0.5, 0.5), float("inf")),
        ((1.0, 0.0), (1.0, 0.0), 0.0),
    ],
)
def test_least_strength(pi: tuple[float, ...], tau: tuple[float, ...], least: float) -> None:
    assert least_strength(np.array(pi), np.array(tau)) == pytest.approx(least)


@pytest.mark.parametrize("omega", [0.0, -1.0, float("nan")])
def test_omega_has_to_be_positive(omega: float) -> None:
    with pytest.raises(InputError, match="expected a positive number"):
        complement_shares(np.array([0.6, 0.4]), np.array([0.5, 0.5]), omega)
    with pytest.raises(InputError, match="expected a positive number"):
        plan_complement(np.array([0.6, 0.4]), np.array([0.5, 0.5]), TWO, omega=omega)


def test_plan_takes_the_least_strength_so_that_the_neediest_class_is_out_of_the_complement() -> None:
    plan = plan_complement(np.array([0.7, 0.3]), np.array([0.5, 0.5]), TWO)
    assert plan.strength == plan.least_strength == pytest.approx(2 / 3)
    assert plan.complement == (1.0, 0.0)
    assert plan.reachable == pytest.approx((0.5, 0.5))
    assert plan.reason == "strength 0.67: the least feasible is 0.67"


def test_a_small_move_is_planned_at_an_omega_that_pilots_can_tell() -> None:
    plan = plan_complement(np.array([0.55, 0.45]), np.array([0.5, 0.5]), TWO)
    assert plan.strength == 0.25
    assert plan.complement == pytest.approx((0.75, 0.25))
    assert plan.reachable == pytest.approx((0.5, 0.5))
    assert plan.reason == "strength 0.25: the least feasible is 0.11"


def test_a_low_cap_holds_below_one_too() -> None:
    plan = plan_complement(np.array([0.6, 0.4]), np.array([0.5, 0.5]), TWO, cap=0.1)
    assert (plan.strength, plan.complement) == (0.1, pytest.approx((1.0, 0.0)))
    assert plan.reason.startswith(
        "strength 0.10: the least feasible is 0.25, above the cap of 0.1; no woman in the complement"
    )


def test_plan_takes_the_least_strength_beyond_one() -> None:
    plan = plan_complement(np.array([0.8, 0.2]), np.array([0.5, 0.5]), TWO)
    assert plan.strength == plan.least_strength == pytest.approx(1.5)
    assert plan.complement == pytest.approx((1.0, 0.0))
    assert plan.reachable == pytest.approx((0.5, 0.5))
    assert "negative share of woman" in plan.reason


def test_plan_stops_at_the_cap_and_says_how_far_that_reaches() -> None:
    plan = plan_complement(np.array([0.9, 0.1]), np.array([0.5, 0.5]), TWO, cap=2.0)
    assert (plan.strength, plan.least_strength) == (2.0, pytest.approx(4.0))
    assert plan.complement == pytest.approx((1.0, 0.0))
    assert plan.reachable == pytest.approx((0.7, 0.3))
    assert "above the cap of 2" in plan.reason


def test_plan_takes_omega_as_asked() -> None:
    plan = plan_complement(np.array([0.6, 0.4]), np.array([0.5, 0.5]), TWO, omega=0.5)
    assert plan.complement == pytest.approx((0.8, 0.2))
    short = plan_complement(np.array([0.6, 0.4]), np.array([0.5, 0.5]), TWO, omega=0.1)
    assert short.complement == pytest.approx((1.0, 0.0))
    assert short.reachable == pytest.approx((0.56, 0.44))
    assert "no woman in the complement" in short.reason


@given(pairs, st.floats(0.1, 4))
def test_a_plan_is_always_a_mix_that_moves_towards_the_target(pair: tuple[np.ndarray, np.ndarray], cap: float) -> None:
    pi, tau = pair
    assume(np.abs(pi - tau).max() > 1e-3)
    plan = plan_complement(pi, tau, tuple("abcde"[: len(pi)]), cap=cap)
    rho, reachable = np.array(plan.complement), np.array(plan.reachable)
    assert rho.min() >= 0
    assert rho.sum() == pytest.approx(1)
    assert reachable.sum() == pytest.approx(1)
    assert 0 < plan.strength <= cap
    assert np.abs(reachable - tau).sum() < np.abs(pi - tau).sum() + 1e-9
    if plan.least_strength <= cap:
        assert np.allclose(reachable, tau, atol=1e-9)


def test_a_class_that_the_base_never_makes_is_out_of_reach() -> None:
    with pytest.raises(InfeasibleTarget, match="the base makes no dark at all"):
        plan_complement(np.array([0.7, 0.3, 0.0]), np.array([0.4, 0.4, 0.2]), THREE)


def test_a_target_that_the_base_has_is_refused() -> None:
    with pytest.raises(InputError, match="the target already"):
        plan_complement(np.array([0.5, 0.5]), np.array([0.5, 0.5]), TWO)


@given(sizes.flatmap(shares), st.integers(0, 5000))
def test_largest_remainders_sum_and_stay_within_one(mix: np.ndarray, size: int) -> None:
    counts = largest_remainders(mix, size)
    assert counts.sum() == size
    assert counts.min() >= 0
    assert np.abs(counts - mix * size).max() < 1 + 1e-6


def test_largest_remainders_on_the_textbook() -> None:
    # Hamilton's method: the seats left over go to the largest fractions.
    assert largest_remainders(np.array([0.47, 0.16, 0.158, 0.12, 0.061, 0.031]), 10).tolist() == [5, 2, 1, 1, 1, 0]
    assert largest_remainders(np.array([1.0, 0.0]), 7).tolist() == [7, 0]
    assert largest_remainders(np.array([1 / 3] * 3), 3).tolist() == [1, 1, 1]
    assert largest_remainders(np.array([0.29, 0.71]), 100).tolist() == [29, 71]


def pool(counts: tuple[int, ...], confidence: float = 0.97) -> np.ndarray:
    """Probabilities of a pool with that many sure images per class, in turn."""
    k = len(counts)
    rows = [np.full(k, (1 - confidence) / (k - 1)) for _ in range(sum(counts))]
    for row, c in zip(rows, np.repeat(np.arange(k), counts), strict=True):
        row[c] = confidence
    return np.array(rows)


def drawn_classes(probabilities: np.ndarray, chosen: np.ndarray) -> list[int]:
    return np.bincount(probabilities[chosen].argmax(axis=1), minlength=probabilities.shape[1]).tolist()


def test_draw_follows_the_shares() -> None:
    probabilities = pool((300, 100))
    chosen = draw_complement(probabilities, np.array([0.9, 0.1]), size=200)
    assert drawn_classes(probabilities, chosen) == [180, 20]
    assert len(set(chosen.tolist())) == 200
    assert chosen.tolist() == sorted(chosen.tolist())


def test_draw_takes_all_it_can_without_repeating() -> None:
    probabilities = pool((300, 100))
    assert drawn_classes(probabilities, draw_complement(probabilities, np.array([1.0, 0.0]))) == [300, 0]
    chosen = draw_complement(probabilities, np.array([0.5, 0.5]))
    assert drawn_classes(probabilities, chosen) == [100, 100]
    assert len(set(chosen.tolist())) == 200


@given(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)), shares(3, 0.1))
def test_draw_without_a_size_never_repeats(counts: tuple[int, int, int], mix: np.ndarray) -> None:
    probabilities = pool(counts)
    size = int(min(n / s for n, s in zip(counts, mix, strict=True)) + 1e-6)
    assume(size >= 1)
    chosen = draw_complement(probabilities, mix)
    assert len(chosen) == len(set(chosen.tolist())) == size
    assert drawn_classes(probabilities, chosen) == largest_remainders(mix, size).tolist()


def test_draw_repeats_evenly_when_candidates_run_out() -> None:
    probabilities = pool((10, 40))
    chosen = draw_complement(probabilities, np.array([0.8, 0.2]), size=44)
    assert drawn_classes(probabilities, chosen) == [35, 9]
    times = np.bincount(chosen, minlength=50)
    assert set(times[:10].tolist()) == {3, 4}
    assert times[10:].max() == 1


def test_draw_respects_the_floor() -> None:
    probabilities = np.concatenate([pool((50, 50), 0.95), pool((50, 50), 0.7)])
    chosen = draw_complement(probabilities, np.array([0.5, 0.5]), floor=0.9)
    assert len(chosen) == 100
    assert chosen.max() < 100
    assert len(draw_complement(probabilities, np.array([0.5, 0.5]), floor=0.6)) == 200


def test_draw_prefers_the_sure() -> None:
    probabilities = np.concatenate([pool((400, 1), 0.99), pool((400, 0), 0.5000001)])
    chosen = draw_complement(probabilities, np.array([1.0, 0.0]), size=300, floor=0.5)
    sure = int((chosen < 401).sum())
    # Successive draws with weights .99 and .5: about 196 of 300, against 150 without weights.
    assert 180 < sure < 215


def test_draw_is_a_function_of_its_seed() -> None:
    probabilities, mix = pool((300, 100)), np.array([0.7, 0.3])
    first = draw_complement(probabilities, mix, size=100, seed=5)
    assert np.array_equal(draw_complement(probabilities, mix, size=100, seed=5), first)
    assert not np.array_equal(draw_complement(probabilities, mix, size=100, seed=6), first)


@given(
    st.integers(2, 4).flatmap(lambda k: st.tuples(shares(k), st.integers(0, k))),
    st.integers(1, 60),
    st.integers(0, 150),
)
def test_smaller_sets_lie_inside_larger_ones(mix: tuple[np.ndarray, int], size: int, more: int) -> None:
    """With three classes or more a class may lose one image to rounding, as Alabama lost a seat."""
    wanted = np.where(np.arange(len(mix[0])) == mix[1], 0.0, mix[0])
    probabilities = pool((200,) * len(wanted))
    small, large = (Counter(draw_complement(probabilities, wanted, size=n).tolist()) for n in (size, size + more))
    missing = sorted((small - large).elements())
    assert max(drawn_classes(probabilities, np.array(missing, dtype=np.int64))) <= ((wanted > 0).sum() > 2)


def test_a_class_too_small_for_an_image_does_not_change_what_others_draw() -> None:
    probabilities, mix = pool((600, 600, 600)), np.array([0.004, 0.496, 0.5])
    small, large = (draw_complement(probabilities, mix, size=n) for n in (100, 1000))
    assert drawn_classes(probabilities, small) == [0, 50, 50]
    assert set(small.tolist()) < set(large.tolist())


def test_rounding_may_take_an_image_away_as_the_set_grows() -> None:
    probabilities, mix = pool((20, 20, 20)), np.array([6, 6, 2]) / 14
    small, large = (draw_complement(probabilities, mix, size=n) for n in (10, 11))
    assert drawn_classes(probabilities, small) == [4, 4, 2]
    assert drawn_classes(probabilities, large) == [5, 5, 1]
    assert len(set(small.tolist()) - set(large.tolist())) == 1


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_a_class_without_a_share_takes_no_part_in_the_draw(absent: int) -> None:
    """Drawn as though its images were not in the pool: complements usually lack the class that has to grow."""
    probabilities, mix = pool((50, 60, 70)), np.array([0.2, 0.3, 0.5])
    mix[absent] = 0
    others = np.flatnonzero(probabilities.argmax(axis=1) != absent)
    alone = draw_complement(np.delete(probabilities[others], absent, axis=1), np.delete(mix, absent), size=40)
    assert np.array_equal(draw_complement(probabilities, mix, size=40), others[alone])


def test_draw_covers_every_image_of_a_class_alike() -> None:
    probabilities, times = pool((20, 5)), np.zeros(25)
    for seed in range(400):
        times[draw_complement(probabilities, np.array([1.0, 0.0]), size=10, seed=seed)] += 1
    # 400 draws of half: 200 each, standard deviation 10.
    assert times[:20].min() > 150
    assert times[:20].max() < 250
    assert times[20:].max() == 0


def test_draw_without_candidates_is_refused() -> None:
    with pytest.raises(InputError, match="no image of class 1 in the pool has a probability of 0.9 or more"):
        draw_complement(pool((50, 0)), np.array([0.5, 0.5]))
    with pytest.raises(InputError, match=r"lower --floor"):
        draw_complement(pool((50, 50), 0.8), np.array([0.5, 0.5]))
    assert len(draw_complement(pool((50, 0)), np.array([1.0, 0.0]))) == 50
    with pytest.raises(InputError, match="would have 0 images"):
        draw_complement(pool((50, 50)), np.array([0.5, 0.5]), size=0)
