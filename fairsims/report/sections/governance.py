"""Sections 10 to 14: limits, oversight, changes, marking, and which rule each part serves."""

from __future__ import annotations

from fairsims.report import words
from fairsims.report.clauses import CLAUSES, Clause
from fairsims.report.document import Column, Row, Section, Text, row, table
from fairsims.report.sections.context import Context


def limits(context: Context) -> Section:
    """Section 10: what the numbers do not say."""
    return Section(
        number=10,
        title="Limits",
        clauses="AI Act, Art. 13(3)(b), Annex IV 3 and 5",
        blocks=(Text(text=words.LIMIT), Text(text=_intervals(context)), *context.questions("limits")),
    )


def oversight(context: Context) -> Section:
    """Section 11: who watches the system in use."""
    return Section(
        number=11,
        title="Oversight",
        clauses="AI Act, Art. 14, Annex IV 2(e) and 9",
        blocks=tuple(context.questions("oversight")),
    )


def changes(context: Context) -> Section:
    """Section 12: what changed since the last report."""
    return Section(
        number=12, title="Change log", clauses="AI Act, Annex IV 6", blocks=tuple(context.questions("report.changes"))
    )


def marking(context: Context) -> Section:
    """Section 13: how images are marked as generated."""
    said = "fairsims writes plain PNG images: it adds no watermark and no content credentials (C2PA) to them."
    return Section(
        number=13,
        title="Marking of generated images",
        clauses="AI Act, Art. 50(2)",
        blocks=(Text(text=said), *context.questions("marking")),
    )


def mapping(context: Context) -> Section:
    """Section 14: a row for each demand of each rule."""
    return Section(
        number=14,
        title="Which rule asks for what",
        blocks=(
            Text(
                text="Clauses as third parties read them in 2026, consolidated with Regulation (EU) 2026/1744; no "
                "legal advice, and no statement that any of them applies. “Present” says that this report holds the "
                "evidence named, not that it suffices."
            ),
            table(
                (
                    "rule",
                    Column(title="asks for", name=True),
                    Column(title="where", name=True),
                    Column(title="status", name=True),
                ),
                [_mapped(c, context) for c in CLAUSES],
            ),
        ),
    )


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
