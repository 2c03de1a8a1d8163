"""Section 6: shares of every attribute, alone and together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from fairsims.report import words
from fairsims.report.document import Block, Cell, Column, Heading, Notes, Row, Table, Text, row, table
from fairsims.report.fields import number_of, object_of
from fairsims.report.joint_view import JointView
from fairsims.report.sections.context import Context
from fairsims.report.sections.values import share_cell, small
from fairsims.report.view import AttributeView, AuditView, Share, Shares

SMALL_SHARE = 0.02
"""Categories below this may be left out of NYC LL144 ratios; they are listed here all the same."""


def representation(context: Context) -> Iterator[Block]:
    """Shares, distances from the target, counts and ratios, attributes together."""
    view, pictures = context.view, context.pictures
    yield pictures["shares"]
    for a in view.attributes:
        yield Heading(text=f"{a.name} (was to stay as it is)" if a.drift is not None else a.name)
        yield _shares(a, view)
        if raw := _raw(a):
            yield Text(text=raw, soft=True)
        if a.warnings:
            yield Notes(lines=a.warnings)
        if measures := measure_rows(a, view):
            sides = [words.side_name(s, view) for s in view.sides]
            yield table(
                ("measure", *sides, "at the target, up to"),
                measures,
                caption="Distance from the target. Were the target met exactly, as many images and labels would still "
                "give up to the last column in 95 of 100 cases.",
            )
        yield _ratios(a, view)
    if view.joint:
        yield Heading(text="Attributes together")
        if "joint" in pictures:
            yield pictures["joint"]
    for pair in view.joint:
        yield from _joint(pair, view)
    if any(a.target for a in view.attributes) and context.two_sided:
        yield Text(
            text="Whether a target is reached is judged by equivalence: the whole interval inside the tolerance. There "
            "are no p-values here, and so none to adjust.",
            soft=True,
        )


def _shares(a: AttributeView, view: AuditView) -> Table:
    columns = [Column(title="class")]
    columns += [Column(title="target", wide_only=True)] if a.target else []
    for side in view.sides:
        if a.side(side):
            tier = f"tier {a.tier[side]}" if side in a.tier else ""
            columns.append(Column(title=side if a.after else "share", note=tier))
    columns += [Column(title="difference, points")] if a.difference else []
    rows = []
    for c in a.classes:
        cells = [Cell(text=words.short_percent(a.target.get(c)))] if a.target else []
        cells += [share_cell(a.side(side)[c]) for side in view.sides if a.side(side)]
        if a.difference:
            delta = a.difference[c]
            cells.append(Cell(text=words.points(delta.share), small=small(words.points_interval(delta))))
        under = f"target {words.short_percent(a.target.get(c))}" if a.target else ""
        rows.append(row(c, *cells, strong=c == a.focus, under=under))
    return table(columns, rows)


def _raw(a: AttributeView) -> str:
    """What the classifier alone calls the images of the focus class."""
    calls = [words.percent(s[a.focus].raw) for s in (a.before, a.after) if s and s[a.focus].raw is not None]
    return f"Uncorrected, the classifier calls {' → '.join(calls)} of the images {a.focus}." if calls else ""


def measure_rows(a: AttributeView, view: AuditView) -> list[Row]:
    """Distances from the target: name, a number for each side, and what chance alone gives."""
    rows = []
    for key, name in words.MEASURES.items():
        values = {side: number_of(m, key) for side, m in a.measures.items()}
        chance = [number_of(object_of(m, "null"), key) for m in a.measures.values()]
        null = max((c for c in chance if c is not None), default=None)
        if values:
            cells = [words.fixed(values.get(s), 3) for s in view.sides]
            rows.append(row(name, *cells, "" if null is None else words.fixed(null, 3)))
    return rows


def _ratios(a: AttributeView, view: AuditView) -> Table:
    """Counts and ratios to the most frequent class: the form of an LL144 table, for representation."""
    sides = [s for s in view.sides if a.side(s)]
    columns = ["class"]
    for s in sides:
        of = f", {words.side_name(s, view)}" if len(sides) > 1 else ""
        columns += [f"called{of}", f"ratio to the largest{of}"]
    rows = []
    for c in a.classes:
        cells: list[str] = []
        for s in sides:
            share, largest = a.side(s)[c], max(x.share for x in a.side(s).values())
            cells += [words.number(share.count), words.fixed(share.share / largest) if largest else words.NOTHING]
        least = min(a.side(s)[c].share for s in sides)
        rows.append(row(f"{c} (below 2%)" if least < SMALL_SHARE else c, *cells))
    caption = "Images called each class, and each corrected share over that of the most frequent class"
    return table(columns, rows, caption=caption, folded=f"Counts and ratios of {a.name}")


def _joint(pair: JointView, view: AuditView) -> Iterator[Block]:
    first, second = pair.attributes
    sides = [Column(title=f"{words.side_name(s, view)}, lift") for s in pair.cells]
    yield Heading(text=f"{first} and {second}")
    rows = []
    for cells in zip(*pair.cells.values(), strict=True):
        shown = [
            Cell(
                text=words.percent(c.share),
                small=small(_interval(c.share, c.low, c.high), f"×{words.fixed(c.lift)}"),
            )
            for c in cells
        ]
        rows.append(row(cells[0].classes[0], cells[0].classes[1], *shown))
    yield table([first, Column(title=second, name=True), *sides], rows)
    if pair.missing:
        yield Text(text=pair.missing, soft=True)
    if pair.warnings:
        yield Notes(lines=pair.warnings)


def _interval(share: float, low: float | None, high: float | None) -> str:
    return words.interval(Share(share=share, low=low, high=high))


def furthest(shares: Shares, target: Mapping[str, float]) -> str:
    """The class that lies furthest below its target."""
    return min(target, key=lambda c: shares[c].share - target[c])
