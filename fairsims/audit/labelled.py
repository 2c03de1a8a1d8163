"""Tier A: people labelled some images of the pool itself, the classifier called all of them (double sampling).

In each stratum, the images of one predicted class, the labelled ones stand for the others. That holds for any
classifier, however wrong, on the pool that was labelled and no other: P(true | predicted) changes with the mix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from fairsims.audit.draws import Draws
from fairsims.audit.estimates import ShareDifference, ShareEstimate, difference_of, floats, spread
from fairsims.audit.intervals import DRAWS, confusion_draws, left_inverse, share_draws, solutions
from fairsims.audit.result import HeldOutFit
from fairsims.audit.shares import SMALL_CELL, SMALL_SAMPLE
from fairsims.classifiers.base import Confusion
from fairsims.errors import InputError
from fairsims.seeds import numpy_generator

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

METHOD = "double sampling by predicted class, Dirichlet Monte Carlo"
ASSUMPTION = (
    "The labels that people gave are taken as true, and the labelled images as drawn at random within each predicted "
    "class; nothing is assumed of the classifier."
)
REFUSED = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class Labelled:
    """A pool of N images with the classifier's calls and the labels of n of them.

    Raises InputError when these are no classes or positions, an image is labelled twice, or none is.
    """

    classes: tuple[str, ...]
    """Of the labels; the classifier may lack the last ones (`undetermined`)."""
    predicted: IntArray
    """`(N,)`."""
    sample: IntArray
    """`(n,)` positions in the pool of the labelled images."""
    true: IntArray
    """`(n,)`."""

    def __post_init__(self) -> None:
        n, classes = len(self.predicted), len(self.classes)
        if n == 0 or len(self.sample) == 0 or len(self.sample) != len(self.true):
            raise InputError(
                f"got {n} images, {len(self.sample)} positions and {len(self.true)} labels; expected images, and a "
                "label for each position"
            )
        for name, values, size in (
            ("predicted class", self.predicted, classes),
            ("position", self.sample, n),
            ("label", self.true, classes),
        ):
            if np.min(values) < 0 or np.max(values) >= size:
                wrong = next(v for v in values if not 0 <= v < size)
                raise InputError(f"found the {name} {wrong}; expected 0 to {size - 1}")
        if len(np.unique(self.sample)) < len(self.sample):
            raise InputError("an image is labelled twice; expected one label for each image")

    @cached_property
    def tables(self) -> tuple[FloatArray, FloatArray]:
        """Images `(S,)` and labels by true class `(S, K)` of each predicted class that has images."""
        size = len(self.classes)
        images = np.bincount(self.predicted, minlength=size).astype(np.float64)
        labels = np.zeros((size, size))
        np.add.at(labels, (self.predicted[self.sample], self.true), 1)
        return images[images > 0], labels[images > 0]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the predicted classes that have images."""
        return tuple(self.classes[k] for k in np.unique(self.predicted))

    def shares(self) -> FloatArray:
        """`p_k = sum_j q_j P(k | called j)`, `(K,)` (Tenenbein 1970); a stratum without labels is split evenly."""
        images, labels = self.tables
        return np.asarray(images / images.sum() @ _purity(labels))

    def posterior(self, name: str = "pool") -> Draws:
        """Of the shares: q_j of the images, P(k | j) of the labels with prior 1/K each."""
        images, labels = self.tables
        q, found = _stratum_draws(images, name), np.zeros((DRAWS, labels.shape[1]))
        for j, row in enumerate(labels):
            found += q[:, j, None] * _purity_draws(row, j, name)
        return Draws(point=self.shares()[None], values=found[:, None])


def labelled_shares(labelled: Labelled) -> ShareEstimate:
    """Shares of the classes in a pool that people labelled some images of.

    Right for a simple random sample and for one drawn with other rates in each predicted class. The interval is for
    what the generator makes, not only for these N images.
    """
    draws, n = labelled.posterior(), len(labelled.predicted)
    low, high = draws.interval()
    return ShareEstimate(
        classes=labelled.classes,
        n=n,
        raw=floats(np.bincount(labelled.predicted, minlength=len(labelled.classes)) / n),
        **spread(draws.point[0], low[0], high[0]),
        method=METHOD,
        tier="A",
        assumption=ASSUMPTION,
        warnings=_warnings(labelled),
    )


def labelled_pool(
    classes: Sequence[str], predicted: npt.ArrayLike, sample: npt.ArrayLike, true: npt.ArrayLike
) -> Labelled:
    """`Labelled` from anything like arrays."""
    return Labelled(
        classes=tuple(classes),
        predicted=np.asarray(predicted, dtype=np.int64),
        sample=np.asarray(sample, dtype=np.int64),
        true=np.asarray(true, dtype=np.int64),
    )


