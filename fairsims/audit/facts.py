"""What an audit records beside its shares: classifiers, images, quality, how the model was retargeted, what it cost.

Parts of `fairsims.audit.result.AuditResult`: every class has the fields of its JSON object, under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeVar

from fairsims.audit.records import always, beside, called, limits, rest
from fairsims.data.screening import Screening
from fairsims.data.survey import Found

Side = Literal["before", "after"]
SIDES: tuple[Side, ...] = ("before", "after")
T = TypeVar("T")


def by_side(before: T, after: T | None) -> dict[Side, T]:
    """What there is, by side."""
    found: dict[Side, T] = {"before": before}
    return found if after is None else {**found, "after": after}


Tier = Literal["A", "B", "C"]
"""A: people labelled images of this source; B: corrected for the classifier's held-out errors; C: uncorrected."""

Fraction = Annotated[float, limits(minimum=0, maximum=1)]
Number = Annotated[int, limits(minimum=1)]
Count = Annotated[int, limits(minimum=0)]
Digest = Annotated[str, limits(pattern="^[0-9a-f]{64}$")]
Moment = Annotated[str, limits(format="date-time")]


@dataclass(frozen=True, kw_only=True)
class ConfusionFacts:
    """Errors of a classifier on one held-out split."""

    counts: tuple[tuple[Count, ...], ...]
    """`counts[true][predicted]`, images."""
    description: str = always("")


@dataclass(frozen=True, kw_only=True)
class ClassifierFacts:
    """What a classifier says of itself."""

    name: str | None = always(None)
    digest: str | None = always(None)
    attribute: str | None = always(None)
    classes: tuple[str, ...] = ()
    confusions: Mapping[str, ConfusionFacts] = always(dict)
    """By held-out split."""
    more: Mapping[str, Any] = rest()
    """What its kind adds: preprocessing, training, where labels come from."""


@dataclass(frozen=True, kw_only=True)
class SourceFacts:
    """The images of one side; of a pool also what made them."""

    n: Number | None = always(None)
    name: str | None = always(None)
    digest: Digest | None = always(None)
    shape: Annotated[tuple[Count, ...], limits(minItems=3, maxItems=3)] = always(())
    """Channels, height, width."""
    kind: Literal["pool", "images"] | None = always(None)
    seeds: tuple[Any, ...] | None = None
    evaluations_per_image: float | None = None
    precision: str | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    conditions: Count | None = None
    """Classes or prompts that a pool's images were asked for by."""
    labels: Literal["balanced", "random"] | None = beside("conditions")
    """balanced: every condition as often as any other; random: drawn for each image."""
    marked: bool | None = None
    """Whether every image of a pool carries the mark of generated ones."""
    found: Found | None = None
    """Of images that are no pool: what was read of the path, what was not, and what was done to them."""
    screening: Screening | None = None
    """Which of the images are no further samples."""


@dataclass(frozen=True, kw_only=True)
class ExtractorFacts:
    """What decides the features."""

    name: str | None = always(None)
    weights_digest: str | None = always(None)
    input_size: int | None = always(None)
    resize: str | None = always(None)


@dataclass(frozen=True, kw_only=True)
class ReferenceFacts:
    """The real images that quality is measured against."""

    name: str | None = always(None)
    digest: str | None = always(None)
    labels: str | None = None
    """Whose labels weigh them to the target."""
    n: int | None = None
    nearest_median: float | None = None
    nearest_low: float | None = None
    """Distances between the real images themselves."""
    effective_n: float | None = None
    """Images that they are worth when re-weighted to the target."""
    holds: str | None = None
    """Of a file of statistics: what it has instead of images."""


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """How precision, recall, density and coverage were measured."""

    k: int | None = None
    k_density: int | None = None
    n: int | None = None
    """Images a side."""
    sampling: str | None = None


