"""A target for each class that a model is asked for: the goal's cells are the attributes' by those classes.

The class that an image was asked for needs no classifier and has no errors. Everything else of a retargeting takes it
as one more attribute: the complement is planned class by class, and the strength controls the total of what has to grow
in any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm

from fairsims.audit.conditions import condition_counts
from fairsims.audit.intervals import left_inverse
from fairsims.audit.joint import Cells, FloatArray, joint_shares, rake
from fairsims.audit.targets import Target
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget, InputError
from fairsims.models.conditions import Conditions
from fairsims.retarget.goal import MIN_CLASS, Goal, refuse_nothing_left
from fairsims.retarget.shrinkage import shrunk

ASKED = "condition"
"""What the class asked for is called among attributes: as its column in a pool."""
NONE = 100
"""Of so many images without one of a class its share is below 3% (rule of three): too little to steer by."""


def asked_attribute(conditions: Conditions) -> Attribute:
    """The classes that a model is asked for, as an attribute."""
    return Attribute(name=ASKED, classes=conditions.names)


def split(shares: FloatArray, conditions: int) -> FloatArray:
    """Shares over cells `(cells,)`, the conditions being the last attribute, condition by condition `(P, K)`."""
    return np.asarray(shares).reshape(-1, conditions).T


def joined(rows: FloatArray) -> FloatArray:
    """The inverse of `split`."""
    return np.asarray(rows.T.reshape(-1))


@dataclass(frozen=True, kw_only=True)
class GoalOfEach(Goal):
    """A goal with a target in each condition: `wanted` are `(P, K)`, the last attribute of the cells is `ASKED`."""

    @property
    def conditions(self) -> int:
        return self.cells.shape[-1]

    @cached_property
    def inner(self) -> Cells:
        """The cells of one condition."""
        return Cells(attributes=self.attributes)

    @property
    def overall(self) -> list[FloatArray]:
        weights = self.cells.marginal(self.target, len(self.attributes))
        return [weights @ wanted for wanted in self.wanted]

    def views(self, shares: FloatArray) -> list[FloatArray]:
        rows = split(shares, self.conditions)
        total = rows.sum(axis=1, keepdims=True)
        return self.inner.marginals(np.divide(rows, total, out=np.zeros_like(rows), where=total > 0))

    def noise(self, cells_predicted: np.ndarray) -> list[FloatArray]:
        *classes, of = np.unravel_index(cells_predicted, self.cells.shape)
        members = [of == p for p in range(self.conditions)]
        found = []
        for confusion, called in zip(self.confusions, classes, strict=False):
            inverse = left_inverse(confusion.rates())
            rows = [
                inverse[:, called[here]].std(axis=1) / np.sqrt(here.sum()) if here.any() else np.ones(len(inverse))
                for here in members
            ]
            found.append(np.stack(rows))
        return found

    @property
    def errors_off(self) -> float:
        # As two standard errors are for one condition, for all of them at once.
        return float(norm.ppf(1 - norm.sf(2) / self.conditions))

    def mended(self, shares: FloatArray) -> FloatArray:
        weights = self.cells.marginal(self.target, len(self.attributes))
        rows = split(0.999 * shares + 0.001 * self.target, self.conditions)
        return joined(
            np.stack(
                [
                    weight * rake(self.inner, row / row.sum(), {k: w[p] for k, w in enumerate(self.wanted)})
                    for p, (row, weight) in enumerate(zip(rows, weights, strict=True))
                ]
            )
        )


def set_goal_of_each(
    cells: Cells,
    classes: list[np.ndarray],
    confusions: list[Confusion],
    targets: tuple[Target, ...],
    *,
    tolerance: float,
    drift: float,
) -> GoalOfEach:
    """As `set_goal`, with the targets in each condition; `cells`, `classes` and `confusions` end with the conditions'.

    The base's shares in a condition are drawn towards those of all where few images tell them (`shrunk`). Raises as
    `set_goal`, and InfeasibleTarget for a condition that has many images and none of a wanted class.
    """
    *attributes, asked = cells.attributes
    inner, of, own = Cells(attributes=tuple(attributes)), classes[-1], confusions[:-1]
    counts = condition_counts(inner.place(classes[:-1]), of, (len(asked.classes), inner.size))
    n = counts.sum(axis=1)
    measured = np.stack([joint_shares(inner, row, own) if row.sum() else np.zeros(inner.size) for row in counts])
    rows = shrunk(measured, n)
    weights = n / n.sum()
    wanted = inner.marginals(rows)
    for k, target in enumerate(targets):
        wanted[k] = np.stack([target.resolve(row) for row in wanted[k]])
        _refuse_absent(attributes[k], asked, condition_counts(classes[k], of, wanted[k].shape), wanted[k])
    raked = [rake(inner, row, {k: w[p] for k, w in enumerate(wanted)}) for p, row in enumerate(rows)]
    goal = GoalOfEach(
        cells=cells,
        base=joined(rows * weights[:, None]),
        target=joined(np.stack(raked) * weights[:, None]),
        wanted=tuple(wanted),
        confusions=tuple(confusions),
        limits=(tolerance,) * len(targets) + (drift,) * (len(attributes) - len(targets)),
    )
    refuse_nothing_left(goal)
    return goal


def _refuse_absent(attribute: Attribute, asked: Attribute, counts: FloatArray, wanted: FloatArray) -> None:
    """Raises where a wanted class is not there to be had: in all conditions, or in one that many images are of."""
    for k, name in enumerate(attribute.classes):
        if (wanted[:, k] > 0).any() and counts[:, k].sum() < MIN_CLASS:
            raise InputError(
                f"{counts[:, k].sum():.0f} of {counts.sum():.0f} pool images are {name}; expected {MIN_CLASS} or more: "
                "retargeting moves shares inside the base's domain; make the pool larger or use a base that shows the "
                "class"
            )
        none = np.flatnonzero((wanted[:, k] > 0) & (counts[:, k] == 0) & (counts.sum(axis=1) >= NONE))
        if len(none):
            first = asked.classes[none[0]]
            more = f" and {len(none) - 1} more classes" if len(none) > 1 else ""
            raise InfeasibleTarget(
                f"the base makes no {name} of {first}{more} (none of {counts[none[0]].sum():.0f} images): a target for "
                "each class cannot be reached there; give --target-for overall, or a target that leaves it out"
            )
