"""The tables of an audit, each made here once: page, PDF, Markdown, terminal and dashboard render them."""

from __future__ import annotations

from collections.abc import Iterator

from scipy.stats import binomtest

from fairsims.audit.facts import ClassifierFacts, GroupDistance, QualityResult, Side
from fairsims.audit.result import AttributeResult, AuditResult, JointResult, Share
from fairsims.errors import InputError
from fairsims.report import words
from fairsims.report.document import Cell, Column, Row, Table, cell, row, table
from fairsims.report.measured import cost_numbers, digits_of, quality_numbers, reference_name
from fairsims.report.numbers import (
    NOTHING,
    ShareLike,
    bounds,
    duration,
    fixed,
    interval,
    number,
    percent,
    points,
    points_interval,
    short_percent,
)

MOST_CONDITIONS = 12
"""Rows of a table of conditions: the ones furthest off."""
SMALL_SHARE = 0.02
"""Categories below this may be left out of NYC LL144 ratios; they are listed here all the same."""


def share_cell(share: ShareLike | None) -> Cell:
    """A share in percent with its interval."""
    return cell(NOTHING) if share is None else cell(percent(share.share), interval(share))


def shares_table(a: AttributeResult, result: AuditResult) -> Table:
    """A row per class: target, shares with intervals, their difference; what the audit lacks is left out."""
    sides = [s for s in result.sides if a.side(s)]
    columns = [Column(title=a.name)]
    columns += [Column(title="target", wide_only=True)] if a.target else []
    for side in sides:
        tier = f"tier {a.tier[side]}" if side in a.tier else ""
        columns.append(Column(title=words.side_name(side, result), note=tier))
    columns += [Column(title="difference, points")] if a.difference else []
    rows = []
    for c in a.classes:
        cells = [cell(short_percent(a.target.get(c)))] if a.target else []
        cells += [share_cell(a.side(side)[c]) for side in sides]
        if a.difference:
            cells.append(cell(points(a.difference[c].delta), points_interval(a.difference[c])))
        under = f"target {short_percent(a.target.get(c))}" if a.target else ""
        rows.append(row(c, *cells, strong=c == a.focus, under=under))
    return table(columns, rows)


def conditions_table(a: AttributeResult, result: AuditResult) -> Table | None:
    """The focus class's share in each class asked for, those furthest off first; None of images without conditions."""
    found = a.by_condition
    if found is None or not found.rows:
        return None
    sides = [s for s in result.sides if found.rows[0].side(s)]
    rows = sorted(found.rows, key=lambda r: -words.condition_off(a, r, sides))
    cells = (
        row(r.condition, *(cell(f"{r.n[s]:,}") for s in sides), *(share_cell(r.side(s)[a.focus]) for s in sides))
        for r in rows[:MOST_CONDITIONS]
    )
    columns = ["class asked for", *(f"images {words.side_name(s, result)}" for s in sides)]
    columns += [f"{a.focus}, {words.side_name(s, result)}" for s in sides]
    caption = f"{a.name} in each class asked for"
    if len(rows) > MOST_CONDITIONS:
        how = "furthest from the target" if a.target else "that moved furthest" if len(sides) > 1 else "first"
        caption += f": the {MOST_CONDITIONS} of {len(rows):,} {how}; conditions.parquet has all"
    return table(columns, cells, caption=caption)


def untargeted_table(result: AuditResult) -> Table | None:
    """The largest change of each attribute that was only watched, largest first; None without one."""
    rows = []
    for a in result.untargeted:
        change, limit = a.difference[a.focus], a.untargeted
        cells = [share_cell(a.side(side)[a.focus]) for side in result.sides]
        cells.append(cell(points(change.delta), points_interval(change)))
        moved = limit is not None and limit.moved
        rows.append(row(f"{a.name}: {a.focus}", *cells, cell("moved" if moved else ""), strong=moved))
    columns = ("not targeted: largest change", *words.side_names(result), "difference, points", "")
    return table(columns, rows) if rows else None


def splits_table(a: AttributeResult, result: AuditResult) -> Table:
    """Shares under each held-out split: of the focus class, with more classes than two of all, folded."""
    many = len(a.classes) > 2
    sides = words.side_names(result)
    columns = ["errors measured on"]
    columns += ["class", *sides] if many else [f"{a.focus}, {s}" for s in sides]
    rows = []
    for split, found in a.by_split.items():
        for c in a.classes if many else (a.focus,):
            cells = [share_cell(found[s][c] if found.get(s) else None) for s in result.sides]
            rows.append(row(split, *([c] if many else []), *cells))
    return table(columns, rows, folded="Every class by split" if many else "")


