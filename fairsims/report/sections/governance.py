"""Limits, oversight, changes, marking, and which rule each part serves."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.report import tables, words
from fairsims.report.clauses import CLAUSES, Clause
from fairsims.report.document import Block, Column, Row, Text, row, table
from fairsims.report.numbers import NOTHING
from fairsims.report.sections.context import Context


def limits(context: Context) -> Iterator[Block]:
    """What the numbers do not say."""
    yield Text(text=words.LIMIT)
    yield Text(text=_intervals(context))
    yield from context.questions("limits")


def oversight(context: Context) -> Iterator[Block]:
    """Who watches the system in use."""
    yield from context.questions("oversight")


def changes(context: Context) -> Iterator[Block]:
    """What changed since the last report."""
    yield from context.questions("report.changes")


def marking(context: Context) -> Iterator[Block]:
    """How images are marked as generated."""
    yield Text(text="fairsims writes plain PNG images: it adds no watermark and no content credentials (C2PA) to them.")
    yield from context.questions("marking")


def rules(context: Context) -> Iterator[Block]:
    """A row for each demand of each rule."""
    yield Text(
        text="Clauses as third parties read them in 2026, consolidated with Regulation (EU) 2026/1744; no legal "
        "advice, and no statement that any of them applies. “Present” says that this report holds the evidence "
        "named, not that it suffices."
    )
    names = [Column(title=t, name=True) for t in ("asks for", "where", "status")]
    yield table(("rule", *names), (_row(c, context) for c in CLAUSES))


def _row(clause: Clause, context: Context) -> Row:
    numbers = ", ".join(str(context.places[id]) for id in clause.sections)
    where = [f"section {numbers}" if numbers else NOTHING, *clause.files]
    return row(clause.rule, clause.asks, "; ".join(where), clause.status(context.result, context.answers, context.run))


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
