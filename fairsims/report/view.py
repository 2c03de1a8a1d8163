"""An audit file as typed values: checked once here, so that report, terminal table, figures and dashboard agree.

Every share is a fraction of 1. What an audit may leave out is None or empty; what it must hold and does not is an
InputError that names the place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairsims.errors import InputError
from fairsims.runs import read_json

FORMAT = "fairsims-audit/1"
SIDES = ("before", "after")
QUALITY_NAMES = {"fd_reference": "against the training set", "fd_target": "against the target-reweighted training set"}
"""The distances between distributions; lower is closer."""
NEIGHBOUR_NAMES = {
    "precision": "precision",
    "recall": "recall",
    "nearest_median": "nearest training image, median",
    "nearest_low": "nearest training image, 1% quantile",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of one class, or a difference of two shares."""

    share: float
    low: float | None = None
    high: float | None = None
    """95% interval; None where the audit could not give one."""
    raw: float | None = None
    """Share of the classifier's uncorrected calls."""
    count: int | None = None
    """Images that the classifier called this class."""


Shares = Mapping[str, Share]
"""Class to share; empty when the audit has no such side."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the shares of a held attribute have moved."""

    limit: float
    largest: float
    """The largest change of a share, either way."""
    held: bool | None
    """Whether every change's interval lies inside +- limit; None when that is open."""


