"""Several attributes at once: joint cells, raking, and joint shares corrected for the classifiers' errors.

A cell is one class of every attribute, e.g. (woman, dark). Cells are numbered in C order: the last attribute's class
changes fastest. Shares over cells are vectors `(cells,)`; `Cells.shape` makes a table of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fairsims.audit.intervals import kronecker, on_simplex
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget, InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MOST_CELLS = 100
RAKED = 1e-10
"""Raking ends when no marginal share is off by more than this."""
SWEEPS = 10_000


@dataclass(frozen=True, kw_only=True)
class Cells:
    """The product of the attributes' classes. Raises InputError for an attribute named twice and for too many cells."""

    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        names = [a.name for a in self.attributes]
        if not names or len(set(names)) != len(names):
            raise InputError(f"found the attributes {', '.join(names)}; expected different ones; name each once")
        if self.size > MOST_CELLS:
            raise InputError(
                f"{' x '.join(names)} have {self.size} joint cells; expected {MOST_CELLS} at most; leave one out"
            )

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(a.classes) for a in self.attributes)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def names(self) -> tuple[str, ...]:
        """`woman & dark`; of a single attribute its classes as they are."""
        places = np.ndindex(*self.shape)
        return tuple(" & ".join(a.classes[k] for a, k in zip(self.attributes, p, strict=True)) for p in places)

    def place(self, classes: Sequence[npt.ArrayLike]) -> IntArray:
        """Cell of each image `(N,)` from its class index of every attribute, each `(N,)`; -1 where one is -1."""
        table = np.stack([np.asarray(c, dtype=np.int64) for c in classes])
        known = (table >= 0).all(axis=0)
        return np.where(known, np.ravel_multi_index(tuple(table.clip(min=0)), self.shape), -1).astype(np.int64)

    def counts(self, classes: Sequence[npt.ArrayLike]) -> IntArray:
        """Images per cell, `(cells,)`; those without a cell are left out."""
        found = self.place(classes)
        return np.bincount(found[found >= 0], minlength=self.size)

    def probabilities(self, labels: Sequence[npt.NDArray[np.floating]]) -> FloatArray:
        """P(cell | image) `(N, cells)` as the product of each attribute's class probabilities `(N, K)`.

        Those of a class are given that the image shows one; where it does not, `undetermined` is certain.
        """
        found: FloatArray = np.ones((len(labels[0]), 1))
        for attribute, calls in zip(self.attributes, labels, strict=True):
            p = calls if attribute.determined == attribute.classes else _given_determined(calls)
            found = (found[:, :, None] * p[:, None, :]).reshape(len(found), -1)
        return found

    def marginal(self, shares: npt.NDArray[np.floating], attribute: int) -> FloatArray:
        """Shares of one attribute's classes, `(..., K)`, from shares over cells, `(..., cells)`."""
        table = np.asarray(shares, dtype=np.float64).reshape(*np.shape(shares)[:-1], *self.shape)
        ahead = np.ndim(shares) - 1
        others = tuple(ahead + k for k in range(len(self.shape)) if k != attribute)
        return np.asarray(table.sum(axis=others))

    def marginals(self, shares: npt.NDArray[np.floating]) -> list[FloatArray]:
        """`marginal` of every attribute."""
        return [self.marginal(shares, k) for k in range(len(self.shape))]

    def independent(self, marginals: Sequence[npt.ArrayLike]) -> FloatArray:
        """Shares over cells `(cells,)` of attributes that know nothing of each other."""
        found: FloatArray = np.ones(())
        for m in marginals:
            found = np.multiply.outer(found, np.asarray(m, dtype=np.float64))
        return found.reshape(-1)


def _given_determined(calls: npt.NDArray[np.floating]) -> FloatArray:
    """Class probabilities `(N, K)` without the share of the last one, `undetermined`, or with nothing else."""
    unknown = calls.argmax(axis=1) == calls.shape[1] - 1
    some = np.where(unknown, 1.0, calls[:, :-1].sum(axis=1))
    return np.column_stack([np.where(unknown, 0.0, calls[:, :-1].T / some).T, unknown])


def joint_shares(cells: Cells, counts: npt.ArrayLike, confusions: Sequence[Confusion]) -> FloatArray:
    """Shares over true cells `(cells,)` from images counted by predicted cell: `min ||C p - q||` over the simplex."""
    q = np.asarray(counts, dtype=np.float64)
    return on_simplex(kronecker(confusions), q / q.sum())


def smoothed(cells: Cells, shares: FloatArray, n: int) -> FloatArray:
    """Joint shares measured on n images, drawn towards independence of the attributes: an image's worth for every cell.

    The share of a cell that holds a handful of images is mostly noise; this draws it towards what its marginals
    suggest, leaves every marginal as it is and no cell empty whose classes occur. With one attribute nothing changes.
    """
    return (n * shares + cells.size * cells.independent(cells.marginals(shares))) / (n + cells.size)


def rake(cells: Cells, shares: FloatArray, wanted: Mapping[int, npt.ArrayLike]) -> FloatArray:
    """The joint distribution with the `wanted` marginals (by number of the attribute) that is nearest to `shares`.

    Iterative proportional fitting (Deming and Stephan 1940): nearest in Kullback-Leibler divergence, so the odds
    ratios between attributes and empty cells stay, and an attribute without a wanted marginal keeps its distribution
    given the others. Raises InfeasibleTarget when empty cells leave no such distribution.
    """
    table = np.asarray(shares, dtype=np.float64).reshape(cells.shape)
    for _ in range(SWEEPS):
        worst = 0.0
        for k, marginal in wanted.items():
            others = tuple(j for j in range(table.ndim) if j != k)
            have, want = table.sum(axis=others), np.asarray(marginal, dtype=np.float64)
            worst = max(worst, float(np.abs(have - want).max()))
            factor = np.divide(want, have, out=np.zeros_like(want), where=have > 0)
            table = table * np.expand_dims(factor, others)
        if worst < RAKED:
            return np.asarray(table.reshape(-1) / table.sum())
    names = ", ".join(cells.attributes[k].name for k in wanted)
    raise InfeasibleTarget(
        f"no mix of the cells that occur has the wanted shares of {names}; a wanted class, or a combination that the "
        "targets need, never occurs"
    )


def raked_weights(cells: Cells, classes: Sequence[npt.ArrayLike], wanted: Sequence[npt.ArrayLike]) -> FloatArray:
    """Weights `(N,)` that give images the wanted shares of every attribute's classes; mean 1 over the labelled ones.

    `classes` holds each attribute's class of every image, -1 for none (weight 0). Raises InfeasibleTarget as `rake`.
    """
    place = cells.place(classes)
    have = np.bincount(place[place >= 0], minlength=cells.size) / max(1, int((place >= 0).sum()))
    target = rake(cells, have, dict(enumerate(wanted)))
    ratio = np.divide(target, have, out=np.zeros_like(have), where=have > 0)
    return np.asarray(np.where(place >= 0, ratio[place], 0.0))
