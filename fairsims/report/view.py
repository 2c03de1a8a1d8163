"""An audit file as typed values: checked once here, so that report, terminal table, figures and dashboard agree.

Every share is a fraction of 1. What an audit may leave out is None or empty; what it must hold and does not is an
InputError that names the place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.report.fields import list_of, number_of, object_of, objects_of, text_of
from fairsims.report.joint_view import JointView, joint_views
from fairsims.report.quality_view import QUALITY_NAMES, QualityRow, QualitySection, quality_sections

FORMATS = ("fairsims-audit/1", "fairsims-audit/2")
"""The first has no tiers, measures and joint shares; it is read as it is."""
SIDES = ("before", "after")


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
    tier: Mapping[str, str] = field(default_factory=dict)
    """Side to "A", "B" or "C"; empty in files of the first format."""
    assumption: Mapping[str, str] = field(default_factory=dict)
    """Side to what its shares rest on."""
    n: Mapping[str, int] = field(default_factory=dict)
    """Side to images."""
    labelled: Mapping[str, int] = field(default_factory=dict)
    """Side to images that people labelled."""
    measures: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Side to measures of the distance from the target."""
    sensitivity: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Side to how the share moves with the classifier's errors."""
    warnings: tuple[str, ...] = ()

    def side(self, side: str) -> Shares:
        return self.before if side == "before" else self.after

    def moved_between_splits(self, side: str) -> float | None:
        """How far the focus class's share moves with the confusion split; None with fewer than two splits."""
        values = [sides[side][self.focus].share for sides in self.by_split.values() if sides.get(side)]
        return max(values) - min(values) if len(values) > 1 else None


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
    distances: Mapping[str, float] = field(default_factory=dict)
    """`fd_reference` and `fd_target` of its images, where they were measured."""
    n: int | None = None
    """Images that those are from, the same at every strength."""


@dataclass(frozen=True, kw_only=True)
class AuditView:
    """A whole audit; `raw` keeps the sections that are shown as they are."""

    raw: Mapping[str, Any]
    model: str | None
    attributes: tuple[AttributeView, ...]
    sections: tuple[QualitySection, ...]
    """The quality numbers by feature extractor, the headline's first; empty when nothing was measured."""
    joint: tuple[JointView, ...]
    """One per pair of attributes."""
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
            after = object_of(value, "after")
            return Controlled(
                name="share of all classes that grow" if len(self.attributes) == 1 else "share of all cells that grow",
                target=number_of(value, "target"),
                tolerance=None,
                after=_share(after, "controlled.after") if after else None,
            )
        a = self.main
        return Controlled(
            name=f"{a.focus} share", target=a.target.get(a.focus), tolerance=a.tolerance, after=a.after.get(a.focus)
        )

    @property
    def quality(self) -> tuple[QualityRow, ...]:
        """The headline's quality numbers."""
        return self.sections[0].rows if self.sections else ()

    @property
    def metric(self) -> str | None:
        """Name of the headline's distance."""
        return self.sections[0].metric if self.sections else None

    @property
    def reference(self) -> str | None:
        """Name and size of the reference images."""
        return self.sections[0].reference if self.sections else None

    @property
    def same_seeds(self) -> bool:
        """Whether both sides say that they were generated from the same seeds."""
        before, after = (object_of(self.raw, "pools", s).get("seeds") for s in SIDES)
        return before is not None and before == after

    @property
    def targeted(self) -> tuple[AttributeView, ...]:
        """The attributes with a target; the first attribute when there is none."""
        return tuple(a for a in self.attributes if a.target) or self.attributes[:1]

    @property
    def held(self) -> tuple[AttributeView, ...]:
        """The attributes that were to stay as they are."""
        return tuple(a for a in self.attributes if a.drift is not None)

    @property
    def sides(self) -> tuple[str, ...]:
        """`("before", "after")`, or `("before",)` for an audit of a single source."""
        return SIDES if self.main.after else SIDES[:1]

    def section(self, *keys: str) -> Mapping[str, Any]:
        """A nested object of the file, empty when it is missing."""
        return object_of(self.raw, *keys)


def load_audit(run: Path) -> AuditView:
    """The audit of a run folder. Raises InputError when there is none or it is broken."""
    return read_audit(read_json(run / "audit" / "audit.json"))


