"""The datasets that need no download: emoji people (shipped) and scikit-learn's digits, balanced and skewed.

Both skewed ones are three parts of the first class to one of the second: all of the first, and of the second a third
as many, chosen without a random generator (`spread`).
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fairsims.data.attributes import Attribute
from fairsims.data.base import ArraySource, HeldSource, ImageDataset
from fairsims.data.readers import read_edm
from fairsims.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

EMOJI_RESOLUTIONS = (64, 32)


def emoji_people(*, resolution: int | None = None) -> ImageDataset:
    """1,994 person emojis of two vendors, RGB, 64x64 or (each 2x2 box averaged) 32x32.

    `gender` is man, woman or person (no gender shown): how the design is named, for perceived presentation only.
    """
    if resolution not in (None, *EMOJI_RESOLUTIONS):
        raise InputError(f"found resolution {resolution} for emoji-people; expected 64 or 32; choose one of them")
    stored, held = _stored_emoji(resolution or EMOJI_RESOLUTIONS[0])
    return ImageDataset(
        name="emoji-people",
        digest=stored.digest,
        resolution=stored.resolution,
        channels=stored.channels,
        source=held,
        table=stored.table.copy(),
        attributes={name: stored.attributes[name] for name in ("gender", "skin_tone", "vendor")},
    )


def emoji_people_skewed(*, resolution: int | None = None) -> ImageDataset:
    """All 640 men and 213 women of `emoji_people`, spread evenly over concepts, tones and vendors; no `person`."""
    whole = emoji_people(resolution=resolution)
    keys = [f"{v}/{u}" for v, u in zip(whole.table["vendor"], whole.table["unified"], strict=True)]
    chosen = _three_to_one(whole.table, "gender", ("man", "woman"), keys, ("concept", "skin_tone", "vendor"))
    skewed = whole.subset(chosen, name="emoji-people-skewed")
    skewed.attributes["gender"] = Attribute(name="gender", classes=("man", "woman"))
    return skewed


def digits(*, resolution: int | None = None) -> ImageDataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 grey, intensities 0..16 scaled to 0..255 and rounded.

    Attributes: `parity` (even, odd) and `digit`.
    """
    import pandas as pd
    from sklearn.datasets import load_digits

    if resolution not in (None, 8):
        raise InputError(f"found resolution {resolution} for digits; expected 8, their only size; leave it out")
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    parity = [("even", "odd")[n % 2] for n in bunch.target]
    table = pd.DataFrame({"parity": parity, "digit": [str(n) for n in bunch.target]}, dtype=object)
    return ImageDataset(
        name="digits",
        digest=hashlib.sha256(pixels.tobytes() + "".join(table["digit"]).encode()).hexdigest(),
        resolution=8,
        channels=1,
        source=ArraySource(pixels),
        table=table,
        attributes={
            "parity": Attribute(name="parity", classes=("even", "odd")),
            "digit": Attribute(name="digit", classes=tuple("0123456789")),
        },
    )


def digits_skewed(*, resolution: int | None = None) -> ImageDataset:
    """All 891 even digits and 297 odd ones, spread evenly over 1, 3, 5, 7, 9."""
    whole = digits(resolution=resolution)
    keys = [f"digits/{i}" for i in range(len(whole))]
    chosen = _three_to_one(whole.table, "parity", ("even", "odd"), keys, ("digit",))
    return whole.subset(chosen, name="digits-skewed")


EMBEDDED = {
    "emoji-people": emoji_people,
    "emoji-people-skewed": emoji_people_skewed,
    "digits": digits,
    "digits-skewed": digits_skewed,
}


def spread(table: pd.DataFrame, keys: Sequence[str], count: int, columns: Sequence[str]) -> list[int]:
    """`count` rows of `table`, sorted, such that every value of every column is drawn on about equally.

    Greedy: each pick is the row whose values have so far given the smallest parts of themselves, summed over
    `columns`; ties go to the smallest SHA-256 of the row's key, so the choice depends on nothing else.
    """
    order = sorted(range(len(table)), key=lambda i: hashlib.sha256(keys[i].encode()).digest())
    codes = [np.unique(table[column].to_numpy()[order], return_inverse=True)[1] for column in columns]
    sizes = [np.bincount(code) for code in codes]
    taken = [np.zeros(len(size)) for size in sizes]
    used, chosen = np.zeros(len(order)), []
    for _ in range(count):
        best = int((used + sum((t / n)[c] for t, n, c in zip(taken, sizes, codes, strict=True))).argmin())
        used[best] = np.inf
        chosen.append(order[best])
        for t, c in zip(taken, codes, strict=True):
            t[c[best]] += 1
    return sorted(chosen)


def _three_to_one(
    table: pd.DataFrame, attribute: str, classes: tuple[str, str], keys: Sequence[str], columns: Sequence[str]
) -> list[int]:
    """Rows of all of the first class and a third as many (rounded) of the second."""
    first, second = (np.flatnonzero(table[attribute] == c).tolist() for c in classes)
    among = spread(table.iloc[second], [keys[i] for i in second], round(len(first) / 3), columns)
    return sorted([*first, *(second[i] for i in among)])


@cache
def _stored_emoji(resolution: int) -> tuple[ImageDataset, HeldSource]:
    """The shipped zip, read and decoded once per process and size (6 MB at 32, 24 MB at 64)."""
    path = Path(str(files("fairsims") / "assets" / "emoji_people" / "emoji-people-64.zip"))
    stored = read_edm(path, resolution=resolution)
    return stored, HeldSource(stored.source, len(stored))
