"""Quality, and what else moved."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.audit.facts import QualityResult
from fairsims.report import tables, words
from fairsims.report.document import Block, Figure, Heading, Notes, Text, soft
from fairsims.report.measured import NAMES
from fairsims.report.sections.context import Context
from fairsims.report.words import nearest_alt


def quality(context: Context) -> Iterator[Block]:
    """Numbers of every feature extractor."""
    result = context.result
    for section in result.sections:
        yield from _numbers(section, context)
    if not result.sections:
        yield Text(text="Quality was not measured: no real images were given to hold it against.")
    if neighbours := words.neighbours_sentence(result):
        yield soft(neighbours)
    if result.sections and context.two_sided and result.main.target:
        yield soft(
            "A model that reaches another mix moves away from the real images as they are by intention; the distance "
            "to them re-weighted to the target says whether the images stayed good on the way."
        )


def _numbers(section: QualityResult, context: Context) -> Iterator[Block]:
    if len(context.result.sections) > 1:
        yield Heading(text=section.metric or "metric not recorded")
    yield tables.quality_table(section, context.result)
    if (e := section.extractor) is not None:
        yield soft(f"Features: {e.name}, weights {e.weights_digest or 'not recorded'}; resize: {e.resize}.")
    if section.groups:
        yield tables.groups_table(section, context.result)
    if section.warnings:
        yield Notes(lines=section.warnings)
    absent = NAMES | {"group_fd": "Fréchet distance of each class"}
    for key, why in section.unavailable.items():
        yield soft(f"Not given, {absent.get(key, key.replace('_', ' '))}: {why}.")


def side_effects(context: Context) -> Iterator[Block]:
    """Drift of other attributes, quality against strength, nearest reference images."""
    result, pictures = context.result, context.pictures
    free = [a for a in result.attributes.values() if not a.target and a.after and a.difference]
    for a in free:
        yield Text(text=f"{a.name}: {words.drift_verdict(a) or words.untargeted_note(a) or words.moved_freely(a)}")
    if context.two_sided and not free:
        yield Text(
            text="No attribute without a target was measured, so whether others drifted is not known; "
            "an audit measures one that it is told to hold."
        )
    if "quality" in pictures:
        yield pictures["quality"]
        yield soft(
            "Measured on calibration seeds at equal numbers of images, for comparing strengths with each other; "
            "the numbers above are from more images and cannot be held against these."
        )
    galleries = [(s, path) for s in result.sides if (path := context.audit / f"nearest-{s}.png").exists()]
    if galleries:
        yield Heading(text="Nearest reference images")
        yield Text(text=words.NEAREST)
    for side, path in galleries:
        name = words.side_name(side, result).capitalize()
        yield Figure(path=path, alt=nearest_alt(side, result), name=name, grid=True)
    if not free and "quality" not in pictures and not galleries and not context.two_sided:
        yield Text(text="One source was measured, so nothing can have moved.")
