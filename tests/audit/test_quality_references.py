"""Moments in files: made once, read after, made again when broken; reference statistics of others."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from fairsims.audit.quality import FrechetReference, Moments, frechet_distance, moments_of
from fairsims.audit.references import read_statistics, stored_reference
from fairsims.errors import InputError


def rows(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def test_moments_are_made_once_and_again_when_broken(tmp_path: Path) -> None:
    path, x, w = tmp_path / "moments.npz", rows(200, 6, 1), np.linspace(0.1, 2, 200)
    first = stored_reference(path, x, w)
    np.testing.assert_allclose(first.root @ first.root.T, np.cov(x, rowvar=False, aweights=w))
    # Read, not computed: other features make no difference.
    np.testing.assert_array_equal(stored_reference(path, rows(200, 6, 2)).cov, first.cov)
    for broken in (b"", path.read_bytes()[:300], b"PK" + path.read_bytes()[2:-40], b"\x00" * 500):
        path.write_bytes(broken)
        np.testing.assert_array_equal(stored_reference(path, x, w).cov, first.cov)
        np.testing.assert_array_equal(stored_reference(path, rows(9, 6, 3)).cov, first.cov)
    # A byte that changed inside shows in the archive's checksum.
    changed = bytearray(path.read_bytes())
    changed[400] ^= 1
    path.write_bytes(changed)
    np.testing.assert_array_equal(stored_reference(path, x, w).cov, first.cov)
    # Features of another width were made by something else.
    assert stored_reference(path, rows(50, 7, 4)).mean.shape == (7,)


def test_statistics_of_edm(tmp_path: Path) -> None:
    x, y = rows(400, 10, 5), rows(300, 10, 6)
    np.savez(tmp_path / "ref.npz", mu=x.mean(axis=0, dtype=np.float64), sigma=np.cov(x, rowvar=False))
    found = read_statistics(tmp_path / "ref.npz")
    own = frechet_distance(FrechetReference.of(moments_of(x)), moments_of(y))
    assert frechet_distance(found, moments_of(y)) == pytest.approx(own, rel=1e-9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"mu": np.zeros(3)}, "sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "expected finite numbers"),
        ({"mu": np.zeros(3), "sigma": np.full((3, 3), np.nan)}, "expected finite numbers"),
        ({"mu": np.zeros(3), "sigma": np.triu(np.ones((3, 3)))}, "not symmetric"),
        ({"mu": np.zeros(3), "sigma": -np.eye(3)}, "negative variances"),
        ({"mu": np.array(["a"] * 3), "sigma": np.eye(3)}, "is no reference"),
        ({"mu": np.array([None] * 3), "sigma": np.eye(3)}, "is no reference"),
    ],
)
def test_files_that_are_no_statistics(tmp_path: Path, content: dict[str, np.ndarray], words: str) -> None:
    np.savez(tmp_path / "ref.npz", **content)
    with pytest.raises(InputError, match=words) as e:
        read_statistics(tmp_path / "ref.npz")
    assert "ref.npz" in str(e.value)


def test_statistics_that_are_missing_or_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found no reference"):
        read_statistics(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not an archive")
    with pytest.raises(InputError, match="is no reference"):
        read_statistics(tmp_path / "text.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(InputError, match="is no reference"):
        read_statistics(tmp_path / "array.npy")


def peak(n: int, d: int) -> int:
    """Bytes that a pass over n rows of features holds at most."""
    rng, moments = np.random.default_rng(0), Moments()
    tracemalloc.start()
    for _ in range(0, n, 250):
        moments.update(rng.standard_normal((250, d)))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_of_a_streaming_pass_is_flat() -> None:
    small, large = peak(5_000, 64), peak(50_000, 64)
    assert large < 1.02 * small
    assert large < 50_000 * 64 * 8 / 10