@dataclass(frozen=True, kw_only=True)
class GroupDistance:
    """Kernel distance of one class's images to the real images of the class, or why there is none."""

    kid: float | None = None
    low: float | None = beside("kid")
    high: float | None = beside("kid")
    n: Number | None = beside("kid")
    """Images a side."""
    refused: str | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A generated image and the real image nearest to it, by position."""

    generated: Count
    training: Count
    distance: Annotated[float, limits(minimum=0)]


@dataclass(frozen=True, kw_only=True)
class QualityResult:
    """What one feature extractor says."""

    metric: str | None = always(None)
    """Name of the Fréchet distance; "FID" for Inception features only."""
    extractor: ExtractorFacts | None = always(None)
    reference: ReferenceFacts | None = always(None)
    precision_recall: Neighbourhood | None = None
    numbers: Mapping[str, Mapping[str, float]] = rest()
    """By what was measured: `before`, `after` (or an arm of a comparison). fd_reference, fd_target, fd_infinity, kid
    with kid_low and kid_high, precision, recall, density, coverage, auth_pct, nearest_median, nearest_low, n; what
    could not be measured is left out and named in `unavailable`."""
    groups: Mapping[str, Mapping[str, Mapping[str, GroupDistance]]] = field(default_factory=dict)
    """By attribute, class and side."""
    nearest_pairs: Mapping[str, tuple[Pair, ...]] = field(default_factory=dict)
    """By side."""
    unavailable: Mapping[str, str] = always(dict)
    """Number to the reason why there is none."""
    warnings: tuple[str, ...] = always(())
    further: tuple[QualityResult, ...] = ()
    """Of each further extractor."""

    def side(self, side: Side) -> Mapping[str, float]:
        """The numbers of one side, empty where it was not measured."""
        return self.numbers.get(side, {})

    @property
    def before(self) -> Mapping[str, float]:
        """The numbers before."""
        return self.numbers.get("before", {})

    @property
    def after(self) -> Mapping[str, float]:
        """The numbers after, empty for a single source."""
        return self.numbers.get("after", {})

    def interval(self, side: str, key: str) -> tuple[float, float] | None:
        """The 95% interval of a number, where it has one."""
        low, high = (self.numbers.get(side, {}).get(f"{key}_{end}") for end in ("low", "high"))
        return None if low is None or high is None else (low, high)

    @property
    def sections(self) -> tuple[QualityResult, ...]:
        """This one and those of the further extractors."""
        return (self, *self.further)


@dataclass(frozen=True, kw_only=True)
class SideCost:
    """Network evaluations, and how many images are generated for one that is kept."""

    evaluations_per_image: float | None = None
    images_per_kept: float | None = None
    evaluations_per_kept: float | None = None


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage of the run took."""

    stage: str = "?"
    seconds: float | None = None
    images: float | None = None
    evaluations: float | None = None


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the images cost, and what resampling the base to the target would."""

    before: SideCost = field(default_factory=SideCost)
    after: SideCost = field(default_factory=SideCost)
    resampling_base: SideCost = field(default_factory=SideCost)
    stages: tuple[StageCost, ...] = ()
    seconds: float | None = None
    peak_memory_gb: float | None = None

    @property
    def evaluations_per_kept(self) -> tuple[float | None, float | None]:
        """Network evaluations per kept image: of the base resampled to the target, and of the retargeted model."""
        base, after, each = self.resampling_base, self.after, self.before.evaluations_per_image
        total_base, total = base.evaluations_per_kept, after.evaluations_per_kept
        if total_base is None and each is not None and base.images_per_kept is not None:
            total_base = each * base.images_per_kept
        if total is None and after.evaluations_per_image is not None:
            total = after.evaluations_per_image * (1.0 if after.images_per_kept is None else after.images_per_kept)
        return total_base, total


@dataclass(frozen=True, kw_only=True)
class PlanFacts:
    """What was fixed before anything was generated or measured."""

    file: str
    sha256: Digest
    """Of the file's `plan`."""
    written: Moment


@dataclass(frozen=True, kw_only=True)
class Power:
    """How surely an audit says that a target is reached when it is; see `fairsims.audit.power`."""

    wanted: Fraction
    n: Number
    """Audit images."""
    reached: Fraction
    """Probability of "reached", at least, while no true share is further off its target than `off`."""
    off: float
    """A third of the tolerance."""
    limit: Fraction
    """That probability with any number of images: the classifier's errors are not known better."""
    images: Number | None = always(None)
    """Images that give the wanted probability; None where no number does."""
    held_out: float | None = always(None)
    """How many times the held-out images behind the classifier's errors would give it at `n`; None: none would."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """How the model was retargeted."""

    mode: str | None = None
    target_for: Literal["each", "overall"] | None = None
    """Of a model with classes: whether the target holds for the images of each class, or for all together."""
    replaced: Count | None = None
    """paired: images in which the second's set differs."""
    unmatched: Count | None = None
    """Of these, the images that differ in another attribute, too."""
    alike_in: tuple[str, ...] = ()
    """paired: attributes in which the two sets are alike."""
    strength: float | None = None
    expected_share: float | None = None
    planned_strength: float | None = called("planned_omega")
    least_strength: float | None = called("least_omega")
    cap: float | None = None
    complement: Mapping[str, float] = field(default_factory=dict)
    complement_size: int | None = None
    budget_kimg: float | None = None
    reason: str | None = None
    resampled: bool | None = None
    interval: tuple[float, float] | None = None
    """Noise levels with the auxiliary; None: all."""
    generated: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Shares of each attribute before resampling, where there was any."""


@dataclass(frozen=True, kw_only=True)
class CalibrationPoint:
    """The controlled share at a strength that the calibration tried, 0 being the base."""

    strength: Annotated[float, limits(minimum=0)]
    share: float
    """Of the class that has to grow, or of all that do; not cut to [0, 1]."""
    low: float | None = always(None)
    high: float | None = always(None)
    n: Number | None = always(None)
    fd_reference: float | None = None
    fd_target: float | None = beside("fd_reference")
    """Fréchet distances on the features of `quality`."""
    quality_n: Annotated[int, limits(minimum=2)] | None = beside("fd_reference")
    """Images that both distances are of, the same at every strength."""


@dataclass(frozen=True, kw_only=True)
class ControlledShare:
    """A share with its interval that is not cut to [0, 1]."""

    share: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Controlled:
    """What the calibration's points are shares of where there are more than two shares: the cells that have to grow."""

    cells: tuple[str, ...] = ()
    target: float | None = None
    after: ControlledShare | None = None
    """What the audit seeds gave."""


@dataclass(frozen=True, kw_only=True)
class RoundResult:
    """A complement, the auxiliary trained on it, and what it reached."""

    round: int
    kept: bool
    planned_strength: float | None = called("planned_omega")
    complement: Mapping[str, float] = field(default_factory=dict)
    complement_size: int | None = None
    strength: float | None = always(None)
    """None for a round that moved no share, as is the error."""
    error: float | None = always(None)
    """The worst share's distance from its target, in units of what it may be off."""
    shares: Mapping[str, Mapping[str, float]] = always(dict)
    """By attribute and class."""
    reason: str | None = None
