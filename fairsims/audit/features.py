"""Features kept in files: computed once for the same images and extractor, read in place after.

Those of a pool are made shard by shard, each a task of an engine. A file that is broken, or cut off, is made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from fairsims import engine
from fairsims.audit.extractors import FeatureExtractor
from fairsims.classifiers.base import batch_size
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.pools import Part, Pool

PIXELS = 2**23
"""Of a batch, at the size that the network sees: 256 images up to 181 pixels wide, 93 of Inception's 299."""

FeatureTable = npt.NDArray[np.float32]
Tally = Callable[[int, int], None]
"""(images done, of how many)"""


@dataclass(frozen=True, kw_only=True)
class FeatureTask:
    """The features of one shard of a pool."""

    path: Path
    pool: Path
    shard: Path
    extractor: str
    """Its digest."""


def stored_features(
    source: ImageSource, extractor: FeatureExtractor, store: Path, progress: Tally = lambda *_: None
) -> FeatureTable:
    """Features `(N, d)` of all images in order, in a file of `store` that is read in place.

    This process makes what is missing. Of a pool that is the shards which `pool_features` has not made yet.
    Memory does not grow with N: rows go to the file as they are made. Raises InputError for a source without images
    and for features that are not finite.
    """
    path, n = _table(source, extractor, store), len(source)
    found = _read(path, n)
    if found is not None:
        return found
    if not n:
        raise InputError(f"{source.name} has no images; there is nothing to measure")
    if isinstance(source, Pool):
        parts = pool_features(source, extractor, store, engine.Local(), progress)
        for _ in _write(path, (np.load(part, mmap_mode="r") for part in parts), n, source.name):
            pass
        shutil.rmtree(_shards(path))
    else:
        for done in _write(path, _rows(extractor, source), n, source.name):
            progress(done, n)
    found = _read(path, n)
    if found is None:
        raise InputError(f"{path} cannot be read back after writing; check the disk")
    return found


def pool_features(
    pool: Pool, extractor: FeatureExtractor, store: Path, by: engine.Engine, progress: Tally = lambda *_: None
) -> list[Path]:
    """Files `(rows, d)` with the features of each shard, in order; every process of the engine has to call it.

    What is missing is made. Nothing is made, and the list is empty, where `stored_features` has joined them already.
    Raises InputError for features that are not finite.
    """
    table = _table(pool, extractor, store)
    if _read(table, len(pool)) is not None:
        return []
    tasks = [
        FeatureTask(
            path=_shards(table) / f"{shard.stem}.npy", pool=pool.folder, shard=shard, extractor=extractor.digest
        )
        for shard in pool.shards
    ]
    for task in tasks:
        if task.path.exists() and _read(task.path, len(pool.parts[task.shard])) is None:
            task.path.unlink(missing_ok=True)
    done = 0
    for step in by.map(partial(_opened, pool.folder, extractor), shard_features, tasks):
        if step.finished:
            done += step.rows
        else:
            progress(done + step.rows, len(pool))
    return [task.path for task in tasks]


def _opened(folder: Path, extractor: FeatureExtractor) -> tuple[Pool, FeatureExtractor]:
    return Pool(folder), extractor


def shard_features(opened: tuple[Pool, FeatureExtractor], task: FeatureTask) -> Iterator[int]:
    """Write the features of one shard; yields the number of images that are done."""
    pool, extractor = opened
    part = Part(pool, pool.parts[task.shard])
    yield from _write(task.path, _rows(extractor, pool, part), len(part), pool.name)


def _rows(extractor: FeatureExtractor, source: ImageSource, part: Part | None = None) -> Iterator[FeatureTable]:
    """Features of a source's images, or of those of one shard, batch by batch."""
    side = max(1, extractor.input_size)
    images, first = (source, 0) if part is None else (part, part.positions.start)
    for batch in images.batches(max(1, min(batch_size(source), PIXELS // side**2))):
        rows: FeatureTable = extractor.features(batch).to("cpu", torch.float32).numpy()
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if len(broken):
            raise InputError(
                f"{extractor.name} gave features that are NaN or infinite for image {source.ids[first + broken[0]]} of "
                f"{source.name}; check the weights and that image"
            )
        yield rows
        first += len(rows)


def _write(path: Path, parts: Iterable[FeatureTable], n: int, name: str) -> Iterator[int]:
    """Write n rows one part after the other; yields how many are written."""
    done = 0
    with atomic(path) as temporary, temporary.open("wb") as f:
        for rows in parts:
            if not done:
                header = {"descr": "<f4", "fortran_order": False, "shape": (n, rows.shape[1])}
                np.lib.format.write_array_header_1_0(f, header)
            f.write(np.ascontiguousarray(rows, dtype="<f4").tobytes())
            done += len(rows)
            yield done
        if done != n:
            raise InputError(f"{name} gave {done} of its {n} images; expected all of them")


def _read(path: Path, n: int) -> FeatureTable | None:
    try:
        found: FeatureTable = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return found if found.ndim == 2 and len(found) == n and found.dtype == np.float32 else None


def _table(source: ImageSource, extractor: FeatureExtractor, store: Path) -> Path:
    side = f"{source.shape[1]}px"  # one digest may stand for the same images at several sizes
    return store / f"features-{source.digest[:16]}-{side}-{extractor.digest[:16]}.npy"


def _shards(table: Path) -> Path:
    """The folder of a pool's shards until they are joined in its table."""
    return table.with_suffix("")
