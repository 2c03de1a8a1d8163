"""Two attributes at once: the section of an audit that says which of their classes go together."""

from __future__ import annotations

import numpy as np

from fairsims.audit.facts import Side
from fairsims.audit.joint import Cells
from fairsims.audit.reading import Reading
from fairsims.audit.result import Cell, CellChange, JointResult, JointSide
from fairsims.audit.shares import (
    JointEstimate,
    Labelled,
    ShareDifference,
    joint_difference,
    joint_estimate,
    labelled_difference,
    labelled_joint,
    labelled_pool,
)
from fairsims.classifiers.base import Confusion
from fairsims.data import Attribute

SELECTED = "Not measured after: the images were selected by their calls, and cells of what was kept cannot be counted."


def joint_section(a: Reading, b: Reading) -> JointResult:
    """Shares over the cells of two attributes by side, their lift, and their change.

    Tier A where people labelled the same images for both attributes. The cells have `undetermined`, where only people
    know it, when every side is of that tier.
    """
    sides: list[Side] = [side for side in a.predicted if side == "before" or not a.selected]
    shared = all(_shared(a, b, side) for side in sides)
    attributes = [Attribute(name=r.name, classes=r.classes) if shared else r.classifier.attribute for r in (a, b)]
    cells = Cells(attributes=tuple(attributes))
    labelled = {side: _labelled(cells, a, b, side) for side in sides if _shared(a, b, side) and _fit(cells, a, b)}
    counts = {side: cells.counts([a.predicted[side], b.predicted[side]]) for side in sides}
    estimates = {
        side: labelled_joint(cells, labelled[side])
        if side in labelled
        else joint_estimate(cells, counts[side], _confusions(a, b))
        for side in sides
    }
    change = None
    if len(labelled) == 2:
        change = labelled_difference(labelled["before"], labelled["after"])
    elif len(sides) == 2 and not labelled:
        change = joint_difference(cells, counts["before"], counts["after"], _confusions(a, b))
    found = {side: _side(cells, e, counts[side]) for side, e in estimates.items()}
    return JointResult(
        attributes=(a.name, b.name),
        before=found["before"],
        after=found.get("after"),
        difference=() if change is None else _changes(cells, change),
        missing=SELECTED if len(sides) < len(a.predicted) else "",
    )


def _side(cells: Cells, e: JointEstimate, counts: np.ndarray) -> JointSide:
    names = ("share", "low", "high", "raw", "lift", "lift_low", "lift_high")
    rows = [
        Cell(classes=classes, count=int(counts[k]), **{name: getattr(e, name)[k] for name in names})
        for k, classes in enumerate(_classes(cells))
    ]
    return JointSide(
        tier=e.tier, method=e.method, assumption=e.assumption, n=e.n, warnings=e.warnings, cells=tuple(rows)
    )


def _changes(cells: Cells, d: ShareDifference) -> tuple[CellChange, ...]:
    return tuple(
        CellChange(classes=classes, delta=d.delta[k], low=d.low[k], high=d.high[k])
        for k, classes in enumerate(_classes(cells))
    )


def _classes(cells: Cells) -> list[tuple[str, str]]:
    """Both classes of every cell, in the cells' order."""
    first, second = cells.attributes
    return [(first.classes[i], second.classes[j]) for i, j in np.ndindex(*cells.shape)]


def _shared(a: Reading, b: Reading, side: Side) -> bool:
    """Whether people labelled some image for both attributes."""
    known = side in a.labelled and side in b.labelled
    return known and bool(np.isin(a.labelled[side].sample, b.labelled[side].sample).any())


def _fit(cells: Cells, a: Reading, b: Reading) -> bool:
    """Whether the cells have every class that people named."""
    return cells.shape == (len(a.classes), len(b.classes))


def _labelled(cells: Cells, a: Reading, b: Reading, side: Side) -> Labelled:
    """The images that people labelled for both attributes."""
    one, other = a.labelled[side], b.labelled[side]
    shared, i, j = np.intersect1d(one.sample, other.sample, return_indices=True)
    called = cells.place([a.predicted[side], b.predicted[side]])
    return labelled_pool(cells.names, called, shared, cells.place([one.true[i], other.true[j]]))


def _confusions(a: Reading, b: Reading) -> list[Confusion]:
    """Of both classifiers, or none: with the errors of one alone nothing is corrected."""
    found = [r.confusion for r in (a, b) if r.confusion is not None]
    return found if len(found) == 2 else []
