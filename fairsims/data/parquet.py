"""Images in Parquet, read row group by row group: memory grows neither with the rows nor with a row group."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from fairsims.data.files import Passed, digest_of_files
from fairsims.data.opening import reason
from fairsims.errors import InputError
from fairsims.files import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 256
"""Rows that are read at a time."""
HELD = 12
"""Blocks that are held: the readers of `read_ahead` are a few of them apart."""
HELD_BYTES = 2**26
"""Of the blocks that are held, but for the latest."""


class RowNames(Sequence[str]):
    """`row 0`, `row 1`, ... without a text for each in memory."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[str]: ...
    def __getitem__(self, i: int | slice) -> str | Sequence[str]:
        return RowNames(self.rows[i]) if isinstance(i, slice) else f"row {self.rows[i]}"


class ParquetFiles:
    """Encoded images of one column of Parquet shards; names are row numbers.

    Rows come in blocks that are read on from where the last one ended. Reading backwards in a large row group begins
    it anew, so that order is what makes it fast. Raises InputError naming the shard that is broken or unlike the first.
    """

    labels: tuple[str, ...] = ()

    def __init__(self, path: Path, shards: Sequence[Path], passed: Passed) -> None:

        self.path, self.shards, self.passed = path, tuple(shards), passed
        files = [self._opened(shard) for shard in shards]
        self.schema: pa.Schema = files[0].schema_arrow
        self.column = _image_column(self.schema, shards[0])
        for shard, file in zip(shards, files, strict=True):
            _image_column(file.schema_arrow, shard)
            if not file.schema_arrow.equals(self.schema):
                raise InputError(
                    f"found other columns or types in {shard} than in {shards[0]}; expected the same; mend it"
                )
        sizes = [f.metadata.num_rows for f in files]
        for file in files:
            file.close()
        self._ends = np.cumsum(sizes)
        self.names: Sequence[str] = RowNames(np.arange(int(self._ends[-1])))
        self._reset()

    def _reset(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()
        self._blocks: OrderedDict[tuple[int, int], list[bytes | None]] = OrderedDict()
        self._place: tuple[int, int] = (-1, 0)
        self._stream: Iterator[Any] = iter(())

    def data(self, name: str) -> bytes:
        row = int(name.removeprefix("row "))
        shard = int(np.searchsorted(self._ends, row, side="right"))
        within = row - (int(self._ends[shard - 1]) if shard else 0)
        if self._process != os.getpid():  # forked: the parent's lock and files are not ours
            self._reset()
        with self._lock:
            block = self._block(shard, within // BLOCK)
        payload = block[within % BLOCK]
        if not payload:
            raise InputError(
                f"found no image bytes in {name} of {self.path}; expected the image embedded, not a path to it; "
                "write the Parquet file with embedded images"
            )
        return payload

    def digest(self, images: Mapping[str, str]) -> str:
        if self.path.is_file():
            return sha256_file(self.path)
        return digest_of_files(self.path, [p.relative_to(self.path).as_posix() for p in self.shards])

    def without(self, names: Iterable[str]) -> None:
        gone = np.array([int(n.removeprefix("row ")) for n in names], dtype=np.int64)
        self.names = RowNames(np.setdiff1d(np.arange(int(self._ends[-1])), gone))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Whole columns beside the images."""
        import pyarrow as pa

        parts = []
        for shard in self.shards:
            with self._opened(shard) as file:
                try:
                    parts.append(file.read(columns=list(names)))
                except (pa.ArrowException, OSError) as error:
                    raise _broken(shard, error) from None
        return pa.concat_tables(parts)

    def _block(self, shard: int, block: int) -> list[bytes | None]:
        key = (shard, block)
        while key not in self._blocks:
            if self._place[0] != shard or self._place[1] > block:
                self._place, self._stream = (shard, 0), self._rows(self.shards[shard])
            try:
                rows = next(self._stream, None)
            except Exception as error:  # Arrow raises many kinds for broken pages
                raise _broken(self.shards[shard], error) from None
            if rows is None:
                raise _broken(self.shards[shard], "fewer rows than it says")
            self._blocks[self._place] = rows
            self._place = (shard, self._place[1] + 1)
            held = sum(len(b or b"") for r in self._blocks.values() for b in r)
            while len(self._blocks) > HELD or (held > HELD_BYTES and len(self._blocks) > 4):
                _, gone = self._blocks.popitem(last=False)
                held -= sum(len(b or b"") for b in gone)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _rows(self, shard: Path) -> Iterator[list[bytes | None]]:
        """The encoded images of a shard, `BLOCK` at a time."""
        import pyarrow.types as pt

        with self._opened(shard) as file:
            struct = pt.is_struct(self.schema.field(self.column).type)
            wanted = [f"{self.column}.bytes"] if struct else [self.column]
            waiting: list[bytes | None] = []
            for batch in file.iter_batches(batch_size=BLOCK, columns=wanted, use_threads=False):
                values = batch.column(0)
                waiting += (values.field("bytes") if struct else values).to_pylist()
                while len(waiting) >= BLOCK:
                    yield waiting[:BLOCK]
                    del waiting[:BLOCK]
            if waiting:
                yield waiting

    def _opened(self, shard: Path) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.ParquetFile(shard, buffer_size=2**20, pre_buffer=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _broken(shard, error) from None

    def __getstate__(self) -> dict[str, object]:
        gone = ("_lock", "_blocks", "_stream", "_place", "_process")
        return {k: v for k, v in self.__dict__.items() if k not in gone}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._reset()

    @cached_property
    def ids(self) -> np.ndarray | None:
        """What identifies the rows: whole numbers in `seed`, else the images' paths; None when neither tells apart."""
        import pyarrow.types as pt

        if "seed" in self.schema.names and pt.is_integer(self.schema.field("seed").type):
            seeds = self.columns(["seed"])["seed"]
            if seeds.null_count == 0 and len(np.unique(found := seeds.to_numpy())) == len(found):
                return np.asarray(found)
        kind = self.schema.field(self.column).type
        if pt.is_struct(kind) and kind.get_field_index("path") >= 0:
            paths: list[str | None] = []
            # Without the bytes beside them, shard by shard: a column of more than 2 GiB is no single array.
            for chunk in self.columns([f"{self.column}.path"]).column(0).chunks:
                paths += chunk.field("path").to_pylist()
            if None not in paths and len(set(paths)) == len(paths):
                return np.array(paths)
        return None

    @cached_property
    def table(self) -> tuple[dict[str, list[str | None]], dict[str, tuple[str, ...]]]:
        """Label columns as text, and the class names of ClassLabel columns. Equal texts are one object."""
        import pyarrow.types as pt

        features = _features(self.schema)
        columns: dict[str, list[str | None]] = {}
        classes: dict[str, tuple[str, ...]] = {}
        for field in self.schema:
            kind = field.type.value_type if pt.is_dictionary(field.type) else field.type
            if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_integer(kind) or pt.is_boolean(kind)):
                continue
            feature = features.get(field.name)
            names = feature.get("names") if isinstance(feature, dict) else None
            known: dict[Any, str | None] = {None: None}
            if isinstance(names, list):
                # datasets writes -1 for an unlabelled row.
                known |= {k: str(n) for k, n in enumerate(names)} | {-1: None}
                classes[field.name] = tuple(map(str, names))
            values: list[str | None] = []
            for chunk in self.columns([field.name])[field.name].chunks:
                for value in chunk.to_pylist():
                    if value not in known:
                        known[value] = None if isinstance(names, list) else str(value)
                    values.append(known[value])
            columns[field.name] = values
        return columns, classes


def shards_of(path: Path, found: Iterable[str]) -> list[Path]:
    """The shards of a file or folder in order of name; of a folder's `found` files those on top go first."""
    if path.is_file():
        return [path]
    names = sorted(n for n in found if n.lower().endswith(".parquet"))
    # A pool keeps label tables in a folder below its shards.
    return [path / n for n in [n for n in names if "/" not in n] or names]


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face datasets says of the columns."""
    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = found.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    return features if isinstance(features, dict) else {}


def _image_column(schema: pa.Schema, shard: Path) -> str:
    """The column with encoded images: `image`, else the only one that is a struct with bytes."""
    import pyarrow.types as pt

    def fits(name: str) -> bool:
        kind = schema.field(name).type
        if pt.is_struct(kind) and (k := kind.get_field_index("bytes")) >= 0:
            kind = kind.field(k).type
        elif name != "image":
            return False
        return bool(pt.is_binary(kind) or pt.is_large_binary(kind))

    names: list[str] = list(dict.fromkeys(schema.names))
    found = [n for n in names if schema.names.count(n) == 1 and fits(n)]
    if "image" in found:
        return "image"
    if len(found) == 1:
        return found[0]
    raise InputError(
        f"found columns {names} in {shard}; expected 'image', a struct of bytes and path; "
        "write it with the image feature of Hugging Face datasets"
    )


def _broken(shard: Path, error: object) -> InputError:
    why = (str(reason(shard, error)).strip() or type(error).__name__).splitlines()[0][:160]
    return InputError(f"found {shard} unreadable ({why}); expected Parquet; write it again")
