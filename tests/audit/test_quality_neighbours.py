"""Precision, recall and nearest training images: which side is which, and equality with plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsims.audit import neighbours
from fairsims.audit.neighbours import Nearest, leave_one_out_distances, nearest_distances, precision_recall
from fairsims.errors import InputError


def by_loops(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """The paper's equations 1 to 3, image by image."""

    def radius(x: np.ndarray, i: int) -> float:
        return sorted(float(np.linalg.norm(x[i] - x[j])) for j in range(len(x)) if j != i)[k - 1]

    def covered(points: np.ndarray, manifold: np.ndarray) -> float:
        radii = [radius(manifold, i) for i in range(len(manifold))]
        inside = [any(np.linalg.norm(p - m) <= r for m, r in zip(manifold, radii, strict=True)) for p in points]
        return float(np.mean(inside))

    return covered(fake, real), covered(real, fake)


def cloud(n: int, d: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def test_a_collapsed_cluster_is_precise_and_recalls_little() -> None:
    """The convention: generated images on one real image are realistic, not varied; scattered ones the reverse."""
    real = cloud(300, 4, 1)
    collapsed = real[:1] + cloud(300, 4, 2, scale=0.01)
    found = precision_recall(real, collapsed)
    assert found.precision > 0.95
    assert found.recall < 0.05
    scattered = precision_recall(real, cloud(300, 4, 3, scale=5.0))
    assert scattered.precision < 0.2
    assert scattered.recall > 0.8


def test_the_same_distribution_has_both() -> None:
    found = precision_recall(cloud(600, 3, 4), cloud(600, 3, 5))
    assert found.precision > 0.75
    assert found.recall > 0.75
    assert precision_recall(cloud(50, 3, 4), cloud(50, 3, 4)) == neighbours.PrecisionRecall(precision=1.0, recall=1.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.integers(5, 24), st.integers(1, 4), st.integers(1, 6), st.floats(0, 3))
def test_equals_plain_loops(seed: int, n: int, k: int, d: int, shift: float) -> None:
    real, fake = cloud(n, d, seed), cloud(n, d, seed + 1, shift=shift)
    found = precision_recall(real, fake, k=k)
    assert (found.precision, found.recall) == by_loops(real, fake, k)


def test_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: a block of one row at a time gives the numbers of one block."""
    real, fake = cloud(70, 5, 6), cloud(70, 5, 7, shift=0.7)
    whole = (precision_recall(real, fake), nearest_distances(fake, real), leave_one_out_distances(real))
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    parts = (precision_recall(real, fake), nearest_distances(fake, real), leave_one_out_distances(real))
    assert parts[0] == whole[0]
    np.testing.assert_allclose(parts[1], whole[1])
    np.testing.assert_allclose(parts[2], whole[2])


def test_nearest_distances_equal_plain_loops() -> None:
    images, training = cloud(30, 6, 8), cloud(40, 6, 9)
    theirs = [min(np.linalg.norm(x - y) for y in training) for x in images]
    np.testing.assert_allclose(nearest_distances(images, training), theirs)
    others = [min(np.linalg.norm(x - y) for j, y in enumerate(training) if j != i) for i, x in enumerate(training)]
    np.testing.assert_allclose(leave_one_out_distances(training), others)


def test_copies_of_training_images_are_at_zero() -> None:
    """Far from the origin too, where the differences of squares would leave rounding."""
    training = cloud(200, 64, 10, shift=1e3).astype(np.float32)
    assert nearest_distances(training[50:60], training).max() == 0
    assert leave_one_out_distances(training).min() > 1
    copied = Nearest.of(nearest_distances(np.concatenate([training[:5], cloud(95, 64, 11, shift=1e3)]), training))
    assert copied.low == 0
    assert copied.median > 1


def test_duplicates_among_the_real_images_keep_their_place() -> None:
    """An image that is there more than k times has a ball of radius 0, which still holds its own copies."""
    real = np.concatenate([np.zeros((6, 3)), cloud(14, 3, 12, shift=50.0)])
    fake = np.concatenate([np.zeros((10, 3)), cloud(10, 3, 13, shift=-50.0)])
    assert precision_recall(real, fake).precision == 0.5


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (np.zeros((4, 2)), np.zeros((5, 2)), "4 real and 5 generated"),
        (np.zeros((3, 2)), np.zeros((3, 2)), "above k = 3"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "one feature extractor"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "NaN"),
        (np.zeros(4), np.zeros(4), "expected"),
    ],
)
def test_refusals(real: np.ndarray, fake: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        precision_recall(real, fake)