def read_audit(audit: Mapping[str, Any]) -> AuditView:
    """Check an audit and give its typed view. Raises InputError naming the place that is wrong."""
    if audit.get("format") not in FORMATS:
        raise InputError(f"the audit has format {audit.get('format')!r}; expected {FORMATS[-1]!r}; run the audit again")
    attributes = object_of(audit, "attributes")
    if not attributes:
        raise InputError("the audit has no attributes; expected at least one; run the audit again")
    quality, cost = object_of(audit, "quality"), object_of(audit, "cost")
    return AuditView(
        raw=audit,
        model=text_of(audit, "model"),
        attributes=tuple(_attribute(name, object_of(attributes, name)) for name in attributes),
        sections=tuple(quality_sections(quality)),
        joint=tuple(joint_views(audit)),
        cost=tuple(_cost(cost)),
        stages=tuple(
            StageCost(
                stage=text_of(s, "stage") or "?",
                images=number_of(s, "images"),
                evaluations=number_of(s, "evaluations"),
                seconds=number_of(s, "seconds"),
            )
            for s in objects_of(cost, "stages")
        ),
        seconds=number_of(cost, "seconds"),
        calibration=tuple(sorted(_calibration(audit), key=lambda p: p.strength)),
        strength=number_of(object_of(audit, "method"), "strength"),
        warnings=tuple(str(w) for w in list_of(audit, "warnings")),
    )


def _attribute(name: str, value: Mapping[str, Any]) -> AttributeView:
    classes = tuple(str(c) for c in list_of(value, "classes"))
    if not classes:
        raise InputError(f"attribute {name!r} of the audit lists no classes; run the audit again")
    where = f"attributes.{name}"
    before = _shares(value, "before", classes, where)
    after = _shares(value, "after", classes, where)
    if not before:
        raise InputError(
            f"{where}.before of the audit is missing; expected a share for each class; run the audit again"
        )
    target = object_of(value, "target")
    targets = {c: t for c in classes if (t := number_of(target, c)) is not None}
    final = after or before
    focus = text_of(value, "focus")
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
        tolerance=number_of(value, "tolerance"),
        reached=reached if isinstance(reached, bool) else None,
        split=text_of(value, "split"),
        method=text_of(value, "method"),
        before=before,
        after=after,
        difference=_shares(value, "difference", classes, where, key="delta"),
        by_split={
            split: {s: _shares(sides, s, classes, f"{where}.by_split.{split}") for s in SIDES}
            for split in object_of(value, "by_split")
            for sides in [object_of(value, "by_split", split)]
        },
        drift=_drift(object_of(value, "drift"), where),
        tier={w: str(t) for w, t in object_of(value, "tier").items()},
        assumption={w: str(t) for w, t in object_of(value, "assumption").items()},
        n={w: int(n) for w in SIDES if (n := number_of(object_of(value, "n"), w)) is not None},
        labelled={w: int(n) for w in SIDES if (n := number_of(object_of(value, "labels", w), "n")) is not None},
        measures={w: object_of(value, "measures", w) for w in object_of(value, "measures")},
        sensitivity={w: object_of(value, "sensitivity", w) for w in object_of(value, "sensitivity")},
        warnings=tuple(str(w) for w in list_of(value, "warnings")),
    )


def _drift(value: Mapping[str, Any], where: str) -> Drift | None:
    if not value:
        return None
    limit, largest, held = number_of(value, "limit"), number_of(value, "largest"), value.get("held")
    if limit is None or largest is None:
        raise InputError(f"{where}.drift of the audit has no limit or no largest change; run the audit again")
    return Drift(limit=limit, largest=largest, held=held if isinstance(held, bool) else None)


def _shares(
    parent: Mapping[str, Any], side: str, classes: tuple[str, ...], where: str, *, key: str = "share"
) -> dict[str, Share]:
    values = object_of(parent, side)
    if not values:
        return {}
    missing = [c for c in classes if c not in values]
    if missing:
        raise InputError(f"{where}.{side} of the audit has no class {missing[0]!r}; run the audit again")
    return {c: _share(object_of(values, c), f"{where}.{side}.{c}", key) for c in classes}


def _share(value: Mapping[str, Any], where: str, key: str = "share") -> Share:
    share, count = number_of(value, key), number_of(value, "count")
    if share is None:
        raise InputError(f"{where}.{key} of the audit is missing; expected a number; run the audit again")
    return Share(
        share=share,
        low=number_of(value, "low"),
        high=number_of(value, "high"),
        raw=number_of(value, "raw"),
        count=None if count is None else int(count),
    )


def _cost(cost: Mapping[str, Any]) -> Iterator[CostRow]:
    base, after = object_of(cost, "resampling_base"), object_of(cost, "after")
    each_base = number_of(object_of(cost, "before"), "evaluations_per_image")
    each, kept = number_of(after, "evaluations_per_image"), number_of(after, "images_per_kept")
    kept_base = number_of(base, "images_per_kept")
    total_base, total = number_of(base, "evaluations_per_kept"), number_of(after, "evaluations_per_kept")
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
    for i, point in enumerate(objects_of(audit, "calibration")):
        strength = number_of(point, "strength")
        if strength is None:
            raise InputError(f"calibration[{i}].strength of the audit is missing; run the audit again")
        n = number_of(point, "quality_n")
        yield CalibrationPoint(
            strength=strength,
            share=_share(point, f"calibration[{i}]"),
            distances={k: d for k in QUALITY_NAMES if (d := number_of(point, k)) is not None},
            n=None if n is None else int(n),
        )
