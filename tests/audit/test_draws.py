"""One posterior of several conditions: marginals, pooled shares, changes, and the worst of many."""

from __future__ import annotations

import numpy as np
import pytest

from fairsims.audit import intervals
from fairsims.audit.draws import Draws, counted
from fairsims.audit.joint import Cells
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError

GOOD = Confusion(counts=((180, 20), (10, 190)), split="s", description="d")
TONE = Confusion(counts=((180, 15, 5), (10, 180, 10), (4, 16, 180)), split="s", description="d")
COUNTS = np.array([[700, 300], [500, 500], [200, 800]])


def test_conditions_are_estimated_as_each_alone() -> None:
    """The first has the draws that it has by itself; errors are drawn once for all."""
    found = counted(COUNTS, [GOOD])
    assert (found.point.shape, found.values.shape) == ((3, 2), (intervals.DRAWS, 3, 2))
    alone = counted(COUNTS[0], [GOOD])
    assert np.array_equal(found.values[:, 0], alone.values[:, 0])
    assert found.point[1] == pytest.approx(counted(COUNTS[1], [GOOD]).point[0])
    # q = .7, .5, .2 of the first class: (q - .05)/.85.
    assert found.point[:, 0] == pytest.approx([0.65 / 0.85, 0.45 / 0.85, 0.15 / 0.85])


def test_pooled_is_the_mean_and_narrower() -> None:
    draws = counted(COUNTS, [])
    even, first = draws.pooled(), draws.pooled([1, 0, 0])
    assert even.point == pytest.approx(np.array([[7 / 15, 8 / 15]]))
    assert np.array_equal(first.values[:, 0], draws.values[:, 0])
    width = [float(np.subtract(*d.interval()[::-1]).max()) for d in (even, draws)]
    assert width[0] < 0.7 * width[1]
    for weights in ([1, 0], [-1, 1, 1], [0, 0, 0], [np.nan, 1, 1]):
        with pytest.raises(InputError, match="for 3 conditions"):
            draws.pooled(weights)


def test_marginals_of_cells_are_what_one_attribute_gives() -> None:
    cells = Cells(attributes=(Attribute(name="g", classes=("a", "b")), Attribute(name="t", classes=("x", "y", "z"))))
    counts = np.round(intervals.kronecker([GOOD, TONE]) @ np.array([0.3, 0.15, 0.05, 0.2, 0.2, 0.1]) * 1e5)
    joint = counted(counts, [GOOD, TONE])
    for k, errors in enumerate((GOOD, TONE)):
        alone, marginal = counted(cells.marginal(counts, k), [errors]), joint.marginal(cells, k)
        assert marginal.point == pytest.approx(alone.point, abs=1e-6)
        for ours, theirs in zip(marginal.interval(), alone.interval(), strict=True):
            assert ours == pytest.approx(theirs, abs=0.02)


def test_errors_cancel_in_a_change() -> None:
    before, after = counted(COUNTS, [GOOD], "before"), counted(COUNTS[::-1], [GOOD], "after")
    change = after.minus(before)
    assert change.point[:, 0] == pytest.approx([-0.5 / 0.85, 0, 0.5 / 0.85])
    assert change.values.sum(axis=2) == pytest.approx(0)
    (low, high), ends = change.interval(), (before.interval(), after.interval())
    assert (high - low)[1, 0] < sum(float((h - lo)[1, 0]) for lo, h in ends)


def test_simultaneous_intervals_hold_all_shares_at_once() -> None:
    """24 conditions: each interval by itself misses one of them nearly every other time, together 1 in 20."""
    rng, truth = np.random.default_rng(0), np.linspace(0.2, 0.8, 24)
    hits, plain = 0, 0
    for _ in range(150):
        k = rng.binomial(400, truth)
        draws = counted(np.stack([k, 400 - k], axis=1), [])
        for name, (low, high) in (("all", draws.simultaneous()), ("each", draws.interval())):
            inside = bool(((low[:, 0] <= truth) & (truth <= high[:, 0])).all())
            hits, plain = hits + (inside and name == "all"), plain + (inside and name == "each")
    assert 0.89 <= hits / 150 <= 0.99
    assert plain / 150 < 0.6


def test_the_worst_share_has_an_interval_that_paid_for_looking() -> None:
    draws = counted(COUNTS, [])
    worst = draws.worst([0.5, 0.5])
    assert (worst.condition, worst.gap) == (2, pytest.approx(0.3))
    assert worst.low < 0.3 < worst.high
    own = draws.interval()
    assert worst.high - worst.low > float((own[1] - own[0])[2, 0])
    # Everything on target: the largest gap is noise, and its interval starts at 0.
    met = draws.worst(draws.point)
    assert (met.gap, met.low) == (0, 0)
    # A share that cannot vary takes no part.
    still = Draws(point=np.array([[0.0, 1.0]]), values=np.broadcast_to([0.0, 1.0], (100, 1, 2)))
    assert still.worst([0.25, 0.75]).low == still.worst([0.25, 0.75]).high == pytest.approx(0.25)


def test_draws_must_be_about_their_point() -> None:
    with pytest.raises(InputError, match="expected \\(D, P, K\\) about \\(P, K\\)"):
        Draws(point=np.zeros((2, 3)), values=np.zeros((10, 3)))
