"""PNG by its chunks: what pixels come from, and decoding the usual kind without all of Pillow's reader around it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SEEN = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}
"""Chunks that the pixels come from."""
_START = SIGNATURE + b"\0\0\0\x0dIHDR"
_MODES = {b"\x08\x02\0\0\0": "RGB", b"\x08\0\0\0\0": "L"}
"""By bits, colour, compression, filter, interlace: the ends of headers that `Plain` stands for."""


class Plain(NamedTuple):
    """A PNG of 8-bit RGB or grey: no transparency, no interlacing, no orientation, one picture."""

    mode: str
    size: tuple[int, int]
    """Width and height."""
    packed: bytes
    """The pixels as they are compressed."""

    def decoded(self) -> Image.Image | None:
        """The pixels by Pillow's own decoder; None where they are broken, which its reader tells better."""
        try:
            return Image.frombytes(self.mode, self.size, self.packed, "zip", self.mode)
        except (ValueError, OSError):
            return None


def plain(data: bytes) -> Plain | None:
    """What a PNG of the usual kind holds; None for any other file, and for one that is not whole to its last chunk.

    Pillow's reader takes twice as long to come to the same pixels of a small image.
    """
    mode = _MODES.get(data[24:29])
    if mode is None or not data.startswith(_START) or zlib.crc32(data[12:29]) != int.from_bytes(data[29:33]):
        return None
    place, end, parts = 33, len(data) - 12, []
    while place <= end:
        length, kind = struct.unpack_from(">I4s", data, place)
        if kind == b"IDAT":
            parts.append(data[place + 8 : place + 8 + length])
        elif kind in SEEN:
            break
        place += 12 + length
    if place > end or kind != b"IEND" or not parts:
        return None
    size = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    return Plain(mode, size, b"".join(parts)) if min(size) else None


def pixels_only(data: bytes) -> bytes:
    """A PNG without texts and colour profiles: generators keep megabytes there, and Pillow unpacks them all.

    EXIF goes first, where Pillow finds it before it reads the pixels. Other files are as they are.
    """
    if not data.startswith(SIGNATURE):
        return data
    place, kept, first, dropped = len(SIGNATURE), [], [], False
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunk = data[place : place + 12 + length]
        if kind == b"eXIf":
            first.append(chunk)
            dropped = True
        elif kind in SEEN:
            kept.append(chunk)
        else:
            dropped = True
        place += 12 + length
        if kind == b"IEND":
            break
    return b"".join((SIGNATURE, *kept[:1], *first, *kept[1:])) if dropped else data


def chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and body of every chunk of a PNG."""
    place = len(SIGNATURE)
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length


def bits(data: bytes) -> int:
    """Per sample; Pillow reads 16-bit RGB as if it were 8-bit, so PNG's own header is asked (IHDR, byte 24)."""
    return data[24] if data.startswith(SIGNATURE) and len(data) > 24 else 8
