"""Neighbours among features: which side is which, and equality with plain numpy and with torch-fidelity."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import calculate_precision_recall_full

from fairsims.audit import blocks
from fairsims.audit.neighbours import (
    Manifold,
    Nearest,
    Pair,
    authenticity,
    leave_one_out_distances,
    manifold,
    nearest_pairs,
    nearest_training,
)
from fairsims.errors import InputError


def by_numpy(real: np.ndarray, fake: np.ndarray, k: int, k_density: int) -> tuple[float, float, float, float]:
    """The papers' definitions on whole distance matrices, from differences instead of products."""

    def distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))

    def radius(x: np.ndarray, number: int) -> np.ndarray:
        own = distances(x, x)
        np.fill_diagonal(own, np.inf)
        return np.sort(own, axis=1)[:, number - 1]

    between = distances(real, fake)
    precision = (between <= radius(real, k)[:, None]).any(axis=0).mean()
    recall = (between <= radius(fake, k)).any(axis=1).mean()
    held = between <= radius(real, k_density)[:, None]
    return precision, recall, held.sum() / (k_density * len(fake)), held.any(axis=1).mean()


def cloud(n: int, d: int, seed: int, *, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) * scale + shift


def test_a_collapsed_cluster_is_precise_and_recalls_little() -> None:
    """The convention: generated images on one real image are realistic, not varied; scattered ones the reverse."""
    real = cloud(300, 4, 1)
    collapsed = real[:1] + cloud(300, 4, 2, scale=0.01)
    found = manifold(real, collapsed)
    assert found.precision > 0.95
    assert found.recall < 0.05
    scattered = manifold(real, cloud(300, 4, 3, scale=5.0))
    assert scattered.precision < 0.2
    assert scattered.recall > 0.8


def test_the_same_distribution_has_both() -> None:
    found = manifold(cloud(600, 3, 4), cloud(600, 3, 5))
    assert found.precision > 0.75
    assert found.recall > 0.75
    assert manifold(cloud(50, 3, 4), cloud(50, 3, 4)) == Manifold(precision=1.0, recall=1.0, density=1.2, coverage=1.0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**16), st.integers(5, 24), st.integers(1, 4), st.integers(1, 6), st.floats(0, 3))
def test_equals_plain_numpy(seed: int, n: int, k: int, d: int, shift: float) -> None:
    real, fake = cloud(n, d, seed), cloud(n, d, seed + 1, shift=shift)
    found = manifold(real, fake, k=k, k_density=5 - k)
    theirs = by_numpy(real, fake, k, 5 - k)
    assert (found.precision, found.recall, found.density, found.coverage) == pytest.approx(theirs, abs=1e-12)


def test_precision_and_recall_are_those_of_torch_fidelity() -> None:
    real, fake = cloud(250, 16, 21), cloud(250, 16, 22, scale=0.8, shift=0.2)
    found = manifold(real, fake, k=3)
    assert 0.3 < found.recall < found.precision < 1
    theirs = calculate_precision_recall_full(torch.from_numpy(fake), torch.from_numpy(real), 3)
    assert (found.precision, found.recall) == pytest.approx(theirs, abs=1e-6)


