"""What a round's images say of each prompt's way, and what the next round's mixes ask for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.retarget.prompt_plan import plan_prompts
from fairsims.retarget.prompt_responses import MOST, along, gains, responses

MANY = 10**6


def table(*shares: float) -> np.ndarray:
    return np.array([[1 - s, s] for s in shares])


def test_many_images_tell_the_part_of_the_way_that_each_prompt_has_gone() -> None:
    pi, target = table(0.1, 0.9, 0.3, 0.5), table(0.5, 0.5, 0.5, 0.5)
    found = responses(pi, target, table(0.3, 0.8, 0.5, 0.7), MANY)
    # The last one has no way to go.
    np.testing.assert_allclose(found, [0.5, 0.25, 1.0, 1.0], atol=1e-3)
    np.testing.assert_allclose(gains(found), [2.0, MOST, 1.0, 1.0], atol=1e-2)


def test_images_at_several_strengths_tell_the_shares_at_another() -> None:
    before = table(0.1, 0.8)
    shares = {w: before + w * np.array([[-0.2, 0.2], [0.1, -0.1]]) for w in (0.5, 1.5)}
    found, images = along(before, shares, {0.5: np.array([16, 16]), 1.5: np.array([32, 32])}, 1.0)
    np.testing.assert_allclose(found, table(0.3, 0.7))
    np.testing.assert_allclose(images, 16 * 0.25 + 32 * 2.25)


def test_few_images_say_no_more_than_what_the_prompts_have_in_common() -> None:
    generator = np.random.default_rng(0)
    pi, target = table(*[0.1] * 200), table(*[0.5] * 200)
    seen = generator.binomial(24, 0.3, 200) / 24
    found = responses(pi, target, table(*seen), 24)
    raw = (seen - 0.1) / 0.4
    assert found.mean() == pytest.approx(0.5, abs=0.05)
    assert found.std() < 0.35 * raw.std()


def test_a_prompt_with_hardly_a_way_to_go_says_nothing_of_the_others() -> None:
    pi, target, after = table(0.1, 0.9, 0.2, 0.8), table(*[0.5] * 4), table(0.5, 0.8, 0.3, 0.6)
    alone = responses(pi, target, after, 48)
    for share in (0.3, 0.5, 0.7):
        beside = responses(np.vstack([pi, table(0.499)]), table(*[0.5] * 5), np.vstack([after, table(share)]), 48)
        np.testing.assert_allclose(beside[:4], alone, atol=0.06)
        assert abs(beside[4] - alone.mean()) < 0.1, "nor do its own few images of it"


def test_a_gain_lengthens_the_way_that_the_mixes_ask_for() -> None:
    pi, target = table(0.3, 0.01), table(0.5, 0.5)
    plain = plan_prompts(pi, target, cap=2.0, positive="always")
    longer = plan_prompts(pi, target, cap=2.0, positive="always", gain=np.array([1.0, 3.0]))
    assert plain.positive is not None
    assert longer.positive is not None
    np.testing.assert_allclose(longer.negative[0], plain.negative[0])
    np.testing.assert_allclose(longer.positive[0], plain.positive[0])
    np.testing.assert_allclose(longer.positive[1], [0, 1])
    np.testing.assert_allclose(longer.negative[1], [1, 0])


@given(
    shares=st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=8),
    gain=st.floats(1 / MOST, MOST),
    positive=st.sampled_from(["auto", "never", "always"]),
)
def test_every_gain_leaves_shares(shares: list[tuple[float, float, float]], gain: float, positive: str) -> None:
    pi, target, after = (table(*column) for column in zip(*shares, strict=True))
    pi = 0.002 + 0.996 * pi
    found = gains(responses(pi, target, after, 16))
    assert (found >= 1 / MOST).all()
    assert (found <= MOST).all()
    plan = plan_prompts(pi, target, cap=2.0, positive=positive, gain=gain * found)
    for mix in (plan.negative, plan.positive):
        if mix is not None:
            assert (mix >= 0).all()
            np.testing.assert_allclose(mix.sum(axis=1), 1)
