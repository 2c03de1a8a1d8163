"""The runs that the dashboard is shown are those of the report's tests, some with pools of drawn faces."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / "report"), str(Path(__file__).parent)]

import report_fixtures as fixtures
from support import label

from fairsims.files import write_json
from fairsims.pools import Pool, compact_seeds, encode_png, write_shard
from fairsims.pools.reading import FORMAT

SEEDS = list(range(500, 540))
TABLE = "faces-12345678"


def face_pool(folder, look, women, seeds=SEEDS):
    """A pool of faces in shards of 16; the first `women` are called so, with less certainty from image to image."""
    images = fixtures.faces(len(seeds), look)
    for k, start in enumerate(range(0, len(seeds), 16)):
        pngs = [encode_png(torch.from_numpy(i)) for i in images[start : start + 16]]
        write_shard(folder / f"shard-{k:05d}.parquet", seeds[start : start + 16], pngs)
    facts = {"format": FORMAT, "made_by": {"kind": "faces"}, "evaluations_per_image": 12, "shape": [3, 32, 32]}
    write_json(folder / "pool.json", facts | {"seeds": compact_seeds(seeds)})
    woman = np.where(np.arange(len(seeds)) < women, 0.99, 0.01) + np.linspace(0, 0.3, len(seeds)) * np.where(
        np.arange(len(seeds)) < women, -1, 1
    )
    label(Pool(folder), TABLE, "gender", ("man", "woman"), np.stack([1 - woman, woman], axis=1))
    return Pool(folder)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """An empty folder of runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    monkeypatch.setenv("FAIRSIMS_RUNS", str(folder))
    return folder


@pytest.fixture
def whole_run(root):
    """A finished run with its audit and its pools."""
    run = fixtures.finished_run(root)
    face_pool(run / "before", 1, 10)
    face_pool(run / "after", 2, 20)
    face_pool(run / "pool", 3, 10, list(range(40)))
    return run


@pytest.fixture
def make_faces():
    """`face_pool` for tests."""
    return face_pool
