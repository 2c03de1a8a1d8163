"""How often nominal 95% intervals of shares hold the truth, by simulation of the functions that audits call.

    python bench/coverage.py [--repetitions 1500] [--only PATTERN]

Every repetition draws held-out images, a pool of generated ones and labels of some of them, and estimates. A row gives
the least and the largest coverage of any class or cell, the mean width of the widest interval, and the limit it is held
to; of tier B where the classifier errs otherwise on generated images, and of tier C, there is none: they fail, and the
report says so. The last column says which do not keep their limit.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.draws import counted
from fairsims.audit.joint import Cells
from fairsims.audit.labelled import labelled_difference, labelled_pool, labelled_shares, next_to_label
from fairsims.audit.pairs import cell_changes, counted_side
from fairsims.audit.shares import corrected_shares, share_difference
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import UNDETERMINED, Attribute

SHARE, CHANGE = (0.93, 0.98), (0.93, 0.97)
IMAGES = 10_000

Bounds = tuple[tuple[float, ...], tuple[float, ...]]
Estimator = Callable[[np.random.Generator], Bounds]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One simulation: an estimator, the truth it is after, and what its coverage is held to."""

    setting: str
    tier: str
    truth: tuple[float, ...]
    limit: tuple[float, float] | None
    estimate: Estimator