def labelled_difference(before: Labelled, after: Labelled) -> ShareDifference:
    """Change between two pools that people labelled, each for itself. Raises InputError for different classes.

    Pools of the same seeds are positively correlated, which is left out: their interval errs on the wide side.
    """
    if before.classes != after.classes:
        raise InputError(
            f"before is labelled as {', '.join(before.classes)}, after as {', '.join(after.classes)}; expected the same"
        )
    return difference_of(after.classes, after.posterior("after").minus(before.posterior("before")))


def labelled_null(labelled: Labelled, target: npt.ArrayLike) -> FloatArray:
    """Shares `(DRAWS, K)` that would be measured were the true ones `target` and P(predicted | true) what it seems.

    As many images and labels in each stratum as there are. For the `null` of `measures`.
    """
    generator = numpy_generator("shares", "labelled", "null")
    images, labels = labelled.tables
    q = _stratum_draws(images, "null")
    joint = np.stack([q[:, j, None] * _purity_draws(row, j, "null") for j, row in enumerate(labels)]) + 1e-12
    joint *= np.asarray(target, dtype=np.float64) / joint.sum(axis=0)
    called = joint.sum(axis=2).T
    counts = generator.multinomial(int(images.sum()), called / called.sum(axis=1, keepdims=True)) / images.sum()
    found = np.zeros((DRAWS, labels.shape[1]))
    for j, n in enumerate(labels.sum(axis=1)):
        mix = joint[j] / joint[j].sum(axis=1, keepdims=True)
        found += counts[:, j, None] * _purity(generator.multinomial(int(n), mix).astype(np.float64))
    return found


def held_out_errors_fit(labelled: Labelled, confusion: Confusion) -> HeldOutFit:
    """Whether the labels speak against the held-out errors, which tier B would rest on.

    A predictive check: the held-out errors and the pool's calls say how the labels should fall in each predicted class
    (Bayes' rule); p is how often labels drawn from that differ from it, by the G statistic, as much as these do. `fit`
    is False when they speak against it and None otherwise: that few labels do not is no proof. Raises InputError when
    the classes do not match.
    """
    if len(confusion.counts) != len(labelled.classes):
        raise InputError(
            f"got labels of {len(labelled.classes)} classes and a confusion of {len(confusion.counts)}; expected the "
            "same classes"
        )
    images, labels = labelled.tables
    rates = confusion_draws(confusion)
    counts = np.bincount(labelled.predicted, minlength=len(labelled.classes)).astype(np.float64)
    p = np.clip(solutions(share_draws(counts, "fit"), [left_inverse(rates)]), 1e-9, None)
    joint = rates[:, counts > 0] * p[:, None, :] + 1e-12
    mixes = joint / joint.sum(axis=2, keepdims=True)
    expected = mixes.mean(axis=0)
    generator = numpy_generator("shares", "fit")
    drawn = np.stack(
        [generator.multinomial(int(n), mixes[:, j]) for j, n in enumerate(labels.sum(axis=1))], axis=1
    ).astype(np.float64)
    statistic = _g(labels[None], expected)[0]
    found = float((1 + (_g(drawn, expected) >= statistic).sum()) / (1 + DRAWS))
    against, n = found < REFUSED, int(labels.sum())
    verdict = "contradict" if against else "do not contradict"
    advice = "corrected shares that rest on them are not to be trusted here" if against else "which is no proof"
    return HeldOutFit(
        p=found,
        labels=n,
        fit=False if against else None,
        says=f"{n} labels by people {verdict} the held-out errors ({confusion.split}; p = {found:.2g}): {advice}",
    )


def _stratum_draws(images: FloatArray, name: str) -> FloatArray:
    """Shares of the strata, `(DRAWS, S)`; every stratum has images."""
    return np.asarray(numpy_generator("shares", "labelled", name).dirichlet(images, DRAWS))


def _purity_draws(row: FloatArray, stratum: int, name: str) -> FloatArray:
    """P(k | stratum) from its labels `(K,)`, `(DRAWS, K)`."""
    return np.asarray(numpy_generator("shares", "labelled", name, stratum).dirichlet(row + 1 / len(row), DRAWS))


def _purity(labels: FloatArray) -> FloatArray:
    """P(k | stratum) from labels `(S, ..., K)`."""
    total = labels.sum(axis=-1, keepdims=True)
    return np.asarray(np.divide(labels, total, out=np.full_like(labels, 1 / labels.shape[-1]), where=total > 0))


