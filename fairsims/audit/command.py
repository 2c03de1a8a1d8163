"""What `fairsims audit` does: open and check everything that is named, fix what will be measured, then measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fairsims.audit.compare import audit, check_pair
from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.facts import Cost, PlanFacts, Side, SideCost, by_side
from fairsims.audit.features import FeatureExtractor, open_extractor
from fairsims.audit.intervals import ALPHA
from fairsims.audit.people import PeopleLabels, read_people_labels
from fairsims.audit.preregistration import planned_attribute, planned_metrics, planned_reference, planned_shares
from fairsims.audit.reading import Aim
from fairsims.audit.result import AttributeResult, AuditResult
from fairsims.audit.shares import corrected_shares
from fairsims.audit.targets import Target, parse_target, resampling_cost
from fairsims.classifiers import AttributeClassifier, classifier_for, load_classifier
from fairsims.classifiers.labelling import label_source, predicted_counts
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.attributes import UNDETERMINED
from fairsims.data.policy import ImagePolicy
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import cache_folder
from fairsims.options import to_json
from fairsims.pools import Pool, open_source
from fairsims.run import PLAN, Progress, refuse_foreign, silent, write_manifest, write_plan

Publish = Callable[
    [Path, AuditResult, ImageSource, ImageSource | None, ImageSource | None, Sequence[Mapping[str, Any]]], None
]
"""(folder, result, before, after, reference, labels by people) -> everything that shows an audit"""


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What to audit, as the command line says it. Raises ValueError where settings contradict each other.

    >>> AuditConfig(before="digits-skewed", attr=("parity",)).tolerance
    0.03
    """

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
    """Extractor of the quality numbers: classifier, random (a network that was never trained), inception,
    dinov2-vit-b-14 or clip:MODEL. The first one's are the headline."""
    inception_weights: Path | None = None
    """File of the Inception weights; downloaded otherwise."""
    split: str | None = None
    """Held-out split whose errors correct the shares; the classifier's own choice by default."""
    tolerance: float = 0.03
    """A target is reached when the interval of the share lies inside target +- this."""
    resize: int | None = ImagePolicy.resize
    fit: str = ImagePolicy.fit
    background: str | None = ImagePolicy.background
    class_folders: str | None = None
    """Attribute whose classes are the names of the folders that the images of --reference lie in."""
    drift: float = 0.03
    """An attribute to hold is preserved when every share changes by less than this, interval included."""

    @property
    def policy(self) -> ImagePolicy:
        """What is done to images of all sources alike."""
        return ImagePolicy(resize=self.resize, fit=self.fit, background=self.background)

    def __post_init__(self) -> None:
        self.policy  # noqa: B018  # raises
        if self.class_folders is not None and self.reference is None:
            raise ValueError(f"class_folders is {self.class_folders!r} without --reference; expected real images")
        if not self.attr or len(set(self.attr)) < len(self.attr):
            raise ValueError(f"attr is {', '.join(self.attr) or 'empty'}; expected different attributes, one at least")
        if len({*self.attr, *self.hold}) < len(self.attr) + len(self.hold):
            raise ValueError(f"hold is {', '.join(self.hold)}; expected different attributes, none of them an --attr")
        if len(self.target) not in (0, len(self.attr)):
            raise ValueError(
                f"target is {' and '.join(self.target)} for {' and '.join(self.attr)}; expected one for each --attr in "
                "their order, or none; attributes without a target go to --hold"
            )
        if self.hold and self.after is None:
            raise ValueError(
                f"hold is {', '.join(self.hold)} without --after; expected a second source to compare with"
            )
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"features is {', '.join(self.features) or 'empty'}; expected different extractors")


@dataclass(frozen=True, kw_only=True)
class OpenAudit:
    """A configuration with everything it names opened and checked."""

    config: AuditConfig
    sources: Mapping[Side, ImageSource]
    """By side."""
    classifiers: tuple[AttributeClassifier, ...]
    """One per attribute: first those of `attr`, then those of `hold`."""
    aims: tuple[Aim, ...]
    """Of the same attributes."""
    reference: ImageDataset | Path | None
    extractors: tuple[FeatureExtractor, ...]


def open_audit(config: AuditConfig) -> OpenAudit:
    """Open what the configuration names. Raises InputError for what cannot work, before anything is measured."""
    sources = {side: open_source(path, config.policy) for side, path in by_side(config.before, config.after).items()}
    check_pair(sources)
    first = sources["before"]
    asked = {name: _given(config, name) for name in (*config.attr, *config.hold)}
    for spec in config.classifier:
        if spec not in asked.values() and spec.partition("=")[2] not in asked.values():
            raise InputError(f"--classifier {spec} is used for none of {', '.join(asked)}; give one for each of them")
    classifiers = [classifier_of(first, name, spec) for name, spec in asked.items()]
    if config.split is not None and not any(c.confusions for c in classifiers):
        raise InputError(
            f"--split {config.split} changes nothing: nobody measured the classifier's errors; leave it out"
        )
    labels = read_people_labels(config.labels, sources, [c.attribute for c in classifiers])
    aims = [_aim(config, c, labels[c.attribute.name]) for c in classifiers]
    reference = _reference(config, first)
    return OpenAudit(
        config=config,
        sources=sources,
        classifiers=tuple(classifiers),
        aims=tuple(aims),
        reference=reference,
        extractors=tuple(_extractors(config, classifiers)) if reference is not None else (),
    )