def test_density_and_coverage_are_not_misled() -> None:
    """Naeem et al., figure 2: an outlier among the real images lifts precision, one among the generated recall."""
    real, fake = cloud(400, 8, 23), cloud(400, 8, 24, shift=3.0)
    outlier = np.concatenate([real[:-1], np.full((1, 8), 4.0)])
    assert manifold(real, fake).precision < 0.1
    assert manifold(outlier, fake).precision > 0.9
    assert manifold(outlier, fake).density < 0.3
    scattered = cloud(400, 8, 26, scale=4.0)
    assert manifold(real, scattered).recall > 0.9
    assert manifold(real, scattered).coverage < 0.5
    assert manifold(real, cloud(400, 8, 27)).coverage > 0.9


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounded memory: tiles of seven rows give the numbers of one."""
    real, fake = cloud(70, 5, 6), cloud(70, 5, 7, shift=0.7)

    def everything() -> list[np.ndarray]:
        found = manifold(real, fake)
        near, place = nearest_training(fake, real)
        return [
            np.array([found.precision, found.recall, found.density, found.coverage]),
            near,
            place,
            leave_one_out_distances(real),
            leave_one_out_distances(real, np.array([3, 69, 7])),
            np.array(authenticity(near, place, real)),
        ]

    whole = everything()
    monkeypatch.setattr(blocks, "TILE", 7)
    for a, b in zip(whole, everything(), strict=True):
        np.testing.assert_allclose(b, a)


def test_nearest_training_images_equal_plain_loops() -> None:
    images, training = cloud(30, 6, 8), cloud(40, 6, 9)
    table = np.array([[np.linalg.norm(x - y) for y in training] for x in images])
    distances, places = nearest_training(images, training)
    np.testing.assert_allclose(distances, table.min(axis=1))
    assert places.tolist() == table.argmin(axis=1).tolist()
    others = [min(np.linalg.norm(x - y) for j, y in enumerate(training) if j != i) for i, x in enumerate(training)]
    np.testing.assert_allclose(leave_one_out_distances(training), others)
    np.testing.assert_allclose(leave_one_out_distances(training, np.array([5, 0])), [others[5], others[0]])
    own = np.array(others)[table.argmin(axis=1)]
    assert authenticity(distances, places, training) == pytest.approx(100 * (own < table.min(axis=1)).mean())


def test_authenticity_falls_with_copies() -> None:
    training, new = cloud(300, 4, 14), cloud(300, 4, 15)
    copied = np.concatenate([new[:150], training[:150] + cloud(150, 4, 16, scale=1e-3)])
    fresh, half = (authenticity(*nearest_training(x, training), training) for x in (new, copied))
    assert 35 < fresh < 75
    assert half == pytest.approx(fresh / 2, abs=8)


def test_copies_of_training_images_are_at_zero() -> None:
    """Far from the origin too, where the differences of squares would leave rounding."""
    training = cloud(200, 64, 10, shift=1e3).astype(np.float32)
    distances, places = nearest_training(training[50:60], training)
    assert distances.max() == 0
    assert places.tolist() == list(range(50, 60))
    assert leave_one_out_distances(training).min() > 1
    mixed = np.concatenate([cloud(95, 64, 11, shift=1e3), training[:5]])
    copied = Nearest.of(nearest_training(mixed, training)[0])
    assert copied.low == 0
    assert copied.median > 1
    assert nearest_pairs(*nearest_training(mixed, training), count=2) == [
        Pair(generated=95, training=0, distance=0.0),
        Pair(generated=96, training=1, distance=0.0),
    ]


def test_duplicates_among_the_real_images_keep_their_place() -> None:
    """An image that is there more than k times has a ball of radius 0, which still holds its own copies."""
    real = np.concatenate([np.zeros((6, 3)), cloud(14, 3, 12, shift=50.0)])
    fake = np.concatenate([np.zeros((10, 3)), cloud(10, 3, 13, shift=-50.0)])
    assert manifold(real, fake).precision == 0.5


@pytest.mark.parametrize(
    ("real", "fake", "words"),
    [
        (np.zeros((4, 2)), np.zeros((5, 2)), "4 real and 5 generated"),
        (np.zeros((5, 2)), np.zeros((5, 2)), "above k = 5"),
        (np.zeros((4, 2)), np.zeros((4, 3)), "one feature extractor"),
        (np.zeros((4, 2)), np.full((4, 2), np.nan), "NaN"),
        (np.zeros(4), np.zeros(4), "expected"),
    ],
)
def test_refusals(real: np.ndarray, fake: np.ndarray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        manifold(real, fake)
