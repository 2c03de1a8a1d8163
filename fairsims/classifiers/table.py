"""Labels that a person or another tool made, by seed or file name, in the place of a classifier."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from fairsims.classifiers.base import AttributeClassifier, Card, FloatRows, Tally
from fairsims.data import tables
from fairsims.data.attributes import UNDETERMINED, Attribute, sorted_classes
from fairsims.data.names import Names, alike, class_name, identity
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic, sha256_file, sha256_json

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("seed", "file_name")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")


class TableClassifier(AttributeClassifier):
    """Class probabilities looked up by image identity; it never sees an image.

    `label` asks for the ids of a source: seeds of a pool, file names of a folder or zip. `probabilities(images)` and
    `features(images)` raise InputError.
    """

    by_identity = True

    def __init__(self, card: Card, path: Path, key: str, rows: dict[str, int], values: FloatRows) -> None:
        super().__init__(card)
        self.path = path
        self.key = key
        self.rows = rows
        self.values = values

    def label(self, images: ImageSource, progress: Tally = lambda done, total: None) -> FloatRows:
        """Probabilities `(N, K)` of the images with these seeds or file names, in their order.

        Raises InputError naming an image that the table does not have: none is ever left out.
        """
        keys = [identity(i) for i in images.ids]
        rows = self.rows if all(k in self.rows for k in keys) else self._by_name(keys)
        missing = [k for k in keys if k not in rows]
        if missing:
            more = f" (nor for {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise InputError(
                f"{self.name} has no row for {self.key} {missing[0]}{more}; expected all {len(keys)} images; "
                f"add them, with the class undetermined where none can be told{Names(list(self.rows)).hint(missing[0])}"
            )
        return self.values[[rows[k] for k in keys]]

    def _by_name(self, keys: list[str]) -> dict[str, int]:
        """Row of each image that the table names, be it by an absolute path."""
        known, rows = Names(keys), dict(self.rows)
        for name, row in self.rows.items():
            place = known.find(name)
            if place is not None and rows.setdefault(keys[place], row) != row:
                raise InputError(
                    f"{self.name} has two rows for {self.key} {keys[place]}, one of them {name}; expected one row per "
                    "image; mend it"
                )
        return rows

    def probabilities(self, images: Tensor) -> Tensor:
        raise InputError(f"{self.name} is a table of labels by {self.key} and cannot look at images")

    def features(self, images: Tensor) -> Tensor:
        raise InputError(f"{self.name} is a table of labels and has no features; choose another extractor")

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"key": self.key, "rows": len(self.rows)}

    def keep(self, folder: Path) -> dict[str, Any]:
        name = f"labels{self.path.suffix.lower()}"
        with atomic(folder / name) as temporary:
            shutil.copyfile(self.path, temporary)
        read_table(f"{folder / name}#{self.attribute.name}")
        return {"table": name}


def named(spec: str, attribute: str = "") -> TableClassifier | None:
    """The table that a text names by its suffix, if it does; of several attributes the one asked for."""
    return read_table(spec, asked=attribute) if spec.partition("#")[0].lower().endswith(SUFFIXES) else None


def open_table(folder: Path, config: Mapping[str, Any], card: Card, load: object) -> TableClassifier:
    """The copy of a table in a folder that it was measured into."""
    return read_table(f"{folder / config['table']}#{config['attribute']}", card)


def read_table(spec: str, card: Card | None = None, *, asked: str = "") -> TableClassifier:
    """`labels.csv` or `labels.parquet`; `labels.csv#gender` picks one of several attributes, else `asked`.

    The table has `seed` or `file_name`, and a column of class names (`gender`; an empty cell is `undetermined`) or
    probability columns (`gender.man`, `gender.woman`). `card` is that of a folder, digests excepted.
    Raises InputError naming the file, and the row where there is one.
    """
    place, _, attribute = spec.partition("#")
    path = Path(place)
    table = tables.read_table(path)
    key = tables.key_column(table, path, KEYS)
    ids = [identity(v) for v in table[key]]
    twice = next((v for v, n in zip(*np.unique(ids, return_counts=True), strict=True) if n > 1), None)
    if twice is not None:
        raise InputError(f"{path} has {key} {twice} twice; expected a row per image; mend it")
    columns = [c for c in table.columns if c not in KEYS]
    names = list(dict.fromkeys(str(c).split(".")[0] for c in columns))
    if not attribute and len(names) > 1 and asked in names:
        attribute = asked
    if not attribute and len(names) != 1:
        raise InputError(f"{path} has label columns {names or 'of no name'}; expected one attribute; say {path}#NAME")
    attribute = attribute or names[0]
    if attribute not in names:
        raise tables.no_column(names, attribute, path)
    classes, values = _values(table, attribute, path)
    found = Attribute(name=attribute, classes=classes)
    own = sha256_file(path)
    digest = sha256_json(["table", own, attribute, list(classes)])
    card = card or Card(name=path.stem, kind="table", attribute=found)
    card = replace(card, attribute=found, digest=digest, weights_digest=own)
    return TableClassifier(card, path, key, {k: i for i, k in enumerate(ids)}, values)


def _values(table: pd.DataFrame, attribute: str, path: Path) -> tuple[tuple[str, ...], FloatRows]:
    """Classes, and probabilities `(rows, K)`."""
    spread = [c for c in table.columns if str(c).startswith(f"{attribute}.")]
    if spread:
        classes = tuple(str(c).removeprefix(f"{attribute}.") for c in spread)
        try:
            values = table[spread].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as e:
            raise InputError(f"{path} has probabilities that are no numbers ({e}); mend it") from None
        bad = ~np.isfinite(values).all(axis=1) | (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > 1e-3)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(
                f"{path} has {attribute} probabilities {values[row].tolist()} in row {row + 1}; "
                "expected numbers from 0 to 1 that sum to 1; mend it"
            )
        values = values / values.sum(axis=1, keepdims=True)
    else:
        named = table[attribute].fillna(UNDETERMINED).map(class_name)
        classes = sorted_classes(named)
        if (same := alike(classes)) is not None:
            raise InputError(
                f"{path} has {attribute} classes {' and '.join(map(repr, same))}, which differ by case or spaces only; "
                "expected one spelling; mend the labels"
            )
        values = np.eye(len(classes))[[classes.index(v) for v in named]]
    if len(classes) < 2 or UNDETERMINED in classes[:-1]:
        raise InputError(f"{path} has {attribute} classes {list(classes)}; expected two or more, undetermined last")
    return classes, values.astype(np.float32)
