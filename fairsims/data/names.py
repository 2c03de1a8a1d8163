"""Names of images and classes, normalised in one way, and what beside images is litter."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from fairsims.errors import closest

HIDDEN, SYSTEM = "hidden files", "left by an operating system"
SYSTEM_FOLDERS = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"}
SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


def image_name(value: object) -> str:
    """A file name as a table, a zip or a file system may write it: NFC, forward slashes, no "." and no empty parts."""
    text = unicodedata.normalize("NFC", str(value)).strip().replace("\\", "/")
    parts = [part for part in text.split("/") if part not in ("", ".")]
    return ("/" if text.startswith("/") else "") + "/".join(parts)


def identity(value: object) -> str:
    """What identifies an image: a seed as its digits ("07" and "7.0" are 7), a file name as `image_name`."""
    text = image_name(value)
    number = re.fullmatch(r"(-?[0-9]+)(\.0*)?", text)
    return str(int(number[1])) if number else text


def class_name(value: object) -> str:
    """A class as a table may write it: NFC, no spaces around it."""
    return unicodedata.normalize("NFC", str(value)).strip()


def alike(names: Iterable[str]) -> list[str] | None:
    """The first names that are the same but for case and spaces; names of one letter may differ by case."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name if len(name) == 1 else re.sub(r"[\s_-]+", "", name).casefold(), []).append(name)
    return next((same for same in found.values() if len(same) > 1), None)


def litter(name: str) -> str | None:
    """Why a member of a folder or zip is litter, if it is: hidden, or left by an operating system."""
    parts = name.split("/")
    if any(part.lower() in SYSTEM_FOLDERS for part in parts) or parts[-1].lower() in SYSTEM_FILES:
        return SYSTEM
    return HIDDEN if any(part.startswith(".") for part in parts) else None


class Names:
    """The images of a source by name, as whoever labelled them may write it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._place: dict[str, int] = {}
        self.twice: str | None = None
        """A name that two images have, once normalised."""
        for i, name in enumerate(names):
            if self._place.setdefault(image_name(name), i) != i:
                self.twice = self.twice or image_name(name)

    def find(self, value: object) -> int | None:
        """The image's place. Of an absolute path its longest end that is the name of an image counts."""
        text = image_name(value)
        ends = (text, *_ends(text)) if re.match(r"/|[A-Za-z]:/", text) else (text,)
        return next((self._place[end] for end in ends if end in self._place), None)

    def hint(self, value: object) -> str:
        """`; did you mean ...?`, first of all a name that differs by case or ending only."""
        text = image_name(value)
        stem = text.rpartition(".")[0].casefold()
        same = [name for name in self._place if stem and name.rpartition(".")[0].casefold() == stem]
        tail = [name for name in self._place if image_name(text).endswith(f"/{name}")]
        near = same or tail
        return f"; did you mean {near[0]!r}?" if near else closest(text, list(self._place)[:2000])


def _ends(text: str) -> Iterator[str]:
    parts = text.strip("/").split("/")
    yield from ("/".join(parts[k:]) for k in range(len(parts)))
