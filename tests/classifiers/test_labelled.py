"""Which images have a class, and which belong together."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fairsims.classifiers.labelled import groups_of, labelled
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.attributes import sorted_classes
from fairsims.data.base import ArraySource
from fairsims.errors import InputError


def test_other_labels_are_left_out_and_undetermined_ones_kept_as_such() -> None:
    people = open_dataset("emoji-people", resolution=32)
    two = labelled(people, "gender", ("man", "woman"))
    assert two.counts == {"man": 640, "woman": 664}
    found = labelled(people, "gender", ("woman", "man"), ["person"])
    assert found.counts == {"woman": 664, "man": 640, "undetermined": 690}
    assert set(people.table["gender"].iloc[found.indices[found.labels == 2]]) == {"person"}
    assert set(people.table["gender"].iloc[found.indices[found.labels == 0]]) == {"woman"}


@pytest.mark.parametrize(
    ("attribute", "classes", "undetermined", "words"),
    [
        ("parities", (), (), "no column 'parities'; did you mean 'parity'"),
        ("parity", ("even", "odds"), (), "no parity 'odds'; did you mean 'odd'"),
        ("parity", ("even",), (), "expected two or more"),
        ("parity", (), ("even",), r"has classes \['odd'\]"),
        ("parity", (), ("nothing",), "no parity 'nothing'"),
    ],
)
def test_refused_labels(attribute: str, classes: tuple[str, ...], undetermined: tuple[str, ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        labelled(open_dataset("digits"), attribute, classes, undetermined)


def test_undetermined_is_the_last_class() -> None:
    assert sorted_classes(["woman", "undetermined", "man"]) == ("man", "woman", "undetermined")
    assert sorted_classes(["10", "undetermined", "2"]) == ("2", "10", "undetermined")


def test_near_duplicates_are_one_group() -> None:
    """An image, its JPEG, its mirror image and a brighter copy; the others stay by themselves."""
    pixels = open_dataset("emoji-people", resolution=64).read(range(0, 200, 10)).numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels[0].transpose(1, 2, 0)).save(buffer, format="JPEG", quality=90)
    jpeg = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
    brighter = np.clip(pixels[0].astype(int) + 2, 0, 255).astype(np.uint8)
    every = np.concatenate([pixels, [jpeg, pixels[0][:, :, ::-1], brighter]])
    table = pd.DataFrame({"side": ["left", "right"] * 11 + ["left"]})
    data = ImageDataset(
        name="copies", digest="0", resolution=64, channels=3, source=ArraySource(every), attributes={}, table=table
    )
    found = labelled(data, "side")
    groups = groups_of(found, (), 4.0)
    assert set(np.flatnonzero(groups == groups[0])) == {0, 20, 21, 22}
    assert len(set(groups)) == 20
    assert len(set(groups_of(found, (), 0.0))) == 23


def test_columns_and_pixels_join_images_into_one_group() -> None:
    """The first and third image have the same pixels, the third and fifth the same place."""
    pixels = np.arange(5, dtype=np.uint8)[[0, 1, 0, 3, 4], None, None, None] * np.ones((1, 8, 8), dtype=np.uint8)
    table = pd.DataFrame({"side": ["left", "right"] * 2 + ["left"], "place": list("abcdc")})
    data = ImageDataset(
        name="d", digest="0", resolution=8, channels=1, source=ArraySource(pixels), attributes={}, table=table
    )
    found = labelled(data, "side")
    assert groups_of(found, ("place",), 0.0).tolist() == [0, 1, 0, 2, 0]
    with pytest.raises(InputError, match="no column 'places' to hold out by; did you mean 'place'"):
        groups_of(found, ("places",), 0.0)
