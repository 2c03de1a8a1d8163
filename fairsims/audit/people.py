"""Labels that people gave a sample of a source's images: read, matched to the images, and kept from the wrong pool."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from fairsims.audit.facts import SIDES, Side
from fairsims.data import Attribute, ImageDataset
from fairsims.data.attributes import UNDETERMINED
from fairsims.data.names import Names, class_name, identity
from fairsims.data.sources import ImageSource
from fairsims.data.tables import no_column, read_table
from fairsims.errors import InputError, closest
from fairsims.files import sha256_file
from fairsims.pools import Pool

IntArray = npt.NDArray[np.int64]

OWNER = "source"
"""Column with the start of a source's digest: which images were looked at."""
SURE = 3.0
"""Standard errors by which labels must fit the other pool better to be refused."""


@dataclass(frozen=True, kw_only=True)
class PeopleLabels:
    """One attribute's labels of some images of one source."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    positions: IntArray
    """`(n,)` places in the source, ascending."""
    classes: IntArray
    """`(n,)` the class a person saw, as a place in the attribute's classes; after those, `undetermined`."""


def read_people_labels(
    specs: Sequence[str], sources: Mapping[Side, ImageSource], attributes: Sequence[Attribute]
) -> dict[str, dict[Side, PeopleLabels]]:
    """Labels by attribute and by side ("before", "after") from tables, each `FILE` or `SIDE=FILE`.

    A table (CSV or Parquet) has `file_name` or `seed`, a column for each attribute it labels (an empty cell is no
    label) and, optionally, `source`: the start of the digest of the images that were looked at. Raises InputError when
    a table is unreadable, names unknown images, classes or no attribute, or when it is not clear whose labels it holds.
    """
    found: dict[str, dict[Side, PeopleLabels]] = {a.name: {} for a in attributes}
    owners: dict[str, str] = {}
    for spec in specs:
        side, path = _parsed(spec, sources)
        table = read_table(path).astype(object).fillna("").astype(str)
        present = [a for a in attributes if a.name in table]
        if not present:
            raise no_column([str(c) for c in table], next(iter(found)), path)
        for owner, rows, places in _owned(table, path, side, sources):
            if OWNER not in table and owners.setdefault(sha256_file(path), owner) != owner:
                raise InputError(
                    f"{path} is given for before and after; images of one seed differ between them: label those of "
                    "after themselves"
                )
            for attribute in present:
                labels = _labels(rows, places, attribute, path)
                if owner in found[attribute.name]:
                    raise InputError(
                        f"{path} and {found[attribute.name][owner].path} both label {attribute.name} of {owner}; "
                        "put the labels of a source into one file"
                    )
                if labels is not None:
                    found[attribute.name][owner] = labels
    return found


def check_owner(
    labels: PeopleLabels,
    predicted: Mapping[Side, npt.NDArray[np.integer]],
    sources: Mapping[Side, ImageSource],
    side: Side,
) -> None:
    """Refuse labels of one pool that were given for the other with the same seeds.

    `predicted` are the classifier's calls `(N,)` by side. Labels of other images agree with the calls on those images:
    McNemar's test on the images that have a twin of the same id. Raises InputError when they do.
    """
    other = next((s for s in sources if s != side), None)
    if other is None or sources[other].ids.dtype != sources[side].ids.dtype:
        return
    place = {v: i for i, v in enumerate(sources[other].ids.tolist())}
    twins = np.array([place.get(v, -1) for v in sources[side].ids[labels.positions].tolist()], dtype=np.int64)
    there = twins >= 0
    here = predicted[side][labels.positions[there]] == labels.classes[there]
    elsewhere = predicted[other][twins[there]] == labels.classes[there]
    better, worse = int((elsewhere & ~here).sum()), int((here & ~elsewhere).sum())
    if better - worse > SURE * np.sqrt(max(better + worse, 1)):
        raise InputError(
            f"{labels.path} is given for {side}, but the classifier agrees with it on {elsewhere.mean():.0%} of the "
            f"{other} images of the same ids and on {here.mean():.0%} of the {side} ones; these look like labels of "
            f"{other}: label images of {side}"
        )


def _parsed(spec: str, sources: Mapping[Side, ImageSource]) -> tuple[Side | None, Path]:
    name, _, rest = spec.partition("=")
    side = next((s for s in SIDES if s == name), None)
    if rest and side is not None:
        if side not in sources:
            raise InputError(f"--labels {spec} is for {side}, which is not given; give --{side}")
        return side, Path(rest)
    return None, Path(spec)


