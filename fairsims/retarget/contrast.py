"""A paired contrast: two sets of images of a pool that differ only where they have to.

One is a complement set with the pool's mix of every other known attribute; the other is the same list with some of its
entries replaced by images of the classes that have to grow, alike in every other attribute. What two fine-tunes of the
same noise, order and budget on them do alike cancels in their difference: what the set happens to contain beside the
targeted attribute, and what training on own images does by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.joint import Cells, rake
from fairsims.errors import InputError
from fairsims.retarget.drawing import largest_remainders
from fairsims.seeds import numpy_generator


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """The positive set of a paired contrast."""

    chosen: np.ndarray
    """Positions in the pool, `(n,)`: entry i stands where entry i of the complement set does."""
    replaced: int
    """Entries that differ."""
    unmatched: int
    """Of these, entries whose other attributes differ too, for want of a fitting image."""
    scale: float
    """The difference between the sets' shares, in units of `change`: so much less strength is needed."""


def contrast_set(
    complement: np.ndarray,
    places: np.ndarray,
    confident: np.ndarray,
    others: np.ndarray,
    change: np.ndarray,
    *,
    replaced: float,
    seed: int,
    names: Sequence[str],
) -> Contrast:
    """The complement set with the share `replaced` of what can be of its entries replaced.

    `complement` are positions in the pool `(n,)`. Of every image of the pool `(N,)`: `places` its class (of several
    attributes, its joint cell), `confident` whether it is sure enough to be drawn, `others` a number for its classes of
    the other attributes. `change` is the direction that shares have to go `(K,)`: the base's less the complement's;
    `names` are the classes'. Entries of a class that has to shrink give way in proportion to how far it has to, and
    images of those that have to grow take their places likewise. A wanted image is used again only when all that fit
    have been used as often.
    Raises InputError when the pool has no image of a class that has to grow, or the set none of one that has to shrink.
    """
    n, of = len(complement), places[complement]
    present = np.bincount(of, minlength=len(change)) / n
    shrinking, growing = np.flatnonzero(change < 0).tolist(), np.flatnonzero(change > 0).tolist()
    # A class of the complement rule's leaves room; one that was drawn for want of others may not.
    room = [present[c] / -change[c] for c in shrinking if present[c] > 0]
    if not room:
        raise InputError(f"the complement set has no image of {names[shrinking[0]]} to replace; make the pool larger")
    scale = replaced * min(room)
    weights = np.where(present > 0, np.clip(-change, 0, None), 0.0)
    total = max(1, round(scale * weights.sum() * n))
    leaving, arriving = largest_remainders(weights, total), largest_remainders(np.clip(change, 0, None), total)
    rng = numpy_generator(seed, "contrast")
    fitting = {c: _Supply(np.flatnonzero((places == c) & confident), others, rng) for c in growing if arriving[c]}
    for c, supply in fitting.items():
        if not supply.count:
            raise InputError(f"no image of {names[c]} in the pool is sure enough to be drawn; lower --floor")
    entries = rng.permutation(np.flatnonzero(np.isin(of, shrinking)))
    chosen, left, wanted, unmatched = complement.copy(), leaving.copy(), arriving.copy(), 0
    for matched in (True, False):
        for entry in entries:
            # An entry that was replaced is of another class now, which has to grow.
            if places[chosen[entry]] != of[entry] or not left[of[entry]]:
                continue
            kind = int(others[complement[entry]])
            fits = [c for c in fitting if wanted[c] and (not matched or fitting[c].has(kind))]
            if not fits:
                continue
            c = max(fits, key=lambda c: wanted[c])
            chosen[entry] = fitting[c].take(kind)
            left[of[entry]] -= 1
            wanted[c] -= 1
            unmatched += not matched
    return Contrast(chosen=chosen, replaced=total, unmatched=int(unmatched), scale=scale)


def raked_strata(
    cells: Cells, probabilities: np.ndarray, kinds: Sequence[np.ndarray], shares: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities `(N, strata)` and shares `(strata,)` of a set with the pool's mix of other attributes.

    A stratum is a class of the targeted attribute (of several, a joint cell) with one class of every other: the first
    attribute of `cells` stands for the former, with `probabilities` `(N, K)` and the wanted `shares` `(K,)`, the others
    are those of `kinds`, each image's class `(N,)`. An image has the probability of its own class in its own stratum,
    and none elsewhere.
    """
    winner, n = probabilities.argmax(axis=1), len(probabilities)
    place = cells.place([winner, *kinds])
    mixes = [np.bincount(k, minlength=len(a.classes)) / n for k, a in zip(kinds, cells.attributes[1:], strict=True)]
    counts = np.bincount(place, minlength=cells.size).reshape(len(shares), -1)
    given = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    # Little of every mix that occurs, so that an empty stratum does not stand in the way.
    independent = cells.independent([np.ones(len(shares)), *mixes]).reshape(len(shares), -1)
    joint = shares[:, None] * (0.999 * given + 0.001 * independent)
    wanted = rake(cells, joint.reshape(-1), dict(enumerate([shares, *mixes])))
    of_strata = np.zeros((n, cells.size), dtype=np.float32)
    of_strata[np.arange(n), place] = probabilities.max(axis=1)
    return of_strata, wanted


class _Supply:
    """Images of one class, handed out evenly among those alike in other attributes."""

    def __init__(self, images: np.ndarray, others: np.ndarray, rng: np.random.Generator) -> None:
        self.count = len(images)
        shuffled = rng.permutation(images)
        self._by_kind = {int(k): shuffled[others[shuffled] == k] for k in np.unique(others[images])}
        self._by_kind[-1] = shuffled
        self._used = dict.fromkeys(self._by_kind, 0)

    def has(self, kind: int) -> bool:
        return kind in self._by_kind

    def take(self, kind: int) -> int:
        kind = kind if kind in self._by_kind else -1
        images = self._by_kind[kind]
        self._used[kind] += 1
        return int(images[(self._used[kind] - 1) % len(images)])
