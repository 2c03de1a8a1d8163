"""Encoded images by name, wherever they lie: a folder, a zip, Parquet rows."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from PIL import Image, ImageFile

from fairsims.errors import InputError
from fairsims.files import sha256_file

if TYPE_CHECKING:
    import pyarrow as pa

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
DESCRIPTION = "dataset.json"
METADATA = "metadata.csv"


def open_image(data: bytes) -> Image.Image:
    """An encoded image, its pixels not read yet. Reading them raises OSError or SyntaxError where it is cut short.

    Pillow lets a whole process read half images once any library asks for it, and weasyprint does.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return Image.open(io.BytesIO(data))


class Files(Protocol):
    """Sorted names of images and the bytes behind each."""

    path: Path
    names: tuple[str, ...]

    def data(self, name: str) -> bytes:
        """The encoded image, or another member such as dataset.json."""
        ...

    def has(self, name: str) -> bool:
        """Whether a member of this name, image or not, is there."""
        ...

    def digest(self) -> str:
        """SHA-256 over the content."""
        ...


class FolderFiles:
    """All images under a folder, names relative to it with forward slashes; hidden files are passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path
        found = (p.relative_to(path) for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
        self.names = tuple(sorted(p.as_posix() for p in found if not any(part.startswith(".") for part in p.parts)))

    def data(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def has(self, name: str) -> bool:
        return (self.path / name).is_file()

    def digest(self) -> str:
        """SHA-256 over sorted relative names and bytes of the images and the label files."""
        labels = [name for name in (DESCRIPTION, METADATA) if self.has(name)]
        return _digest_of_files(self.path, sorted([*self.names, *labels]))


class ZipFiles:
    """All images in a zip, stored or compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: tuple[int, zipfile.ZipFile] | None = None
        try:
            members = self._archive().namelist()
        except zipfile.BadZipFile as error:
            raise InputError(f"found {path} unreadable ({error}); expected an EDM zip; write it again") from None
        self._members = frozenset(members)
        self.names = tuple(sorted(m for m in members if m.lower().endswith(IMAGE_SUFFIXES)))

    def data(self, name: str) -> bytes:
        try:
            return self._archive().read(name)
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
            raise InputError(
                f"found {name} in {self.path} damaged ({error}); expected a whole zip; write it again"
            ) from None

    def has(self, name: str) -> bool:
        return name in self._members

    def digest(self) -> str:
        return sha256_file(self.path)

    def _archive(self) -> zipfile.ZipFile:
        # A forked worker shares the file offset of an inherited handle, so each process opens its own.
        if self._open is None or self._open[0] != os.getpid():
            self._open = (os.getpid(), zipfile.ZipFile(self.path))
        return self._open[1]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_open": None}


class ParquetFiles:
    """Encoded images of the `image` column of Parquet shards, kept in memory still encoded; names are row numbers.

    Random reads of a Parquet row group decompress all of it, hence the memory.
    """

    def __init__(self, path: Path, shards: Sequence[Path], images: pa.ChunkedArray) -> None:
        self.path = path
        self._shards = tuple(shards)
        self._images = images
        self.names = tuple(f"row {i}" for i in range(len(images)))

    def data(self, name: str) -> bytes:
        payload = self._images[int(name.removeprefix("row "))].as_py()
        if not payload:
            raise InputError(
                f"found no image bytes in {name} of {self.path}; expected the image embedded, not a path to it; "
                "write the Parquet file with embedded images"
            )
        return bytes(payload)

    def has(self, name: str) -> bool:
        return name in self.names

    def digest(self) -> str:
        if self.path.is_file():
            return sha256_file(self.path)
        return _digest_of_files(self.path, [p.relative_to(self.path).as_posix() for p in self._shards])


def _digest_of_files(root: Path, names: Iterable[str]) -> str:
    """SHA-256 over names and digests, each ended by a newline so that no two listings run together alike."""
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\n{sha256_file(root / name)}\n".encode())
    return total.hexdigest()
