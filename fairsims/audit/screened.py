"""Screening kept in files, and what an audit says of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fairsims import engine
from fairsims.audit import records
from fairsims.data.screening import RULE, Looks, Screener, Screening, looked_at, screen
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, write_json
from fairsims.pools import Pool
from fairsims.pools.reading import Part, PartTask

Tally = Callable[[int, int], None]

WORTH = 0.95
"""Part of the images that they are worth as independent ones, from where an audit warns."""


@dataclass(frozen=True, kw_only=True)
class ScreenTask(PartTask):
    """What screening has to know of the images of one shard of a pool."""

    @property
    def makes(self) -> str:
        return "the screening"


def stored_screening(source: ImageSource, store: Path | None, progress: Tally = lambda *_: None) -> Screening:
    """What `screen` finds, from the file where it was found before; of a pool the engine looks at the shards.

    Raises InputError naming a broken image.
    """
    if store is None:
        return screen(source, progress)
    if (known := known_screening(source, store)) is not None:
        return known
    found = _screened(source, store, progress) if isinstance(source, Pool) else screen(source, progress)
    keep_screening(source, store, found)
    return found


def _screened(pool: Pool, store: Path, progress: Tally) -> Screening:
    parts = _file(pool, store).with_suffix("")
    tasks = [ScreenTask(path=parts / f"{shard.stem}.npy", pool=pool.folder, shard=shard) for shard in pool.shards]
    for task in tasks:
        if task.path.exists() and _read(task.path, len(pool.parts[task.shard])) is None:
            task.path.unlink()
    done, screener = 0, Screener(pool)
    for step in engine.own().map(partial(Pool, pool.folder), screen_shard, tasks):
        progress(done + step.rows, len(pool))
        done += step.rows if step.finished else 0
    for task in tasks:
        if (rows := _read(task.path, len(pool.parts[task.shard]))) is None:
            raise InputError(f"{task.path} cannot be read back after writing; check the disk")
        screener.take(rows)
    shutil.rmtree(parts)
    return screener.result()


def _read(path: Path, rows: int) -> Looks | None:
    """What was seen of a shard; None where the file is not whole."""
    try:
        found: Looks = np.load(path)
    except (OSError, ValueError, EOFError):
        return None
    return found if len(found) == rows else None


def screen_shard(pool: Pool, task: ScreenTask) -> Iterator[int]:
    """Look at the images of one shard and write what was seen; yields the number of images that are done."""
    rows = []
    for batch in Part(pool, pool.parts[task.shard]).batches():
        rows.append(looked_at(batch))
        yield sum(map(len, rows))
    with atomic(task.path, shared=True) as temporary, temporary.open("wb") as file:
        np.save(file, np.concatenate(rows))


def known_screening(source: ImageSource, store: Path) -> Screening | None:
    """What was found before, if it is kept."""
    path = _file(source, store)
    if not path.exists():
        return None
    try:
        known = records.from_json(Screening, read_json(path))
    except InputError:  # cut off, or of another version
        return None
    return known if known.n == len(source) and known.rule == RULE else None


def keep_screening(source: ImageSource, store: Path, found: Screening) -> None:
    """Write what was found where `known_screening` reads it."""
    write_json(_file(source, store), records.to_json(found))


def _file(source: ImageSource, store: Path) -> Path:
    return store / f"screening-{source.digest[:16]}-{'x'.join(map(str, source.shape))}.json"


def screening_notes(side: str, s: Screening) -> Iterator[str]:
    """Warnings: images of one colour, and copies that make intervals too narrow."""
    if s.constant.n:
        yield (
            f"{side}: {s.constant.n:,} of {s.n:,} images are of one colour ({', '.join(s.constant.names)}); they count "
            "as whatever class the classifier calls them: look at them, and leave them out or label them undetermined"
        )
    if s.worth < WORTH * s.n:
        yield (
            f"{side}: {s.copies.n:,} of {s.n:,} images are copies of others and {s.near.n:,} nearly; together they are "
            f"worth about {s.worth:,.0f} independent ones, so intervals for {s.n:,} are too narrow, by a factor of "
            f"about {(s.n / s.worth) ** 0.5:.1f}"
        )
