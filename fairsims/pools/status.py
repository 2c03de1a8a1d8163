"""What of a pool is there, and what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fairsims.pools.reading import Pool
from fairsims.pools.writing import SHARD_SIZE


def pool_status(folder: str | Path) -> dict[str, Any]:
    """Images asked for and there, the seeds that are missing (first and last of each gap), and the same of labels.

    Raises InputError where the folder is no pool.
    """
    pool = Pool(folder)
    asked, there = pool.asked_seeds, {shard.name for shard in pool.shards}
    shards = {f"shard-{k:05d}.parquet": part for k, part in enumerate(_cut(asked))}
    left = [part for name, part in shards.items() if name not in there]
    labels = {}
    for place in sorted((pool.folder / "labels").glob("[!.]*")):
        name = place.name.removesuffix(".parquet")
        found = set() if place.is_file() else {p.name for p in place.iterdir()}
        unlabelled = [] if place.is_file() else [part for shard, part in shards.items() if shard not in found]
        labels[name] = {"images": len(asked) - sum(map(len, unlabelled)), "missing": _gaps(unlabelled)}
    return {
        "pool": str(pool.folder),
        "asked": len(asked),
        "images": len(asked) - sum(map(len, left)),
        "missing": _gaps(left),
        "labels": labels,
    }


def _cut(seeds: Sequence[int]) -> list[Sequence[int]]:
    return [seeds[start : start + SHARD_SIZE] for start in range(0, len(seeds), SHARD_SIZE)]


def _gaps(parts: Sequence[Sequence[int]]) -> list[str]:
    """`512-1535`: parts that follow each other are one gap."""
    found: list[list[int]] = []
    for part in parts:
        if found and part[0] == found[-1][1] + 1:
            found[-1][1] = part[-1]
        else:
            found.append([part[0], part[-1]])
    return [f"{first}-{last}" for first, last in found]
