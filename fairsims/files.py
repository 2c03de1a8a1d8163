"""Files that exist whole or not at all, here or on another file system, JSON, and digests."""

from __future__ import annotations

import contextlib
import datetime as dt
import fnmatch
import glob
import hashlib
import json
import mmap
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from fairsims.errors import InputError


def now() -> str:
    """This moment to the second, UTC, in ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


class RemotePath(type(Path())):  # type: ignore[misc]
    """A place on a file system of fsspec (`s3://bucket/pool`, `gs://`, `memory://`), with what pools ask of a path.

    There are no folders to make and nothing is renamed: a file is there whole once it was written, or not at all.
    """

    def __str__(self) -> str:
        kind, *rest = self.parts
        return f"{kind}//{'/'.join(rest)}"

    def _do(self, name: str, *arguments: Any, **options: Any) -> Any:
        """A call of the file system. Raises InputError for what is no matter of files: credentials, the network."""
        import fsspec

        try:
            # Listings that are kept do not show what other processes wrote.
            system, place = fsspec.url_to_fs(str(self), use_listings_cache=False)
            return getattr(system, name)(place, *arguments, **options)
        except OSError:
            raise
        except ImportError as e:
            kind = {"s3:": "s3", "gs:": "gcs"}.get(self.parts[0])
            how = f'run `pip install "fairsims[{kind}]"`' if kind else "install the package that fsspec asks for"
            raise InputError(f"cannot open {self} ({e}); {how}") from None
        except Exception as e:
            why = " ".join(str(e).split())[:200]
            raise InputError(
                f"cannot reach {self} ({type(e).__name__}: {why}); check the address, the credentials and the network"
            ) from None

    def exists(self, **_: Any) -> bool:
        return bool(self._do("exists"))

    def is_file(self, **_: Any) -> bool:
        return bool(self._do("isfile"))

    def is_dir(self, **_: Any) -> bool:
        return bool(self._do("isdir"))

    def iterdir(self) -> Iterator[RemotePath]:
        try:
            listed = self._do("ls", detail=False)
        except FileNotFoundError:
            return
        for name in sorted({found.rstrip("/").rpartition("/")[2] for found in listed} - {"", self.name}):
            yield self / name

    def glob(self, pattern: str, **_: Any) -> Iterator[RemotePath]:
        """Of this folder alone."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def mkdir(self, *_: Any, **__: Any) -> None:
        """There is nothing to make."""

    def open(self, mode: str = "rb", *_: Any, **__: Any) -> Any:
        """To be read at any place; nothing is read that is not asked for."""
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}; expected 'rb': what is written is written whole")
        return self._do("open", "rb", cache_type="none")

    def read_bytes(self) -> bytes:
        return bytes(self._do("cat_file"))

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        return self.read_bytes().decode(encoding or "utf-8", errors or "strict")

    def write_bytes(self, data: Any) -> int:
        """At once: the last part of a large file's upload is what makes it appear."""
        self._do("pipe_file", bytes(data))
        return len(data)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self._do("rm_file")
        except FileNotFoundError:
            if not missing_ok:
                raise


def place(path: str | Path) -> Path:
    """A path on this machine, or on another file system for an address as `s3://bucket/pool`; `file://` is here."""
    if isinstance(path, Path):
        return path
    kind, there, rest = path.partition("://")
    return Path(path) if not there else Path(rest) if kind == "file" else RemotePath(path)


def readable(path: Path) -> Path | IO[bytes]:
    """What libraries read that know no other file systems: the path, or what is opened at an address."""
    return cast("IO[bytes]", path.open("rb")) if isinstance(path, RemotePath) else path


@contextlib.contextmanager
def atomic(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces `path`, on any failure it is removed.

    `shared`: several processes, on several machines, may make this file at once, and all write the same. Each has a
    name of its own; who is done first puts its file there, and what the others, or a kill, left of it goes.

    A file of another file system is made in a temporary folder here, and put there at once.
    """
    if isinstance(path, RemotePath):
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder) / path.name
            path.write_bytes((Path(folder) / path.name).read_bytes())
        return
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


def give_back(array: object) -> None:
    """Give back the memory of an array that is read in place in a file, and keep the array.

    What was read of a file counts as this process's memory until the machine is short of it.
    """
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


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
    if isinstance(path, RemotePath):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
