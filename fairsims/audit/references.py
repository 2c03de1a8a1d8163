"""Features and moments kept in files: computed once for the same images and extractor, read in place after.

A file that is broken, or cut off, is made again.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fairsims.audit.extractors import FeatureExtractor
from fairsims.audit.quality import FloatArray, FrechetReference, moments_of
from fairsims.classifiers.base import batch_size
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic

BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, InputError)
"""What reading a file raises that was cut off or overwritten."""

PIXELS = 2**23
"""Of a batch, at the size that the network sees: 256 images up to 181 pixels wide, 93 of Inception's 299."""

FeatureTable = npt.NDArray[np.float32]


def stored_features(
    source: ImageSource,
    extractor: FeatureExtractor,
    folder: Path,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> FeatureTable:
    """Features `(N, d)` of all images in order, in a file of `folder` that is read in place.

    Memory does not grow with N: batches go to the file as they are made. `progress` gets (images done, of how many).
    Raises InputError for a source without images and for features that are not finite.
    """
    n = len(source)
    path = folder / f"features-{source.digest[:16]}-{extractor.digest[:16]}.npy"
    found = _read_features(path, n)
    if found is not None:
        return found
    if not n:
        raise InputError(f"{source.name} has no images; there is nothing to measure")
    side = max(1, extractor.input_size)
    size = max(1, min(batch_size(source), PIXELS // side**2))
    done = 0
    with atomic(path) as temporary, temporary.open("wb") as f, torch.inference_mode():
        for batch in source.batches(size):
            rows = extractor.features(batch).to("cpu", torch.float32).numpy()
            broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
            if len(broken):
                raise InputError(
                    f"{extractor.name} gave features that are NaN or infinite for image {done + broken[0]} of "
                    f"{source.name}; check the weights and that image"
                )
            if not done:
                header = {"descr": "<f4", "fortran_order": False, "shape": (n, rows.shape[1])}
                np.lib.format.write_array_header_1_0(f, header)
            f.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            done += len(rows)
            progress(done, n)
        if done != n:
            raise InputError(f"{source.name} gave {done} of its {n} images; expected all of them")
    found = _read_features(path, n)
    if found is None:
        raise InputError(f"{path} cannot be read back after writing; check the disk")
    return found


def _read_features(path: Path, n: int) -> FeatureTable | None:
    try:
        found: FeatureTable = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN:
        return None
    return found if found.ndim == 2 and len(found) == n and found.dtype == np.float32 else None


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
