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
    shape = "x".join(map(str, source.shape))
    path = None if store is None else store / f"screening-{source.digest[:16]}-{shape}.json"
    if path is not None and path.exists():
        try:
            known = records.from_json(Screening, read_json(path))
        except InputError:  # cut off, or of another version
            known = None
        if known is not None and known.n == len(source) and known.rule == RULE:
            return known
    found = screen(source, progress)
    if path is not None:
        write_json(path, records.to_json(found))
    return found


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