def measures_table(a: AttributeResult, result: AuditResult) -> Table | None:
    """Distances from the target on each side, and what chance alone gives; None where none were measured."""
    if not a.measures:
        return None
    rows = []
    for key, name in words.MEASURES.items():
        values: dict[Side, float | None] = {side: getattr(m, key) for side, m in a.measures.items()}
        chance = max((m.null[key] for m in a.measures.values() if key in m.null), default=None)
        cells = [fixed(values.get(side), 3) for side in result.sides]
        rows.append(row(name, *cells, "" if chance is None else fixed(chance, 3)))
    caption = (
        "Distance from the target. Were the target met exactly, as many images and labels would still give up to the "
        "last column in 95 of 100 cases."
    )
    return table(("measure", *words.side_names(result), "at the target, up to"), rows, caption=caption)


def ratios_table(a: AttributeResult, result: AuditResult) -> Table:
    """Counts and ratios to the most frequent class: the form of an LL144 table, for representation."""
    sides = [s for s in result.sides if a.side(s)]
    columns = [a.name]
    for s in sides:
        of = f", {words.side_name(s, result)}" if len(sides) > 1 else ""
        columns += [f"called{of}", f"ratio to the largest{of}"]
    rows = []
    for c in a.classes:
        cells: list[str] = []
        for s in sides:
            share, largest = a.side(s)[c], max(x.share for x in a.side(s).values())
            cells += [number(share.count), fixed(share.share / largest) if largest else NOTHING]
        least = min(a.side(s)[c].share for s in sides)
        rows.append(row(f"{c} (below 2%)" if least < SMALL_SHARE else c, *cells))
    caption = "Images called each class, and each corrected share over that of the most frequent class"
    return table(columns, rows, caption=caption, folded=f"Counts and ratios of {a.name}")


def joint_table(pair: JointResult, result: AuditResult) -> Table:
    """A row per pair of classes: share with interval and lift on each side."""
    first, second = pair.attributes
    sides = [Column(title=f"{words.side_name(s, result)}, lift") for s in pair.sides]
    rows = []
    for cells in zip(*(side.cells for side in pair.sides.values()), strict=True):
        shown = [cell(percent(c.share), interval(c), f"×{fixed(c.lift)}") for c in cells]
        rows.append(row(cells[0].classes[0], cells[0].classes[1], *shown))
    return table([first, Column(title=second, name=True), *sides], rows)


def quality_table(section: QualityResult, result: AuditResult) -> Table:
    """A row per number of one feature extractor; the real images' own where any has one."""
    found = quality_numbers(section)
    real = any(q.reference is not None for q in found)
    rows = []
    for q in found:
        cells = []
        for side in result.sides:
            limits = bounds(q.intervals[side], q.digits) if side in q.intervals else ""
            cells.append(cell(fixed(q.values.get(side), q.digits), limits, wrap=True))
        if real:
            cells.append(cell("" if q.reference is None else fixed(q.reference, q.digits)))
        rows.append(row(q.name, *cells))
    metric = section.metric or "metric not recorded"
    against = f"Against {reference_name(section.reference)}; a" if section.reference else "A"
    return table(
        (metric, *words.side_names(result), *(["real images"] if real else [])),
        rows,
        caption=f"{against} lower distance is closer",
    )


def groups_table(section: QualityResult, result: AuditResult) -> Table:
    """Kernel distances of each class's images to the real images of the class."""
    rows = [(f"{name}: {group}", sides) for name, of in section.groups.items() for group, sides in of.items()]
    there = [d for _, sides in rows for d in sides.values()]
    digits = max(3, digits_of([v for d in there for v in (d.kid, d.low, d.high) if v is not None]))
    return table(
        ("class", *words.side_names(result)),
        (row(name, *(_group(sides.get(side), digits) for side in result.sides)) for name, sides in rows),
        caption="Quality of each class against real images of the class: KID at equal numbers, so that a small class "
        "is not marked down for being small",
    )


def _group(found: GroupDistance | None, digits: int) -> Cell:
    if found is None:
        return cell(NOTHING)
    if found.kid is None or found.low is None or found.high is None:
        return cell(f"not measured: {found.refused or 'no reason recorded'}")
    return cell(fixed(found.kid, digits), bounds((found.low, found.high), digits))


