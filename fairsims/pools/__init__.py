"""Generated images on disk: write, resume, read, select, grow, export."""

from __future__ import annotations

from pathlib import Path

from fairsims.data import ImagePolicy, open_dataset
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import RemotePath, place
from fairsims.pools.exporting import check_exports, export_edm_zip, export_folder
from fairsims.pools.reading import Part, PartTask, Pool, decode_png, pool_dataset, pool_latents
from fairsims.pools.status import pool_status
from fairsims.pools.writing import (
    ShardTask,
    compact_seeds,
    encode_png,
    grow_pool,
    join_pools,
    make_shard,
    select_pool,
    write_pool,
    write_shard,
)

__all__ = [
    "Part",
    "PartTask",
    "Pool",
    "ShardTask",
    "check_exports",
    "compact_seeds",
    "decode_png",
    "encode_png",
    "export_edm_zip",
    "export_folder",
    "grow_pool",
    "join_pools",
    "make_shard",
    "open_source",
    "pool_dataset",
    "pool_latents",
    "pool_status",
    "select_pool",
    "write_pool",
    "write_shard",
]


def open_source(path: str | Path, policy: ImagePolicy = ImagePolicy()) -> ImageSource:
    """The pool in a folder; else whatever `open_dataset` opens: image folder, EDM zip, Parquet, embedded name.

    `policy` says how images of other sizes and modes become alike. A pool of another size than it asks for is read as
    the Parquet files that it consists of.
    Raises InputError when nothing is there, it is empty, or its images are unreadable or not alike.

    >>> source = open_source("digits")
    >>> len(source), source.shape, source.read([0]).shape
    (1797, (1, 8, 8), torch.Size([1, 1, 8, 8]))
    """
    if not (place(path) / "pool.json").is_file():
        if isinstance(place(path), RemotePath):
            raise InputError(f"found no pool at {path}: no pool.json is there; expected one, or images on this machine")
        return open_dataset(str(path), policy=policy)
    pool = Pool(path)
    if policy.resize is not None and pool.shape[1:] != (policy.resize, policy.resize):
        return open_dataset(str(path), policy=policy)
    pool.read([0])  # finds a pool without shards, and one that holds other images than pool.json says
    return pool
