"""What is known about an image: an attribute and its ordered classes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fairsims.errors import InputError

UNDETERMINED = "undetermined"
"""The class of images that show none of the others, or on which a classifier abstains; always the last one."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A label column whose values are one of a few classes. The order of the classes is the order of every share."""

    name: str
    """Column of the dataset's table, e.g. "gender"."""
    classes: tuple[str, ...]
    """Ordered class names, e.g. ("man", "woman")."""

    @property
    def determined(self) -> tuple[str, ...]:
        """The classes without `undetermined`."""
        return tuple(c for c in self.classes if c != UNDETERMINED)

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("found an attribute without a name; expected a column name; name it")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise InputError(
                f"found classes {self.classes} of attribute {self.name!r}; expected distinct names; mend the labels"
            )


def sorted_classes(values: Iterable[str]) -> tuple[str, ...]:
    """Distinct values, by number when all are whole numbers ("2" before "10"), else by letter; undetermined last."""
    distinct = set(values)
    last = (UNDETERMINED,) if UNDETERMINED in distinct else ()
    distinct -= {UNDETERMINED}
    if all(v.lstrip("-").isdecimal() for v in distinct):
        return (*sorted(distinct, key=lambda v: (int(v), v)), *last)
    return (*sorted(distinct), *last)
