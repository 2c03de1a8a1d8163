"""The number of audit images, and whether "reached" comes out as often as is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.audit.estimates import reached
from fairsims.audit.power import FEWEST, MOST, STEP, Verdict, planned_power, power_sentence, verdicts
from fairsims.audit.shares import corrected_shares
from fairsims.audit.targets import parse_target
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute

GENDER = Confusion(counts=((624, 16), (27, 637)), split="variant", description="emoji people")
SHARP = Confusion(counts=((4990, 10), (10, 4990)), split="variant", description="almost no errors")
THREE = Confusion(counts=((380, 12, 8), (10, 385, 5), (4, 6, 390)), split="variant", description="three classes")


def verdict(target: tuple[float, ...], confusion: Confusion | None, tolerance: float = 0.03) -> Verdict:
    return Verdict(target=np.array(target), tolerance=tolerance, confusion=confusion)


def simulated(of: Verdict, truth: np.ndarray, n: int, repetitions: int, seed: int) -> float:
    """How often audits of n images say reached, each with held-out errors of its own, where `truth` is the share."""
    rng, said = np.random.default_rng(seed), 0
    classes = [f"class {k}" for k in range(len(truth))]
    rates = np.eye(len(truth)) if of.confusion is None else of.confusion.rates()
    for _ in range(repetitions):
        counts = rng.multinomial(n, rates @ truth)
        held_out = None
        if of.confusion is not None:
            drawn = [rng.multinomial(int(t), rates[:, k]) for k, t in enumerate(of.confusion.totals)]
            held_out = replace(of.confusion, counts=tuple(tuple(int(v) for v in row) for row in drawn))
        said += reached(corrected_shares(classes, counts, held_out), of.target.tolist(), of.tolerance) is True
    return said / repetitions


@pytest.mark.parametrize(
    ("of", "n", "repetitions"),
    [
        (verdict((0.5, 0.5), GENDER), 8192, 600),
        (verdict((0.65, 0.35), GENDER), 16384, 600),
        (verdict((0.9, 0.1), SHARP, 0.05), 1536, 600),
        # Wilson's intervals are slow to compute.
        (verdict((0.5, 0.5), None), 7168, 80),
    ],
)
def test_reached_comes_out_as_often_as_is_said(of: Verdict, n: int, repetitions: int) -> None:
    off = of.tolerance / 3
    shifts = ([off, -off], [-off, off])
    found = min(simulated(of, of.target + d, n, repetitions, k) for k, d in enumerate(shifts))
    assert found == pytest.approx(of.power(n), abs=0.05 if repetitions > 500 else 0.1)
    # Nearer to the target it comes out more often.
    assert simulated(of, of.target, n, repetitions // 2, 2) > found


def test_of_three_classes_it_comes_out_at_least_as_often() -> None:
    of = verdict((0.4, 0.35, 0.25), THREE)
    found = simulated(of, of.target + [0.01, -0.01, 0], 16384, 60, 0)
    assert of.power(16384) - 0.1 < found


@given(
    share=st.floats(0.1, 0.9),
    tolerance=st.floats(0.02, 0.2),
    n=st.integers(50, 100_000),
    held_out=st.floats(1, 100),
)
def test_more_images_labels_and_room_never_make_it_less_sure(
    share: float, tolerance: float, n: int, held_out: float
) -> None:
    of = verdict((share, 1 - share), GENDER, tolerance)
    found = of.power(n, held_out)
    assert 0 <= found <= 1
    assert of.power(2 * n, held_out) >= found - 1e-12
    assert of.power(n, 2 * held_out) >= found - 1e-12
    assert verdict((share, 1 - share), GENDER, 1.1 * tolerance).power(n, held_out) >= found - 1e-12


def test_the_least_number_of_images_is_taken() -> None:
    of = [verdict((0.5, 0.5), SHARP)]
    plan = planned_power(of, wanted=0.9, images=None)
    assert FEWEST < plan.n < MOST
    assert plan.n % STEP == 0
    assert of[0].power(plan.n - STEP) < 0.9 <= plan.reached
    assert (plan.images, plan.held_out) == (plan.n, 1.0)
    assert power_sentence(plan).endswith("comes out with probability 0.91 or more.")
    assert planned_power(of, wanted=0.9, images=None, most=2048).n == 2048
    assert planned_power([verdict((0.5, 0.5), SHARP, 0.2)], wanted=0.9, images=None).n == FEWEST
    both = planned_power([*of, verdict((0.5, 0.5), GENDER, 0.05)], wanted=0.9, images=None)
    assert both.n == max(plan.n, planned_power([verdict((0.5, 0.5), GENDER, 0.05)], wanted=0.9, images=None).n)


def test_what_no_number_of_images_gives_is_said() -> None:
    """Of the emoji's gender classifier: half of the spread is its own errors, known from 1,304 images."""
    plan = planned_power([verdict((0.5, 0.5), GENDER)], wanted=0.9, images=None)
    assert (plan.n, plan.reached < 0.9, plan.limit > 0.9) == (MOST, True, True)
    assert plan.images is not None
    assert plan.images > 2 * MOST
    said = power_sentence(plan)
    assert "within 1 point (a third of the tolerance)" in said
    assert plan.held_out is not None
    assert plan.held_out > 3
    assert f"0.9 was wanted, which would take {plan.images:,} images, or {plan.held_out:.2g} times the labelled" in said
    never = planned_power([verdict((0.5, 0.5), GENDER)], wanted=0.99, images=None)
    assert (never.images, never.held_out) == (None, None)
    assert "0.99 was wanted: with any number of images it is 0.96" in power_sentence(never)
    given = planned_power([verdict((0.5, 0.5), GENDER)], wanted=0.9, images=400)
    assert (given.n, given.reached) == (400, 0.0)


def test_a_number_is_planned_for_whichever_class_is_the_rarer() -> None:
    parity = Attribute(name="parity", classes=("even", "odd"))
    one_sided = Confusion(counts=((450, 50), (0, 500)), split="variant", description="errs on even ones")
    both = [v.target.tolist() for v in verdicts(parse_target("0.3", parity), 0.03, one_sided)]
    assert sorted(both) == [[pytest.approx(0.3), pytest.approx(0.7)], [pytest.approx(0.7), pytest.approx(0.3)]]
    assert len(verdicts(parse_target("odd=0.3", parity), 0.03, one_sided)) == 1
    assert len(verdicts(parse_target("0.5", parity), 0.03, one_sided)) == 1
    tone = Attribute(name="tone", classes=("light", "dark", "undetermined"))
    assert [v.target.sum() for v in verdicts(parse_target("0.3", tone), 0.03, None)] == [pytest.approx(1.0)] * 2
    assert [v.target.tolist() for v in verdicts(parse_target("uniform", tone), 0.03, None)] == [
        [pytest.approx(1 / 3)] * 3
    ]
