"""Sections 7 and 8: quality, and what else moved."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.report import words
from fairsims.report.alternatives import nearest_alt
from fairsims.report.document import Block, Cell, Figure, Heading, Notes, Row, Text, row, table
from fairsims.report.fields import object_of
from fairsims.report.quality_view import GroupRow, QualityRow, QualitySection
from fairsims.report.sections.context import Context
from fairsims.report.view import AuditView


def quality(context: Context) -> Iterator[Block]:
    """Numbers of every feature extractor."""
    view = context.view
    for section in view.sections:
        yield from _numbers(section, view)
    if not view.sections:
        yield Text(text="Quality was not measured: no real images were given to hold it against.")
    if neighbours := words.neighbours_sentence(view):
        yield Text(text=neighbours, soft=True)
    if view.sections and context.two_sided and view.targeted[0].target:
        yield Text(
            text="A model that reaches another mix moves away from the real images as they are by intention; the "
            "distance to them re-weighted to the target says whether the images stayed good on the way.",
            soft=True,
        )


def _numbers(section: QualitySection, view: AuditView) -> Iterator[Block]:
    metric = section.metric or "metric not recorded"
    if len(view.sections) > 1:
        yield Heading(text=metric)
    sides = [words.side_name(s, view) for s in view.sides]
    reference = f", reference {section.reference}" if section.reference else ""
    yield table(
        ("quality", *sides, *(["real images"] if section.has_reference else [])),
        [_number(q, section, view) for q in section.rows],
        caption=f"{metric}{reference}; a lower distance is closer",
    )
    extractor = object_of(section.raw, "extractor")
    if extractor:
        yield Text(
            text=f"Features: {extractor.get('name')}, weights {extractor.get('weights_digest') or 'not recorded'}; "
            f"resize: {extractor.get('resize')}.",
            soft=True,
        )
    if section.groups:
        yield table(
            ("class", *sides),
            [_group(g, section, view) for g in section.groups],
            caption="Quality of each class against real images of the class: KID at equal numbers, so that a small "
            "class is not marked down for being small",
        )
    if section.warnings:
        yield Notes(lines=section.warnings)
    for what, why in section.unavailable:
        yield Text(text=f"Not given, {what}: {why}.", soft=True)


def _number(q: QualityRow, section: QualitySection, view: AuditView) -> Row:
    cells = []
    for side in view.sides:
        limits = (words.bounds(q.intervals[side], q.digits),) if side in q.intervals else ()
        cells.append(
            Cell(text=words.fixed(q.before if side == "before" else q.after, q.digits), small=limits, wrap=True)
        )
    if section.has_reference:
        cells.append(Cell(text="" if q.reference is None else words.fixed(q.reference, q.digits)))
    return row(q.name, *cells)


def _group(g: GroupRow, section: QualitySection, view: AuditView) -> Row:
    cells = []
    for side in view.sides:
        found = g.sides.get(side)
        if found is None or isinstance(found, str):
            cells.append(Cell(text=words.NOTHING if found is None else f"not measured: {found}"))
        else:
            digits = section.group_digits
            limits = words.bounds((found.low, found.high), digits)
            cells.append(Cell(text=words.fixed(found.kid, digits), small=(limits,)))
    return row(f"{g.attribute}: {g.group}", *cells)


def side_effects(context: Context) -> Iterator[Block]:
    """Drift of other attributes, quality against strength, nearest reference images."""
    view, pictures = context.view, context.pictures
    free = [a for a in view.attributes if not a.target and a.after and a.difference]
    for a in free:
        moved = max(a.difference, key=lambda c: abs(a.difference[c].share))
        delta = a.difference[moved]
        said = words.drift_verdict(a) or "It had no target and no limit; its largest change"
        if a.drift is None:
            said += f" is {moved} {words.points(delta.share)} points {words.points_interval(delta)}.".replace("  ", " ")
        yield Text(text=f"{a.name}: {said}")
    if context.two_sided and not free:
        yield Text(
            text="No attribute without a target was measured, so whether others drifted is not known; "
            "an audit measures one that it is told to hold."
        )
    if "quality" in pictures:
        yield pictures["quality"]
        yield Text(
            text="Measured on calibration seeds at equal numbers of images, for comparing strengths with each other; "
            "the numbers above are from more images and cannot be held against these.",
            soft=True,
        )
    galleries = [(s, path) for s in view.sides if (path := context.audit / f"nearest-{s}.png").exists()]
    if galleries:
        yield Heading(text="Nearest reference images")
        yield Text(
            text="The generated images that lie nearest to a real image of the reference, nearest first, in the upper "
            "row; below each that real image. A copy would look alike."
        )
    for side, path in galleries:
        yield Figure(path=path, alt=nearest_alt(side, view), name=words.side_name(side, view).capitalize(), grid=True)
    if not free and "quality" not in pictures and not galleries and not context.two_sided:
        yield Text(text="One source was measured, so nothing can have moved.")
