"""The complement rule prompt by prompt, shrinkage, positive parts, and the rows that adapters are trained on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.audit.conditions import condition_counts
from fairsims.audit.prompts import PromptShares, floors, metrics, named_class
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError
from fairsims.retarget.prompt_config import PromptConfig
from fairsims.retarget.prompt_plan import Focus, plan_prompts
from fairsims.retarget.prompt_sets import Source, draw_rows
from fairsims.retarget.shrinkage import shrunk

EVEN = np.array([0.5, 0.5])
EXACT = Confusion(counts=((10**6, 0), (0, 10**6)), split="test", description="a perfect classifier")


def table(*shares: float) -> np.ndarray:
    return np.array([[1 - s, s] for s in shares])


def test_rows_are_the_rule_where_the_complement_suffices() -> None:
    pi, target = table(0.3, 0.7, 0.4), np.tile(EVEN, (3, 1))
    plan = plan_prompts(pi, target, cap=2.0)
    assert plan.strength == pytest.approx(0.5 / 0.3 - 1)
    assert plan.positive is None
    np.testing.assert_allclose(plan.negative, ((1 + plan.strength) * pi - target) / plan.strength, atol=1e-12)
    np.testing.assert_allclose(plan.reachable, target, atol=1e-12)
    assert plan.negative[0, 1] < pi[0, 1], "men for the firefighter"
    assert plan.negative[1, 1] > pi[1, 1], "women for the nurse"


def test_an_extreme_prompt_gets_a_positive_part_and_the_others_their_own_mix() -> None:
    pi, target = table(0.02, 0.4), np.tile(EVEN, (2, 1))
    plan = plan_prompts(pi, target, cap=2.0)
    assert plan.needs.tolist() == [True, False]
    assert plan.least[0] == pytest.approx(24.0)
    assert plan.positive is not None
    np.testing.assert_allclose(plan.positive[1], pi[1])
    np.testing.assert_allclose(plan.reachable, target, atol=1e-9)
    never = plan_prompts(pi, target, cap=2.0, positive="never")
    assert never.positive is None
    assert never.reachable[0, 1] == pytest.approx(0.06, abs=0.01), "as far as the cap goes"
    assert plan_prompts(table(0.4, 0.45), target, cap=2.0, positive="always").positive is not None


@given(
    shares=st.lists(st.floats(0.001, 0.999), min_size=1, max_size=6), target=st.floats(0.1, 0.9), cap=st.floats(0.6, 4)
)
def test_mixes_are_shares_and_promise_the_target_with_a_positive_part(
    shares: list[float], target: float, cap: float
) -> None:
    pi, wanted = table(*shares), np.tile([1 - target, target], (len(shares), 1))
    plan = plan_prompts(pi, wanted, cap=cap, positive="always")
    for mix in (plan.negative, plan.positive, plan.reachable):
        assert mix is not None
        assert (mix >= 0).all()
        np.testing.assert_allclose(mix.sum(axis=1), 1)
    if plan.strength >= 1:
        np.testing.assert_allclose(plan.reachable, wanted, atol=1e-9)


def test_shares_of_few_images_are_shrunk_as_far_as_chance_explains_them() -> None:
    generator = np.random.default_rng(0)
    alike = table(*(generator.binomial(16, 0.3, 40) / 16))
    found = shrunk(alike, 16)
    assert found[:, 1].std() < 0.5 * alike[:, 1].std()
    np.testing.assert_allclose(found.mean(axis=0), alike.mean(axis=0), atol=1e-9)
    apart = table(*[0.05] * 10, *[0.95] * 10)
    np.testing.assert_allclose(shrunk(apart, 64), apart, atol=0.02)
    assert (shrunk(table(0.0, 0.5), 32) > 0).all(), "a class that others have is never impossible"
    assert shrunk(table(0.0), 9)[0, 1] == pytest.approx(0.05)


def test_the_focus_share_is_met_where_the_prompts_together_have_gone_their_way() -> None:
    pi, target = table(0.2, 0.8, 0.5), np.tile(EVEN, (3, 1))
    focus = Focus.of(pi, target)
    assert focus.classes.tolist() == [[False, True], [True, False], [False, False]]
    np.testing.assert_allclose(focus.weights, [0.5, 0.5, 0.0])
    prompts = np.repeat([0, 1, 2], 100)
    shares = {}
    for part in (0.0, 0.5, 1.0):
        counts = np.round(100 * (pi + part * (target - pi))).astype(int)
        predicted = np.concatenate([np.repeat([0, 1], row) for row in counts])
        shares[part] = focus.values(predicted, prompts, np.eye(2)).mean()
    assert shares == pytest.approx({0.0: 0.2, 0.5: 0.35, 1.0: 0.5})
    assert focus.target == pytest.approx(0.5)
    wrong = np.concatenate([np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [10, 90]), np.repeat([0, 1], 50)])
    assert focus.values(wrong, prompts, np.eye(2)).mean() < 0.2


def test_the_focus_share_is_corrected_for_the_classifiers_errors() -> None:
    focus = Focus.of(table(0.2), np.array([EVEN]))
    errors = np.array([[0.9, 0.2], [0.1, 0.8]])
    predicted = np.repeat([0, 1], [55, 45])
    assert focus.values(predicted, np.zeros(100, dtype=int), errors).mean() == pytest.approx(0.5)


def source(n: int = 200) -> Source:
    generator = np.random.default_rng(1)
    light = np.arange(n) % 4 == 0
    p = np.where(light, 0.95, 0.05)
    # The other attribute goes with the class: 80% of the light, 20% of the dark.
    other = (generator.random(n) < np.where(light, 0.8, 0.2)).astype(int)
    return Source(places=np.arange(n) + 1000, probabilities=np.stack([1 - p, p], axis=1), others=(other,))


def draw(of: Source, shares: list[float], size: int, **changes: object) -> np.ndarray:
    given = {"floor": 0.9, "seed": 0, "names": ("dark", "light"), "prompt": "a nurse"} | changes
    return draw_rows(of, np.array(shares), size, **given)


def test_rows_have_the_mix_and_are_balanced_for_the_others() -> None:
    of = source()
    rows = draw(of, [0.75, 0.25], 100)
    assert ((rows - 1000) % 4 == 0).sum() == 25
    assert np.array_equal(rows, draw(of, [0.75, 0.25], 100))
    assert not np.array_equal(rows, draw(of, [0.75, 0.25], 100, prompt="a pilot"))
    dark = draw(of, [1.0, 0.0], 60)
    unweighted = Source(places=of.places, probabilities=of.probabilities)
    share, plain = (of.others[0][draw(s, [1.0, 0.0], 60) - 1000].mean() for s in (of, unweighted))
    overall = of.others[0].mean()
    assert abs(share - overall) < abs(plain - overall)
    assert len(np.unique(dark)) == 60
    assert len(draw(of, [0.0, 1.0], 120)) == 120, "drawn again where there are too few"


def test_a_prompt_without_a_sure_image_is_refused() -> None:
    unsure = Source(places=np.arange(8), probabilities=np.full((8, 2), 0.5))
    with pytest.raises(InputError, match="no image of 'a nurse' is dark with a probability of 0.9 or more"):
        draw(unsure, [1.0, 0.0], 4)


def test_metrics_stand_beside_what_they_would_be_at_the_target() -> None:
    assert floors(np.tile(EVEN, (20, 1)), 60, EXACT)["bias"] == pytest.approx(0.103, abs=0.004)
    assert floors(
        np.full((20, 4), 0.25),
        60,
        Confusion(counts=tuple(map(tuple, (10**6 * np.eye(4, dtype=int)).tolist())), split="test", description="exact"),
    )["bias"] == pytest.approx(0.073, abs=0.003)
    found = metrics(table(1.0, 0.0), np.tile(EVEN, (2, 1)))
    assert (found["off"], found["bias"], found["parity_gap"]) == (0.5, 1.0, 0.5)
    assert found["kl"] == pytest.approx(np.log(2))
    assert found["discrepancy"] == pytest.approx(np.sqrt(0.5))


def test_the_worst_prompt_is_named_with_an_interval_for_all_at_once() -> None:
    counts = condition_counts(np.repeat([0, 1, 0, 1], [30, 30, 55, 5]), np.repeat([0, 1], 60), (2, 2))
    assert counts.tolist() == [[30, 30], [55, 5]]
    found = PromptShares.of(("even", "odd"), counts, EXACT)
    summary = found.summary(np.tile(EVEN, (2, 1)), EXACT, 0.05)
    assert (summary["prompts"], summary["met"], summary["missed"]) == (2, 0, 1)
    assert found.summary(np.tile(EVEN, (2, 1)), EXACT, 0.2)["met"] == 1
    assert summary["worst"]["prompt"] == "odd"
    assert summary["worst"]["low"] < summary["worst"]["gap"] < summary["worst"]["high"]
    row = found.rows()[1]
    assert row["low"][1] < row["share"][1] < row["high"][1]
    assert row["all_high"][1] - row["all_low"][1] > row["high"][1] - row["low"][1]
    assert summary["pooled"]["share"][0] == pytest.approx(85 / 120)


def test_a_prompt_is_judged_by_the_longest_class_that_it_names() -> None:
    classes = ("officer", "police officer", "art", "health_worker")
    assert named_class("A photo of a police officer, smiling", classes) == 1
    assert named_class("a health worker", classes) == 3
    assert named_class("an artist", classes) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 4}, "pool is 4"),
        ({"audit": 2}, "audit is 2"),
        ({"calibration": 3}, "calibration is 3"),
        ({"lr": 0.0}, "lr is 0"),
        ({"empty_share": 0.9}, "empty_share is 0.9"),
        ({"hold": ("gender",)}, "hold is 'gender', which has the target"),
        ({"seed": 400}, "seed is 400"),
        ({"rank": 0}, "rank is 0"),
        ({"positive": "maybe"}, "positive is 'maybe'"),
        ({"omega": 3.0}, "omega is 3.0; expected at most the cap"),
        ({"guidance_scale": -2.0}, "guidance_scale is -2"),
        ({"mode": "paired"}, "mode is 'paired'; expected one of merged, guided"),
    ],
)
def test_impossible_settings(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptConfig(**{"model": "sd15", "prompts": "winobias", "attr": "gender", "target": "0.5"} | changes)


def test_seeds_of_uses_begin_with_the_first_prompt_and_never_overlap() -> None:
    config = PromptConfig(model="sd15", prompts="winobias", attr="gender", target="0.5", seed=3)
    ranges = [config.seeds(use, 50, 33) for use in ("pool", "explicit", "calibration", "audit")]
    assert all(r[0] % 33 == 0 and len(r) == 1650 for r in ranges)
    assert all(a[-1] < b[0] for a, b in zip(ranges, ranges[1:], strict=False))
    with pytest.raises(ValueError, match="pool is 100000 images of 33 prompts"):
        config.seeds("pool", 100_000, 33)
