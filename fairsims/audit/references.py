"""Moments of features kept in files, and reference statistics of others.

A file that is broken, or cut off, is made again.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fairsims.audit.quality import FloatArray, FrechetReference, moments_of
from fairsims.errors import InputError
from fairsims.files import atomic

BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, InputError)
"""What reading a file raises that was cut off or overwritten."""


def stored_reference(
    path: Path | None, features: npt.NDArray[np.float32], weights: FloatArray | None = None
) -> FrechetReference:
    """Moments and root of features `(N, d)`, optionally weighted, from the file where it holds them."""
    if path is not None:
        try:
            return _load(path, features.shape[1])
        except BROKEN:
            pass
    reference = FrechetReference.of(moments_of(features, weights))
    if path is not None:
        with atomic(path) as temporary, temporary.open("wb") as f:
            np.savez(f, mu=reference.mean, sigma=reference.cov, root=reference.root)
    return reference


def _load(path: Path, width: int) -> FrechetReference:
    with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
        mean, cov, root = (np.asarray(z[k], dtype=np.float64) for k in ("mu", "sigma", "root"))
    if mean.shape != (width,) or cov.shape != (width, width) or root.shape != cov.shape:
        raise InputError(f"{path} has statistics of another extractor")
    return FrechetReference(mean=mean, cov=cov, root=root)


def read_statistics(path: Path) -> FrechetReference:
    """The reference that an EDM `.npz` file holds: `mu` `(d,)` and `sigma` `(d, d)` of features.

    Raises InputError when the file is missing or holds something else.
    """
    try:
        with path.open("rb") as f, np.load(f, allow_pickle=False) as z:
            mean, cov = z["mu"], z["sigma"]
    except FileNotFoundError:
        raise InputError(f"found no reference {path}; expected a data set, or an .npz file with mu and sigma") from None
    except (*BROKEN, AttributeError, TypeError) as e:
        raise InputError(f"{path} is no reference ({e}); expected an .npz file with mu (d,) and sigma (d, d)") from None
    try:
        return FrechetReference.from_statistics(mean, cov)
    except (InputError, TypeError, ValueError) as e:
        raise InputError(f"{path} is no reference: {e}") from None