def _g(labels: FloatArray, expected: FloatArray) -> FloatArray:
    """G of labels `(D, S, K)` against expected shares `(S, K)` in each stratum, `(D,)`."""
    mean = labels.sum(axis=2, keepdims=True) * expected
    ratio = np.divide(labels, mean, out=np.ones_like(labels), where=labels > 0)
    return np.asarray(2 * (labels * np.log(ratio)).sum(axis=(1, 2)))


def _warnings(labelled: Labelled) -> tuple[str, ...]:
    images, labels = labelled.tables
    done, found = labels.sum(axis=1), []
    if done.sum() < SMALL_SAMPLE:
        found.append(f"only {int(done.sum())} images were labelled; below {SMALL_SAMPLE} the intervals are rough")
    rows = list(zip(labelled.names, done, images, strict=True))
    if blind := [f"{name} ({int(of)} images)" for name, n, of in rows if n == 0]:
        found.append(f"no label among those called {', '.join(blind)}: nothing is known of them; label some")
    if small := [f"{name} {int(n)}" for name, n, of in rows if 0 < n < min(SMALL_CELL, of)]:
        found.append(f"few labels by predicted class ({', '.join(small)}); {SMALL_CELL} each are wanted")
    return tuple(found)


def neyman_allocation(predicted_counts: npt.ArrayLike, labels: npt.ArrayLike, n: int) -> IntArray:
    """How many of the next n labels each stratum should get, `(S,)`.

    `predicted_counts` `(S,)` images, `labels` `(S, K)` labels so far by true class. Neyman 1934 for all classes
    together: in proportion to `q_j sqrt(1 - sum_k P(k | j)^2)`, with P from the labels and a prior of 1 each, so that
    a stratum nobody has looked into counts as mixed and one whose few labels agree is not given up: those labels count
    in the estimate too, and less caution would make its interval a little too sure. Exact in whole images (Wright
    2012): each label goes where it lowers the variance most. Fewer than n when the pool has no more.
    """
    images, table = np.asarray(predicted_counts, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    done = table.sum(axis=1)
    mix = (table + 1) / (done[:, None] + table.shape[1])
    weight = images / images.sum() * np.sqrt(1 - (mix**2).sum(axis=1))
    left = (images - done).astype(np.int64)
    place = done[:, None] + np.arange(n)
    # What the next label lowers the variance by; the first of a stratum comes before any second, larger strata first.
    gain = weight[:, None] / np.sqrt(place * (place + 1) + 1e-12)
    gain[np.arange(n) >= left[:, None]] = -1.0
    best = np.argsort(-gain, axis=None, kind="stable")[: min(n, int(left.sum()))]
    return np.bincount(best // n, minlength=len(images)).astype(np.int64)


def next_to_label(
    predicted: npt.ArrayLike, already: npt.ArrayLike, n: int, seed: int, *, true: npt.ArrayLike | None = None
) -> IntArray:
    """Positions `(n,)` in the pool of the images to label next, ascending.

    `predicted` `(N,)` are classes or joint cells, `already` the positions labelled so far, `true` their labels where
    they are known. `neyman_allocation` says how many of each predicted class; which ones depends on the seed, the
    calls and what is labelled alone. Raises InputError as `Labelled`, and for fewer than one image.
    """
    calls, done = np.asarray(predicted, dtype=np.int64), np.asarray(already, dtype=np.int64)
    if n < 1 or (len(done) and (done.min() < 0 or done.max() >= len(calls))):
        raise InputError(f"asked for {n} of {len(calls)} images; expected one or more, and positions that the pool has")
    said = calls[done] if true is None else np.asarray(true, dtype=np.int64)
    values, stratum, images = np.unique(calls, return_inverse=True, return_counts=True)
    labels = np.zeros((len(values), int(max(calls.max(), said.max(initial=0))) + 1))
    if true is None:
        # How many are labelled is known, how they fell is not: evenly, which is what the prior says.
        labels += np.bincount(stratum[done], minlength=len(values))[:, None] / labels.shape[1]
    else:
        np.add.at(labels, (stratum[done], said), 1)
    chosen = []
    for j, wanted in enumerate(neyman_allocation(images, labels, n)):
        order = numpy_generator("label", seed, int(values[j])).permutation(np.flatnonzero(stratum == j))
        chosen.append(order[~np.isin(order, done)][:wanted])
    return np.sort(np.concatenate(chosen)).astype(np.int64)
