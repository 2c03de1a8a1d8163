"""What was to stay: the change of an attribute, and when it counts as preserved."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from support import MakePool

from fairsims.audit.compare import Aim, audit
from fairsims.audit.draws import Draws
from fairsims.audit.estimates import ShareDifference, ShareEstimate, independent_difference, preserved
from fairsims.audit.result import AuditResult, Untargeted
from fairsims.classifiers import AttributeClassifier, load_classifier
from fairsims.data.attributes import Attribute

PARITY = load_classifier("digits-parity")


def difference(*intervals: tuple[float, float]) -> ShareDifference:
    low, high = zip(*intervals, strict=True)
    return ShareDifference(
        classes=tuple("abc"[: len(low)]), delta=tuple((x + y) / 2 for x, y in intervals), low=low, high=high
    )


@pytest.mark.parametrize(
    ("intervals", "wanted"),
    [
        ([(-0.02, 0.01), (-0.01, 0.02)], True),
        ([(-0.03, 0.03), (-0.03, 0.03)], True),
        ([(-0.02, 0.04), (-0.04, 0.02)], None),
        ([(0.031, 0.09), (-0.02, 0.01), (-0.05, 0.0)], False),
        ([(-0.02, 0.01), (-0.09, -0.031), (0.0, 0.05)], False),
    ],
)
def test_preserved_is_a_statement_of_equivalence(intervals: list[tuple[float, float]], wanted: bool | None) -> None:
    assert preserved(difference(*intervals), 0.03) is wanted


def estimate(share: float, low: float, high: float) -> ShareEstimate:
    return ShareEstimate(
        classes=("a", "b"),
        n=100,
        raw=(share, 1 - share),
        share=(share, 1 - share),
        low=(low, 1 - high),
        high=(high, 1 - low),
        method="",
        tier="B",
        assumption="",
        warnings=(),
    )


def test_independent_intervals_add_in_quadrature() -> None:
    found = independent_difference(estimate(0.5, 0.46, 0.52), estimate(0.6, 0.57, 0.63))
    assert found.delta == pytest.approx((0.1, -0.1))
    assert found.low[0] == pytest.approx(0.1 - np.hypot(0.03, 0.02))
    assert found.high[0] == pytest.approx(0.1 + np.hypot(0.03, 0.04))
    # What one class gains the other loses.
    assert (found.low[1], found.high[1]) == pytest.approx((-found.high[0], -found.low[0]))


def test_audit_of_an_attribute_that_was_to_stay(digits_pool: MakePool) -> None:
    before, same, other = digits_pool(300, 300, "b"), digits_pool(303, 297, "a"), digits_pool(500, 100, "o")
    aim = Aim(target=None, drift=0.07)
    for after, wanted in ((same, True), (other, False)):
        section = audit(before, after, [(PARITY, aim)]).main
        assert section.drift is not None
        assert (section.target, section.drift.preserved, section.drift.limit) == ({}, wanted, 0.07)
        change = section.after["odd"].share - section.before["odd"].share
        assert section.drift.largest == pytest.approx(abs(change))
    assert section.focus in ("even", "odd")


def test_a_single_pool_has_not_drifted(digits_pool: MakePool) -> None:
    found = audit(digits_pool(30, 30), None, [(PARITY, Aim(target=None))])
    assert found.main.drift is None


def test_drift_is_not_judged_where_nothing_was_to_stay(digits_pool: MakePool) -> None:
    found = audit(digits_pool(30, 30), digits_pool(40, 20, "a"), [(PARITY, Aim(target=None, drift=None))])
    assert found.main.drift is None
    assert found.main.difference["odd"].delta < 0


def test_what_nobody_asked_for_is_watched(digits_pool: MakePool) -> None:
    """Its change is told and flagged, there is no verdict, and it joins no pair."""
    other = copy.copy(PARITY)
    other.name, other.attribute = "digits-oddness", Attribute(name="oddness", classes=PARITY.attribute.classes)
    before = digits_pool(300, 300, "b")
    for odd, moved in ((297, False), (100, True)):
        found = audit(
            before,
            digits_pool(600 - odd, odd, f"a{odd}"),
            [(PARITY, Aim(target=np.array([0.5, 0.5])))],
            others=[(other, Aim(drift=None, watch=0.05))],
            after_shares=Selected(),
        )
        assert [a.name for a in found.targeted] == ["parity"]
        assert [a.name for a in found.untargeted] == ["oddness"]
        watched = found.attributes["oddness"]
        assert watched.untargeted == Untargeted(limit=0.05, moved=moved)
        assert (watched.drift, watched.reached, watched.target, found.joint) == (None, None, {}, ())
        assert set(found.classifiers) == {"parity", "oddness"}
        # It is counted, whatever rule the selected attribute goes by.
        assert watched.after["odd"].share == pytest.approx(odd / 600, abs=0.02)
        assert AuditResult.from_json(found.to_json()).attributes == found.attributes


class Selected:
    def __call__(self, classifier: AttributeClassifier, by: str) -> ShareEstimate:
        assert classifier is PARITY
        return replace(estimate(0.5, 0.46, 0.52), classes=PARITY.attribute.classes, assumption="selected")

    def in_conditions(self, classifier: AttributeClassifier, by: str, conditions: Sequence[int]) -> Draws:
        raise AssertionError("the images have no conditions")
