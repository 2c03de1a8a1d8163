"""Confusion tables: orientation, validation, JSON; running a classifier over batches."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fairsims.classifiers import Confusion, features_of, label_batches, load_classifier
from fairsims.errors import InputError


def test_counts_are_true_by_predicted() -> None:
    """Of 3 men 1 is called woman; the rates are P(predicted i | true j), so the columns sum to 1."""
    found = Confusion.of([0, 0, 0, 1], [0, 0, 1, 1], size=2, split="s", description="d")
    assert found.counts == ((2, 1), (0, 1))
    assert found.totals.tolist() == [3, 1]
    assert found.accuracy == 0.75
    np.testing.assert_allclose(found.rates(), [[2 / 3, 0], [1 / 3, 1]])


def test_json_round_trip() -> None:
    one = Confusion(counts=((5, 1), (0, 7)), split="variant", description="tones held out")
    assert Confusion.from_json("variant", json.loads(json.dumps(one.to_json()))) == one


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (((1, 2), (3,)), "rows of K"),
        (((1,),), "K >= 2"),
        (((1, -2), (3, 4)), "-2"),
        (((1, float("nan")), (3, 4)), "nan"),
        (((1, 2.5), (3, 4)), "2.5"),
    ],
)
def test_bad_counts(counts: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Confusion(counts=counts, split="s", description="d")


def test_unreadable_json() -> None:
    with pytest.raises(InputError, match="'variant' is not readable"):
        Confusion.from_json("variant", {"count": []})


def test_a_class_without_images_has_no_rates() -> None:
    with pytest.raises(InputError, match="no image of class 1"):
        Confusion(counts=((3, 0), (0, 0)), split="s", description="d").rates()


def test_batches_do_not_matter() -> None:
    classifier = load_classifier("digits-parity")
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole, parts = label_batches(classifier, [images]), label_batches(classifier, images.split(7))
    assert whole.shape == (50, 2)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(
        features_of(classifier, images.split(7)), features_of(classifier, [images]), rtol=1e-4, atol=1e-5
    )
    assert np.array_equal(label_batches(classifier, [images]), whole)


def test_no_batches() -> None:
    with pytest.raises(InputError, match="no images"):
        label_batches(load_classifier("digits-parity"), [])
