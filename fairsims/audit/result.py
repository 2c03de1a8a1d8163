"""What an audit found, as typed values: the content of `audit.json`, written and read here and nowhere else.

Shares are fractions of 1, intervals 95%. "side" is `before` or `after`. Every class has the fields of its JSON object,
under the same names; what older formats leave out is None or empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fairsims.audit import records
from fairsims.audit.facts import (
    SIDES,
    CalibrationPoint,
    ClassifierFacts,
    Controlled,
    Cost,
    Count,
    Digest,
    Fraction,
    Method,
    Moment,
    Number,
    PlanFacts,
    Power,
    QualityResult,
    RoundResult,
    Side,
    SourceFacts,
    Tier,
)
from fairsims.audit.records import always, beside, by_key, limits, renamed, rest
from fairsims.errors import InputError
from fairsims.files import read_json, write_json

FORMAT = "fairsims-audit/2"
FORMATS = ("fairsims-audit/1", FORMAT)
"""The first has no tiers, measures and joint shares; it is read as it is."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """Share of one class."""

    share: Fraction
    low: Fraction | None = always(None)
    high: Fraction | None = always(None)
    """95% interval; None where the audit could not give one."""
    raw: Fraction | None = always(None)
    """Share of the classifier's uncorrected calls."""
    count: Count | None = None
    """Images that the classifier called this class."""


Shares = Mapping[str, Share]
"""Class to share; empty when the audit has no such side."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of the share of one class, after - before."""

    delta: Annotated[float, limits(minimum=-1, maximum=1)]
    low: float | None = always(None)
    high: float | None = always(None)
    """95% interval."""


@dataclass(frozen=True, kw_only=True)
class Measures:
    """How far the shares are from the target; see `fairsims.audit.measures`."""

    representation_ratio: Mapping[str, float | None] = always(dict)
    """Class to share / target; None where the target is 0."""
    least_ratio: float | None = always(None)
    min_over_max: float | None = always(None)
    total_variation: Fraction | None = always(None)
    jensen_shannon: Fraction | None = always(None)
    fairness_discrepancy: float | None = always(None)
    largest_gap: Fraction | None = always(None)
    achieved_shift: Mapping[str, float | None] = field(default_factory=dict)
    """Class to the part of the wanted change that was achieved; None where nothing was to change."""
    null: Mapping[str, float] = field(default_factory=dict)
    """What the distances stay below in `level` of cases when the target is met."""


@dataclass(frozen=True, kw_only=True)
class Sensitivity:
    """How far the shares move when the classifier's recall is off by `points`."""

    points: float
    slopes: Mapping[str, Mapping[str, float]] = always(dict)
    """`slopes[j][k]`: change of the share of k per unit of the recall of j."""
    low: Mapping[str, Fraction] = always(dict)
    high: Mapping[str, Fraction] = always(dict)


@dataclass(frozen=True, kw_only=True)
class HeldOutFit:
    """Whether labels by people speak against the classifier's held-out errors."""

    p: Fraction
    labels: Count
    """How many."""
    fit: bool | None
    """False when they do, None when they do not: which is no proof."""
    says: str


@dataclass(frozen=True, kw_only=True)
class PeopleLabelled:
    """The labels by people that a side's shares rest on."""

    file: str
    digest: Digest
    n: Number
    counts: Mapping[str, Count]
    held_out_errors: HeldOutFit | None = None


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far the shares of an attribute have moved that was to stay as it is."""

    limit: float
    largest: float
    """The largest change of a share, either way."""
    preserved: bool | None = always(None, earlier="held")
    """Whether every change's interval lies inside +- limit, False when one lies outside, None when that is open."""


@dataclass(frozen=True, kw_only=True)
class Untargeted:
    """An attribute that nobody asked to move or to stay, watched for side effects; no verdict."""

    limit: float
    moved: bool
    """Whether the interval of some change lies wholly outside +- limit."""


