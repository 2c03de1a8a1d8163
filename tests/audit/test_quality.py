"""The Fréchet distance against scipy, torch-fidelity and the closed form, weighted moments against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from fairsims.audit.joint import Cells, raked_weights
from fairsims.audit.quality import (
    FrechetReference,
    Moments,
    frechet_distance,
    frechet_infinity,
    moments_of,
)
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError


def features(n: int, d: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) * 0.5 + rng.normal(size=d)


def by_scipy(m1: np.ndarray, s1: np.ndarray, m2: np.ndarray, s2: np.ndarray) -> float:
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(sqrtm(s1 @ s2))))


@pytest.mark.parametrize("n", [10, 24, 25, 300])
def test_equals_scipy_on_both_routes(n: int) -> None:
    """Fewer rows than the 24 features take the low-rank route."""
    a, b = features(500, 24, 1), features(n, 24, 2)
    reference = FrechetReference.of(Moments().update(a))
    found = frechet_distance(reference, Moments().update(b))
    theirs = by_scipy(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert found == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("n", [60, 150, 1000])
def test_equals_torch_fidelity(n: int) -> None:
    """To 1e-6 relative on the same features, also for fewer images than the 96 features."""
    a, b = features(800, 96, 11), features(n, 96, 12)
    fake, real = (fid_features_to_statistics(torch.from_numpy(x)) for x in (b, a))
    theirs = fid_statistics_to_metric(fake, real, False)[KEY_METRIC_FID]
    reference = FrechetReference.of(Moments().update(a))
    assert frechet_distance(reference, Moments().update(b)) == pytest.approx(theirs, rel=1e-6)


def test_the_root_of_a_covariance_without_an_inverse() -> None:
    a = features(10, 24, 13)
    reference = FrechetReference.of(Moments().update(a))
    np.testing.assert_allclose(reference.root @ reference.root.T, np.cov(a, rowvar=False), atol=1e-9)
    np.testing.assert_array_equal(reference.root, np.tril(reference.root))
    b = features(200, 24, 14)
    theirs = frechet_distance(FrechetReference.of(Moments().update(b)), Moments().update(a))
    assert frechet_distance(reference, Moments().update(b)) == pytest.approx(theirs, rel=1e-6)


def test_features_in_parts_have_the_moments_of_the_whole() -> None:
    x, w = features(2500, 5, 15), np.random.default_rng(15).uniform(0.1, 2, 2500)
    np.testing.assert_allclose(moments_of(x, w).cov, np.cov(x, rowvar=False, aweights=w))
    np.testing.assert_allclose(moments_of(x).mean, x.mean(axis=0))


def test_infinitely_many_images_have_no_bias() -> None:
    """Both sides are drawn alike but for a shift: the distance is |shift|^2, of 400 images twice that."""
    d, shift = 16, 0.1
    scale = np.arange(1, d + 1) ** -0.5
    reference = FrechetReference.from_statistics(np.zeros(d), np.diag(scale**2))
    truth = float(((shift * scale) ** 2).sum())
    found, plain = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        x = (rng.normal(size=(400, d)) + shift) * scale
        found.append(frechet_infinity(reference, x, rng.permutation(400)))
        plain.append(frechet_distance(reference, moments_of(x)))
    assert np.mean(plain) > 1.8 * truth
    assert abs(np.mean(found) - truth) < min(0.3 * truth, 3 * np.std(found) / np.sqrt(len(found)))


def test_infinitely_many_images_hardly_depend_on_the_order() -> None:
    """Where the mix of groups decides the distance, a random subset's mix would."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(600, 8)) + 3 * (rng.random(600) < 0.2)[:, None]
    reference = FrechetReference.from_statistics(np.full(8, 1.5), np.eye(8))
    found = [frechet_infinity(reference, x, rng.permutation(600)) for _ in range(12)]
    subsets = [frechet_distance(reference, moments_of(x[rng.permutation(600)[:200]])) for _ in range(12)]
    assert np.std(found) < np.std(subsets) / 5


def test_too_few_images_for_infinitely_many() -> None:
    x = features(63, 16, 1)
    with pytest.raises(InputError, match="63 images for 16 features; expected 64"):
        frechet_infinity(FrechetReference.of(moments_of(x)), x, np.arange(63))


