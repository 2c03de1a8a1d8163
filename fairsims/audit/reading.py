"""One attribute in the sources of an audit: calls, estimates of its shares by tier, and the section they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fairsims.audit.conditions import Asked, by_condition
from fairsims.audit.draws import Draws
from fairsims.audit.estimates import ShareDifference, ShareEstimate, independent_difference, preserved, reached
from fairsims.audit.facts import Side
from fairsims.audit.labelled import (
    Labelled,
    held_out_errors_fit,
    labelled_difference,
    labelled_null,
    labelled_pool,
    labelled_shares,
)
from fairsims.audit.measures import measures, null_shares
from fairsims.audit.people import PeopleLabels, check_owner
from fairsims.audit.result import (
    AttributeResult,
    ByCondition,
    Change,
    Drift,
    HeldOutFit,
    Measures,
    PeopleLabelled,
    Share,
    Shares,
    Untargeted,
)
from fairsims.audit.shares import corrected_shares, sensitivity, share_difference
from fairsims.audit.targets import Target, as_mapping
from fairsims.classifiers.base import AttributeClassifier, Confusion
from fairsims.classifiers.labelling import label_source
from fairsims.data.attributes import UNDETERMINED
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.run import Progress, silent

IntArray = npt.NDArray[np.int64]


class ShareRule(Protocol):
    """Shares of an after pool where counting would be wrong: it was selected by its labels."""

    def __call__(self, classifier: AttributeClassifier, by: str) -> ShareEstimate:
        """Of all its images, by the errors on this held-out split."""

    def in_conditions(self, classifier: AttributeClassifier, by: str, conditions: Sequence[int]) -> Draws:
        """Of the images of each of these conditions, `(P, K)`."""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """What is measured of one attribute, fixed before anything is."""

    target: npt.NDArray[np.floating[Any]] | Target | None = None
    """Shares `(K,)`, or what a user wrote; None for an attribute without one."""
    tolerance: float = 0.03
    """The target counts as reached when every interval lies inside target +- tolerance."""
    drift: float | None = 0.03
    """Without a target: preserved when every share's change, with its interval, is inside +- this; None: not judged."""
    watch: float | None = None
    """Of an attribute that nobody asked for: a change beyond +- this is told."""
    split: str | None = None
    """Held-out split whose confusion corrects the shares; the classifier's default when None."""
    labels: Mapping[Side, PeopleLabels] = field(default_factory=dict)
    """Labels by people of some images, by side."""

    def __post_init__(self) -> None:
        for name in ("tolerance", "drift", "watch"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is {value}; expected a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """An attribute as it was found in each source, by side."""

    classifier: AttributeClassifier
    aim: Aim
    split: str
    """"" where no confusion corrects anything."""
    target: npt.NDArray[np.float64] | None
    predicted: Mapping[Side, IntArray]
    """The classifier's call for each image, `(N,)`."""
    labelled: Mapping[Side, Labelled]
    """The sides that people labelled images of."""
    chosen: Mapping[Side, ShareEstimate]
    by_split: Mapping[str, Mapping[Side, ShareEstimate]]
    """Tier B under every confusion."""
    rule: ShareRule | None
    """Of after images that were kept or dropped by what the classifier called them."""
    asked: Mapping[Side, Asked]
    """What images were asked for by, of sides that were."""

    @property
    def selected(self) -> bool:
        """Whether the after images were kept or dropped by what the classifier called them."""
        return self.rule is not None

    @property
    def name(self) -> str:
        return self.classifier.attribute.name

    @property
    def confusion(self) -> Confusion | None:
        return self.classifier.confusions[self.split] if self.split else None

    @property
    def classes(self) -> tuple[str, ...]:
        """Of the estimates: the classifier's, and `undetermined` where only people know it."""
        return self.chosen["before"].classes

    @property
    def known_target(self) -> npt.NDArray[np.float64] | None:
        """The target over the classes that the classifier knows."""
        return None if self.target is None else self.target[: len(self.classifier.attribute.classes)]

    @property
    def counts(self) -> dict[Side, np.ndarray]:
        """Images per predicted class, `(K,)`."""
        return {side: np.bincount(p, minlength=len(self.classes)) for side, p in self.predicted.items()}

    @cached_property
    def difference(self) -> ShareDifference | None:
        """Change from before to after. Of images that were selected, for attributes without a target only."""
        if "after" not in self.chosen or (self.selected and self.target is not None):
            return None
        if len(self.labelled) == 2:
            return labelled_difference(self.labelled["before"], self.labelled["after"])
        if not self.selected and not self.labelled:
            return share_difference(self.classes, self.counts["before"], self.counts["after"], self.confusion)
        return independent_difference(self.chosen["before"], self.chosen["after"])

    @cached_property
    def fits(self) -> dict[Side, HeldOutFit]:
        """Whether the labels by people speak against the errors that tier B rests on, by side with labels."""
        errors = self.confusion if self.by_split else None
        return {} if errors is None else {s: held_out_errors_fit(p, errors) for s, p in self.labelled.items()}


def read_attribute(
    classifier: AttributeClassifier,
    aim: Aim,
    sources: Mapping[Side, ImageSource],
    *,
    store: Path | None = None,
    after_shares: ShareRule | None = None,
    progress: Progress = silent,
) -> Reading:
    """Label the sources and estimate the attribute's shares.

    Tier A where people labelled images of the source, B where the classifier's errors are known, C else. Raises
    InputError when labels belong to other images or probabilities are not finite.
    """
    predicted = {}
    for side, source in sources.items():
        watch = partial(progress, f"{classifier.attribute.name} {side}")
        predicted[side] = label_source(source, classifier, store, watch).argmax(axis=1)
    for side, people in aim.labels.items():
        check_owner(people, predicted, sources, side)
    known, classes = classifier.attribute.classes, _classes(classifier, aim, sources)
    labelled = {
        side: labelled_pool(classes, predicted[side], people.positions, people.classes)
        for side, people in aim.labels.items()
    }

    def counted(side: Side, confusion: Confusion | None, by: str) -> ShareEstimate:
        if side == "after" and after_shares is not None:
            return after_shares(classifier, by)
        return corrected_shares(known, np.bincount(predicted[side], minlength=len(known)), confusion)

    def best(side: Side) -> ShareEstimate:
        if side in labelled:
            return labelled_shares(labelled[side])
        return by_split[split][side] if split else counted(side, None, "")

    split = (aim.split or classifier.default_split) if classifier.confusions else ""
    if aim.split and aim.split not in classifier.confusions:
        split = classifier.default_split
    by_split = {by: {side: counted(side, c, by) for side in sources} for by, c in classifier.confusions.items()}
    chosen = {side: best(side) for side in sources}
    return Reading(
        classifier=classifier,
        aim=aim,
        split=split,
        target=_target(aim, chosen["before"], len(classes)),
        predicted=predicted,
        labelled=labelled,
        chosen=chosen,
        by_split=by_split if classes == known else {},
        rule=after_shares,
        asked={side: found for side, source in sources.items() if (found := Asked.of(source)) is not None},
    )


def section(reading: Reading) -> AttributeResult:
    """What an audit says of one attribute."""
    r, classes = reading, reading.classes
    last = r.chosen["after" if "after" in r.chosen else "before"]
    change = np.subtract(last.share if r.target is None else r.target, r.chosen["before"].share)
    tables = {side: share_table(e, r.counts[side]) for side, e in r.chosen.items()}
    errors = r.confusion if r.by_split else None
    found = AttributeResult(
        name=r.name,
        classes=classes,
        focus=classes[int(np.argmax(np.abs(change) if r.target is None else change))],
        split=r.split or None,
        before=tables["before"],
        after=tables.get("after", {}),
        by_split={by: {s: share_table(e, None) for s, e in es.items()} for by, es in r.by_split.items()},
        method=last.method,
        tier={side: e.tier for side, e in r.chosen.items()},
        assumption={side: e.assumption for side, e in r.chosen.items()},
        n={side: e.n for side, e in r.chosen.items()},
        warnings=_warnings(r),
        labels={side: _labels(r, side) for side in r.labelled},
        sensitivity={s: sensitivity(e, errors) for s, e in r.chosen.items() if errors is not None and e.tier == "B"},
        by_condition=None if r.aim.watch is not None else _by_condition(r),
    )
    if r.target is not None:
        found = replace(
            found,
            target=as_mapping(r.target, classes),
            tolerance=r.aim.tolerance,
            reached=reached(last, r.target.tolist(), r.aim.tolerance),
            measures={side: _measures(r, side) for side in r.chosen},
        )
    if r.difference is None:
        return found
    found = replace(found, difference=change_table(r.difference), drift=_drift(r, r.difference))
    limit = r.aim.watch
    if limit is None:
        return found
    return replace(found, untargeted=Untargeted(limit=limit, moved=preserved(r.difference, limit) is False))


def _by_condition(r: Reading) -> ByCondition | None:
    """Condition by condition, of the classes that the classifier knows."""
    if not r.asked:
        return None
    rule = r.rule
    return by_condition(
        r.asked,
        r.predicted,
        r.classifier.attribute.classes,
        r.confusion,
        target=r.known_target,
        tolerance=r.aim.tolerance,
        selected=None if rule is None else partial(rule.in_conditions, r.classifier, r.split),
    )


def share_table(estimate: ShareEstimate, counts: Sequence[int] | IntArray | None) -> Shares:
    """An estimate by class, with the `counts` `(K,)` of images by predicted class where they are given."""
    e = estimate
    return {
        c: Share(
            share=e.share[k],
            low=e.low[k],
            high=e.high[k],
            raw=e.raw[k],
            count=None if counts is None else int(counts[k]),
        )
        for k, c in enumerate(e.classes)
    }


def change_table(d: ShareDifference) -> dict[str, Change]:
    """A difference by class."""
    return {c: Change(delta=d.delta[k], low=d.low[k], high=d.high[k]) for k, c in enumerate(d.classes)}


def _drift(reading: Reading, difference: ShareDifference) -> Drift | None:
    """Of an attribute that was to stay as it is."""
    limit = reading.aim.drift
    if reading.target is not None or limit is None:
        return None
    largest = float(np.abs(difference.delta).max())
    return Drift(limit=limit, largest=largest, preserved=preserved(difference, limit))


def _warnings(reading: Reading) -> tuple[str, ...]:
    """What the estimates warn of, those of one side alone with its name."""
    found: dict[str, list[str]] = {}
    for side, estimate in reading.chosen.items():
        for w in (*estimate.warnings, *_contradicted(reading, side)):
            found.setdefault(w, []).append(side)
    return tuple(w if len(sides) == len(reading.chosen) else f"{sides[0]}: {w}" for w, sides in found.items())


def _classes(classifier: AttributeClassifier, aim: Aim, sources: Mapping[Side, ImageSource]) -> tuple[str, ...]:
    """The classifier's classes, and `undetermined` when people could not tell and it does not know that."""
    known = classifier.attribute.classes
    if all((people.classes < len(known)).all() for people in aim.labels.values()):
        return known
    blind = [side for side in sources if side not in aim.labels]
    if blind:
        raise InputError(
            f"people found {UNDETERMINED} images, which {classifier.name} does not know, and {blind[0]} has no labels; "
            f"label images of {blind[0]} too, or use a classifier that abstains"
        )
    return (*known, UNDETERMINED)


def _target(aim: Aim, before: ShareEstimate, size: int) -> npt.NDArray[np.float64] | None:
    """Shares `(K,)`; nothing is wanted of `undetermined` where only people know it."""
    if aim.target is None:
        return None
    given = aim.target.resolve(before.share) if isinstance(aim.target, Target) else np.asarray(aim.target)
    return np.append(given, np.zeros(size - len(given)))


def _measures(reading: Reading, side: Side) -> Measures:
    r = reading
    assert r.target is not None
    if side == "after" and r.selected:
        null = None
    elif side in r.labelled:
        null = labelled_null(r.labelled[side], r.target)
    else:
        null = null_shares(r.target, r.chosen[side].n, [r.confusion] if r.confusion is not None else [])
    before = r.chosen["before"] if side == "after" else None
    return measures(r.chosen[side], r.target.tolist(), before=before, null=null)


def _labels(reading: Reading, side: Side) -> PeopleLabelled:
    """What people labelled: how many of each class, and whether that fits the errors that tier B would rest on."""
    people, labelled = reading.aim.labels[side], reading.labelled[side]
    counts = np.bincount(labelled.true, minlength=len(reading.classes))
    return PeopleLabelled(
        file=str(people.path),
        digest=people.digest,
        n=len(people.positions),
        counts=dict(zip(reading.classes, map(int, counts), strict=True)),
        held_out_errors=reading.fits.get(side),
    )


def _contradicted(reading: Reading, side: Side) -> list[str]:
    """Labels that speak against the held-out errors are worth a warning on the sides without labels."""
    return [] if side in reading.labelled else [f.says for f in reading.fits.values() if f.fit is False]
