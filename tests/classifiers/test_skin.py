"""Skin tone by the angle of colours: CIELAB against published values, the limits of the classes, what has no tone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.classifiers.skin import LIMITS, MONK, TONES, lab, monk_of, tone_of, typology_angle


def colour(text: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8)[None]


def test_cielab_of_the_monk_scale_is_what_its_authors_print() -> None:
    """L*, a*, b* of skintone.google for steps 1, 5, 7 and 10, and of white, black and red by CIE 15."""
    known = {
        MONK[0]: (94.211, 1.503, 5.422),
        MONK[4]: (77.902, 3.471, 23.136),
        MONK[6]: (42.470, 12.325, 20.530),
        MONK[9]: (14.610, 1.482, 3.525),
        "ffffff": (100, 0, 0),
        "000000": (0, 0, 0),
        "ff0000": (53.241, 80.092, 67.203),
    }
    for text, values in known.items():
        np.testing.assert_allclose(lab(colour(text))[0], values, atol=0.02)


def test_each_class_from_its_limit_on() -> None:
    """Above 55 very light, at 55 light, and so on: Del Bino and Bernerd 2013."""
    assert [tone_of(limit + 0.01) for limit in LIMITS] == list(TONES[:-1])
    assert [tone_of(limit) for limit in LIMITS] == list(TONES[1:])
    assert monk_of() == {
        "very light": [1, 2, 3, 4],
        "light": [5],
        "intermediate": [],
        "tan": [6],
        "brown": [7],
        "dark": [8, 9, 10],
    }


@given(st.integers(0, 255))
def test_what_has_no_colour_has_no_tone(grey: int) -> None:
    assert typology_angle(np.full((4, 3), grey, dtype=np.uint8)) is None


def test_bluish_pixels_have_no_tone_and_the_median_decides() -> None:
    assert typology_angle(colour("8090c0")) is None
    mostly = np.concatenate([colour(MONK[5])] * 3 + [colour("000000"), colour("ffffff")])
    assert typology_angle(mostly) == pytest.approx(typology_angle(colour(MONK[5])))


@given(st.integers(1, 9), st.floats(0.3, 0.95))
def test_a_darker_picture_has_a_smaller_angle(step: int, factor: float) -> None:
    """The limit that the documentation states: light changes the tone of the same skin."""
    pixels = colour(MONK[step - 1])
    darker = typology_angle((pixels * factor).astype(np.uint8))
    whole = typology_angle(pixels)
    assert whole is not None
    assert darker is None or darker < whole + 1
