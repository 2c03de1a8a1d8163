"""Tables of labels: a row per image, named by seed or file."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fairsims.data.names import class_name
from fairsims.data.opening import FETCH, POINTER
from fairsims.errors import InputError, closest

if TYPE_CHECKING:
    import pandas as pd

KEYS = ("file_name", "seed")
DELIMITERS = ",;\t|"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class _Flaw(Exception):
    """Why a table is none."""


def read_table(path: Path, data: bytes | None = None) -> pd.DataFrame:
    """CSV, JSON lines or Parquet, by the ending; `data` are the bytes where they lie in a zip.

    Of CSV the delimiter is the one that the header has most of (comma, semicolon, tab, bar), every cell is text
    without spaces around it, an empty one missing; so are values of JSON lines. Parquet is as it is. Raises InputError
    naming the file when it is missing or no such table, its encoding when that is not UTF-8, or UTF-16 with its mark.
    """
    import pandas as pd

    kind = path.suffix.lower()
    if data is None and not path.is_file():
        raise InputError(f"found no file {path}; expected a table of labels; check the path")
    try:
        if kind == ".parquet":
            return pd.read_parquet(path if data is None else io.BytesIO(data))
        text = _decoded(path.read_bytes() if data is None else data)
        return _json_lines(text) if kind in (".jsonl", ".ndjson") else _separated(text)
    except Exception as e:  # Arrow, pandas and csv raise many kinds for what is no table
        reason = (str(e).strip() or type(e).__name__).splitlines()[0][:160]
        text = f"found that {path} is no table of labels ({reason}); expected CSV, JSON lines or Parquet; mend it"
        raise InputError(text) from None


def key_column(table: pd.DataFrame, path: object, keys: Sequence[str] = KEYS) -> str:
    """The column that names the images: the first of `keys` that is there.

    Raises InputError when there is none, the table has no rows or one of them names no image.
    """
    names = [str(c) for c in table.columns]
    found = next((k for k in keys if k in names), None)
    if found is None:
        meant = {n.casefold().replace("_", "").replace(" ", ""): n for n in names}
        near = [meant[k] for k in ("filename", "seed", "file", "image", "name", "path") if k in meant]
        name = "seed" if "seed" in keys and near and near[0].casefold() == "seed" else "file_name"
        hint = f"; is {near[0]!r} meant? name it {name}" if near else f"; add {' or '.join(keys)}"
        raise InputError(f"found columns {names} in {path}; expected {' or '.join(map(repr, keys))} among them{hint}")
    if not len(table):
        raise InputError(f"found a header and no row in {path}; expected a row for each image; add them")
    nameless = next((i for i, v in enumerate(table[found], 1) if v is None or v != v), None)
    if nameless is not None:
        raise InputError(f"found no {found} in row {nameless} of {path}; expected the name of an image; add it")
    return found


def no_column(names: Sequence[str], wanted: str, path: object) -> InputError:
    """That there are no labels for an attribute, with the one that may be meant: `Gender` for `gender`."""
    same = [n for n in names if class_name(n).casefold() == wanted.casefold()]
    hint = f"; is {same[0]!r} meant?" if same else closest(wanted, [n for n in names if n not in KEYS])
    return InputError(f"{path} has no labels for {wanted!r}{hint}")


def _decoded(data: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None)
    if data.startswith(POINTER):
        raise _Flaw(FETCH)
    if encoding is None and b"\0" in data[:4]:
        raise _Flaw("it looks like UTF-16 without its mark, or no text; save it as UTF-8")
    try:
        text = data.decode(encoding or "utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as e:
        row = data[: e.start].count(b"\n") + 1
        looks = f"cut {encoding}" if encoding else "cp1252 (Windows, Latin)"
        raise _Flaw(f"line {row} is not UTF-8, it looks like {looks}; save it as UTF-8") from None
    before, zero, _ = text.partition("\0")
    if zero:
        raise _Flaw(f"line {before.count(chr(10)) + 1} has a zero byte, as a file has that was cut; save it again")
    return text


def _separated(text: str) -> pd.DataFrame:
    first, _, rest = text.partition("\n")
    told = first.strip().lower()
    if told.startswith("sep=") and len(told) == 5:  # Excel's own way to say it
        text, delimiter = rest, told[4]
    else:
        header = next((line for line in text.split("\n") if line.strip()), "")
        delimiter = max(DELIMITERS, key=header.count)
    rows = [
        r for r in csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True) if any(map(str.strip, r))
    ]
    if not rows:
        raise _Flaw("it is empty")
    names = _header(rows[0])
    long = next((i for i, r in enumerate(rows) if len(r) > len(names) and any(map(str.strip, r[len(names) :]))), None)
    if long is not None:
        raise _Flaw(f"row {long} has {len(rows[long])} cells, the header {len(names)}")
    if names[:1] == [""] and [r[0].strip() for r in rows[1:]] == [str(i) for i in range(len(rows) - 1)]:
        names, rows = names[1:], [r[1:] for r in rows]  # pandas' own numbering, which is no column
    if "" in names:
        raise _Flaw(f"column {names.index('') + 1} has no name")
    kept: dict[str, str | None] = {"": None}
    columns: dict[str, list[str | None]] = {name: [] for name in names}
    for row in rows[1:]:
        for k, name in enumerate(names):
            cell = row[k].strip() if k < len(row) else ""
            columns[name].append(kept.setdefault(cell, cell))
    return _frame(columns, len(rows) - 1)


def _header(row: Sequence[str]) -> list[str]:
    names = [cell.strip() for cell in row]
    while names and not names[-1]:  # a delimiter at the end of the line
        names.pop()
    twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if twice is not None:
        raise _Flaw(f"two columns are named {twice!r}")
    return names


def _json_lines(text: str) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row, dict):
            raise _Flaw(f"line {number} is a {type(row).__name__}, not an object")
        rows.append(row)
    if not rows:
        raise _Flaw("it is empty")
    names = list(dict.fromkeys(name.strip() for row in rows for name in row))
    columns = {n: [as_text({k.strip(): v for k, v in row.items()}.get(n)) for row in rows] for n in names}
    return _frame(columns, len(rows))


def as_text(value: Any) -> str | None:
    """A value of JSON or Parquet as the text that CSV would have; None where it is missing."""
    if value is None or value != value:
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, default=str) if isinstance(value, dict | list) else str(value)


def _frame(columns: dict[str, list[str | None]], rows: int) -> pd.DataFrame:
    import pandas as pd

    found = pd.DataFrame(columns, index=range(rows), dtype=object)
    return found.where(found.notna(), float("nan"))