def test_the_routes_agree() -> None:
    a, b = features(300, 40, 3), features(39, 40, 4)
    reference, few = FrechetReference.of(Moments().update(a)), Moments().update(b)
    assert few.factor.shape == (39, 40)
    full = Moments().update(np.concatenate([b, b[:1]]), np.append(np.ones(39), 1e-15))
    assert full.factor.shape == (0, 40)
    assert frechet_distance(reference, full) == pytest.approx(frechet_distance(reference, few), rel=1e-6)


def test_gaussians_in_closed_form() -> None:
    """Commuting covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    s1, s2, gap = np.array([1.0, 2.0, 0.5]), np.array([0.5, 3.0, 0.5]), np.array([1.0, 0.0, -2.0])
    moments = Moments()
    corners = np.array([[a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)])
    moments.update(corners * s2 * np.sqrt(7 / 8) + gap)
    reference = FrechetReference.from_statistics(np.zeros(3), np.diag(s1**2))
    assert frechet_distance(reference, moments) == pytest.approx(5 + 0.25 + 1)


def test_zero_for_itself() -> None:
    a = features(200, 16, 5)
    moments = Moments().update(a)
    assert 0 <= frechet_distance(FrechetReference.of(moments), moments) < 1e-9


def test_singular_covariance() -> None:
    """A feature that never varies must not turn the distance into NaN or below 0."""
    a = features(100, 6, 6)
    a[:, 2] = 1.0
    moments = Moments().update(a)
    assert 0 <= frechet_distance(FrechetReference.of(moments), moments) < 1e-6


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**16), st.lists(st.integers(1, 30), min_size=1, max_size=6), st.booleans())
def test_batches_do_not_matter(seed: int, sizes: list[int], weighted: bool) -> None:
    x = features(sum(sizes) + 2, 9, seed)
    w = np.random.default_rng(seed).uniform(0.1, 3, len(x)) if weighted else np.ones(len(x))
    whole, parts = Moments().update(x, w), Moments()
    for chunk, weight in zip(np.split(x, np.cumsum(sizes)), np.split(w, np.cumsum(sizes)), strict=True):
        parts.update(chunk, weight)
    assert parts.count == len(x)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(parts.cov, whole.cov, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(whole.cov, np.cov(x, rowvar=False, aweights=w), rtol=1e-8, atol=1e-9)


def test_far_from_zero_keeps_its_digits() -> None:
    x = features(400, 5, 7)
    found = Moments().update(x[:100] + 1e6).update(x[100:] + 1e6).cov
    np.testing.assert_allclose(found, np.cov(x, rowvar=False), rtol=1e-6)


def test_weights_of_zero_are_absent() -> None:
    x = features(60, 4, 8)
    weights = np.r_[np.ones(40), np.zeros(20)]
    assert Moments().update(x, weights).count == 40
    np.testing.assert_allclose(Moments().update(x, weights).cov, np.cov(x[:40], rowvar=False))


def test_moments_refuse() -> None:
    with pytest.raises(InputError, match="at least 2 images; got 1"):
        _ = Moments().update(np.zeros((1, 3))).cov
    with pytest.raises(InputError, match="NaN"):
        Moments().update([[0.0, np.nan]])
    with pytest.raises(InputError, match="negative"):
        Moments().update([[0.0, 1.0]], [-1.0])
    with pytest.raises(InputError, match="3 wide after 2"):
        Moments().update([[0.0, 1.0]]).update([[0.0, 1.0, 2.0]])
    with pytest.raises(InputError, match=r"expected \(n, d\)"):
        Moments().update([0.0, 1.0])
    reference = FrechetReference.of(Moments().update(features(9, 3, 1)))
    with pytest.raises(InputError, match="3 features, the images have 2"):
        frechet_distance(reference, Moments().update(features(9, 2, 1)))


def test_reweighted_reference_is_the_target_population() -> None:
    rng = np.random.default_rng(9)
    men, women = rng.normal(0, 1, (7500, 3)), rng.normal(2, 0.5, (2500, 3))
    classes = np.repeat([0, 1], [7500, 2500])
    gender = Cells(attributes=(Attribute(name="gender", classes=("man", "woman")),))
    moments = Moments().update(np.concatenate([men, women]), raked_weights(gender, [classes], [[0.5, 0.5]]))
    np.testing.assert_allclose(moments.mean, (men.mean(0) + women.mean(0)) / 2)