@dataclass(frozen=True, kw_only=True)
class AttributeView:
    """One audited attribute."""

    name: str
    classes: tuple[str, ...]
    focus: str
    """The class that the headline speaks of."""
    target: Mapping[str, float]
    """Class to target share; empty for an attribute that nobody targeted."""
    tolerance: float | None
    reached: bool | None
    split: str | None
    """Which confusion split corrected the headline shares."""
    method: str | None
    before: Shares
    after: Shares
    difference: Shares
    by_split: Mapping[str, Mapping[str, Shares]]
    """Confusion split to side to shares."""
    drift: Drift | None = None
    """Of an attribute that was to stay as it is."""

    def side(self, side: str) -> Shares:
        return self.before if side == "before" else self.after

    def moved_between_splits(self, side: str) -> float | None:
        """How far the focus class's share moves with the confusion split; None with fewer than two splits."""
        values = [sides[side][self.focus].share for sides in self.by_split.values() if sides.get(side)]
        return max(values) - min(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """One quality number, before and after; None where it was not measured."""

    name: str
    before: float | None
    after: float | None
    reference: float | None = None
    """The same number among the real images themselves."""


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One cost of plain resampling of the base beside that of the retargeted model."""

    name: str
    base: float | None
    retargeted: float | None

    @property
    def digits(self) -> int:
        """Decimals that suit both numbers."""
        values = [v for v in (self.base, self.retargeted) if v is not None]
        if all(v == int(v) for v in values):
            return 0
        return 1 if max(values) >= 10 else 2


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage of the run took."""

    stage: str
    images: float | None
    evaluations: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """The number that the calibration steers."""

    name: str
    target: float | None
    tolerance: float | None
    after: Share | None
    """What the audit seeds gave."""


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """The controlled share measured at one strength."""

    strength: float
    share: Share


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """A whole audit; `raw` keeps the sections that are shown as they are."""

    raw: Mapping[str, Any]
    model: str | None
    attributes: tuple[AttributeView, ...]
    metric: str | None
    reference: str | None
    """Name and size of the reference images."""
    quality: tuple[QualityRow, ...]
    cost: tuple[CostRow, ...]
    stages: tuple[StageCost, ...]
    seconds: float | None
    calibration: tuple[CalibrationPoint, ...]
    strength: float | None
    warnings: tuple[str, ...]

    @property
    def main(self) -> AttributeView:
        """The attribute that the run retargeted: the first with a target, or else the first."""
        return next((a for a in self.attributes if a.target), self.attributes[0])

    @property
    def controlled(self) -> Controlled:
        """What the calibration points are shares of: the focus class, or with more shares than two all that grow."""
        value = self.section("controlled")
        if value:
            after = _object(value, "after")
            return Controlled(
                name="share of all classes that grow" if len(self.attributes) == 1 else "share of all cells that grow",
                target=_number(value, "target"),
                tolerance=None,
                after=_share(after, "controlled.after") if after else None,
            )
        a = self.main
        return Controlled(
            name=f"{a.focus} share", target=a.target.get(a.focus), tolerance=a.tolerance, after=a.after.get(a.focus)
        )

    @property
    def targeted(self) -> tuple[AttributeView, ...]:
        """The attributes with a target; the first attribute when there is none."""
        return tuple(a for a in self.attributes if a.target) or self.attributes[:1]

    @property
    def held(self) -> tuple[AttributeView, ...]:
        """The attributes that were to stay as they are."""
        return tuple(a for a in self.attributes if a.drift is not None)

    @property
    def quality_digits(self) -> int:
        """Decimals that tell the quality numbers apart."""
        values = [abs(v) for q in self.quality for v in (q.before, q.after, q.reference) if v]
        return 3 if values and min(values) < 0.1 else 2

    @property
    def sides(self) -> tuple[str, ...]:
        """`("before", "after")`, or `("before",)` for an audit of a single source."""
        return SIDES if self.main.after else SIDES[:1]

    def section(self, *keys: str) -> Mapping[str, Any]:
        """A nested object of the file, empty when it is missing."""
        return _object(self.raw, *keys)


def load_audit(run: Path) -> AuditView:
    """The audit of a run folder. Raises InputError when there is none or it is broken."""
    return read_audit(read_json(run / "audit" / "audit.json"))


def read_audit(audit: Mapping[str, Any]) -> AuditView:
    """Check an audit and give its typed view. Raises InputError naming the place that is wrong."""
    if audit.get("format") != FORMAT:
        raise InputError(f"the audit has format {audit.get('format')!r}; expected {FORMAT!r}; run the audit again")
    attributes = _object(audit, "attributes")
    if not attributes:
        raise InputError("the audit has no attributes; expected at least one; run the audit again")
    quality, cost = _object(audit, "quality"), _object(audit, "cost")
    reference = _object(quality, "reference")
    return AuditView(
        raw=audit,
        model=_text(audit, "model"),
        attributes=tuple(_attribute(name, _object(attributes, name)) for name in attributes),
        metric=_text(quality, "metric"),
        reference=_named(reference),
        quality=tuple(_quality(quality)),
        cost=tuple(_cost(cost)),
        stages=tuple(
            StageCost(
                stage=_text(s, "stage") or "?",
                images=_number(s, "images"),
                evaluations=_number(s, "evaluations"),
                seconds=_number(s, "seconds"),
            )
            for s in _objects(cost, "stages")
        ),
        seconds=_number(cost, "seconds"),
        calibration=tuple(sorted(_calibration(audit), key=lambda p: p.strength)),
        strength=_number(_object(audit, "method"), "strength"),
        warnings=tuple(str(w) for w in _list(audit, "warnings")),
    )


def _attribute(name: str, value: Mapping[str, Any]) -> AttributeView:
    classes = tuple(str(c) for c in _list(value, "classes"))
    if not classes:
        raise InputError(f"attribute {name!r} of the audit lists no classes; run the audit again")
    where = f"attributes.{name}"
    before = _shares(value, "before", classes, where)
    after = _shares(value, "after", classes, where)
    if not before:
        raise InputError(
            f"{where}.before of the audit is missing; expected a share for each class; run the audit again"
        )
    target = _object(value, "target")
    targets = {c: t for c in classes if (t := _number(target, c)) is not None}
    final = after or before
    focus = _text(value, "focus")
    if focus not in classes:
        # Without a named focus the headline belongs to the class that is, or was, furthest from where it should be.
        gap = {c: abs(targets.get(c, final[c].share) - before[c].share) for c in classes}
        focus = max(classes, key=lambda c: gap[c]) if targets else classes[-1]
    reached = value.get("reached")
    return AttributeView(
        name=name,
        classes=classes,
        focus=focus,
        target=targets,
        tolerance=_number(value, "tolerance"),
        reached=reached if isinstance(reached, bool) else None,
        split=_text(value, "split"),
        method=_text(value, "method"),
        before=before,
        after=after,
        difference=_shares(value, "difference", classes, where, key="delta"),
        by_split={
            split: {s: _shares(sides, s, classes, f"{where}.by_split.{split}") for s in SIDES}
            for split in _object(value, "by_split")
            for sides in [_object(value, "by_split", split)]
        },
        drift=_drift(_object(value, "drift"), where),
    )


def _drift(value: Mapping[str, Any], where: str) -> Drift | None:
    if not value:
        return None
    limit, largest, held = _number(value, "limit"), _number(value, "largest"), value.get("held")
    if limit is None or largest is None:
        raise InputError(f"{where}.drift of the audit has no limit or no largest change; run the audit again")
    return Drift(limit=limit, largest=largest, held=held if isinstance(held, bool) else None)


def _shares(
    parent: Mapping[str, Any], side: str, classes: tuple[str, ...], where: str, *, key: str = "share"
) -> dict[str, Share]:
    values = _object(parent, side)
    if not values:
        return {}
    missing = [c for c in classes if c not in values]
    if missing:
        raise InputError(f"{where}.{side} of the audit has no class {missing[0]!r}; run the audit again")
    return {c: _share(_object(values, c), f"{where}.{side}.{c}", key) for c in classes}


def _share(value: Mapping[str, Any], where: str, key: str = "share") -> Share:
    share, count = _number(value, key), _number(value, "count")
    if share is None:
        raise InputError(f"{where}.{key} of the audit is missing; expected a number; run the audit again")
    return Share(
        share=share,
        low=_number(value, "low"),
        high=_number(value, "high"),
        raw=_number(value, "raw"),
        count=None if count is None else int(count),
    )


def _quality(quality: Mapping[str, Any]) -> Iterator[QualityRow]:
    before, after, reference = (_object(quality, k) for k in (*SIDES, "reference"))
    known = QUALITY_NAMES | NEIGHBOUR_NAMES
    names = [k for k in dict.fromkeys([*known, *before, *after]) if k != "n" and (k in before or k in after)]
    for k in names:
        yield QualityRow(
            name=known.get(k, k.replace("_", " ")), before=_number(before, k), after=_number(after, k),
            reference=_number(reference, k),
        )  # fmt: skip


def _cost(cost: Mapping[str, Any]) -> Iterator[CostRow]:
    base, after = _object(cost, "resampling_base"), _object(cost, "after")
    each_base = _number(_object(cost, "before"), "evaluations_per_image")
    each, kept = _number(after, "evaluations_per_image"), _number(after, "images_per_kept")
    kept_base = _number(base, "images_per_kept")
    total_base, total = _number(base, "evaluations_per_kept"), _number(after, "evaluations_per_kept")
    if total_base is None and each_base is not None and kept_base is not None:
        total_base = each_base * kept_base
    if total is None and each is not None:
        total = each * (1.0 if kept is None else kept)
    rows = [
        CostRow(name="network evaluations per image", base=each_base, retargeted=each),
        CostRow(name="images generated per kept image", base=kept_base, retargeted=kept),
        CostRow(name="network evaluations per kept image", base=total_base, retargeted=total),
    ]
    yield from (r for r in rows if (r.base, r.retargeted) != (None, None))


def _calibration(audit: Mapping[str, Any]) -> Iterator[CalibrationPoint]:
    for i, point in enumerate(_objects(audit, "calibration")):
        strength = _number(point, "strength")
        if strength is None:
            raise InputError(f"calibration[{i}].strength of the audit is missing; run the audit again")
        yield CalibrationPoint(strength=strength, share=_share(point, f"calibration[{i}]"))


def _named(reference: Mapping[str, Any]) -> str | None:
    name, n = _text(reference, "name"), _number(reference, "n")
    return name if name is None or n is None else f"{name} ({n:,.0f} images)"


def _object(parent: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = parent.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise InputError(
                f"{key!r} in the audit is a {type(value).__name__}; expected an object; run the audit again"
            )
        parent = value
    return parent


def _list(parent: Mapping[str, Any], key: str) -> list[Any]:
    value = parent.get(key)
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise InputError(f"{key!r} in the audit is a {type(value).__name__}; expected a list; run the audit again")
    return list(value)


def _objects(parent: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    values = _list(parent, key)
    for value in values:
        if not isinstance(value, Mapping):
            raise InputError(
                f"{key!r} in the audit holds a {type(value).__name__}; expected objects; run the audit again"
            )
    return values


def _text(parent: Mapping[str, Any], key: str) -> str | None:
    value = parent.get(key)
    return None if value is None else str(value)


def _number(parent: Mapping[str, Any], key: str) -> float | None:
    value = parent.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{key!r} in the audit is {value!r}; expected a finite number; run the audit again")
    return float(value)