def preregistration(opened: OpenAudit) -> dict[str, Any]:
    """What is fixed before existing images are measured, JSON."""
    config, sources = opened.config, opened.sources
    texts = dict(zip(config.attr, config.target, strict=False))
    pairs = list(zip(opened.classifiers, opened.aims, strict=True))
    names = {c.attribute.name: c for c in opened.classifiers}
    sizes = {side: len(s) for side, s in sources.items()}
    labels = {
        c.attribute.name: {side: {"digest": p.digest, "n": len(p.positions)} for side, p in aim.labels.items()}
        for c, aim in pairs
        if aim.labels
    }
    return {
        "when": "before measuring",
        "attributes": {
            name: planned_attribute(
                c.attribute,
                target=aim.target if isinstance(aim.target, Target) else None,
                text=texts.get(name),
                tolerance=aim.tolerance,
                drift=aim.drift,
            )
            for (name, c), aim in zip(names.items(), opened.aims, strict=True)
        },
        "metrics": planned_metrics(
            [planned_shares(c, aim.split, {side: side in aim.labels for side in sources}) for c, aim in pairs],
            targets=bool(config.target),
            change=len(sources) == 2,
            held=bool(config.hold),
            distances=[e.metric for e in opened.extractors],
            reference=opened.reference,
        ),
        "alpha": ALPHA,
        "n": sizes["before"] if len(set(sizes.values())) == 1 else sizes,
        "images": {side: {"name": s.name, "digest": s.digest, "n": len(s)} for side, s in sources.items()},
        "classifiers": {name: {"name": c.name, "digest": c.digest} for name, c in names.items()},
        "reference": planned_reference(opened.reference),
        "extractors": [e.facts() for e in opened.extractors],
        **({"labels": labels} if labels else {}),
        **({} if config.policy.is_default else {"policy": config.policy.stated()}),
    }


def measure(opened: OpenAudit, *, progress: Progress = silent) -> AuditResult:
    """Carry out an audit.

    What can be made again (labels of sources that are no pools, features) is kept in the cache folder. Raises
    InputError for what turns out not to work: labels of other images, a reference that lacks a class.
    """
    config, sources = opened.config, opened.sources
    result = audit(
        sources["before"],
        sources.get("after"),
        list(zip(opened.classifiers, opened.aims, strict=True)),
        reference=opened.reference,
        extractors=opened.extractors,
        store=cache_folder("audit"),
        progress=progress,
    )
    return replace(result, settings=to_json(config), cost=_cost(sources, result.attributes[config.attr[0]]))


def run_audit(
    config: AuditConfig,
    out: Path | None,
    *,
    publish: Publish,
    progress: Progress = silent,
    command: str = "",
) -> AuditResult:
    """A whole audit; with `out` also its pre-registration, written before anything is measured, and a manifest.

    `publish` makes tables, figures and report in `out`. Raises InputError when `out` holds other things than an earlier
    audit: the manifest is of everything in it. Raises ChangedSettings when it holds one that was planned otherwise.
    """
    if out is None:
        return replace(measure(open_audit(config), progress=progress), command=command)
    fresh = not (out / PLAN).exists()
    if fresh and (out / "audit").exists():
        raise InputError(
            f"{out} holds an audit without the {PLAN} that is written before measuring: an earlier version made it; "
            "give a new folder"
        )
    if fresh:
        refuse_foreign(out)
    opened = open_audit(config)
    plan = PlanFacts(**write_plan(out, preregistration(opened)))
    try:
        found = measure(opened, progress=progress)
    except InputError:
        # What cannot be measured as planned may be planned anew; nothing was learnt.
        if fresh:
            (out / PLAN).unlink()
        raise
    result = replace(found, command=command, plan=plan)
    before, after = opened.sources["before"], opened.sources.get("after")
    reference = opened.reference if isinstance(opened.reference, ImageDataset) else None
    publish(out, result, before, after, reference, list(_labels_used(opened)))
    named = {"before": before, "after": after, "reference": reference}
    digests = {f"{name}_digest": source.digest for name, source in named.items() if source is not None}
    write_manifest(out, digests | {"classifier_digest": opened.classifiers[0].digest})
    return result


def classifier_of(source: ImageSource, attr: str, spec: str | None) -> AttributeClassifier:
    """The classifier asked for, or the embedded one that fits the source's images.

    Raises InputError when there is none, or it labels another attribute.
    """
    channels, resolution, _ = source.shape
    found = load_classifier(spec, attr) if spec else classifier_for(attr, resolution, channels)
    if found.attribute.name != attr:
        raise InputError(
            f"{found.name} labels {found.attribute.name!r}, not {attr!r}; give another --classifier or --attr"
        )
    return found


