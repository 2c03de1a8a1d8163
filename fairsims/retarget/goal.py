"""Where the shares over joint cells are, where they have to go, and how far off a measurement is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fairsims.audit.intervals import kronecker, left_inverse
from fairsims.audit.joint import Cells, FloatArray, joint_shares, rake, smoothed
from fairsims.audit.shares import corrected_shares
from fairsims.audit.targets import Target, as_mapping
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget, InputError

MIN_CLASS = 10


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What every later stage steers by; with one attribute the cells are its classes."""

    cells: Cells
    base: FloatArray
    """pi: corrected shares of the base over the cells, `(cells,)`."""
    target: FloatArray
    """tau: the base's joint distribution raked to `wanted`, `(cells,)`."""
    wanted: tuple[FloatArray, ...]
    """As `views` gives them: of each attribute its target, or of a preserved one what the base has."""
    confusions: tuple[Confusion, ...]
    limits: tuple[float, ...]
    """How far a share of each attribute may be off: the tolerance of a target, the drift of a preserved one."""

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """Those that have a target or are preserved."""
        return self.cells.attributes[: len(self.wanted)]

    @property
    def overall(self) -> list[FloatArray]:
        """What is wanted of each attribute in all images together, `(K,)`."""
        return list(self.wanted)

    def views(self, shares: FloatArray) -> list[FloatArray]:
        """What is wanted of shares over the cells `(cells,)`: those of each attribute's classes, `(K,)`."""
        return self.cells.marginals(shares)

    @property
    def errors_off(self) -> float:
        """Standard errors beyond which a share is clearly off."""
        return 2.0

    @property
    def focus(self) -> np.ndarray:
        """The cells that have to grow, `(cells,)` booleans: their total share is what the strength controls."""
        return np.asarray(self.target > self.base)

    @property
    def confusion(self) -> FloatArray:
        """P(predicted cell i | true cell j), `(cells, cells)`."""
        return kronecker(self.confusions)

    def measured(self, cells_predicted: np.ndarray) -> FloatArray:
        """Corrected shares over the cells `(cells,)` of images predicted to be of these cells `(N,)`."""
        return joint_shares(self.cells, np.bincount(cells_predicted, minlength=self.cells.size), self.confusions)

    def noise(self, cells_predicted: np.ndarray) -> list[FloatArray]:
        """Standard errors of the corrected `views`, from images predicted to be of these cells."""
        classes = np.unravel_index(cells_predicted, self.cells.shape)
        return [
            left_inverse(confusion.rates())[:, found].std(axis=1) / np.sqrt(len(found))
            for confusion, found in zip(self.confusions, classes, strict=True)
        ]

    def misses(self, shares: FloatArray) -> list[FloatArray]:
        """How far the `views` of shares are from what is wanted, target - share."""
        return [want - have for have, want in zip(self.views(shares), self.wanted, strict=True)]

    def error(self, shares: FloatArray) -> float:
        """The worst share's distance from its target, in units of what it may be off."""
        return max(float(np.abs(m).max()) / limit for m, limit in zip(self.misses(shares), self.limits, strict=True))

    def clearly_off(self, shares: FloatArray, noise: list[FloatArray]) -> bool:
        """Whether some share is off by more than half of what it may be, and by more than `errors_off`."""
        parts, errors = zip(self.misses(shares), noise, self.limits, strict=True), self.errors_off
        return any(bool((np.abs(miss) > np.maximum(limit / 2, errors * se)).any()) for miss, se, limit in parts)

    def mended(self, shares: FloatArray) -> FloatArray:
        """The shares over the cells nearest to these that have the target's share of every class, `(cells,)`."""
        # A cell that was never seen would stay empty.
        seen = 0.999 * shares + 0.001 * self.target
        return rake(self.cells, seen, dict(enumerate(self.wanted)))

    def as_json(self) -> dict[str, dict[str, dict[str, float]]]:
        """Base and target shares of every attribute's classes."""
        sides = (("base", self.cells.marginals(self.base)), ("target", self.overall))
        return {
            a.name: {side: dict(as_mapping(shares[k], a.classes)) for side, shares in sides}
            for k, a in enumerate(self.attributes)
        }


def set_goal(
    cells: Cells,
    classes: list[np.ndarray],
    confusions: list[Confusion],
    targets: tuple[Target, ...],
    *,
    tolerance: float,
    drift: float,
) -> Goal:
    """The base's joint shares from its pool, labelled with every attribute's class `(N,)`, and the targets on them.

    `targets` are for the first attributes; the others are preserved. Raises InputError when the pool has too few images
    of a wanted class, InfeasibleTarget when the base never makes it or a class would have to go altogether.
    """
    n = len(classes[0])
    counts: list[FloatArray] = []
    alone: list[FloatArray] = []
    for attribute, of, confusion in zip(cells.attributes, classes, confusions, strict=True):
        counts.append(np.bincount(of, minlength=len(attribute.classes)).astype(np.float64))
        # One by one first: refuses a classifier that cannot tell its classes apart.
        alone.append(np.array(corrected_shares(attribute.classes, counts[-1], confusion).share))
    base = alone[0] if len(alone) == 1 else smoothed(cells, joint_shares(cells, cells.counts(classes), confusions), n)
    wanted = cells.marginals(base)
    for k, target in enumerate(targets):
        now, wanted[k] = wanted[k], target.resolve(wanted[k])
        # `undetermined` is to stay as it is, however rare.
        moving = np.abs(wanted[k] - now) > 1e-6
        classes_of = cells.attributes[k].classes
        for c, want, moves, have, count in zip(classes_of, wanted[k], moving, alone[k], counts[k], strict=True):
            if want > 0 and moves and count < MIN_CLASS:
                raise InputError(
                    f"{count:.0f} of {n} pool images are {c}; expected {MIN_CLASS} or more: retargeting moves "
                    "shares inside the base's domain; make the pool larger or use a base that shows the class"
                )
            if want > 0 and moves and have <= 0:
                raise InfeasibleTarget(
                    f"the base makes no {c} at all: the {count:.0f} of {n} pool images called that are the "
                    "classifier's errors; retargeting moves shares inside the base's domain, so every wanted class has "
                    "to occur in its images"
                )
    held = (drift,) * (len(cells.attributes) - len(targets))
    goal = Goal(
        cells=cells,
        base=base,
        target=rake(cells, base, dict(enumerate(wanted))) if len(alone) > 1 else wanted[0],
        wanted=tuple(wanted),
        confusions=tuple(confusions),
        limits=(tolerance,) * len(targets) + held,
    )
    refuse_nothing_left(goal)
    return goal


def refuse_nothing_left(goal: Goal) -> None:
    """Raises InfeasibleTarget where some class would have to go altogether."""
    if goal.focus.any() and goal.target[goal.focus].sum() > 1 - 1e-9:
        none = ", ".join(c for c, t in zip(goal.cells.names, goal.target, strict=True) if t < 1e-9)
        raise InfeasibleTarget(
            f"every class that the target leaves something of has to grow, at the expense of {none} alone; strength "
            "moves shares, it does not remove a class: give that one a small share, or select images by their labels"
        )
