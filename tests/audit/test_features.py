"""Features in files: those of the extractor, made once, shard by shard of a pool, made again when broken."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from support import MakePool

from fairsims import engine
from fairsims.audit.features import (
    FeatureExtractor,
    FeatureTask,
    classifier_features,
    pool_features,
    shard_features,
    stored_features,
)
from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import features_of
from fairsims.errors import InputError
from fairsims.pools import Pool, select_pool

PARITY = load_classifier("digits-parity")


def counted(seen: list[int]) -> FeatureExtractor:
    """Mean pixels as features; remembers how many images it saw."""

    def run(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images.float().mean(dim=(1, 2))

    return FeatureExtractor(name="means", weights_digest="0", input_size=8, resize="none", run=run)


def test_features_are_those_of_the_extractor_and_made_once(digits_pool: MakePool, tmp_path: Path) -> None:
    pool, done = digits_pool(300, 40), []
    found = stored_features(pool, classifier_features(PARITY), tmp_path, lambda *n: done.append(n))
    np.testing.assert_array_equal(found, features_of(PARITY, pool.batches()))
    assert done == [(256, 340), (340, 340)]
    assert isinstance(found, np.memmap)
    seen: list[int] = []
    first = stored_features(pool, counted(seen), tmp_path)
    assert np.array_equal(stored_features(pool, counted(seen), tmp_path), first)
    assert sum(seen) == 340


def test_another_source_or_extractor_has_its_own_features(digits_pool: MakePool, tmp_path: Path) -> None:
    a, b = digits_pool(20, 5, "a"), digits_pool(5, 20, "b")
    stored_features(a, counted([]), tmp_path)
    seen: list[int] = []
    stored_features(b, counted(seen), tmp_path)
    stored_features(a, classifier_features(PARITY), tmp_path)
    assert sum(seen) == 25
    assert len(list(tmp_path.glob("features-*.npy"))) == 3


@pytest.mark.parametrize("keep", [0, 40, 600])
def test_cut_off_features_are_made_again(digits_pool: MakePool, tmp_path: Path, keep: int) -> None:
    pool, seen = digits_pool(60, 5), []
    whole = np.array(stored_features(pool, counted(seen), tmp_path))
    path = next(tmp_path.glob("features-*.npy"))
    path.write_bytes(path.read_bytes()[:keep])
    np.testing.assert_array_equal(stored_features(pool, counted(seen), tmp_path), whole)
    assert sum(seen) == 130


def test_features_that_are_not_finite_name_the_image(digits_pool: MakePool, tmp_path: Path) -> None:
    def run(images: torch.Tensor) -> torch.Tensor:
        found = images.float().mean(dim=(1, 2, 3))[:, None].repeat(1, 3)
        found[images.shape[0] - 1] = torch.nan
        return found

    broken = FeatureExtractor(name="broken", weights_digest="0", input_size=8, resize="none", run=run)
    with pytest.raises(InputError, match="broken gave features that are NaN or infinite for image 29 of"):
        stored_features(digits_pool(20, 10), broken, tmp_path / "store")
    assert [p for p in (tmp_path / "store").rglob("*") if p.is_file()] == []


class Black:
    """An image source of n black images."""

    name, digest, shape = "black", "0" * 64, (1, 8, 8)

    def __init__(self, n: int) -> None:
        self.n, self.ids = n, np.arange(n)

    def __len__(self) -> int:
        return self.n

    def read(self, indices: Sequence[int] | np.ndarray) -> torch.Tensor:
        return torch.zeros(len(indices), *self.shape, dtype=torch.uint8)

    def batches(self, size: int = 256) -> Iterator[torch.Tensor]:
        return (self.read(range(start, min(start + size, self.n))) for start in range(0, self.n, size))


def test_a_source_without_images(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="black has no images"):
        stored_features(Black(0), counted([]), tmp_path)


def sharded(pool: Pool, folder: Path) -> Pool:
    """The pool in shards of 512."""
    select_pool(pool, np.arange(len(pool)), folder, made_by={})
    return Pool(folder)


def test_a_pool_is_done_shard_by_shard_and_gone_on_with_after_a_kill(digits_pool: MakePool, tmp_path: Path) -> None:
    pool, seen = sharded(digits_pool(700, 400), tmp_path / "shards"), []
    whole = np.array(stored_features(pool, classifier_features(PARITY), tmp_path / "whole"))
    assert [p.name for p in (tmp_path / "whole").iterdir()] == [
        f"features-{pool.digest[:16]}-8px-{classifier_features(PARITY).digest[:16]}.npy"
    ], "the shards are joined in one file"
    # Batches end where shards do: 512 is two batches.
    np.testing.assert_array_equal(whole, features_of(PARITY, pool.batches()))

    store, extractor = tmp_path / "killed", counted(seen)
    first = stored_features(pool, counted([]), tmp_path / "means")
    running = pool_features_steps(pool, extractor, store)
    list(islice(running, 3))
    running.close()
    (folder,) = store.iterdir()
    assert [p.name for p in folder.iterdir()] == ["shard-00000.npy"]
    assert seen == [256, 256, 256]
    seen.clear()
    parts = pool_features(pool, extractor, store, engine.Local())
    assert [p.name for p in parts] == ["shard-00000.npy", "shard-00001.npy", "shard-00002.npy"]
    assert seen == [256, 256, 76], "a finished shard was made again"
    parts[1].write_bytes(parts[1].read_bytes()[:-1])
    np.testing.assert_array_equal(stored_features(pool, extractor, store), first)
    assert seen == [256, 256, 76, 256, 256], "what is cut off, and only that, is made again"
    assert pool_features(pool, extractor, store, engine.Local()) == []
    assert [p.is_file() for p in store.iterdir()] == [True]


def pool_features_steps(pool: Pool, extractor: FeatureExtractor, store: Path) -> Iterator[int]:
    """The steps of the tasks of `pool_features`, to be stopped between two."""
    folder = store / f"features-{pool.digest[:16]}-8px-{extractor.digest[:16]}"
    for task in tasks(pool, extractor, folder):
        yield from shard_features((pool, extractor), task)


def tasks(pool: Pool, extractor: FeatureExtractor, folder: Path) -> list[FeatureTask]:
    return [
        FeatureTask(path=folder / f"{s.stem}.npy", pool=pool.folder, shard=s, extractor=extractor.digest)
        for s in pool.shards
    ]


def test_features_of_a_shard_are_made_by_its_task_alone(digits_pool: MakePool, tmp_path: Path) -> None:
    pool, extractor = sharded(digits_pool(500, 30), tmp_path / "shards"), classifier_features(PARITY)
    task = tasks(pool, extractor, tmp_path)[1]
    sent, opened = pickle.loads(pickle.dumps((task, (pool.folder, extractor))))
    assert sent == task
    assert list(shard_features((Pool(opened[0]), opened[1]), sent)) == [18]
    np.testing.assert_array_equal(np.load(task.path), features_of(PARITY, pool.batches())[512:])


def test_memory_of_features_in_files_is_flat(tmp_path: Path) -> None:
    """What is held is a batch, not the table."""

    def wide(images: torch.Tensor) -> torch.Tensor:
        return images.float().flatten(1).repeat(1, 32)

    extractor = FeatureExtractor(name="wide", weights_digest="0", input_size=8, resize="none", run=wide)
    held = []
    for n in (1000, 10_000):
        tracemalloc.start()
        found = stored_features(Black(n), extractor, tmp_path)
        held.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert found.nbytes > 80e6
    assert held[1] < 1.1 * held[0] < found.nbytes / 8
