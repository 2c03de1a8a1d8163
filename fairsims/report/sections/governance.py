"""Sections 10 to 14: limits, oversight, changes, marking, and which rule each part serves."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.report import words
from fairsims.report.clauses import CLAUSES, Clause
from fairsims.report.document import Block, Column, Row, Text, row, table
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


def mapping(context: Context) -> Iterator[Block]:
    """A row for each demand of each rule."""
    yield Text(
        text="Clauses as third parties read them in 2026, consolidated with Regulation (EU) 2026/1744; no legal "
        "advice, and no statement that any of them applies. “Present” says that this report holds the evidence "
        "named, not that it suffices."
    )
    names = [Column(title=t, name=True) for t in ("asks for", "where", "status")]
    yield table(("rule", *names), [_mapped(c, context) for c in CLAUSES])


def _mapped(clause: Clause, context: Context) -> Row:
    where = f"section {', '.join(map(str, clause.sections))}" if clause.sections else words.NOTHING
    files = f"; {', '.join(clause.files)}" if clause.files else ""
    return row(clause.rule, clause.asks, where + files, clause.status(context.view, context.answers, context.run))


def _intervals(context: Context) -> str:
    """What the intervals cover and what they do not."""
    view = context.view
    if view.main.tier:
        text = (
            "Intervals cover the sampling of the images and, in tier A, of those that people labelled; in tier B the "
            "counted errors of the classifier, but no errors that it makes on these images and not on those it was "
            "checked on; in tier C no error of the classifier."
        )
        joint = "Joint shares of tier B take the classifiers of the attributes to err independently of each other."
        return f"{text} {joint}" if view.joint else text
    counted = view.section("classifier").get("confusions") or any(
        view.section("classifiers", n).get("confusions") for n in view.section("classifiers")
    )
    errors = " and the counted errors of the classifier" if counted else ""
    text = (
        f"Intervals cover sampling of the generated images{errors}. They do not cover errors that the classifier "
        "makes on generated images but not on the images it was checked on."
    )
    several = "The classifiers of the attributes are taken to err independently of each other."
    return f"{text} {several}" if len(view.attributes) > 1 else text
