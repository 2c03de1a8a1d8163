"""What `fairsims audit` does up to its result: open and check everything that is named, then measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairsims.audit.compare import audit, check_pair
from fairsims.audit.corrected import corrected_shares
from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.extractors import FeatureExtractor, open_extractor
from fairsims.audit.people import PeopleLabels, read_people_labels
from fairsims.audit.reading import AuditPlan, Report
from fairsims.audit.sources import ImageSource, label_source, open_source, predicted_counts
from fairsims.audit.targets import parse_target, resampling_cost
from fairsims.classifiers import AttributeClassifier, classifier_for, load_classifier
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.attributes import UNDETERMINED
from fairsims.errors import InputError
from fairsims.files import cache_folder
from fairsims.pools import Pool


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What to audit, as the command line says it."""

    before: str
    """Images of the model as it was: pool, folder, zip, Parquet or embedded data set."""
    attr: tuple[str, ...]
    """Attribute, e.g. gender."""
    after: str | None = None
    """Images of the model as it is; without it the one source is measured."""
    target: tuple[str, ...] = ()
    """0.5, uniform or woman=0.3,man=0.7; one for each attribute in their order, or none."""
    hold: tuple[str, ...] = ()
    """Attribute that was to stay: its change from before to after is judged."""
    classifier: tuple[str, ...] = ()
    """Folder, embedded name or table of labels, ATTR=SPEC among several; the one that fits by default."""
    reference: str | None = None
    """Real images to hold quality against: path, embedded name, or an EDM .npz of Inception statistics."""
    labels: tuple[str, ...] = ()
    """Labels by people of some images; SIDE is before or after."""
    features: tuple[str, ...] = ("classifier",)
    """Extractor of the quality numbers: classifier, inception, dinov2-vit-b-14 or clip:MODEL. The first one's are the
    headline."""
    inception_weights: Path | None = None
    """File of the Inception weights; downloaded otherwise."""
    split: str | None = None
    """Held-out split whose errors correct the shares; the classifier's own choice by default."""
    tolerance: float = 0.03
    """A target is reached when the interval of the share lies inside target +- this."""
    drift: float = 0.03
    """An attribute to hold is preserved when every share changes by less than this, interval included."""

    def __post_init__(self) -> None:
        names = [*self.attr, *self.hold]
        if not self.attr or len(set(names)) < len(names):
            raise ValueError(f"attr is {', '.join(names) or 'empty'}; expected different attributes, one at least")
        if len(self.target) not in (0, len(self.attr)):
            raise ValueError(
                f"target is given {len(self.target)} times for {len(self.attr)} --attr; expected one for each in their "
                "order, or none; attributes without a target go to --hold"
            )
        if self.hold and self.after is None:
            raise ValueError(
                f"hold is {', '.join(self.hold)} without --after; expected a second source to compare with"
            )
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"features is {', '.join(self.features) or 'empty'}; expected different extractors")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """An audit's result and the images it is about."""

    result: dict[str, Any]
    """The content of `audit.json`."""
    before: ImageSource
    after: ImageSource | None
    reference: ImageDataset | None
    """None too where the reference is a file of statistics."""
    labels: list[dict[str, Any]]
    """Every label by people that was used, beside what the classifier calls the image."""


@dataclass(frozen=True, kw_only=True)
class OpenAudit:
    """A configuration with everything it names opened and checked."""

    config: AuditConfig
    sources: Mapping[str, ImageSource]
    """By side."""
    classifiers: tuple[AttributeClassifier, ...]
    """One per attribute: first those of `attr`, then those held."""
    plans: tuple[AuditPlan, ...]
    """Of the same attributes."""
    reference: ImageDataset | Path | None
    extractors: tuple[FeatureExtractor, ...]


def open_audit(config: AuditConfig) -> OpenAudit:
    """Open what the configuration names. Raises InputError for what cannot work, before anything is measured."""
    paths = {"before": config.before} | ({"after": config.after} if config.after is not None else {})
    sources = {when: open_source(path) for when, path in paths.items()}
    check_pair(sources)
    first = sources["before"]
    classifiers = [classifier_of(first, name, _given(config, name)) for name in (*config.attr, *config.hold)]
    labels = read_people_labels(config.labels, sources, [c.attribute for c in classifiers])
    plans = [_plan(config, c, labels[c.attribute.name]) for c in classifiers]
    reference = _reference(config.reference, first)
    return OpenAudit(
        config=config,
        sources=sources,
        classifiers=tuple(classifiers),
        plans=tuple(plans),
        reference=reference,
        extractors=tuple(_extractors(config, classifiers)) if reference is not None else (),
    )


def measure(opened: OpenAudit, *, report: Report = lambda *_: None, facts: Mapping[str, Any] | None = None) -> Measured:
    """Carry out an audit; `facts` are merged into the result.

    What can be made again (labels of sources that are no pools, features) is kept in the cache folder. Raises
    InputError for what turns out not to work: labels of other images, a reference that lacks a class.
    """
    config, sources = opened.config, opened.sources
    first, reference = sources["before"], opened.reference
    pairs = list(zip(opened.classifiers, opened.plans, strict=True))
    result = audit(
        first, sources.get("after"), *pairs[0], others=pairs[1:], reference=reference, extractors=opened.extractors,
        store=cache_folder("audit"), report=report, facts={"settings": _settings(config), **(facts or {})},
    )  # fmt: skip
    if cost := _cost(sources, result, config.attr[0]):
        result["cost"] = cost
    return Measured(
        result=result,
        before=first,
        after=sources.get("after"),
        reference=reference if isinstance(reference, ImageDataset) else None,
        labels=[row for c, p in pairs for row in _labels_used(c, p, sources)],
    )


