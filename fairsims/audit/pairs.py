"""Two attributes at once: the section of an audit that says which of their classes go together."""

from __future__ import annotations

from typing import Any

import numpy as np

from fairsims.audit.joint import Cells
from fairsims.audit.reading import Reading
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


def joint_section(a: Reading, b: Reading) -> dict[str, Any]:
    """One entry of `joint`: shares over the cells of two attributes by side, their lift, and their change.

    Tier A where people labelled the same images for both attributes. The cells have `undetermined`, where only people
    know it, when every side is of that tier.
    """
    sides = [when for when in a.predicted if when == "before" or not a.selected]
    shared = all(_shared(a, b, when) for when in sides)
    attributes = [Attribute(name=r.name, classes=r.classes) if shared else r.classifier.attribute for r in (a, b)]
    cells = Cells(attributes=tuple(attributes))
    labelled = {when: _labelled(cells, a, b, when) for when in sides if _shared(a, b, when) and _fit(cells, a, b)}
    counts = {when: cells.counts([a.predicted[when], b.predicted[when]]) for when in sides}
    estimates = {
        when: labelled_joint(cells, labelled[when])
        if when in labelled
        else joint_estimate(cells, counts[when], _confusions(a, b))
        for when in sides
    }
    found: dict[str, Any] = {
        "attributes": [a.name, b.name],
        **{when: _side(cells, e, counts[when]) for when, e in estimates.items()},
    }
    if len(sides) < len(a.predicted):
        found["missing"] = SELECTED
    if len(labelled) == 2:
        found["difference"] = _changes(cells, labelled_difference(labelled["before"], labelled["after"]))
    elif len(sides) == 2 and not labelled:
        d = joint_difference(cells, counts["before"], counts["after"], _confusions(a, b))
        found["difference"] = _changes(cells, d)
    return found


def _side(cells: Cells, e: JointEstimate, counts: np.ndarray) -> dict[str, Any]:
    (first, second), rows = cells.attributes, []
    for k, (i, j) in enumerate(np.ndindex(*cells.shape)):
        numbers = {
            name: getattr(e, name)[k] for name in ("share", "low", "high", "raw", "lift", "lift_low", "lift_high")
        }
        rows.append({"classes": [first.classes[i], second.classes[j]], **numbers, "count": int(counts[k])})
    return {
        "tier": e.tier,
        "method": e.method,
        "assumption": e.assumption,
        "n": e.n,
        "warnings": list(e.warnings),
        "cells": rows,
    }


def _changes(cells: Cells, d: ShareDifference) -> list[dict[str, Any]]:
    first, second = cells.attributes
    return [
        {"classes": [first.classes[i], second.classes[j]], "delta": d.delta[k], "low": d.low[k], "high": d.high[k]}
        for k, (i, j) in enumerate(np.ndindex(*cells.shape))
    ]


def _shared(a: Reading, b: Reading, when: str) -> bool:
    """Whether people labelled some image for both attributes."""
    known = when in a.labelled and when in b.labelled
    return known and bool(np.isin(a.labelled[when].sample, b.labelled[when].sample).any())


def _fit(cells: Cells, a: Reading, b: Reading) -> bool:
    """Whether the cells have every class that people named."""
    return cells.shape == (len(a.classes), len(b.classes))


def _labelled(cells: Cells, a: Reading, b: Reading, when: str) -> Labelled:
    """The images that people labelled for both attributes."""
    one, other = a.labelled[when], b.labelled[when]
    shared, i, j = np.intersect1d(one.sample, other.sample, return_indices=True)
    called = cells.place([a.predicted[when], b.predicted[when]])
    return labelled_pool(cells.names, called, shared, cells.place([one.true[i], other.true[j]]))


def _confusions(a: Reading, b: Reading) -> list[Confusion]:
    """Of both classifiers, or none: with the errors of one alone nothing is corrected."""
    found = [r.confusion for r in (a, b) if r.confusion is not None]
    return found if len(found) == 2 else []
