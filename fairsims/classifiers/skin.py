"""The tone of skin in a picture: the individual typology angle of its pixels.

ITA = atan((L* - 50) / b*) in degrees, of CIELAB under D65 (Chardon, Cretois and Hourseau 1991); the six classes and
their limits are those of Del Bino and Bernerd (2013). It is an angle of colours in a file: light, camera, white
balance and make-up change it as much as skin does.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

TONES = ("very light", "light", "intermediate", "tan", "brown", "dark")
"""From light to dark."""
LIMITS = (55.0, 41.0, 28.0, 10.0, -30.0)
"""Degrees above which a tone is the first, the second, ...; the last one is at most -30."""
LEAST_YELLOW = 0.5
"""b* from which on a colour can be skin's: grey and bluish pictures have less, the darkest Monk tone has 3.5."""
MONK = ("f6ede4", "f3e7db", "f7ead0", "eadaba", "d7bd96", "a07e56", "825c43", "604134", "3a312a", "292420")
"""The Monk Skin Tone scale 1 to 10 (Ellis Monk 2019), sRGB; a reading aid, no class is measured by it."""

_LINEAR_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
_D65 = _LINEAR_TO_XYZ.sum(axis=1)
_MEETING = 6 / 29


def lab(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """sRGB `(..., 3)` to CIELAB `(..., 3)`: L* 0 to 100, a*, b* (IEC 61966-2-1, white D65; CIE 15)."""
    value = rgb.astype(np.float64) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _LINEAR_TO_XYZ.T / _D65
    f = np.where(xyz > _MEETING**3, np.cbrt(xyz), xyz / (3 * _MEETING**2) + 4 / 29)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def typology_angle(rgb: npt.NDArray[np.uint8]) -> float | None:
    """ITA of pixels `(N, 3)` in degrees, by their median L* and b*; None where that b* is no skin's."""
    lightness, _, yellow = np.median(lab(rgb), axis=0)
    return None if yellow < LEAST_YELLOW else math.degrees(math.atan((lightness - 50) / yellow))


def tone_of(angle: float) -> str:
    """The class of an ITA in degrees."""
    return next((name for name, limit in zip(TONES, LIMITS, strict=False) if angle > limit), TONES[-1])


def monk_of() -> dict[str, list[int]]:
    """Each tone's steps of the Monk scale, 1 to 10: those whose own colour has an ITA of that class.

    >>> monk_of()["tan"], monk_of()["dark"]
    ([6], [8, 9, 10])
    """
    steps: dict[str, list[int]] = {name: [] for name in TONES}
    for step, colour in enumerate(MONK, 1):
        angle = typology_angle(np.frombuffer(bytes.fromhex(colour), dtype=np.uint8)[None])
        if angle is not None:
            steps[tone_of(angle)].append(step)
    return steps