def called(rng: np.random.Generator, true: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """A class for each image as a classifier with P(predicted i | true j) = rates[i, j] calls it."""
    beyond = (rng.random(len(true))[:, None] > rates.cumsum(axis=0)[:, true].T).sum(axis=1)
    return np.asarray(np.minimum(beyond, len(rates) - 1))


def held_out(rng: np.random.Generator, rates: np.ndarray, each: int) -> Confusion:
    rows = tuple(tuple(int(v) for v in rng.multinomial(each, rates[:, k])) for k in range(rates.shape[1]))
    empty = ((0,) * len(rates),) * (len(rates) - rates.shape[1])
    return Confusion(counts=rows + empty, split="simulated", description="simulated")


def pool(rng: np.random.Generator, rates: np.ndarray, truth: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted classes `(IMAGES,)`, ordered: who draws from it draws at random."""
    size = rates.shape[1]
    both = rng.multinomial(IMAGES, (rates * np.asarray(truth[:size])).reshape(-1))
    place = np.repeat(np.arange(rates.size), both)
    return place % size, place // size


def counts(rng: np.random.Generator, rates: np.ndarray, truth: tuple[float, ...]) -> np.ndarray:
    return rng.multinomial(IMAGES, rates @ np.asarray(truth[: rates.shape[1]]))


def chosen(rng: np.random.Generator, true: np.ndarray, predicted: np.ndarray, n: int, design: str) -> np.ndarray:
    """Positions of n images: at random, or half by predicted class and half where that says labels tell most."""
    if design == "random":
        return rng.choice(IMAGES, n, replace=False)
    seed = int(rng.integers(2**31))
    first = next_to_label(predicted, [], n // 2, seed)
    return np.concatenate([first, next_to_label(predicted, first, n - n // 2, seed, true=true[first])])


def tier_rows(
    setting: str, truth: tuple[float, ...], rates: np.ndarray, each: int, *, generated: np.ndarray | None = None
) -> Iterator[Row]:
    """Tiers A, B (of cells see `joint_rows`) and C; `generated`: rates on generated images."""
    there = rates if generated is None else generated
    classes = tuple(f"class {k}" for k in range(len(truth)))
    if truth[-1] == 0:
        classes = (*classes[:-1], UNDETERMINED)

    def labelled(design: str) -> Estimator:
        def estimate(rng: np.random.Generator) -> Bounds:
            true, predicted = pool(rng, there, truth)
            sample = chosen(rng, true, predicted, each * rates.shape[1], design)
            found = labelled_shares(labelled_pool(classes, predicted, sample, true[sample]))
            return found.low, found.high

        return estimate

    def counted(corrected: bool) -> Estimator:
        def estimate(rng: np.random.Generator) -> Bounds:
            confusion = held_out(rng, rates, each) if corrected else None
            found = corrected_shares(classes, counts(rng, there, truth), confusion)
            return found.low, found.high

        return estimate

    for design in ("random", "neyman"):
        yield Row(setting=setting, tier=f"A, {design}", truth=truth, limit=SHARE, estimate=labelled(design))
    limit = SHARE if generated is None else None
    if truth is not JOINT:
        yield Row(setting=setting, tier="B", truth=truth, limit=limit, estimate=counted(True))
    yield Row(setting=setting, tier="C", truth=truth, limit=None, estimate=counted(False))


def binary(se: float, sp: float) -> np.ndarray:
    return np.array([[se, 1 - sp], [1 - se, sp]])


def even(size: int, accuracy: float) -> np.ndarray:
    return np.full((size, size), (1 - accuracy) / (size - 1)) + np.eye(size) * (accuracy - (1 - accuracy) / (size - 1))


CELLS = Cells(
    attributes=(
        Attribute(name="gender", classes=("man", "woman")),
        Attribute(name="glasses", classes=("with", "without")),
    )
)
GENDER, GLASSES = binary(0.95, 0.97), binary(0.90, 0.96)
JOINT = (0.12, 0.48, 0.04, 0.36)
SEVEN = (0.60, 0.15, 0.10, 0.05, 0.04, 0.03, 0.03)
ABSTAINS = np.array([[0.90, 0.03], [0.04, 0.88], [0.06, 0.09]])


def joint_rows(setting: str, each: int, generated: tuple[np.ndarray, np.ndarray] | None = None) -> Iterator[Row]:
    """Tier B of gender x glasses, the classifiers' errors taken as independent."""
    there = np.kron(*(generated or (GENDER, GLASSES)))

    def estimate(rng: np.random.Generator) -> Bounds:
        found = counted_side(CELLS, counts(rng, there, JOINT), joint_errors(rng, each)).cells
        return tuple(c.low or 0.0 for c in found), tuple(c.high or 0.0 for c in found)

    yield Row(setting=setting, tier="B", truth=JOINT, limit=SHARE if generated is None else None, estimate=estimate)


def joint_errors(rng: np.random.Generator, each: int) -> list[Confusion]:
    """Each classifier's confusion, of the same held-out images."""
    true = np.unravel_index(np.repeat(np.arange(CELLS.size), each), CELLS.shape)
    seen = [called(rng, t, r) for t, r in zip(true, (GENDER, GLASSES), strict=True)]
    text = {"split": "simulated", "description": "simulated"}
    return [Confusion.of(t, s, size=2, **text) for t, s in zip(true, seen, strict=True)]


def difference_rows() -> Iterator[Row]:
    """Before -> after of each tier; one set of held-out images for both pools."""

    def change(before: tuple[float, ...], after: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(float(v) for v in np.subtract(after, before))

    def by_errors(rates: np.ndarray, each: int, before: tuple[float, ...], after: tuple[float, ...]) -> Estimator:
        def run(rng: np.random.Generator) -> Bounds:
            confusion = held_out(rng, rates, each)
            classes = [f"class {k}" for k in range(len(rates))]
            found = share_difference(classes, counts(rng, rates, before), counts(rng, rates, after), confusion)
            return found.low, found.high

        return run

    def by_people(rates: np.ndarray, n: int, before: tuple[float, ...], after: tuple[float, ...]) -> Estimator:
        def run(rng: np.random.Generator) -> Bounds:
            classes, sides = tuple(f"class {k}" for k in range(len(rates))), []
            for truth in (before, after):
                true, predicted = pool(rng, rates, truth)
                sample = rng.choice(IMAGES, n, replace=False)
                sides.append(labelled_pool(classes, predicted, sample, true[sample]))
            found = labelled_difference(*sides)
            return found.low, found.high

        return run

    def of_cells(rng: np.random.Generator) -> Bounds:
        errors = joint_errors(rng, 100)
        before, after = (counts(rng, np.kron(GENDER, GLASSES), t) for t in (JOINT, (0.25,) * 4))
        found = cell_changes(CELLS, counted(after, errors, "after").minus(counted(before, errors, "before")))
        return tuple(c.low or 0.0 for c in found), tuple(c.high or 0.0 for c in found)

    two, seven = ((0.65, 0.35), (0.5, 0.5)), (SEVEN, (1 / 7,) * 7)
    gender = binary(0.947, 0.983)
    cells = change(JOINT, (0.25,) * 4)
    for setting, tier, truth, estimate in (
        (".65 -> .50, 200 held out each", "B", change(*two), by_errors(gender, 200, *two)),
        (".65 -> .50, 400 labels each", "A", change(*two), by_people(gender, 400, *two)),
        ("7 classes -> even, 100 held out each", "B", change(*seven), by_errors(even(7, 0.72), 100, *seven)),
        ("7 classes -> even, 700 labels each", "A", change(*seven), by_people(even(7, 0.72), 700, *seven)),
        ("4 cells -> even, 100 held out each", "B", cells, of_cells),
    ):
        yield Row(setting=f"difference {setting}", tier=tier, truth=truth, limit=CHANGE, estimate=estimate)


def rows() -> Iterator[Row]:
    """Every setting of the table."""
    good = binary(0.947, 0.983)
    yield from tier_rows("share .65, Se .947, Sp .983, 500 each", (0.65, 0.35), good, 500)
    yield from tier_rows("share .65, Se .947, Sp .983, 200 each", (0.65, 0.35), good, 200)
    yield from tier_rows("share .10, Se .90, Sp .95, 200 each", (0.10, 0.90), binary(0.90, 0.95), 200)
    yield from tier_rows("share .02, Se .90, Sp .97, 200 each", (0.02, 0.98), binary(0.90, 0.97), 200)
    yield from tier_rows("share .50, Se .98, Sp .98, 200 each", (0.50, 0.50), binary(0.98, 0.98), 200)
    yield from tier_rows(
        "row 1, but .90 and .97 on generated images",
        (0.65, 0.35),
        good,
        500,
        generated=binary(0.90, 0.97),
    )
    yield from tier_rows("gender x glasses, 100 each", JOINT, np.kron(GENDER, GLASSES), 100)
    yield from joint_rows("gender x glasses, 100 each", 100)
    harder = binary(0.88, 0.90), binary(0.80, 0.90)
    yield from tier_rows(
        "gender x glasses, harder on generated", JOINT, np.kron(GENDER, GLASSES), 100, generated=np.kron(*harder)
    )
    yield from joint_rows("gender x glasses, harder on generated", 100, harder)
    yield from tier_rows("7 classes, accuracy .72, 100 each", SEVEN, even(7, 0.72), 100)
    yield from tier_rows("2 classes and undetermined, 200 each", (0.65, 0.35, 0.0), ABSTAINS, 200)
    yield from difference_rows()


def simulate(row: Row, repetitions: int) -> tuple[np.ndarray, float]:
    """Coverage of each class and the mean width of the widest interval."""
    rng, truth = np.random.default_rng(0), np.asarray(row.truth)
    low, high = np.array([row.estimate(rng) for _ in range(repetitions)]).transpose(1, 0, 2)
    return ((low <= truth) & (truth <= high)).mean(axis=0), float((high - low).mean(axis=0).max())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=1500)
    parser.add_argument("--only", default="", help="rows whose setting and tier hold this text")
    args = parser.parse_args(arguments)
    start, failed = time.perf_counter(), 0
    print(f"{args.repetitions} repetitions of {IMAGES} images; {platform.machine()}, {os.cpu_count()} cores\n")
    print(f"{'setting':<48} {'tier':<19} {'least':>6} {'most':>6} {'width':>6}  limit")
    for row in rows():
        if args.only not in f"{row.setting} {row.tier}":
            continue
        coverage, width = simulate(row, args.repetitions)
        # The share of a class that is 0 by assumption is always covered.
        counted = coverage[np.asarray(row.truth) != 0]
        kept = row.limit is None or (row.limit[0] <= counted.min() and counted.max() <= row.limit[1])
        failed += not kept
        held = "none" if row.limit is None else f"{row.limit[0]:.2f} to {row.limit[1]:.2f}{'' if kept else ': MISSED'}"
        print(
            f"{row.setting:<48} {row.tier:<19} {counted.min():>6.3f} {counted.max():>6.3f} {width:>6.3f}  {held}",
            flush=True,
        )
    print(f"\n{failed} rows miss their limit; {time.perf_counter() - start:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
