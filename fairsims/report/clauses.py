"""Which rule asks for which part of a report, and whether the report holds it: `clauses.toml` beside this file."""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from fairsims.audit.result import AuditResult
from fairsims.report.measured import quality_numbers
from fairsims.run import PLAN

_FILE = tomllib.loads((files(__package__) / "clauses.toml").read_text(encoding="utf-8"))
REVIEWED: dt.date = _FILE["reviewed"]
"""When the table was last compared with what is published."""
MOST_DAYS = 180
SPECIAL = ("gender", "sex", "race", "ethnicity", "skin_tone", "skin tone", "religion")
"""Attributes whose retargeting Art. 4a concerns."""
PRESENT, PARTIAL, YOURS, ABSENT, UNSEEN = "present", "partial", "you must supply it", "not measured", "not verified"


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One demand of one rule."""

    rule: str
    asks: str
    since: str
    """From when it is in force."""
    edition: str
    """The text that was read."""
    sections: tuple[str, ...] = ()
    """Ids."""
    needs: tuple[str, ...] = ()
    """Parts of the audit: keys of `evidence`."""
    questions: tuple[str, ...] = ()
    """Ids."""
    files: tuple[str, ...] = ()

    def status(self, result: AuditResult, answers: Mapping[str, str], run: Path) -> str:
        """One of the words above."""
        if not self.needs and not self.questions:
            return UNSEEN
        there = evidence(result, run)
        parts = [there[n] for n in self.needs] + [bool(answers[q].strip()) for q in self.questions]
        if all(parts):
            return PRESENT
        if any(parts):
            return PARTIAL
        return YOURS if self.questions else ABSENT


def evidence(result: AuditResult, run: Path) -> dict[str, bool]:
    """Parts of an audit, and whether this one has them."""
    attributes, method = result.attributes.values(), result.method
    pools = [p for p in result.pools.values() if p.kind == "pool"]
    measured = {q.key for s in result.sections[:1] for q in quality_numbers(s)}
    return {
        "model": bool(result.model),
        "shares": True,
        "target": any(a.target for a in attributes),
        "groups": any(s.groups for s in result.sections),
        "joint": bool(result.joint),
        "errors": any(a.by_split or "A" in a.tier.values() for a in attributes),
        "quality": bool(result.sections),
        "nearest": bool(measured & {"nearest_median", "nearest_low", "auth_pct"}),
        "mitigation": method is not None,
        "ratio": method is not None and method.complement_size is not None,
        "plan": result.plan is not None and (run / PLAN).exists(),
        "marked": bool(pools) and all(p.marked for p in pools),
        "log": bool(pools) and all(p.seeds and p.checkpoint for p in pools),
        "settings": bool(result.settings) or (run / "config.json").exists(),
        "both sides": len(result.sides) == 2,
    }


def stale(today: dt.date) -> str:
    """A warning where the table was last reviewed more than `MOST_DAYS` ago; else nothing."""
    days = (today - REVIEWED).days
    if days <= MOST_DAYS:
        return ""
    return (
        f"This table was last reviewed on {REVIEWED:%d %B %Y}, {days} days before this report: rules have changed since"
    )


def _read() -> Iterator[Clause]:
    for value in _FILE["clause"]:
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
        yield Clause(**given)


CLAUSES = tuple(_read())
