"""Two attributes at once: shares over their joint cells, which of their classes go together (lift), and the change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from fairsims.audit.draws import Draws, counted
from fairsims.audit.estimates import ShareEstimate, difference_of, floats, spread
from fairsims.audit.facts import Side
from fairsims.audit.intervals import percentiles, share_draws
from fairsims.audit.joint import Cells
from fairsims.audit.labelled import Labelled, labelled_pool, labelled_shares
from fairsims.audit.reading import Reading
from fairsims.audit.result import Cell, CellChange, JointResult, JointSide
from fairsims.audit.shares import MULTICLASS, SMALL_CELL, assumption, checked_counts, corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.data import Attribute
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]

SELECTED = "Not measured after: the images were selected by their calls, and cells of what was kept cannot be counted."
INDEPENDENT = " The errors of the classifiers are taken as independent of each other."
ALONE = "the classifiers' errors are taken as independent: nobody measured them together"


def joint_section(a: Reading, b: Reading) -> JointResult:
    """Shares over the cells of two attributes by side, their lift, and their change.

    Tier A where people labelled the same images for both attributes. The cells have `undetermined`, where only people
    know it, when every side is of that tier.
    """
    sides: list[Side] = [side for side in a.predicted if side == "before" or not a.selected]
    shared = {side: _shared(a, b, side) for side in sides}
    attributes = [
        Attribute(name=r.name, classes=r.classes) if all(shared.values()) else r.classifier.attribute for r in (a, b)
    ]
    cells = Cells(attributes=tuple(attributes))
    fit = cells.shape == (len(a.classes), len(b.classes))
    labelled = {side: _labelled(cells, a, b, side) for side in sides if shared[side] and fit}
    counts = {side: cells.counts([a.predicted[side], b.predicted[side]]) for side in sides}
    errors = _confusions(a, b)
    found = {
        side: labelled_side(cells, labelled[side]) if side in labelled else counted_side(cells, counts[side], errors)
        for side in sides
    }
    change = None
    if len(labelled) == 2:
        change = labelled["after"].posterior("after").minus(labelled["before"].posterior("before"))
    elif len(sides) == 2 and not labelled:
        change = counted(counts["after"], errors, "after").minus(counted(counts["before"], errors, "before"))
    return JointResult(
        attributes=(a.name, b.name),
        before=found["before"],
        after=found.get("after"),
        difference=() if change is None else cell_changes(cells, change),
        missing=SELECTED if len(sides) < len(a.predicted) else "",
    )


def counted_side(cells: Cells, counts: npt.ArrayLike, confusions: Sequence[Confusion]) -> JointSide:
    """Shares over the cells from images counted by predicted cell `(cells,)`, tier B (C without confusions).

    The Kronecker product of each attribute's confusion corrects them: errors are taken as independent, and the result
    says so. Raises InputError as `corrected_shares` does.
    """
    values = checked_counts(cells.names, counts, None)
    if not confusions:
        return _side(cells, corrected_shares(cells.names, values, None), share_draws(values), values)
    draws = counted(values, confusions)
    low, high = draws.interval()
    warnings = [
        f"{a.name}: {w}"
        for k, (a, c) in enumerate(zip(cells.attributes, confusions, strict=True))
        for w in corrected_shares(a.classes, cells.marginal(values, k), c).warnings
    ]
    estimate = ShareEstimate(
        classes=cells.names,
        n=int(values.sum()),
        raw=floats(values / values.sum()),
        **spread(draws.point[0], low[0], high[0]),
        method=f"{MULTICLASS}, errors independent",
        tier="B",
        assumption=assumption(*confusions) + INDEPENDENT,
        warnings=(*warnings, ALONE),
    )
    return _side(cells, estimate, draws.values[:, 0], values)


def labelled_side(cells: Cells, labelled: Labelled) -> JointSide:
    """Tier A over the cells: `labelled.predicted` and `labelled.true` are cells, `labelled.classes` their names.

    Raises InputError when they are not.
    """
    if labelled.classes != cells.names:
        raise InputError(f"the labels are of {len(labelled.classes)} classes; expected the {cells.size} joint cells")
    counts = np.bincount(labelled.predicted, minlength=cells.size)
    return _side(cells, labelled_shares(labelled), labelled.posterior().values[:, 0], counts)


def cell_changes(cells: Cells, change: Draws) -> tuple[CellChange, ...]:
    """A change over the cells, cell by cell."""
    d = difference_of(cells.names, change)
    rows = zip(_classes(cells), d.delta, d.low, d.high, strict=True)
    return tuple(CellChange(classes=classes, delta=delta, low=low, high=high) for classes, delta, low, high in rows)


def _side(cells: Cells, e: ShareEstimate, draws: FloatArray, counts: npt.NDArray[np.number]) -> JointSide:
    """An estimate over the cells with the lift of each, from draws of the shares `(D, cells)`."""
    kept = np.clip(draws, 0.0, None)
    lifts = _lift(cells, kept / kept.sum(axis=1, keepdims=True))
    point = _lift(cells, np.asarray(e.share)[None])[0]
    low, high = percentiles(np.nan_to_num(lifts, nan=1.0))
    small = [f"{c} {int(v)}" for c, v in zip(cells.names, counts, strict=True) if v < SMALL_CELL]
    listed = [f"fewer than {SMALL_CELL} images were called {', '.join(small)}"] if small else []
    rows = [
        Cell(
            classes=classes,
            share=e.share[k],
            low=e.low[k],
            high=e.high[k],
            raw=e.raw[k],
            count=int(counts[k]),
            lift=_known(point[k], point[k]),
            lift_low=_known(min(low[k], point[k]), point[k]),
            lift_high=_known(max(high[k], point[k]), point[k]),
        )
        for k, classes in enumerate(_classes(cells))
    ]
    return JointSide(
        tier=e.tier,
        method=e.method,
        assumption=e.assumption,
        n=e.n,
        warnings=(*e.warnings, *listed),
        cells=tuple(rows),
    )


def _lift(cells: Cells, p: FloatArray) -> FloatArray:
    """p_ij/(p_i p_j) of shares `(D, cells)`; NaN where a marginal share is 0."""
    first, second = cells.marginals(p)
    chance = (first[:, :, None] * second[:, None, :]).reshape(p.shape)
    return np.divide(p, chance, out=np.full_like(chance, np.nan), where=chance > 0)


def _known(value: float, lift: float) -> float | None:
    return None if np.isnan(lift) else float(value)


def _classes(cells: Cells) -> Iterable[tuple[str, str]]:
    """Both classes of every cell, in the cells' order."""
    first, second = cells.attributes
    return [(first.classes[i], second.classes[j]) for i, j in np.ndindex(*cells.shape)]


def _shared(a: Reading, b: Reading, side: Side) -> bool:
    """Whether people labelled some image for both attributes."""
    known = side in a.labelled and side in b.labelled
    return known and bool(np.isin(a.labelled[side].sample, b.labelled[side].sample).any())


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
