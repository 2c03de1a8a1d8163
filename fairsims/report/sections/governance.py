"""Limits, oversight, changes, marking, and which rule each part serves."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from fairsims.report import tables, words
from fairsims.report.clauses import CLAUSES, REVIEWED, SPECIAL, Clause, stale
from fairsims.report.document import Block, Column, Notes, Row, Text, cell, row, table
from fairsims.report.numbers import NOTHING
from fairsims.report.sections.context import Context


def limits(context: Context) -> Iterator[Block]:
    """What the numbers do not say."""
    yield Text(text=words.LIMIT)
    yield Text(text=_intervals(context))
    yield from context.questions("limits", "risk.intimate", "risk.feedback")


def oversight(context: Context) -> Iterator[Block]:
    """Who watches the system in use."""
    yield from context.questions("oversight")


def changes(context: Context) -> Iterator[Block]:
    """What changed since the last report."""
    yield from context.questions("report.changes")


def marking(context: Context) -> Iterator[Block]:
    """How images are marked as generated."""
    yield Text(text=" ".join(_marks(context)))
    yield from context.questions("marking")


def rules(context: Context) -> Iterator[Block]:
    """A row for each demand of each rule."""
    yield Text(
        text="Clauses as third parties read them in 2026, consolidated with Regulation (EU) 2026/1744; no legal "
        "advice, and no statement that any of them applies. “Present” says that this report holds the evidence "
        "named, not that it suffices."
    )
    if warning := stale(dt.date.today()):
        yield Notes(lines=(warning,))
    if concerned := [a.name for a in context.result.targeted if a.target and a.name.casefold() in SPECIAL]:
        yield Text(text=f"Art. 4a concerns this audit: shares of perceived {', '.join(concerned)} were to be changed.")
    names = [Column(title=t, name=True) for t in ("asks for", "in force from", "edition", "where", "status")]
    yield table(("rule", *names), (_row(c, context) for c in CLAUSES))


def _row(clause: Clause, context: Context) -> Row:
    numbers = ", ".join(str(context.places[id]) for id in clause.sections)
    where = [f"section {numbers}" if numbers else NOTHING, *clause.files]
    status = clause.status(context.result, context.answers, context.run)
    edition = cell(clause.edition, f"reviewed {REVIEWED.isoformat()}", wrap=True)
    return row(clause.rule, clause.asks, clause.since, edition, "; ".join(where), status)


def _marks(context: Context) -> Iterator[str]:
    """How this audit's images are marked."""
    for side in context.result.sides:
        pool, name = context.result.pools.get(side), words.side_name(side, context.result)
        if pool is None or pool.kind != "pool":
            yield f"{name.capitalize()}: images that fairsims did not generate; their own marks stay in every copy."
        elif pool.marked:
            yield (
                f"{name.capitalize()}: every PNG says in XMP that a trained model made it (IPTC DigitalSourceType "
                "trainedAlgorithmicMedia), and by which (SHA-256). This mark is not signed."
            )
        else:
            yield f"{name.capitalize()}: generated images without a mark (--no-mark, or an earlier version)."
    yield "Exports are signed with content credentials (C2PA) where a key is given. There is no watermark."


def _intervals(context: Context) -> str:
    """What the intervals cover and what they do not."""
    result = context.result
    if result.main.tier:
        text = (
            "Intervals cover the sampling of the images and, in tier A, of those that people labelled; in tier B the "
            "counted errors of the classifier, but no errors that it makes on these images and not on those it was "
            "checked on; in tier C no error of the classifier."
        )
        joint = "Joint shares of tier B take the classifiers of the attributes to err independently of each other."
        return f"{text} {joint}" if result.joint else text
    counted = any(c.confusions for c in tables.classifiers_of(result))
    errors = " and the counted errors of the classifier" if counted else ""
    text = (
        f"Intervals cover sampling of the generated images{errors}. They do not cover errors that the classifier "
        "makes on generated images but not on the images it was checked on."
    )
    several = "The classifiers of the attributes are taken to err independently of each other."
    return f"{text} {several}" if len(result.attributes) > 1 else text