def cost_table(result: AuditResult) -> Table:
    """Plain resampling of the base beside the retargeted model; of one source what it took."""
    if len(result.sides) == 1:
        rows = [row(c.name, fixed(c.base, c.digits)) for c in cost_numbers(result.cost)]
        return table(("cost", "measured"), rows)
    names = ("base, resampled", "retargeted") if result.method is not None else ("before, resampled", "after")
    rows = [row(c.name, fixed(c.base, c.digits), fixed(c.retargeted, c.digits)) for c in cost_numbers(result.cost)]
    return table(("cost", *names), rows)


def stages_table(result: AuditResult) -> Table | None:
    """A row per stage of the run; None where none was timed."""
    if result.cost is None or not result.cost.stages:
        return None
    rows = [row(s.stage, number(s.images), number(s.evaluations), duration(s.seconds)) for s in result.cost.stages]
    if result.cost.seconds is not None:
        rows.append(row("whole run", "", "", duration(result.cost.seconds), strong=True))
    return table(("stage", "images", "evaluations", "time"), rows, caption="Stages of this run")


def findings_table(result: AuditResult) -> Table | None:
    """The group furthest below its target on each side; None without a target."""
    rows = []
    for a in result.attributes.values():
        sides = [s for s in result.sides if a.side(s)]
        for c in dict.fromkeys(words.furthest_below(a, side) for side in sides) if a.target else ():
            cells: list[Cell | str] = []
            for side in sides:
                share = a.side(side)[c]
                cells += [share_cell(share), points(share.share - a.target[c])]
            rows.append(row(f"{a.name}: {c}", *cells))
    columns = ["attribute: group furthest below its target"]
    for name in words.side_names(result):
        columns += [name, "gap, points" if len(result.sides) == 1 else f"gap {name}, points"]
    return table(columns, rows, caption="Findings") if rows else None


def rounds_table(result: AuditResult) -> Table | None:
    """The rounds of complement, fine-tune and calibration, when there was more than one."""
    if len(result.rounds) < 2:
        return None
    rows = []
    for r in result.rounds:
        # A round whose calibration found no rise has neither strength nor error.
        lost = r.strength is None
        size = NOTHING if r.complement_size is None else f"{number(r.complement_size)} images"
        strength = "no rise found" if lost else fixed(r.strength)
        rows.append(row(f"{r.round}{', kept' if r.kept else ''}", size, strength, fixed(r.error), strong=r.kept))
    caption = (
        "Rounds: each trains an auxiliary from the base, on a complement set corrected by the error that the last one "
        "left. The error is the worst share's, as a multiple of what it may be off."
    )
    return table(("round", "complement set", "strength", "error"), rows, caption=caption)


def confusion_tables(result: AuditResult) -> Iterator[tuple[str, Table]]:
    """Attribute and table of each held-out split of each classifier: counts `[true][predicted]`, share called right.

    Raises InputError where the counts are not of the classifier's classes.
    """
    for classifier in classifiers_of(result):
        attribute = result.attributes.get(classifier.attribute or "", result.main)
        # The audit may have a class that people alone know.
        classes = classifier.classes or attribute.classes
        for split, value in classifier.confusions.items():
            if len(value.counts) != len(classes) or any(len(r) != len(classes) for r in value.counts):
                raise InputError(
                    f"confusions.{split} of the classifier of {attribute.name} in the audit is no {len(classes)} x "
                    f"{len(classes)} table; run the audit again"
                )
            columns = ["labelled", *(f"called {c}" for c in classes), "right"]
            rows = [_right(c, i, r) for i, (c, r) in enumerate(zip(classes, value.counts, strict=True))]
            yield attribute.name, table(columns, rows, caption_name=split, caption=value.description, small=True)


def classifiers_of(result: AuditResult) -> list[ClassifierFacts]:
    """Every classifier once."""
    return list(result.classifiers.values()) or ([result.classifier] if result.classifier is not None else [])


def _right(name: str, place: int, counts: tuple[int, ...]) -> Row:
    total = sum(counts)
    if not total:
        return row(name, *map(number, counts), NOTHING)
    low, high = binomtest(counts[place], total).proportion_ci(0.95, "wilson")
    right = Share(share=counts[place] / total, low=float(low), high=float(high))
    return row(name, *map(number, counts), share_cell(right))