@dataclass(frozen=True, kw_only=True)
class ConditionResult:
    """Shares among the images that one condition (class) was asked for, by side."""

    condition: str
    n: Mapping[Side, Number]
    before: Shares = field(default_factory=dict)
    after: Shares = field(default_factory=dict)

    def side(self, side: Side) -> Shares:
        """The shares before or after; empty where that side has no conditions."""
        return self.before if side == "before" else self.after


@dataclass(frozen=True, kw_only=True)
class WorstCondition:
    """The share that is furthest from the target, among all conditions and classes."""

    condition: str
    cls: str = renamed("class")
    gap: float
    low: float
    high: float
    """95% interval of the largest gap there is, whichever share has it."""


@dataclass(frozen=True, kw_only=True)
class ByCondition:
    """Shares condition by condition, from the classifier's calls; see `fairsims.audit.conditions`."""

    rows: tuple[ConditionResult, ...] = ()
    missing: tuple[str, ...] = ()
    """Conditions without an image on some side."""
    worst: Mapping[Side, WorstCondition] = field(default_factory=dict)
    """Where there is a target."""
    reached: bool | None = beside("worst")
    """Whether each condition has the target; None: open."""


@dataclass(frozen=True, kw_only=True)
class AttributeResult:
    """One audited attribute."""

    name: str = by_key()
    classes: Annotated[tuple[str, ...], limits(minItems=2, uniqueItems=True)]
    focus: str = always("")
    """The class that the headline speaks of."""
    split: str | None = always(None)
    """The held-out split whose errors correct tier B; None without one."""
    before: Annotated[Shares, limits(minProperties=2)]
    after: Annotated[Shares, limits(minProperties=2)] = field(default_factory=dict)
    by_split: Mapping[str, Mapping[Side, Shares]] = always(dict)
    """Tier B under every held-out split."""
    method: str | None = always(None)
    tier: Mapping[Side, Tier] = always(dict)
    assumption: Mapping[Side, str] = always(dict)
    """What has to hold for the shares to be right."""
    n: Mapping[Side, Number] = always(dict)
    """Images."""
    warnings: tuple[str, ...] = always(())
    labels: Mapping[Side, PeopleLabelled] = field(default_factory=dict)
    sensitivity: Mapping[Side, Sensitivity] = field(default_factory=dict)
    target: Mapping[str, Fraction] = field(default_factory=dict)
    """Empty for an attribute that nobody targeted."""
    tolerance: Annotated[float, limits(exclusiveMinimum=0)] | None = beside("target")
    reached: bool | None = beside("target")
    """Every interval inside target +- tolerance; False: one wholly outside; None: open."""
    measures: Mapping[Side, Measures] = beside("target", dict)
    difference: Mapping[str, Change] = beside("drift", dict)
    drift: Drift | None = None
    untargeted: Untargeted | None = None
    by_condition: ByCondition | None = None
    """Of images that were asked for by class."""

    def __post_init__(self) -> None:
        if not self.classes:
            raise ValueError("lists no classes")
        tables: dict[str, Mapping[str, Any]] = {"before": self.before, "after": self.after}
        tables |= {"difference": self.difference}
        tables |= {f"by_split.{split}.{side}": t for split, of in self.by_split.items() for side, t in of.items()}
        for name, table in tables.items():
            lacking = [c for c in self.classes if c not in table]
            if lacking and (table or name == "before"):
                raise ValueError(f"has no class {lacking[0]!r} in {name}")
        if self.focus not in self.classes:
            object.__setattr__(self, "focus", self._furthest())

    def _furthest(self) -> str:
        """The headline's class of files that name none: the one that is, or was, furthest from where it should be."""
        if not self.target:
            return self.classes[-1]
        final = self.after or self.before
        return max(self.classes, key=lambda c: abs(self.target.get(c, final[c].share) - self.before[c].share))

    def side(self, side: Side) -> Shares:
        """The shares before or after."""
        return self.before if side == "before" else self.after

    def moved_between_splits(self, side: Side) -> float | None:
        """How far the focus class's share moves with the held-out split; None with fewer than two splits."""
        values = [sides[side][self.focus].share for sides in self.by_split.values() if sides.get(side)]
        return max(values) - min(values) if len(values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The share of images that are of one class of each of two attributes."""

    classes: tuple[str, str]
    share: Fraction
    low: Fraction | None = always(None)
    high: Fraction | None = always(None)
    raw: Fraction | None = always(None)
    count: Count | None = always(None)
    lift: float | None = always(None)
    """Share over the product of both classes' shares: 1 where the attributes know nothing of each other."""
    lift_low: float | None = always(None)
    lift_high: float | None = always(None)


@dataclass(frozen=True, kw_only=True)
class CellChange(Change):
    """Change of the share of a cell."""

    classes: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class JointSide:
    """All cells of two attributes on one side."""

    tier: Tier | None = always(None)
    method: str = always("")
    assumption: str = always("")
    n: Number | None = always(None)
    warnings: tuple[str, ...] = always(())
    cells: tuple[Cell, ...]

    @property
    def rows(self) -> tuple[str, ...]:
        """Classes of the first attribute."""
        return tuple(dict.fromkeys(c.classes[0] for c in self.cells))

    @property
    def columns(self) -> tuple[str, ...]:
        """Classes of the second attribute."""
        return tuple(dict.fromkeys(c.classes[1] for c in self.cells))


@dataclass(frozen=True, kw_only=True)
class JointResult:
    """Two attributes together."""

    attributes: tuple[str, str]
    before: JointSide | None = None
    after: JointSide | None = None
    difference: tuple[CellChange, ...] = ()
    missing: str = ""
    """Why a side has no cells."""

    @property
    def sides(self) -> dict[Side, JointSide]:
        """The sides that have cells."""
        found: dict[Side, JointSide | None] = {"before": self.before, "after": self.after}
        return {side: value for side, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """Shares of attributes in one source of images or two, with intervals, and their quality.

    `to_json` and `from_json` are its file, `audit_schema` describes that. Shares are fractions of 1, intervals 95%.

    >>> import fairsims
    >>> result = fairsims.audit_images(before="digits-skewed", after="digits", attr="parity", target="0.5")
    >>> odd = result.main.after["odd"]
    >>> odd.low < 0.5 < odd.high, len(result.warnings)
    (True, 0)
    """

    format: str = FORMAT
    created: Moment | None = always(None)
    fairsims: str | None = always(None)
    """The version that measured."""
    versions: Mapping[str, str] = always(dict)
    """Of what the numbers were made with: rounding differs between machines and releases."""
    attributes: Annotated[Mapping[str, AttributeResult], limits(minProperties=1)]
    classifier: ClassifierFacts | None = always(None)
    """Of the first attribute."""
    pools: Mapping[Side, SourceFacts] = always(dict)
    warnings: tuple[str, ...] = always(())
    classifiers: Mapping[str, ClassifierFacts] = field(default_factory=dict)
    """By attribute, when there are several."""
    joint: tuple[JointResult, ...] = ()
    """Of each pair of attributes."""
    quality: QualityResult | None = None
    """Of the first feature extractor."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    command: str | None = None
    model: str | None = None
    plan: PlanFacts | None = None
    shown: tuple[Any, ...] | None = None
    """Seeds of the base's images that a retargeting made on audit seeds to be looked at, in `before/`, where what is
    measured before are others: its pool."""
    power: Power | None = None
    """How surely the audit was to say that a target is reached; the least of those with a target."""
    resampling: str | None = None
    """Of several targets: how resampling the base compared, as it was said before anything was trained."""
    method: Method | None = None
    calibration: tuple[CalibrationPoint, ...] = ()
    controlled: Controlled | None = None
    rounds: tuple[RoundResult, ...] = ()
    cost: Cost | None = None
    more: Mapping[str, Any] = rest()
    """Keys that this version does not know."""

    def __post_init__(self) -> None:
        if not self.attributes:
            raise ValueError("has no attributes; expected at least one")

    def to_json(self) -> dict[str, Any]:
        """The content of `audit.json`."""
        found: dict[str, Any] = records.to_json(self)
        return {"format": found.pop("format", FORMAT)} | found

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AuditResult:
        """An audit of any format that was ever written. Raises InputError naming the place that is wrong."""
        if value.get("format") not in FORMATS:
            raise InputError(
                f"the audit has format {value.get('format')!r}; expected {FORMATS[-1]!r}; run the audit again"
            )
        return records.from_json(cls, dict(value) | {"attributes": value.get("attributes") or {}})

    @property
    def main(self) -> AttributeResult:
        """The attribute that the run retargeted: the first with a target, or else the first."""
        return next(iter(self.targeted))

    @property
    def targeted(self) -> tuple[AttributeResult, ...]:
        """The attributes with a target; the first attribute when there is none."""
        found = tuple(self.attributes.values())
        return tuple(a for a in found if a.target) or found[:1]

    @property
    def untargeted(self) -> tuple[AttributeResult, ...]:
        """The attributes that were watched alone, the one that moved most first."""
        found = (a for a in self.attributes.values() if a.untargeted is not None and a.difference)
        return tuple(sorted(found, key=lambda a: -abs(a.difference[a.focus].delta)))

    @property
    def preserved(self) -> tuple[AttributeResult, ...]:
        """The attributes that were to stay as they are."""
        return tuple(a for a in self.attributes.values() if a.drift is not None)

    @property
    def sides(self) -> tuple[Side, ...]:
        """`("before", "after")`, or `("before",)` for an audit of a single source."""
        return SIDES if self.main.after else SIDES[:1]

    @property
    def same_seeds(self) -> bool:
        """Whether the images shown of both sides were generated from the same seeds, in the same order."""
        seeds = [self.pools[side].seeds for side in SIDES if side in self.pools]
        if self.shown is not None and len(seeds) == 2 and seeds[1]:
            # A range is [first, last]; images that were selected have their seeds one by one.
            return isinstance(seeds[1][0], Sequence) and seeds[1][0][0] == self.shown[0][0]
        return len(seeds) == 2 and seeds[0] is not None and seeds[0] == seeds[1]

    @property
    def sections(self) -> tuple[QualityResult, ...]:
        """The quality numbers by feature extractor, the headline's first; empty when nothing was measured."""
        return self.quality.sections if self.quality is not None else ()

    @property
    def strength(self) -> float | None:
        """Of the retargeted model."""
        return None if self.method is None else self.method.strength

    @property
    def by_strength(self) -> tuple[CalibrationPoint, ...]:
        """The calibration in order of strength."""
        return tuple(sorted(self.calibration, key=lambda p: p.strength))

    def classifier_of(self, attribute: str) -> ClassifierFacts | None:
        """The classifier that labelled an attribute."""
        return self.classifiers.get(attribute, self.classifier)


def load_audit(run: Path) -> AuditResult:
    """The audit of a run folder, of any format ever written. Raises InputError when there is none or it is broken.

    >>> import fairsims
    >>> written = fairsims.audit_images("people", before="digits-skewed", attr="parity")
    >>> load_audit(Path("people")).main.before == written.main.before
    True
    """
    return AuditResult.from_json(read_json(run / "audit" / "audit.json"))


def save_audit(run: Path, result: AuditResult) -> Path:
    """Write `audit/audit.json` into a run folder and return its path."""
    path = run / "audit" / "audit.json"
    write_json(path, result.to_json())
    return path


def audit_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of the `audit.json` that this version writes."""
    found = records.schema(AuditResult, title=f"audit.json of fairsims, format {FORMAT}")
    found["properties"]["format"] = {"const": FORMAT}
    found["required"] = ["format", *found["required"]]
    return found