def classifier_of(source: ImageSource, attr: str, spec: str | None) -> AttributeClassifier:
    """The classifier asked for, or the embedded one that fits the source's images.

    Raises InputError when there is none, or it labels another attribute.
    """
    channels, resolution, _ = source.shape
    found = load_classifier(spec) if spec else classifier_for(attr, resolution, channels)
    if found.attribute.name != attr:
        raise InputError(
            f"{found.name} labels {found.attribute.name!r}, not {attr!r}; give another --classifier or --attr"
        )
    return found


def shares_of(source: ImageSource, classifier: AttributeClassifier) -> ShareEstimate:
    """Label a source and estimate its shares from the classifier's default errors."""
    counts = predicted_counts(label_source(source, classifier))
    return corrected_shares(
        classifier.attribute.classes, counts, classifier.confusions.get(classifier.default_split)
    )  # fmt: skip


def _given(config: AuditConfig, name: str) -> str | None:
    """The classifier given for an attribute, by `name=SPEC`, by what it labels, or as the only one of both."""
    for spec in config.classifier:
        attr, _, rest = spec.partition("=")
        if rest and attr == name:
            return rest
    plain = [s for s in config.classifier if not ("=" in s and s.partition("=")[0] in (*config.attr, *config.hold))]
    if len(config.attr) + len(config.hold) == 1:
        return plain[0] if plain else None
    return next((s for s in plain if load_classifier(s).attribute.name == name), None)


def _plan(config: AuditConfig, classifier: AttributeClassifier, labels: Mapping[str, PeopleLabels]) -> AuditPlan:
    name, split = classifier.attribute.name, config.split
    if split is not None and classifier.confusions and split not in classifier.confusions:
        raise InputError(
            f"{classifier.name} was measured on {', '.join(classifier.confusions)}; there is no split {split!r}"
        )
    wanted = config.target[config.attr.index(name)] if config.target and name in config.attr else None
    return AuditPlan(
        target=None if wanted is None else parse_target(wanted, classifier.attribute),
        tolerance=config.tolerance,
        drift=config.drift if name in config.hold else None,
        split=split,
        labels=labels,
    )


def _reference(spec: str | None, source: ImageSource) -> ImageDataset | Path | None:
    """The real images at the source's size where a whole factor makes it."""
    if spec is None:
        return None
    if spec.endswith(".npz"):
        if not Path(spec).is_file():
            raise InputError(f"{spec} is missing; expected an .npz of reference statistics")
        return Path(spec)
    data, (channels, side, _) = open_dataset(spec), source.shape
    if data.channels != channels:
        raise InputError(
            f"the reference {data.name} has {data.channels} channels; expected {channels} like {source.name}; give "
            "real images of the same kind"
        )
    return open_dataset(spec, resolution=side) if data.resolution % side == 0 else data


def _extractors(config: AuditConfig, classifiers: Sequence[AttributeClassifier]) -> list[FeatureExtractor]:
    if config.inception_weights is not None and "inception" not in config.features:
        raise InputError("--inception-weights is given without --features inception; give both")
    # Tables of labels have no features.
    first = next((c for c in classifiers if c.input_size), None)
    return [
        open_extractor(f, classifier=first, weights=config.inception_weights if f == "inception" else None)
        for f in config.features
    ]  # fmt: skip


def _settings(config: AuditConfig) -> dict[str, Any]:
    """The configuration as JSON."""
    return {
        k: list(v) if isinstance(v, tuple) else str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()
    }


def _labels_used(
    classifier: AttributeClassifier, plan: AuditPlan, sources: Mapping[str, ImageSource]
) -> Iterator[dict[str, Any]]:
    classes = (*classifier.attribute.classes, UNDETERMINED)
    for when, people in plan.labels.items():
        calls = label_source(sources[when], classifier, cache_folder("audit")).argmax(axis=1)
        for position, label in zip(people.positions.tolist(), people.classes.tolist(), strict=True):
            yield {
                "when": when,
                "image": str(sources[when].ids[position]),
                "attribute": classifier.attribute.name,
                "label": classes[label],
                "called": classes[calls[position]],
            }


def _cost(sources: Mapping[str, ImageSource], result: Mapping[str, Any], attr: str) -> dict[str, Any]:
    """Network evaluations of pools that record them, and what resampling the first to its target would take."""
    evaluations = {
        when: s.meta["evaluations_per_image"]
        for when, s in sources.items()
        if isinstance(s, Pool) and s.meta.get("evaluations_per_image") is not None
    }
    found: dict[str, Any] = {when: {"evaluations_per_image": n} for when, n in evaluations.items()}
    later = sources.get("after")
    if "after" in found and isinstance(later, Pool) and "selection" not in later.meta.get("made_by", {}):
        found["after"]["images_per_kept"] = 1.0
    section = result["attributes"][attr]
    if "before" in evaluations and "target" in section:
        classes = section["classes"]
        kept = resampling_cost(
            [section["before"][c]["share"] for c in classes], [section["target"][c] for c in classes]
        )  # fmt: skip
        if np.isfinite(kept):
            found["resampling_base"] = {"images_per_kept": kept, "evaluations_per_kept": kept * evaluations["before"]}
    return found
