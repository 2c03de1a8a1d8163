"""The kernel distance against plain numpy and torch-fidelity, its interval by simulation, and distances per group."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

from fairsims.audit import blocks
from fairsims.audit.facts import GroupDistance
from fairsims.audit.groups import GroupCalls, group_distances
from fairsims.audit.kernel import kernel_distance
from fairsims.classifiers import load_classifier
from fairsims.errors import InputError

PARITY = load_classifier("digits-parity")


def cloud(n: int, d: int, seed: int, *, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)) + shift


def by_numpy(real: np.ndarray, fake: np.ndarray) -> float:
    """Pair by pair, as the paper's equation 4."""

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / len(x) + 1) ** 3)

    def within(a: np.ndarray) -> float:
        return float(np.mean([k(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]))

    return within(real) + within(fake) - 2 * float(np.mean([k(x, y) for x in real for y in fake]))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**16), st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.floats(0, 3))
def test_equals_plain_numpy(seed: int, m: int, n: int, d: int, shift: float) -> None:
    real, fake = cloud(m, d, seed), cloud(n, d, seed + 1, shift=shift)
    found = kernel_distance(real, fake, replicates=3)
    assert found.kid == pytest.approx(by_numpy(real, fake), rel=1e-9, abs=1e-9)
    assert found.n == min(m, n)


def test_equals_torch_fidelity() -> None:
    real, fake = cloud(300, 24, 1), cloud(300, 24, 2, shift=0.2)
    a, b = (torch.from_numpy(x) for x in (fake, real))
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert kernel_distance(real, fake, replicates=3).kid == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-9)


def closed_form(d: int, s: float) -> float:
    """MMD^2 of N(0, I) and N((s, ..., s), I): the moments of x'y / d up to the third, worked out by hand."""
    alike = 3 / d
    shifted = 3 * s**2 + 3 * (s**4 + (1 + 2 * s**2) / d) + s**6 + 3 * s**2 * (1 + 2 * s**2) / d + 6 * s**2 / d**2
    return alike + shifted - 2 * 3 * (1 + s**2) / d


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_unbiased_at_twenty_images(shift: float) -> None:
    """Where a Fréchet distance is mostly the number of images, the mean over many pairs of sets is the truth."""
    found = [
        kernel_distance(cloud(20, 8, s), cloud(20, 8, s + 5000, shift=shift), replicates=2).kid for s in range(200)
    ]
    assert abs(np.mean(found) - closed_form(8, shift)) < 3 * np.std(found) / np.sqrt(len(found))
    assert shift or np.mean(np.array(found) < 0) > 0.3


def test_tiles_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = cloud(50, 6, 3), cloud(41, 6, 4, shift=0.3)
    whole = kernel_distance(real, fake, replicates=30)
    monkeypatch.setattr(blocks, "TILE", 9)
    parts = kernel_distance(real, fake, replicates=30)
    assert (parts.kid, parts.low, parts.high) == pytest.approx((whole.kid, whole.low, whole.high), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.4])
def test_the_interval_covers(shift: float) -> None:
    """95% asked for; wider than need be where both sides are drawn alike."""
    found = [
        kernel_distance(cloud(80, 6, s), cloud(80, 6, s + 999, shift=shift), replicates=100, seed=s) for s in range(120)
    ]
    assert np.mean([k.low <= closed_form(6, shift) <= k.high for k in found]) > 0.9
    above = np.mean([k.low > 0 for k in found])
    assert above > 0.9 if shift else above < 0.05


def test_refusals() -> None:
    with pytest.raises(InputError, match="2 of each"):
        kernel_distance(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(InputError, match="NaN"):
        kernel_distance(np.zeros((4, 3)), np.full((5, 3), np.nan))
    with pytest.raises(InputError, match="one feature extractor"):
        kernel_distance(np.zeros((4, 3)), np.zeros((4, 2)))


def test_groups_at_equal_numbers() -> None:
    """The smaller group does not look worse for being smaller, and one that is worse shows."""
    real, calls = cloud(900, 8, 5), np.repeat([0, 1], [700, 200])
    before, after = cloud(500, 8, 6), cloud(300, 8, 7)
    after[200:] += 1.0
    groups = GroupCalls(
        classifier=PARITY, calls={"before": np.repeat([0, 1], [420, 80]), "after": np.repeat([0, 1], [200, 100])}
    )
    found = group_distances(real, calls, {"before": before, "after": after}, groups)
    assert {g.n for sides in found.values() for g in sides.values()} == {80}
    assert all(d.low <= 0 <= d.high for d in found["even"].values())
    assert found["odd"]["before"].low <= 0 <= found["odd"]["before"].high
    assert found["odd"]["after"].low > 1


def test_a_group_of_few_is_refused_and_holds_back_nobody() -> None:
    groups = GroupCalls(classifier=PARITY, calls={"before": np.repeat([0, 1, -1], [120, 49, 31])})
    calls = np.repeat([0, 1], [100, 100])
    found = group_distances(cloud(200, 4, 8), calls, {"before": cloud(200, 4, 9)}, groups)
    assert found["odd"]["before"] == GroupDistance(
        refused="49 generated and 100 real images; expected 50 or more of both"
    )
    assert found["even"]["before"].n == 100
