"""Sets drawn from a pool in a given mix, and their tables; the stage `fairsims complement` by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairsims.audit.command import shares_of
from fairsims.audit.joint import Cells
from fairsims.audit.targets import as_mapping, parse_target
from fairsims.classifiers import AttributeClassifier
from fairsims.classifiers.labelling import label_source
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.pools import Pool
from fairsims.retarget.complement import FLOOR, plan_complement
from fairsims.retarget.config import check_complement
from fairsims.seeds import numpy_generator


def draw_complement(
    probabilities: np.ndarray,
    shares: np.ndarray,
    *,
    size: int | None = None,
    floor: float = FLOOR,
    seed: int = 0,
    scarce: int = 0,
    names: Sequence[str] = (),
) -> np.ndarray:
    """Positions in the pool that make the complement set, `(size,)` int64, sorted.

    probabilities `(N, K)`, shares `(K,)`. Stratified: class c gets its share of `size` (largest remainders). Candidates
    are the images whose most probable class is c with at least `floor`; they are drawn with that probability as
    weight, without replacement while they last, then again from the start. With the same seed a smaller set lies inside
    a larger one; of three classes or more, but for one image a class, which rounding may take away as the size grows.
    `size` None takes as many as there are without replacement; only the images of a class with fewer than `scarce`
    candidates may repeat, lest a rare joint cell make the set small. With `scarce`, a class without a candidate gives
    its share to the others.
    Raises InputError when a class that the complement needs has no candidate; `names` are those of the classes.
    """
    winner, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    candidates = [np.flatnonzero((winner == c) & (confidence >= floor)) for c in range(len(shares))]
    if scarce:
        shares = np.where([len(found) > 0 for found in candidates], shares, 0.0)
        if shares.sum() == 0:
            raise InputError(
                f"no image in the pool has probabilities of {floor:g} or more for what the complement needs; "
                "lower --floor, make the pool larger or use better classifiers"
            )
        shares = shares / shares.sum()
    for c, (found, share) in enumerate(zip(candidates, shares, strict=True)):
        if share > 0 and len(found) == 0:
            name = names[c] if names else f"class {c}"
            raise InputError(
                f"no image of {name} in the pool has a probability of {floor:g} or more; "
                "lower --floor, make the pool larger or use a better classifier"
            )
    if size is None:
        needed = [(len(f), s) for f, s in zip(candidates, shares, strict=True) if s > 0]
        plenty = [(n, s) for n, s in needed if n >= scarce] or needed
        # A share that should be 1 may be rounded to a little more.
        size = int(min(n / s for n, s in plenty) + 1e-6)
    if size < 1:
        raise InputError(f"the complement set would have {size} images; expected at least 1")
    rng = numpy_generator(seed, "complement")
    # A class with a share has keys drawn even where it gets no image: those of the classes after it are then the same
    # at every size. One without a share has none at any size.
    drawn = [
        _weighted_draw(found, confidence[found], int(n), rng)
        for found, n, share in zip(candidates, largest_remainders(shares, size), shares, strict=True)
        if share > 0
    ]
    return np.sort(np.concatenate(drawn))


def largest_remainders(shares: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers that sum to `size` and follow `shares` as closely as possible, `(K,)` int64."""
    exact = shares / shares.sum() * size
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return np.asarray(counts)


def _weighted_draw(items: np.ndarray, weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    whole, rest = divmod(n, len(items))
    # The largest of u**(1/w) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    keys = np.log(rng.random(len(items))) / weights
    return np.concatenate([np.repeat(items, whole), items[np.argsort(-keys)[:rest]]])


def write_set(path: Path, pool: Pool, cells: Cells, of: Sequence[np.ndarray], chosen: np.ndarray) -> None:
    """A table of the images of a drawn set: seed, class of every attribute, probability of all of these together.

    `of` are the pool's class probabilities `(N, K)` for the attributes of `cells`, `chosen` positions in it.
    """
    columns: dict[str, Any] = {"seed": pool.seeds[chosen]}
    for attribute, p in zip(cells.attributes, of, strict=True):
        columns[attribute.name] = [attribute.classes[k] for k in p[chosen].argmax(axis=1)]
    columns["probability"] = cells.probabilities([p[chosen] for p in of]).max(axis=1)
    with atomic(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def set_positions(pool: Pool, table: Path) -> np.ndarray:
    """Positions in the pool of the seeds in a table of `write_set`. Raises InputError when one is not in the pool."""
    if not table.is_file():
        raise InputError(f"{table} is missing; make it with `fairsims complement`")
    try:
        seeds = pd.read_parquet(table)["seed"].to_numpy()
    except (OSError, ValueError, KeyError) as e:
        raise InputError(f"{table} is no table of seeds ({e}); make it with `fairsims complement`") from None
    place = {int(s): i for i, s in enumerate(pool.seeds)}
    missing = [int(s) for s in seeds if int(s) not in place]
    if missing:
        raise InputError(
            f"{table} names seed {missing[0]}, which is not in {pool.folder}; use the pool it was drawn from"
        )
    return np.array([place[int(s)] for s in seeds])


def make_complement(
    pool: Pool,
    classifier: AttributeClassifier,
    target: str,
    out: Path,
    *,
    omega: float | None,
    cap: float,
    floor: float,
    size: int | None,
    seed: int,
) -> dict[str, Any]:
    """Plan the complement of a target and draw it from a labelled pool into the Parquet table `out`; what was planned.

    Raises ValueError as `check_complement`, InputError where `out` is anything but a complement of the same attribute.
    """
    check_complement(omega=omega, cap=cap, floor=floor, size=size)
    if out.exists() and not _has_columns(out, ["seed", classifier.attribute.name, "probability"]):
        raise InputError(
            f"{out} is no earlier complement of {classifier.attribute.name}; it is not written over, give a new name"
        )
    classes = classifier.attribute.classes
    pi = np.array(shares_of(pool, classifier).share)
    tau = parse_target(target, classifier.attribute).resolve(pi)
    plan = plan_complement(pi, tau, classes, omega=omega, cap=cap)
    cells, of = Cells(attributes=(classifier.attribute,)), [label_source(pool, classifier)]
    chosen = draw_complement(
        cells.probabilities(of), np.array(plan.complement), size=size, floor=floor, seed=seed, names=classes
    )
    write_set(out, pool, cells, of, chosen)
    facts = {"base": as_mapping(pi, classes), "target": as_mapping(tau, classes), "size": len(chosen)}
    return facts | asdict(plan) | {"complement": as_mapping(plan.complement, classes)}


def _has_columns(path: Path, columns: list[str]) -> bool:
    """Whether a file is a Parquet table of just these columns."""
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(path).names) == columns
    except (OSError, ValueError):
        return False
