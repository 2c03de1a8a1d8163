"""Shares condition by condition: of a pool whose images were asked for by class, those of each class by itself.

The posterior is `(D, P, K)`, P conditions (`fairsims.audit.draws`). Nothing is shrunk here: what few images say has the
interval of few images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.draws import Draws, counted
from fairsims.audit.estimates import spread
from fairsims.audit.facts import SIDES, Side
from fairsims.audit.joint import FloatArray, IntArray
from fairsims.audit.result import ByCondition, ConditionResult, Share, Shares, WorstCondition
from fairsims.classifiers.base import Confusion
from fairsims.data.sources import ImageSource
from fairsims.pools import Pool

Selected = Callable[[Sequence[int]], Draws]
"""Shares in these conditions of images that were selected by their labels, where counting would be wrong."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What the images of one side were asked for by."""

    names: tuple[str, ...]
    positions: IntArray
    """Which of `names`, `(N,)`."""

    @classmethod
    def of(cls, source: ImageSource) -> Asked | None:
        """Of a pool with conditions; None for all other images."""
        if not isinstance(source, Pool) or source.asked.unconditional:
            return None
        return cls(names=source.conditions, positions=source.positions)

    def counts(self, predicted: IntArray, classes: int) -> FloatArray:
        """Images by condition and predicted class, `(P, K)`."""
        return condition_counts(predicted, self.positions, (len(self.names), classes))


def condition_counts(predicted: np.ndarray, positions: np.ndarray, shape: tuple[int, int]) -> FloatArray:
    """Images by condition and predicted class, `(P, K)`, from positions of both `(N,)`."""
    table = np.zeros(shape)
    np.add.at(table, (positions, predicted), 1)
    return table


def by_condition(
    asked: Mapping[Side, Asked],
    predicted: Mapping[Side, IntArray],
    classes: Sequence[str],
    confusion: Confusion | None,
    *,
    target: FloatArray | None,
    tolerance: float,
    selected: Selected | None = None,
) -> ByCondition:
    """Shares in every condition and side with intervals, and the worst of them.

    Corrected for the classifier's errors where they are known. The target `(K,)` counts as reached in each when every
    interval lies inside target +- tolerance, and as missed when the largest gap there is lies beyond: that looks at all
    shares at once. `selected` are the shares after, where those images were.
    """
    size, sides = len(classes), [s for s in SIDES if s in asked]
    tables = {side: asked[side].counts(predicted[side], size) for side in sides}
    have = {s: {n for n, row in zip(asked[s].names, tables[s], strict=True) if row.sum()} for s in sides}
    names = [n for n in asked[sides[0]].names if all(n in have[s] for s in sides)]
    every = dict.fromkeys(n for s in sides for n in asked[s].names)
    missing = tuple(n for n in every if n not in names)
    if not names:
        return ByCondition(missing=missing)
    draws: dict[Side, Draws] = {}
    for side in sides:
        rows = [asked[side].names.index(n) for n in names]
        if side == "after" and selected is not None:
            draws[side] = selected(rows)
        else:
            draws[side] = counted(tables[side][rows], [] if confusion is None else [confusion], side, "condition")
        tables[side] = tables[side][rows]
    shares = {side: _shares(draws[side], tables[side], classes) for side in sides}
    rows_of = tuple(
        ConditionResult(
            condition=name,
            n={side: int(tables[side][p].sum()) for side in sides},
            before=shares["before"][p] if "before" in shares else {},
            after=shares["after"][p] if "after" in shares else {},
        )
        for p, name in enumerate(names)
    )
    if target is None:
        return ByCondition(rows=rows_of, missing=missing)
    worst = {side: _worst(draws[side], names, classes, target) for side in sides}
    last = sides[-1]
    inside = all(
        abs(end - want) <= tolerance + 1e-12
        for row in shares[last]
        for c, want in zip(classes, target.tolist(), strict=True)
        for end in (row[c].low or 0.0, row[c].high or 0.0)
    )
    missed = worst[last].low > tolerance
    return ByCondition(
        rows=rows_of, missing=missing, worst=worst, reached=True if inside else False if missed else None
    )


def _shares(draws: Draws, table: FloatArray, classes: Sequence[str]) -> list[Shares]:
    """Of each condition, by class."""
    found: list[Shares] = []
    low, high = draws.interval()
    for p, row in enumerate(table):
        e = spread(np.clip(draws.point[p], 0, 1), low[p], high[p])
        found.append(
            {
                c: Share(
                    share=e["share"][k],
                    low=e["low"][k],
                    high=e["high"][k],
                    raw=float(row[k] / row.sum()),
                    count=int(row[k]),
                )
                for k, c in enumerate(classes)
            }
        )
    return found


def _worst(draws: Draws, names: Sequence[str], classes: Sequence[str], target: FloatArray) -> WorstCondition:
    found = draws.worst(target)
    return WorstCondition(
        condition=names[found.condition], cls=classes[found.cls], gap=found.gap, low=found.low, high=found.high
    )
