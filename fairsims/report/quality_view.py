"""The quality numbers of an audit as typed values, one section per feature extractor."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fairsims.report.fields import list_of, number_of, object_of, objects_of, text_of

SIDES = ("before", "after")
QUALITY_NAMES = {
    "fd_reference": "against the reference",
    "fd_target": "against the target-reweighted reference",
}
"""Fréchet distances between distributions; lower is closer."""
NAMES = QUALITY_NAMES | {
    "fd_infinity": "for infinitely many images",
    "kid": "KID against the reference",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "auth_pct": "authentic images, percent",
    "nearest_median": "nearest reference image, median",
    "nearest_low": "nearest reference image, 1% quantile",
}
ABSENT = NAMES | {"group_fd": "Fréchet distance of each class"}
HIDDEN = ("n", "kid_low", "kid_high")
"""Shown elsewhere: beside the headline and as an interval."""


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """One quality number, before and after; None where it was not measured."""

    key: str
    name: str
    before: float | None
    after: float | None
    reference: float | None = None
    """The same number among the real images themselves."""
    intervals: Mapping[str, tuple[float, float]]
    """Side to 95% interval, where there is one."""

    @property
    def digits(self) -> int:
        """Decimals that tell its numbers apart."""
        points = [v for v in (self.before, self.after, self.reference) if v is not None]
        wide = _digits([*points, *(v for ends in self.intervals.values() for v in ends)])
        least = min((abs(v) for v in points if v), default=1.0)
        # A small number beside a large one keeps a second digit.
        return min(max(wide, 1 - math.floor(math.log10(least))), wide + 1)


@dataclass(frozen=True, kw_only=True)
class GroupNumber:
    """Kernel distance of one class's images to the real images of the class."""

    kid: float
    low: float
    high: float
    n: float | None
    """Images a side."""


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    """One class on every side."""

    attribute: str
    group: str
    sides: Mapping[str, GroupNumber | str]
    """Side to its number, or to the reason why there is none."""


@dataclass(frozen=True, kw_only=True)
class QualitySection:
    """What one feature extractor says."""

    raw: Mapping[str, Any]
    metric: str | None
    reference: str | None
    """Name and size of the reference images."""
    rows: tuple[QualityRow, ...]
    groups: tuple[GroupRow, ...]
    warnings: tuple[str, ...]
    unavailable: tuple[tuple[str, str], ...]
    """Numbers that are not given, and why."""

    @property
    def distances(self) -> tuple[QualityRow, ...]:
        return tuple(r for r in self.rows if r.key in QUALITY_NAMES)

    @property
    def group_digits(self) -> int:
        """Decimals of the table of groups, the same in every row."""
        found = [n for g in self.groups for n in g.sides.values() if isinstance(n, GroupNumber)]
        return max(3, _digits([v for n in found for v in (n.kid, n.low, n.high)]))

    @property
    def has_reference(self) -> bool:
        """Whether any number was measured among the real images too."""
        return any(r.reference is not None for r in self.rows)


def quality_sections(quality: Mapping[str, Any]) -> Iterator[QualitySection]:
    """The sections of an audit's `quality`, the headline's first; none when nothing was measured."""
    for value in (quality, *objects_of(quality, "further")) if quality else ():
        reference = object_of(value, "reference")
        yield QualitySection(
            raw=value,
            metric=text_of(value, "metric"),
            reference=_named(reference),
            rows=tuple(_rows(value, reference)),
            groups=tuple(_groups(object_of(value, "groups"))),
            warnings=tuple(str(w) for w in list_of(value, "warnings")),
            unavailable=tuple(
                (ABSENT.get(k, k.replace("_", " ")), str(v)) for k, v in object_of(value, "unavailable").items()
            ),
        )


def _rows(value: Mapping[str, Any], reference: Mapping[str, Any]) -> Iterator[QualityRow]:
    before, after = (object_of(value, side) for side in SIDES)
    keys = [k for k in dict.fromkeys([*NAMES, *before, *after]) if k not in HIDDEN and (k in before or k in after)]
    for k in keys:
        intervals = {
            side: (low, high)
            for side, numbers in (("before", before), ("after", after))
            if (low := number_of(numbers, f"{k}_low")) is not None
            and (high := number_of(numbers, f"{k}_high")) is not None
        }
        yield QualityRow(
            key=k, name=NAMES.get(k, k.replace("_", " ")), before=number_of(before, k), after=number_of(after, k),
            reference=number_of(reference, k), intervals=intervals,
        )  # fmt: skip


def _groups(groups: Mapping[str, Any]) -> Iterator[GroupRow]:
    for attribute in groups:
        for group in object_of(groups, attribute):
            value = object_of(groups, attribute, group)
            sides = {side: _group_number(object_of(value, side)) for side in SIDES if side in value}
            yield GroupRow(attribute=attribute, group=group, sides=sides)


def _group_number(value: Mapping[str, Any]) -> GroupNumber | str:
    kid, low, high = (number_of(value, k) for k in ("kid", "low", "high"))
    if kid is None or low is None or high is None:
        return text_of(value, "refused") or "no reason recorded"
    return GroupNumber(kid=kid, low=low, high=high, n=number_of(value, "n"))


def _digits(values: Sequence[float]) -> int:
    """Decimals for three significant digits of the largest, two at least."""
    largest = max((abs(v) for v in values), default=1.0)
    return max(2, 2 - math.floor(math.log10(largest))) if largest else 2


def _named(reference: Mapping[str, Any]) -> str | None:
    name, n = text_of(reference, "name"), number_of(reference, "n")
    return name if name is None or n is None else f"{name} ({n:,.0f} images)"
