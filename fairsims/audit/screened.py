"""Screening kept in files, and what an audit says of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from fairsims.audit import records
from fairsims.data.screening import RULE, Screening, screen
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import read_json, write_json

WORTH = 0.95
"""Part of the images that they are worth as independent ones, from where an audit warns."""


def stored_screening(
    source: ImageSource, store: Path | None, progress: Callable[[int, int], None] = lambda *_: None
) -> Screening:
    """What `screen` finds, from the file where it was found before. Raises InputError naming a broken image."""
    if store is None:
        return screen(source, progress)
    if (known := known_screening(source, store)) is not None:
        return known
    found = screen(source, progress)
    keep_screening(source, store, found)
    return found


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