def _owned(
    table: pd.DataFrame, path: Path, side: Side | None, sources: Mapping[Side, ImageSource]
) -> Iterator[tuple[Side, pd.DataFrame, IntArray]]:
    """Side, rows and the rows' places in the side's source."""
    if OWNER in table:
        for digest, rows in table.groupby(OWNER, sort=False):
            fits = [name for name, s in sources.items() if len(str(digest)) >= 6 and s.digest.startswith(str(digest))]
            if len(fits) != 1 or side not in (None, fits[0]):
                listed = ", ".join(f"{w} is {s.digest[:12]}" for w, s in sources.items())
                raise InputError(
                    f"{path} labels the images of source {str(digest)!r}; {listed}"
                    f"{f', and it was given for {side}' if side else ''}; give the labels of these very images"
                )
            yield fits[0], rows, _places(rows, path, sources[fits[0]])
        return
    if side is None and len(sources) > 1:
        known = [name for name, s in sources.items() if _all_known(table, path, s)]
        if len(known) != 1:
            whose = "the images of both before and after" if known else "images of neither before nor after alone"
            raise InputError(f"{path} names {whose}; say whose labels they are: --labels before={path} or after={path}")
        side = known[0]
    owner: Side = side or "before"
    yield owner, table, _places(table, path, sources[owner])


def _all_known(table: pd.DataFrame, path: Path, source: ImageSource) -> bool:
    try:
        _places(table, path, source)
    except InputError:
        return False
    return True


def _places(table: pd.DataFrame, path: Path, source: ImageSource) -> IntArray:
    """Position of each row's image in the source, `(n,)`."""
    known = {c: ids for c in ("file_name", "seed") if c in table and (ids := _identifiers(source, c)) is not None}
    if not known:
        raise InputError(
            f"{path} has the columns {_listed(table)}; expected {' or '.join(_columns(source))} to tell the images "
            f"of {source.name} apart"
        )
    column, ids = next(iter(known.items()))
    images = Names(ids)
    values = [identity(v) if column == "seed" else str(v) for v in table[column]]
    places = [images.find(v) for v in values]
    unknown = [v for v, place in zip(values, places, strict=True) if place is None]
    if unknown:
        raise InputError(
            f"{path} names {column} {unknown[0]!r}, which is not in {source.name} ({len(unknown)} of {len(values)} are "
            f"not){images.hint(unknown[0]) if column == 'file_name' else ''}; give the labels of these images"
        )
    twice = next((v for k, v in enumerate(values) if places[k] in places[:k]), None) if _repeats(places) else None
    if twice is not None:
        raise InputError(f"{path} labels {column} {twice} twice; expected one row for each image")
    return np.array(places, dtype=np.int64)


def _repeats(places: Sequence[int | None]) -> bool:
    return len(set(places)) < len(places)


def _listed(table: pd.DataFrame) -> str:
    return ", ".join(map(str, table))


def _columns(source: ImageSource) -> list[str]:
    return [c for c in ("file_name", "seed") if _identifiers(source, c) is not None]


def _identifiers(source: ImageSource, column: str) -> list[str] | None:
    """The source's images as this column names them; None when it does not."""
    numbered = np.issubdtype(source.ids.dtype, np.integer)
    if column == "seed":
        if numbered:
            return [str(v) for v in source.ids]
        table = source.table if isinstance(source, ImageDataset) else None
        return None if table is None or "seed" not in table else table["seed"].astype(str).tolist()
    if numbered:
        # A pool's images are exported under these names.
        return [f"{v:06d}.png" for v in source.ids] if isinstance(source, Pool) else None
    return [str(v) for v in source.ids]


def _labels(rows: pd.DataFrame, places: IntArray, attribute: Attribute, path: Path) -> PeopleLabels | None:
    values = rows[attribute.name].map(class_name)
    given = (values != "").to_numpy()
    # People may find that nobody can tell, whether or not the classifier can.
    known = list(dict.fromkeys([*attribute.classes, UNDETERMINED]))
    unknown = sorted(set(values[given]) - set(known))
    if unknown:
        raise InputError(f"{path} has {attribute.name} {unknown[0]!r}{closest(unknown[0], known)}")
    if not given.any():
        return None
    classes = np.array([known.index(v) for v in values[given]], dtype=np.int64)
    order = np.argsort(places[given])
    return PeopleLabels(path=path, digest=sha256_file(path), positions=places[given][order], classes=classes[order])