def shares_of(source: ImageSource, classifier: AttributeClassifier) -> ShareEstimate:
    """Label a source and estimate its shares from the classifier's default errors."""
    counts = predicted_counts(label_source(source, classifier))
    return corrected_shares(classifier.attribute.classes, counts, classifier.confusions.get(classifier.default_split))


def _given(config: AuditConfig, name: str) -> str | None:
    """The classifier given for an attribute, by `name=SPEC`, by what it labels, or as the only one of both."""
    for spec in config.classifier:
        attr, _, rest = spec.partition("=")
        if rest and attr == name:
            return rest
    plain = [s for s in config.classifier if not ("=" in s and s.partition("=")[0] in (*config.attr, *config.hold))]
    if len(config.attr) + len(config.hold) == 1:
        return plain[0] if plain else None
    return next((s for s in plain if load_classifier(s, name).attribute.name == name), None)


def _aim(config: AuditConfig, classifier: AttributeClassifier, labels: Mapping[Side, PeopleLabels]) -> Aim:
    name, split = classifier.attribute.name, config.split
    if split is not None and classifier.confusions and split not in classifier.confusions:
        raise InputError(
            f"{classifier.name} was measured on {', '.join(classifier.confusions)}; there is no split {split!r}"
        )
    wanted = config.target[config.attr.index(name)] if config.target and name in config.attr else None
    return Aim(
        target=None if wanted is None else parse_target(wanted, classifier.attribute),
        tolerance=config.tolerance,
        drift=config.drift if name in config.hold else None,
        split=split,
        labels=labels,
    )


def _reference(config: AuditConfig, source: ImageSource) -> ImageDataset | Path | None:
    """The real images at the source's size where a whole factor makes it."""
    spec, policy = config.reference, config.policy
    if spec is None:
        return None
    if spec.endswith(".npz"):
        if not Path(spec).is_file():
            raise InputError(f"{spec} is missing; expected an .npz of reference statistics")
        return Path(spec)
    data = open_dataset(spec, policy=policy, class_folders=config.class_folders)
    channels, side, _ = source.shape
    if data.channels != channels:
        raise InputError(
            f"the reference {data.name} has {data.channels} channels; expected {channels} like {source.name}; give "
            "real images of the same kind"
        )
    if data.resolution == side or data.resolution % side:
        return data
    return open_dataset(spec, resolution=side, policy=policy, class_folders=config.class_folders)


def _extractors(config: AuditConfig, classifiers: Sequence[AttributeClassifier]) -> list[FeatureExtractor]:
    if config.inception_weights is not None and "inception" not in config.features:
        raise InputError("--inception-weights is given without --features inception; give both")
    # Tables of labels have no features.
    first = next((c for c in classifiers if c.has_features), None)
    return [
        open_extractor(f, classifier=first, weights=config.inception_weights if f == "inception" else None)
        for f in config.features
    ]


def _labels_used(opened: OpenAudit) -> Iterator[dict[str, Any]]:
    """Every label by people that was used, beside what the classifier calls the image."""
    for classifier, aim in zip(opened.classifiers, opened.aims, strict=True):
        classes = (*classifier.attribute.classes, UNDETERMINED)
        for side, people in aim.labels.items():
            source = opened.sources[side]
            calls = label_source(source, classifier, cache_folder("audit")).argmax(axis=1)
            for position, label in zip(people.positions.tolist(), people.classes.tolist(), strict=True):
                yield {
                    "when": side,
                    "image": str(source.ids[position]),
                    "attribute": classifier.attribute.name,
                    "label": classes[label],
                    "called": classes[calls[position]],
                }


def _cost(sources: Mapping[Side, ImageSource], attribute: AttributeResult) -> Cost | None:
    """Network evaluations of pools that record them, and what resampling the first to its target would take."""
    pools = {side: s for side, s in sources.items() if isinstance(s, Pool)}
    each = {
        side: SideCost(evaluations_per_image=pool.meta["evaluations_per_image"])
        for side, pool in pools.items()
        if pool.meta.get("evaluations_per_image") is not None
    }
    if not each:
        return None
    before, after, resampled = each.get("before", SideCost()), each.get("after", SideCost()), SideCost()
    if "after" in each and "selection" not in pools["after"].meta.get("made_by", {}):
        after = replace(after, images_per_kept=1.0)
    if before.evaluations_per_image is not None and attribute.target:
        classes = attribute.classes
        kept = resampling_cost([attribute.before[c].share for c in classes], [attribute.target[c] for c in classes])
        if np.isfinite(kept):
            resampled = SideCost(images_per_kept=kept, evaluations_per_kept=kept * before.evaluations_per_image)
    return Cost(before=before, after=after, resampling_base=resampled)
