"""Encoded images by name, wherever they lie: a folder, a zip, Parquet rows."""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from fairsims.data.names import litter
from fairsims.data.opening import MOST_BYTES, reason
from fairsims.errors import InputError
from fairsims.files import sha256_file

IMAGE_SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".avif"),
    *(".mpo", ".jp2", ".pgm", ".ppm", ".pnm"),
)
UNREAD_SUFFIXES = (
    *(".heic", ".heif", ".svg", ".psd", ".xcf", ".ai", ".eps", ".ico", ".icns", ".exr", ".hdr", ".jxl", ".tga", ".pcx"),
    *(".dcm", ".nef", ".cr2", ".cr3", ".arw", ".dng", ".raw"),
)
DESCRIPTION = "dataset.json"
SHEETS = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
UNREAD, OTHER, ANIMATION = "images of a format that is not read", "no image by its name", "animations"
DEAD, AGAIN, SPECIAL = "dead links", "folders reached twice through links", "no regular files"

_UTF8 = 0x800
"""Flag of a member of a zip whose name is in UTF-8."""
_HEADER = 512
"""Bytes before a member of a zip that are read with it: 30, its name, and what else may stand there."""

Passed = dict[str, list[str]]
"""Rule -> names that were passed over by it."""


class Files(Protocol):
    """Sorted names of images and the bytes behind each."""

    path: Path
    names: Sequence[str]
    labels: tuple[str, ...]
    """Names of files that may hold labels: dataset.json and metadata, at any depth."""
    passed: Passed

    def data(self, name: str) -> bytes:
        """The encoded image, or a file of labels."""
        ...

    def digest(self, images: Mapping[str, str]) -> str:
        """SHA-256 over the content; `images` are digests by name of those images that are known."""
        ...

    def without(self, names: Iterable[str]) -> None:
        """Leave out images that turned out to be none."""
        ...


def sort_out(members: Iterable[str], passed: Passed) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sorted names of images and of files that may hold labels; every other is passed over by a rule."""
    names, labels = [], []
    for name in members:
        base = name.rpartition("/")[2]
        suffix = os.path.splitext(base)[1].lower()
        if rule := litter(name):
            passed.setdefault(rule, []).append(name)
        elif suffix in IMAGE_SUFFIXES:
            names.append(name)
        elif base in (DESCRIPTION, *SHEETS):
            labels.append(name)
        else:
            passed.setdefault(UNREAD if suffix in UNREAD_SUFFIXES else OTHER, []).append(name)
    return tuple(sorted(names)), tuple(sorted(labels))


class FolderFiles:
    """All images under a folder and the folders linked from it, names relative to it with forward slashes."""

    names: Sequence[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: Passed = {}
        self.names, self.labels = sort_out(_walk(path, self.passed), self.passed)

    def data(self, name: str) -> bytes:
        # As bytes of one file, without pathlib, in a third of the time.
        with open(f"{self.path}/{name}", "rb", buffering=0) as file:
            return file.read()

    def digest(self, images: Mapping[str, str]) -> str:
        """SHA-256 over sorted relative names and bytes of the images and the label files."""
        return digest_of_files(self.path, sorted([*self.names, *self.labels]), images)

    def without(self, names: Iterable[str]) -> None:
        gone = set(names)
        self.names = tuple(n for n in self.names if n not in gone)


class ZipFiles:
    """All images in a zip, stored or compressed."""

    names: Sequence[str]

    def __init__(self, path: Path) -> None:
        self.path = path
        self.passed: Passed = {}
        self._open: tuple[int, zipfile.ZipFile] | None = None
        self._written: dict[str, str] = {}
        try:
            members = [self._slashed(m.filename) for m in self._archive().infolist()]
            members = [name for name in members if not name.endswith("/")]
        except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError) as error:
            raise InputError(
                f"found {path} unreadable ({reason(path, error)}); expected a zip; write it again"
            ) from None
        self.names, self.labels = sort_out(members, self.passed)
        twice = [name for name, n in Counter((*self.names, *self.labels)).items() if n > 1]
        if twice:
            raise InputError(f"found {twice[0]} twice in {path}; expected each name once; write the zip again")

    def data(self, name: str) -> bytes:
        try:
            member = self._archive().getinfo(self._written.get(name, name))
            if (size := member.file_size) > MOST_BYTES:
                raise InputError(
                    f"found {name} in {self.path} to be {size:,} bytes; expected {MOST_BYTES:,} at most; leave it out"
                )
            if member.flag_bits & 1:
                raise InputError(
                    f"found {name} in {self.path} encrypted; expected a zip without a password; unpack it and give the "
                    "folder"
                )
            return self._stored(member) or self._archive().read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError) as error:
            raise InputError(
                f"found {name} in {self.path} damaged ({error}); expected a whole zip; write it again"
            ) from None

    def digest(self, images: Mapping[str, str]) -> str:
        return sha256_file(self.path)

    def without(self, names: Iterable[str]) -> None:
        gone = set(names)
        self.names = tuple(n for n in self.names if n not in gone)

    def _slashed(self, name: str) -> str:
        """A member's name with forward slashes, whichever Windows wrote."""
        if "\\" not in name:
            return name
        found = name.replace("\\", "/")
        self._written[found] = name
        return found

    def _stored(self, member: zipfile.ZipInfo) -> bytes | None:
        """A member that is stored as it is, at once; None where zipfile must unpack it or say what is wrong.

        zipfile takes as long for a small image as its decoder does, and lets one thread read at a time.
        """
        stream, length = self._archive().fp, member.file_size
        # A member that says to be longer in the zip than unpacked would be read whole before that is noticed.
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == length
        if stream is None or not stored:
            return None
        found = os.pread(stream.fileno(), _HEADER + length, member.header_offset)
        start = 30 + int.from_bytes(found[26:28], "little") + int.from_bytes(found[28:30], "little")
        data = found[start : start + length]
        name = member.orig_filename.encode("utf-8" if member.flag_bits & _UTF8 else "cp437")
        known = found.startswith(b"PK\x03\x04") and found[30:].startswith(name)
        return data if known and len(data) == length and zlib.crc32(data) == member.CRC else None

    def _archive(self) -> zipfile.ZipFile:
        # A forked worker shares the file offset of an inherited handle, so each process opens its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.path))
        return self._open[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}


def _walk(root: Path, passed: Passed) -> Iterator[str]:
    """Files under a folder; links are followed, each folder is read once."""
    seen: set[tuple[int, int]] = set()

    def failed(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, followlinks=True, onerror=failed):
        status = os.stat(folder)
        at = os.path.relpath(folder, root).replace(os.sep, "/")
        start = "" if at == "." else f"{at}/"
        if (status.st_dev, status.st_ino) in seen:
            passed.setdefault(AGAIN, []).append(at)
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders.sort()
        for name in sorted(files):
            full = os.path.join(folder, name)
            try:
                (start + name).encode()
            except UnicodeEncodeError:
                raise InputError(
                    f"found {start + name!a} in {root} not named in UTF-8; expected it; rename it"
                ) from None
            if os.path.isfile(full):
                yield start + name
            else:
                passed.setdefault(SPECIAL if os.path.exists(full) else DEAD, []).append(start + name)


def digest_of_files(root: Path, names: Iterable[str], known: Mapping[str, str] | None = None) -> str:
    """SHA-256 over names and digests, each ended by a newline so that no two listings run together alike."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\n{(known or {}).get(name) or sha256_file(root / name)}\n".encode())
    return total.hexdigest()
