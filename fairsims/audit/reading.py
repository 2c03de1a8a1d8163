"""One attribute in the sources of an audit: calls, estimates of its shares by tier, and the section they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fairsims.audit.people import PeopleLabels, check_owner
from fairsims.audit.shares import (
    Labelled,
    ShareDifference,
    ShareEstimate,
    corrected_shares,
    held,
    held_out_errors_fit,
    independent_difference,
    labelled_difference,
    labelled_null,
    labelled_pool,
    labelled_shares,
    measures,
    null_shares,
    reached,
    sensitivity,
    share_difference,
)
from fairsims.audit.sources import ImageSource, label_source
from fairsims.audit.targets import Target, as_mapping
from fairsims.classifiers.base import AttributeClassifier, Confusion
from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import InputError

IntArray = npt.NDArray[np.int64]
Report = Callable[[str, int, int], None]

ShareRule = Callable[[AttributeClassifier, str], ShareEstimate]
"""(classifier, split name) -> shares of an after pool where counting would be wrong: it was selected by its labels."""


@dataclass(frozen=True, kw_only=True)
class AuditPlan:
    """What is measured of one attribute, fixed before anything is."""

    target: npt.NDArray[np.floating[Any]] | Target | None = None
    """Shares `(K,)`, or what a user wrote; None for an attribute without one."""
    tolerance: float = 0.03
    """The target counts as reached when every interval lies inside target +- tolerance."""
    drift: float | None = 0.03
    """Without a target: held when every share's change, with its interval, lies inside +- this; None: not judged."""
    split: str | None = None
    """Held-out split whose confusion corrects the shares; the classifier's default when None."""
    labels: Mapping[str, PeopleLabels] = field(default_factory=dict)
    """Labels by people of some images, by side."""

    def __post_init__(self) -> None:
        for name in ("tolerance", "drift"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ValueError(f"{name} is {value}; expected a number between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """An attribute as it was found in each source, by side."""

    classifier: AttributeClassifier
    plan: AuditPlan
    split: str
    """"" where no confusion corrects anything."""
    target: npt.NDArray[np.float64] | None
    predicted: Mapping[str, IntArray]
    """The classifier's call for each image, `(N,)`."""
    labelled: Mapping[str, Labelled]
    """The sides that people labelled images of."""
    chosen: Mapping[str, ShareEstimate]
    by_split: Mapping[str, Mapping[str, ShareEstimate]]
    """Tier B under every confusion."""
    difference: ShareDifference | None
    selected: bool
    """Whether the after images were kept or dropped by what the classifier called them."""

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
    def counts(self) -> dict[str, np.ndarray]:
        """Images per predicted class, `(K,)`."""
        return {when: np.bincount(p, minlength=len(self.classes)) for when, p in self.predicted.items()}


def read_attribute(
    classifier: AttributeClassifier,
    plan: AuditPlan,
    sources: Mapping[str, ImageSource],
    *,
    store: Path | None = None,
    after_shares: ShareRule | None = None,
    report: Report = lambda *_: None,
) -> Reading:
    """Label the sources and estimate the attribute's shares.

    Tier A where people labelled images of the source, B where the classifier's errors are known, C else. Raises
    InputError when labels belong to other images or probabilities are not finite.
    """
    predicted = {
        when: label_source(s, classifier, store, partial(report, f"{classifier.attribute.name} {when}")).argmax(axis=1)
        for when, s in sources.items()
    }
    for when, people in plan.labels.items():
        check_owner(people, predicted, sources, when)
    classes = _classes(classifier, plan, sources)
    known = classifier.attribute.classes

    def counted(when: str, confusion: Confusion | None, by: str) -> ShareEstimate:
        if when == "after" and after_shares is not None:
            return after_shares(classifier, by)
        counts: np.ndarray = np.bincount(predicted[when], minlength=len(known))
        return corrected_shares(known, counts, confusion)

    def best(when: str) -> ShareEstimate:
        if (people := plan.labels.get(when)) is not None:
            return labelled_shares(classes, predicted[when], people.positions, people.classes)
        return by_split[split][when] if split else counted(when, None, "")

    split = (plan.split or classifier.default_split) if classifier.confusions else ""
    if plan.split and plan.split not in classifier.confusions:
        split = classifier.default_split
    by_split = {by: {when: counted(when, c, by) for when in sources} for by, c in classifier.confusions.items()}
    chosen = {when: best(when) for when in sources}
    labelled = {
        when: labelled_pool(classes, predicted[when], people.positions, people.classes)
        for when, people in plan.labels.items()
    }
    reading = Reading(
        classifier=classifier, plan=plan, split=split, target=_target(plan, chosen["before"], len(classes)),
        predicted=predicted, labelled=labelled, chosen=chosen, by_split=by_split if classes == known else {},
        difference=None, selected=after_shares is not None,
    )  # fmt: skip
    return replace(reading, difference=_difference(reading))


def section(reading: Reading) -> dict[str, Any]:
    """`attributes.<name>` of the audit."""
    r, classes = reading, reading.classes
    last = r.chosen["after" if "after" in r.chosen else "before"]
    change = np.subtract(last.share if r.target is None else r.target, r.chosen["before"].share)
    found: dict[str, Any] = {
        "classes": list(classes),
        "focus": classes[int(np.argmax(np.abs(change) if r.target is None else change))],
        "split": r.split or None,
        **{when: share_table(e, r.counts[when]) for when, e in r.chosen.items()},
        "by_split": {by: {w: share_table(e, None) for w, e in es.items()} for by, es in r.by_split.items()},
        "method": last.method,
        "tier": {when: e.tier for when, e in r.chosen.items()},
        "assumption": {when: e.assumption for when, e in r.chosen.items()},
        "n": {when: e.n for when, e in r.chosen.items()},
        "warnings": warnings_of(r),
    }
    if r.labelled:
        found["labels"] = {when: _labels(r, when) for when in r.labelled}
    if r.confusion is not None and r.by_split:
        found["sensitivity"] = {w: sensitivity(e, r.confusion) for w, e in r.chosen.items() if e.tier == "B"}
    if r.target is not None:
        found |= {
            "target": as_mapping(r.target, classes),
            "tolerance": r.plan.tolerance,
            "reached": reached(last, r.target.tolist(), r.plan.tolerance),
            "measures": {when: _measures(r, when) for when in r.chosen},
        }
    if r.difference is not None:
        d = r.difference
        found["difference"] = {
            c: {"delta": d.delta[k], "low": d.low[k], "high": d.high[k]} for k, c in enumerate(classes)
        }
        if r.target is None and r.plan.drift is not None:
            found["drift"] = {
                "limit": r.plan.drift,
                "largest": float(np.abs(d.delta).max()),
                "held": held(d, r.plan.drift),
            }
    return found


def warnings_of(reading: Reading) -> list[str]:
    """What the estimates warn of, those of one side alone with its name."""
    found: dict[str, list[str]] = {}
    for when, estimate in reading.chosen.items():
        for w in (*estimate.warnings, *_contradicted(reading, when)):
            found.setdefault(w, []).append(when)
    sides = len(reading.chosen)
    return [w if len(when) == sides else f"{when[0]}: {w}" for w, when in found.items()]


def share_table(estimate: ShareEstimate, counts: Sequence[int] | IntArray | None) -> dict[str, dict[str, Any]]:
    """`{class: {share, low, high, raw, count}}`."""
    return {
        c: {"share": estimate.share[k], "low": estimate.low[k], "high": estimate.high[k], "raw": estimate.raw[k]}
        | ({} if counts is None else {"count": int(counts[k])})
        for k, c in enumerate(estimate.classes)
    }


def _classes(classifier: AttributeClassifier, plan: AuditPlan, sources: Mapping[str, ImageSource]) -> tuple[str, ...]:
    """The classifier's classes, and `undetermined` when people could not tell and it does not know that."""
    known = classifier.attribute.classes
    if all((people.classes < len(known)).all() for people in plan.labels.values()):
        return known
    blind = [when for when in sources if when not in plan.labels]
    if blind:
        raise InputError(
            f"people found {UNDETERMINED} images, which {classifier.name} does not know, and {blind[0]} has no labels; "
            f"label images of {blind[0]} too, or use a classifier that abstains"
        )
    return (*known, UNDETERMINED)


def _target(plan: AuditPlan, before: ShareEstimate, size: int) -> npt.NDArray[np.float64] | None:
    """Shares `(K,)`; nothing is wanted of `undetermined` where only people know it."""
    if plan.target is None:
        return None
    given = plan.target.resolve(before.share) if isinstance(plan.target, Target) else np.asarray(plan.target)
    return np.append(given, np.zeros(size - len(given)))


def _difference(reading: Reading) -> ShareDifference | None:
    """Change from before to after. Of images that were selected, for attributes without a target only."""
    r = reading
    if "after" not in r.chosen or (r.selected and r.target is not None):
        return None
    if len(r.labelled) == 2:
        return labelled_difference(r.labelled["before"], r.labelled["after"])
    if not r.selected and not r.labelled:
        return share_difference(r.classes, r.counts["before"], r.counts["after"], r.confusion)
    return independent_difference(r.chosen["before"], r.chosen["after"])


def _measures(reading: Reading, when: str) -> dict[str, Any]:
    r = reading
    assert r.target is not None
    if when == "after" and r.selected:
        null = None
    elif when in r.labelled:
        null = labelled_null(r.labelled[when], r.target)
    else:
        null = null_shares(r.target, r.chosen[when].n, [r.confusion] if r.confusion is not None else [])
    return measures(
        r.chosen[when], r.target.tolist(), before=r.chosen["before"] if when == "after" else None, null=null
    )  # fmt: skip


def _labels(reading: Reading, when: str) -> dict[str, Any]:
    """What people labelled: how many of each class, and whether that fits the errors that tier B would rest on."""
    people, labelled = reading.plan.labels[when], reading.labelled[when]
    counts = np.bincount(labelled.true, minlength=len(reading.classes))
    found: dict[str, Any] = {
        "file": str(people.path),
        "digest": people.digest,
        "n": len(people.positions),
        "counts": dict(zip(reading.classes, map(int, counts), strict=True)),
    }
    if reading.confusion is not None and reading.by_split:
        found["held_out_errors"] = held_out_errors_fit(labelled, reading.confusion)
    return found


def _contradicted(reading: Reading, when: str) -> list[str]:
    """Labels that speak against the held-out errors are worth a warning on the sides without labels."""
    if when in reading.labelled or reading.confusion is None or not reading.by_split:
        return []
    fits = [held_out_errors_fit(labelled, reading.confusion) for labelled in reading.labelled.values()]
    return [str(f["says"]) for f in fits if f["fit"] is False]
