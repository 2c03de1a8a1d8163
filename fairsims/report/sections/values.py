"""Values of an audit as the text that a report shows."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fairsims.report import words
from fairsims.report.document import Cell
from fairsims.report.view import Share


def value_text(value: object) -> str:
    """A setting as text: numbers as words have them, lists and objects as JSON."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list | bool) else str(value)
    return words.number(float(value))


def small(*texts: str) -> tuple[str, ...]:
    """Those of the texts that say something."""
    return tuple(t for t in texts if t)


def share_cell(share: Share | None) -> Cell:
    """A share in percent with its interval."""
    return Cell(text=words.percent(share.share if share else None), small=small(words.interval(share)))
