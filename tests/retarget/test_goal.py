"""Several attributes: the goal on joint cells, further rounds from the measured error, and selection of cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fairsims.audit.intervals import kronecker
from fairsims.audit.joint import Cells, rake
from fairsims.audit.targets import parse_target
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget, InputError
from fairsims.models import GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.retarget.calibration import Calibration, Look, as_pilot, calibrate, focus_values
from fairsims.retarget.complement import correct_complement, plan_complement
from fairsims.retarget.cost import images_per_kept
from fairsims.retarget.drawing import draw_complement
from fairsims.retarget.goal import Goal, set_goal
from fairsims.retarget.selection import accept, plan_selection, remainder, selected_joint_shares
from fairsims.seeds import noise_for

GENDER = Attribute(name="gender", classes=("man", "woman"))
TONE = Attribute(name="tone", classes=("light", "medium", "dark"))
CELLS = Cells(attributes=(GENDER, TONE))
BASE = np.array([0.36, 0.21, 0.13, 0.08, 0.12, 0.10])
"""Men and women 70:30, with more dark ones among the women."""

Shares = NDArray[np.float64]


def exact(size: int) -> Confusion:
    return Confusion(
        counts=tuple(tuple(row) for row in (1000 * np.eye(size, dtype=int)).tolist()), split="s", description=""
    )


def goal_of(base: Shares = BASE, *targets: str, n: int = 10_000, **limits: float) -> Goal:
    """The goal on a pool with exactly these shares, labelled without errors."""
    called = np.repeat(np.arange(6), np.rint(base * n).astype(int))
    parsed = tuple(parse_target(t, a) for t, a in zip(targets, CELLS.attributes, strict=False))
    return set_goal(
        CELLS,
        list(np.unravel_index(called, CELLS.shape)),
        [exact(2), exact(3)],
        parsed,
        **({"tolerance": 0.03, "drift": 0.03} | limits),
    )


def found(*, at_cap: bool) -> Calibration:
    return Calibration(strength=1.0, share=0.5, se=0.01, pilots=(), looks=(), weights=np.empty(0), at_cap=at_cap)


def test_targets_are_raked_onto_the_base() -> None:
    goal = goal_of(BASE, "0.5", "uniform")
    assert CELLS.marginal(goal.target, 0) == pytest.approx([0.5, 0.5])
    assert CELLS.marginal(goal.target, 1) == pytest.approx([1 / 3] * 3)
    assert goal.base == pytest.approx(BASE, abs=2e-4), "the pool's worth of smoothing is next to nothing"
    assert goal.target == pytest.approx(rake(CELLS, goal.base, dict(enumerate(goal.wanted))))
    assert goal.focus.tolist() == [False, False, False, True, True, True]


def test_a_held_attribute_keeps_the_shares_of_the_base() -> None:
    goal = goal_of(BASE, "0.5", tolerance=0.02, drift=0.05)
    assert goal.limits == (0.02, 0.05)
    assert CELLS.marginal(goal.target, 1) == pytest.approx(CELLS.marginal(goal.base, 1))
    # Without the hold, women's tones would come along.
    free = rake(CELLS, goal.base, {0: goal.wanted[0]})
    assert np.abs(CELLS.marginal(free, 1) - CELLS.marginal(goal.base, 1)).max() > 0.02


def test_error_is_in_units_of_what_a_share_may_be_off() -> None:
    goal = goal_of(BASE, "0.5", tolerance=0.02, drift=0.05)
    assert goal.error(goal.target) == pytest.approx(0, abs=1e-6)
    moved = goal.target + np.array([0.01, 0, 0, -0.01, 0, 0])
    assert goal.error(moved) == pytest.approx(0.5)
    toned = goal.target + np.array([0.025, -0.025, 0, 0, 0, 0])
    assert goal.error(toned) == pytest.approx(0.5)
    # A miss of 0.4 limits is not clear; one of 1.5 is, unless the measurement was that noisy.
    near, off = (goal.target + np.array([miss, 0, 0, -miss, 0, 0]) for miss in (0.008, 0.03))
    quiet, loud = 0.001, 0.02
    assert not goal.clearly_off(near, [np.full(2, quiet), np.full(3, quiet)])
    assert goal.clearly_off(off, [np.full(2, quiet), np.full(3, quiet)])
    assert not goal.clearly_off(off, [np.full(2, loud), np.full(3, loud)])


def test_noise_is_the_standard_error_of_corrected_shares() -> None:
    errs = Confusion(counts=((90, 10), (20, 80)), split="s", description="")
    goal = Goal(
        cells=CELLS,
        base=BASE,
        target=BASE,
        wanted=tuple(CELLS.marginals(BASE)),
        confusions=(errs, exact(3)),
        limits=(0.03, 0.03),
    )
    rng = np.random.default_rng(0)
    predicted = goal.confusion @ BASE
    samples = [rng.choice(6, 500, p=predicted) for _ in range(400)]
    spread = [
        np.std(
            [CELLS.marginal(np.linalg.solve(goal.confusion, np.bincount(s, minlength=6) / 500), k) for s in samples],
            axis=0,
        )
        for k in range(2)
    ]
    for found, want in zip(goal.noise(samples[0]), spread, strict=True):
        assert found == pytest.approx(want, rel=0.15)


def test_a_class_that_is_hardly_there_is_refused_by_name() -> None:
    few = np.array([0.5, 0.3, 0.0, 0.1, 0.0995, 0.0005])
    with pytest.raises(InputError, match="5 of 10000 pool images are dark; expected 10 or more"):
        goal_of(few, "0.5", "uniform")
    assert goal_of(few, "0.5").wanted[1][2] == pytest.approx(0.0005, abs=1e-3), "held, it may be as rare as it is"
    called = [np.repeat([0, 1], [900, 100]), np.repeat([0, 1, 2], [500, 300, 200])]
    errs = Confusion(counts=((80, 20), (20, 80)), split="s", description="")
    parsed = (parse_target("0.5", GENDER),)
    with pytest.raises(InfeasibleTarget, match="the base makes no woman at all: the 100 of 1000 pool images"):
        set_goal(CELLS, called, [errs, exact(3)], parsed, tolerance=0.03, drift=0.03)


def test_cells_that_would_go_negative_are_named() -> None:
    goal = goal_of(BASE, "0.5", "uniform")
    plan = plan_complement(goal.base, goal.target, CELLS.names, cap=3.0)
    worst = int((goal.target / goal.base).argmax())
    assert plan.least_strength == pytest.approx(goal.target[worst] / goal.base[worst] - 1)
    assert f"negative share of {CELLS.names[worst]}" in plan.reason
    assert min(plan.complement) == plan.complement[worst] == 0
    assert np.array(plan.reachable) == pytest.approx(goal.target, abs=1e-9)


def promised(pi: Shares, rho: Shares, omega: float) -> list[Shares]:
    """Shares of every class by the linear rule."""
    return CELLS.marginals((1 + omega) * pi - omega * rho)


def test_omega_has_to_be_feasible_for_classes_only() -> None:
    goal = goal_of(BASE, "0.5", "uniform")
    single = plan_complement(goal.base, goal.target, CELLS.names, cap=3.0).least_strength
    plan = plan_complement(goal.base, goal.target, CELLS.names, cap=3.0, cells=CELLS)
    assert plan.strength == plan.least_strength == pytest.approx(0.5 / 0.3 - 1, abs=1e-3), (
        "women 0.3 to 0.5, dark 0.23 to 0.33"
    )
    assert single is not None
    assert single > 1
    assert f"(single cells: {single:.2f})" in plan.reason
    rho = np.array(plan.complement)
    worst = int((goal.target / goal.base).argmax())
    assert rho[worst] == 0
    assert f"no {CELLS.names[worst]} in the complement" in plan.reason
    for found, wanted in zip(promised(goal.base, rho, plan.strength), goal.wanted, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)


def test_at_the_least_strength_the_neediest_class_leaves_the_complement_in_all_its_cells() -> None:
    base = np.array([0.40, 0.25, 0.15, 0.08, 0.07, 0.05])
    goal = goal_of(base, "0.5")
    plan = plan_complement(goal.base, goal.target, CELLS.names, cells=CELLS)
    assert plan.strength == plan.least_strength == pytest.approx(1.5, abs=1e-3)
    assert CELLS.marginal(np.array(plan.complement), 0) == pytest.approx([1, 0], abs=1e-6)
    for found, wanted in zip(promised(goal.base, np.array(plan.complement), plan.strength), goal.wanted, strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)
    beyond = plan_complement(goal.base, goal.target, CELLS.names, cells=CELLS, cap=1.2)
    assert beyond.strength == 1.2
    assert "above the cap of 1.2" in beyond.reason
    assert "may fall short" in beyond.reason
    assert CELLS.marginal(np.array(beyond.complement), 0) == pytest.approx([1, 0], abs=1e-6)
    assert CELLS.marginal(np.array(beyond.complement), 1) == pytest.approx(goal.wanted[1], abs=1e-6), "held"


def mixes(size: int) -> st.SearchStrategy[Shares]:
    raw = st.lists(st.floats(0.05, 1), min_size=size, max_size=size)
    return raw.map(lambda v: np.array(v) / sum(v))


def answer(pi: Shares, mix: Shares, strength: float, kappa: float, stray: Shares) -> Shares:
    """Shares in proportion to what the complement leaves of them, and what strays beside."""
    made = 0.95 * mix + 0.05 * pi
    raw = pi * (made / pi) ** (-strength * kappa) * np.exp(stray)
    return np.asarray(raw / raw.sum())


@given(
    mixes(6),
    mixes(6),
    st.floats(0.5, 2),
    st.floats(0.3, 1.0),
    st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=6),
    st.integers(0, 6),
)
def test_the_next_complement_mends_what_one_strength_cannot(
    pi: Shares, rho: Shares, strength: float, kappa: float, off: list[float], absent: int
) -> None:
    """With or without a class that the complement lacks."""
    if absent < 6:
        rho = np.where(np.arange(6) == absent, 0.0, rho)
        rho /= rho.sum()
    measured = answer(pi, rho, strength, kappa, np.array(off))
    # Somewhere near, as after a first round.
    tau = measured * np.exp(np.array([0.2, -0.1, 0.1, 0.0, -0.2, 0.05]))
    tau /= tau.sum()
    errors = [float(np.abs(np.log(measured / tau)).max())]
    for _ in range(3):
        plan = correct_complement(pi, tau, rho, measured, strength=strength)
        rho = np.array(plan.complement)
        assert rho.min() >= 0
        assert rho.sum() == pytest.approx(1)
        assert sum(plan.reachable) == pytest.approx(1)
        assert absent < 6 or plan.strength == strength
        # Calibration goes on to where the total of those that have to grow is right.
        strength = plan.strength
        measured = answer(pi, rho, strength, kappa, np.array(off))
        errors.append(float(np.abs(np.log(measured / tau)).max()))
    # Of the rounds the best is kept. A class that is out of the complement already has nothing more to give.
    if absent == 6:
        assert min(errors) < 0.6 * errors[0]


def test_a_class_that_the_complement_lacks_stays_out_of_it() -> None:
    """Shown again it would lose most of its effect: dark had 0.32 without any in the complement and 0.20 with 2%."""
    pi = np.array([0.153, 0.170, 0.184, 0.176, 0.172, 0.145])
    rho = np.array([0.2035, 0.235, 0.2163, 0.1999, 0.1453, 0.0])
    tau = np.array([0.1, 0.1, 0.15, 0.15, 0.2, 0.3])
    measured = np.array([0.1248, 0.1157, 0.1346, 0.1294, 0.1623, 0.3332])
    plan = correct_complement(pi, tau, rho, measured, strength=1.42)
    mix = np.array(plan.complement)
    assert mix[5] == 0
    # More of what is to shrink, less of what is to grow.
    assert np.sign(mix - rho)[:5].tolist() == [1, 1, -1, -1, -1]
    # Dark has grown by a factor of 2.3 and should have by 2.07.
    assert plan.strength == pytest.approx(1.42 * (np.log(0.3 / 0.145) / np.log(0.3332 / 0.145)) ** 0.7)
    assert plan.reason == (
        "shares at strength 1.42 are taken to answer the complement by a factor of 0.50; "
        "for the classes out of it the strength is to be 1.29"
    )


@pytest.mark.parametrize(
    ("seen", "turn"),
    [(0.15, 2), (0.25, np.log(0.3 / 0.14) / np.log(0.25 / 0.14)), (0.3, 1), (0.8, 0.5), (0.14, 1), (0.1, 1)],
)
def test_the_strength_for_what_is_left_out_moves_by_a_factor_of_two_at_most(seen: float, turn: float) -> None:
    pi, rho = np.array([0.5, 0.36, 0.14]), np.array([0.6, 0.4, 0.0])
    measured = np.array([0.6 * (1 - seen), 0.4 * (1 - seen), seen])
    plan = correct_complement(pi, np.array([0.35, 0.35, 0.3]), rho, measured, strength=1.0)
    assert plan.strength == pytest.approx(turn**0.7)


def test_rare_cells_neither_shrink_nor_stop_the_draw() -> None:
    probabilities = np.full((400, 4), 0.01)
    for row, cell in enumerate(np.repeat([0, 1, 2], [295, 100, 5])):
        probabilities[row, cell] = 0.97
    mix = np.array([0.6, 0.3, 0.08, 0.02])
    with pytest.raises(InputError, match="no image of class 3"):
        draw_complement(probabilities, mix)
    chosen = draw_complement(probabilities, mix, scarce=20)
    found = np.bincount(probabilities[chosen].argmax(axis=1), minlength=4)
    # As many as cell 1 has candidates for; the five of cell 2 repeat; cell 3's share goes to the others.
    assert len(chosen) == int(100 / (0.3 / 0.98))
    assert found / len(chosen) == pytest.approx([0.6 / 0.98, 0.3 / 0.98, 0.08 / 0.98, 0], abs=2 / len(chosen))
    times = np.bincount(chosen, minlength=400)
    assert times[:395].max() == 1
    assert times[395:].min() >= 5
    with pytest.raises(InputError, match="lower --floor"):
        draw_complement(probabilities, np.array([0, 0, 0, 1.0]), scarce=20)


def test_selection_by_joint_cells_reaches_both_marginals() -> None:
    errs = [
        Confusion(counts=((950, 50), (40, 960)), split="s", description=""),
        Confusion(counts=((940, 50, 10), (30, 940, 30), (10, 40, 950)), split="s", description=""),
    ]
    goal = goal_of(BASE, "0.5", "uniform")
    rng, rates = np.random.default_rng(0), kronecker(errs)
    true = rng.choice(6, 40_000, p=BASE)
    predicted = (rng.random(len(true))[:, None] > rates.cumsum(axis=0)[:, true].T).sum(axis=1)
    selection = plan_selection(BASE, rates, goal.target, slack=0.01)
    kept = accept(np.arange(len(true)), predicted, selection)
    assert len(true) / kept.sum() == pytest.approx(selection.images_per_kept, rel=0.03)
    counts = [np.bincount(p, minlength=6) for p in (predicted, predicted[kept])]
    estimates = selected_joint_shares(CELLS, *counts, errs)
    actual = CELLS.marginals(np.bincount(true[kept], minlength=6) / kept.sum())
    for found, truth, wanted in zip(estimates, actual, goal.wanted, strict=True):
        assert truth == pytest.approx(wanted, abs=0.01)
        assert np.array(found.share) == pytest.approx(truth, abs=0.015)
        assert (np.array(found.low) <= truth + 0.003).all()
        assert (np.array(found.high) >= truth - 0.003).all()


def test_what_one_strength_leaves_clearly_off_is_resampled() -> None:
    goal = goal_of(BASE, "0.5", "uniform")
    within, beyond = (found(at_cap=at_cap) for at_cap in (False, True))
    sure, unsure = ([np.full(2, se), np.full(3, se)] for se in (0.001, 0.2))
    near, far = goal.target, 0.8 * goal.target + 0.2 * BASE
    assert remainder(goal, within, near, sure) is None
    assert remainder(goal, within, far, unsure) is None
    rest = remainder(goal, within, far, sure)
    assert rest == remainder(goal, beyond, far, unsure)
    assert rest is not None
    assert rest.images_per_kept == pytest.approx((goal.target / far).max())


def test_what_the_classifier_cannot_select_is_left() -> None:
    blind = Confusion(counts=((60, 40), (40, 60)), split="s", description="")
    goal = replace(goal_of(BASE, "0.5", "uniform"), confusions=(blind, exact(3)))
    shares, sure = BASE, [np.full(2, 0.001), np.full(3, 0.001)]
    within, beyond = (found(at_cap=at_cap) for at_cap in (False, True))
    assert remainder(goal, within, shares, sure) is None
    with pytest.raises(InfeasibleTarget, match="cannot select"):
        remainder(goal, beyond, shares, sure)


def test_a_cell_too_impure_to_select_costs_no_more_than_the_slack() -> None:
    # The rarest cell can't be selected as pure as its target asks; its neighbours can make the marginals right.
    shares, rates = np.array([0.5, 0.45, 0.049, 0.001]), np.kron([[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.1, 0.9]])
    target = np.array([0.3, 0.3, 0.3, 0.1])
    with pytest.raises(InfeasibleTarget, match="at best"):
        plan_selection(shares, rates, target)
    with pytest.raises(InfeasibleTarget):
        plan_selection(shares, rates, target, slack=0.001)
    selection = plan_selection(shares, rates, target, slack=0.2)
    assert min(selection.keep) >= 0
    assert max(selection.keep) == pytest.approx(1)


class Mixture:
    """Six Gaussians, one per joint cell, as base and auxiliary with exact scores."""

    def __init__(self, base: Shares) -> None:
        means = torch.tensor([[4.0 * g, 3.0 * t] for g in range(2) for t in range(3)])
        self.base = GaussianMixtureDenoiser(means, [0.3] * 6, base.tolist())

    def predicted(self, mix: Shares, strength: float, seeds: range) -> Any:
        guided = SIMSGuidance(self.base, self.base.with_shares(mix.tolist()), strength)
        samples = solve(guided, noise_for(seeds, (2,)), SamplerConfig(solver="heun", steps=12))
        return self.base.classify(samples).numpy()

    def calibrate(self, goal: Goal, mix: Shares, start: float) -> tuple[Calibration, Shares, Shares]:
        def values(found: Any) -> Any:
            return focus_values(found, goal.confusion, goal.focus)

        zero = as_pilot(values(self.predicted(mix, 0.0, range(3000))), 0.0)

        def measure(look: Look) -> Any:
            first = 10**5 + look.first
            return values(self.predicted(mix, look.strength, range(first, first + look.n)))

        target = float(goal.target[goal.focus].sum())
        found = calibrate(measure, target=target, base=zero, start=start, cap=3.0, images=2000)
        measured, fresh = (
            goal.measured(self.predicted(mix, found.strength, range(s, s + 4000))) for s in (10**5, 10**6)
        )
        return found, measured, fresh


@pytest.mark.parametrize("targets", [("0.5", "uniform"), ("0.45",)])
def test_two_attributes_reach_their_targets_on_exact_mixtures(targets: tuple[str, ...]) -> None:
    goal, world = goal_of(BASE, *targets), Mixture(BASE)
    # With exact scores a cell that the complement lacks altogether grows beyond the rule: a little more than the least.
    omega = 1.4 * plan_complement(goal.base, goal.target, CELLS.names, cap=3.0).least_strength
    plan = plan_complement(goal.base, goal.target, CELLS.names, omega=omega, cap=3.0)
    first, measured, fresh = world.calibrate(goal, np.array(plan.complement), plan.strength)
    again = correct_complement(
        goal.base, goal.mended(measured), np.array(plan.complement), measured, strength=first.strength
    )
    _, _, mended = world.calibrate(goal, np.array(again.complement), again.strength)
    assert goal.error(goal.base) > 3
    assert goal.error(mended) < 1, "every share within its limit on seeds that no one has seen"
    assert goal.error(mended) < max(0.6, 0.7 * goal.error(fresh)), "the second round mends what the first left"


def test_a_target_that_only_removes_a_class_is_refused() -> None:
    cells, called = Cells(attributes=(TONE,)), np.repeat([0, 1, 2], [300, 460, 240])
    target = parse_target("light=0.6,medium=0,dark=0.4", TONE)
    with pytest.raises(InfeasibleTarget, match="at the expense of medium alone; strength moves shares"):
        set_goal(cells, [called], [exact(3)], (target,), tolerance=0.03, drift=0.03)
    # Where another class shrinks too there is a share to steer by.
    target = parse_target("light=0.2,medium=0,dark=0.8", TONE)
    assert set_goal(cells, [called], [exact(3)], (target,), tolerance=0.03, drift=0.03).focus.sum() == 1


@pytest.mark.parametrize("targets", [("0.5",), ("0.5", "uniform")])
def test_the_cost_of_resampling_is_told_though_a_class_was_not_seen(targets: tuple[str, ...]) -> None:
    goal = goal_of(BASE, *targets)
    seen = np.repeat([0, 1, 3, 4], [360, 310, 180, 150])
    assert images_per_kept(goal, seen) > 1


def test_a_class_that_the_base_never_makes_has_no_part_in_a_correction() -> None:
    """Such as `undetermined` of a classifier that abstains."""
    pi, rho = np.array([0.6, 0.4, 0.0]), np.array([0.7, 0.3, 0.0])
    plan = correct_complement(pi, np.array([0.5, 0.5, 0.0]), rho, np.array([0.54, 0.46, 0.0]), strength=1.0)
    assert np.isfinite(plan.complement).all()
    assert plan.complement[0] > 0.7
    assert plan.complement[2] == plan.reachable[2] == 0
