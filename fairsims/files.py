"""Files that exist whole or not at all, JSON, and digests."""

from __future__ import annotations

import contextlib
import datetime as dt
import glob
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fairsims.errors import InputError


def now() -> str:
    """This moment to the second, UTC, in ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


@contextlib.contextmanager
def atomic(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces `path`, on any failure it is removed.

    `shared`: several processes, on several machines, may make this file at once, and all write the same. Each has a
    name of its own; who is done first puts its file there, and what the others, or a kill, left of it goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = f".{secrets.token_hex(6)}" if shared else ""
    temporary = path.with_name(f".{path.name}{own}.part")
    try:
        yield temporary
        try:
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(path)
        except FileNotFoundError:
            if not (shared and path.exists()):
                raise
        for left in path.parent.glob(f".{glob.escape(path.name)}*.part") if shared else ():
            left.unlink(missing_ok=True)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.filename is None:
            e.filename = str(path)  # writing itself, unlike opening, does not say which file
        raise


def cache_folder(what: str) -> Path:
    """Where things are kept that can be made again: a folder in `$FAIRSIMS_CACHE` (or `~/.cache/fairsims`)."""
    cache = os.environ.get("FAIRSIMS_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "fairsims") / what


def write_text(path: Path, text: str, *, shared: bool = False) -> None:
    """Write UTF-8 text atomically, as `atomic` does."""
    with atomic(path, shared=shared) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, shared: bool = False) -> None:
    """Write JSON atomically, as `atomic` does: sorted nowhere (order carries meaning), two spaces, NaN refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", shared=shared)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError naming the file when it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; expected a JSON file there") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"{path} is not valid JSON ({e}); restore it or delete its folder and run again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Append one record to a `stats.jsonl`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(record) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Records of a `stats.jsonl`; a last line cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
