"""What `--target` may say, and what it is refused for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.audit.targets import as_mapping, describe, parse_target, resampling_cost
from fairsims.data import Attribute
from fairsims.errors import InputError

GENDER = Attribute(name="gender", classes=("man", "woman"))
TONE = Attribute(name="tone", classes=("light", "medium", "dark"))


@pytest.mark.parametrize(
    ("text", "attribute", "message"),
    [
        ("1.5", GENDER, "--target is 1.5; expected a share in"),
        ("-0.1", GENDER, "--target is -0.1; expected a share in"),
        ("nan", GENDER, "--target is nan; expected a share in"),
        ("inf", GENDER, "--target is inf; expected a share in"),
        ("-inf", GENDER, "--target is -inf; expected a share in"),
        ("", GENDER, "--target is ''; expected a number"),
        ("   ", GENDER, "--target is ''; expected a number"),
        ("half", GENDER, "--target is 'half'; expected a number"),
        ("0,5", GENDER, "--target is '0,5'; expected a number"),
        ("woman", GENDER, "--target is 'woman'; expected a number"),
        ("woman=0.3,man=0.3", GENDER, "sum to 0.6"),
        ("woman=0.8,man=0.8", GENDER, "sum to 1.6"),
        ("woman=1.2", GENDER, "the share of woman is 1.2"),
        ("woman=nan,man=0.5", GENDER, "the share of woman is nan"),
        ("woman=,man=0.5", GENDER, "the share of woman is ''"),
        ("woman=0.5=0.5", GENDER, "the share of woman is '0.5=0.5'"),
        ("womn=0.5", GENDER, "gender has no class 'womn'; did you mean 'woman' or 'man'"),
        ("person=0.5", GENDER, "gender has no class 'person'; there is 'man', 'woman'"),
        ("=0.5", GENDER, "gender has no class ''"),
        ("woman=0.5,", GENDER, "gender has no class ''"),
        ("Woman=0.5", GENDER, "gender has no class 'Woman'; did you mean 'woman'"),
        ("woman=0.5,woman=0.5", GENDER, "names 'woman' twice"),
        ("0.5", TONE, "one number, tone has 3 classes; give light=...,medium=...,dark=... or 'uniform'"),
        ("light=0.5", TONE, "sum to 0.5 and lack medium, dark"),
        ("light=0.5,medium=0.6", TONE, "sum to 1.1 and lack dark"),
        ("light=0.5,medium=0.5,dark=0.5", TONE, "sum to 1.5"),
    ],
)
def test_bad_targets_are_refused(text: str, attribute: Attribute, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(text, attribute)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "attribute", "shares"),
    [
        ("uniform", GENDER, (0.5, 0.5)),
        (" uniform ", TONE, (1 / 3, 1 / 3, 1 / 3)),
        ("woman=0.3,man=0.7", GENDER, (0.7, 0.3)),
        (" man = 0.7 , woman = 0.3 ", GENDER, (0.7, 0.3)),
        ("woman=0.3", GENDER, (0.7, 0.3)),
        ("woman=0", GENDER, (1.0, 0.0)),
        ("light=0.2,dark=0.5", TONE, (0.2, 0.3, 0.5)),
        ("light=0.5,medium=0.5", TONE, (0.5, 0.5, 0.0)),
        ("light=0.333333,medium=0.333333,dark=0.333334", TONE, (0.333333, 0.333333, 0.333334)),
    ],
)
def test_shares_follow_the_order_of_classes(text: str, attribute: Attribute, shares: tuple[float, ...]) -> None:
    target = parse_target(text, attribute)
    assert target.shares == pytest.approx(shares)
    assert target.resolve(np.array([0.9, 0.1, 0.0][: len(shares)])).tolist() == pytest.approx(shares)


@pytest.mark.parametrize(
    ("text", "classes", "base", "resolved"),
    [
        ("uniform", ("man", "woman"), (0.6, 0.2, 0.2), (0.4, 0.4, 0.2)),
        ("uniform", ("light", "medium", "dark"), (0.3, 0.3, 0.3, 0.1), (0.3, 0.3, 0.3, 0.1)),
        ("0.25", ("man", "woman"), (0.6, 0.2, 0.2), (0.6, 0.2, 0.2)),
        ("0.7", ("man", "woman"), (0.2, 0.6, 0.2), (0.56, 0.24, 0.2)),
        ("0.5", ("man", "woman"), (0.75, 0.25, 0.0), (0.5, 0.5, 0.0)),
    ],
)
def test_a_number_and_uniform_are_of_images_that_show_a_class(
    text: str, classes: tuple[str, ...], base: tuple[float, ...], resolved: tuple[float, ...]
) -> None:
    target = parse_target(text, Attribute(name="a", classes=(*classes, "undetermined")))
    assert target.known is None
    assert target.resolve(base).tolist() == pytest.approx(resolved)
    assert parse_target("man=0.5,woman=0.3", Attribute(name="g", classes=("man", "woman", "undetermined"))).known == (
        pytest.approx((0.5, 0.3, 0.2))
    )


@pytest.mark.parametrize(
    ("base", "resolved"), [((0.75, 0.25), (0.7, 0.3)), ((0.2, 0.8), (0.3, 0.7)), ((0.5, 0.5), (0.7, 0.3))]
)
def test_one_number_is_the_share_of_the_rarer_class(base: tuple[float, float], resolved: tuple[float, float]) -> None:
    target = parse_target("0.3", GENDER)
    assert target.shares is None
    assert target.resolve(np.array(base)).tolist() == pytest.approx(resolved)


@given(st.floats(0, 1), st.floats(0.001, 0.999))
def test_any_number_in_range_resolves_to_shares(number: float, base: float) -> None:
    resolved = parse_target(repr(number), GENDER).resolve(np.array([base, 1 - base]))
    assert resolved.sum() == pytest.approx(1)
    assert resolved[0 if base < 0.5 else 1] == number


def test_resampling_costs_the_largest_ratio() -> None:
    assert resampling_cost([0.6, 0.4], [0.5, 0.5]) == pytest.approx(1.25)
    assert resampling_cost([0.7, 0.3], [0.5, 0.5]) == pytest.approx(5 / 3)
    assert resampling_cost([0.6, 0.4], [0.3, 0.7]) == pytest.approx(1.75)
    assert resampling_cost([1.0, 0.0], [1.0, 0.0]) == 1
    assert math.isinf(resampling_cost([1.0, 0.0], [0.5, 0.5]))


def test_shares_are_named() -> None:
    assert describe([0.25, 0.75], ("man", "woman")) == "man 0.25, woman 0.75"
    assert as_mapping(np.array([0.25, 0.75]), ("man", "woman")) == {"man": 0.25, "woman": 0.75}
