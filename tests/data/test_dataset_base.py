"""The dataset object: reading, subsets, labels, conversions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from fairsims.data import Attribute, ImageDataset, to_float, to_uint8
from fairsims.data.attributes import sorted_classes
from fairsims.data.base import ArraySource
from fairsims.errors import InputError


def dataset(genders: list[str | None], classes: tuple[str, ...] = ("man", "woman")) -> ImageDataset:
    n = len(genders)
    pixels = np.arange(n, dtype=np.uint8).repeat(3 * 4 * 4).reshape(n, 3, 4, 4)
    column = [np.nan if g is None else g for g in genders]
    return ImageDataset(
        name="tiny",
        digest="0" * 64,
        resolution=4,
        channels=3,
        source=ArraySource(pixels),
        table=pd.DataFrame({"gender": column}, dtype=object),
        attributes={"gender": Attribute(name="gender", classes=classes)},
    )


def test_class_indices_follow_the_order_of_classes_and_mark_missing() -> None:
    assert dataset(["woman", None, "man"]).class_indices("gender").tolist() == [1, -1, 0]
    assert dataset(["woman", None, "man"], ("woman", "man")).class_indices("gender").tolist() == [0, -1, 1]
    assert dataset(["man"]).class_indices("gender").dtype == np.int64


def test_unknown_attribute_names_the_closest() -> None:
    with pytest.raises(InputError, match="did you mean 'gender'"):
        dataset(["man"]).class_indices("gendr")


def test_a_value_outside_the_classes_is_refused() -> None:
    with pytest.raises(InputError, match="found gender 'person' in tiny"):
        dataset(["man", "person"])


def test_subsets_compose_and_carry_rows_along() -> None:
    whole = dataset(["man", "woman", "man", "woman"])
    part = whole.subset([3, 1, 0]).subset([2, 0], name="two")
    assert part.name == "two"
    assert part.read([0, 1])[:, 0, 0, 0].tolist() == [0, 3]
    assert part.table["gender"].tolist() == ["man", "woman"]
    assert part.table.index.tolist() == [0, 1]


def test_a_subset_has_the_digest_of_its_choice() -> None:
    whole = dataset(["man", "woman", "man"])
    assert whole.subset([0, 1]).digest == whole.subset(np.array([0, 1], dtype=np.int32), name="other").digest
    assert len({d.digest for d in (whole, whole.subset([0, 1]), whole.subset([1, 0]))}) == 3


def test_read_is_uint8_in_the_order_asked_for() -> None:
    images = dataset(["man"] * 5).read([4, 4, 2])
    assert images.dtype == torch.uint8 and images.shape == (3, 3, 4, 4)
    assert images[:, 1, 2, 3].tolist() == [4, 4, 2]
    assert dataset(["man"]).read([]).shape == (0, 3, 4, 4)


@pytest.mark.parametrize("indices", [[-1], [2], [[0, 1]]])
def test_indices_out_of_range_are_refused(indices: list[int]) -> None:
    with pytest.raises(IndexError):
        dataset(["man", "woman"]).read(indices)


def test_conversions_invert_each_other_and_clip() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert to_float(every).dtype == torch.float32
    assert to_float(every)[[0, 255]].tolist() == [-1, 1]
    assert to_uint8(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 128, 255]


def test_whole_numbers_sort_as_numbers() -> None:
    assert sorted_classes(["10", "2", "-1", "2"]) == ("-1", "2", "10")
    assert sorted_classes(["10", "2", "b"]) == ("10", "2", "b")


@pytest.mark.parametrize(("name", "classes"), [("", ("a",)), ("x", ()), ("x", ("a", "a"))])
def test_attributes_need_a_name_and_distinct_classes(name: str, classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError):
        Attribute(name=name, classes=classes)
