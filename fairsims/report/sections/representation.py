"""Shares of every attribute, alone and together."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.audit.power import power_sentence
from fairsims.audit.result import AttributeResult
from fairsims.report import tables, words
from fairsims.report.document import Block, Heading, Notes, Text, soft
from fairsims.report.numbers import percent
from fairsims.report.sections.context import Context


def representation(context: Context) -> Iterator[Block]:
    """Shares, distances from the target, counts and ratios, attributes together."""
    result, pictures = context.result, context.pictures
    yield pictures["shares"]
    for a in result.attributes.values():
        told = "was to stay as it is" if a.drift is not None else "not targeted" if a.untargeted is not None else ""
        yield Heading(text=f"{a.name} ({told})" if told else a.name)
        yield tables.shares_table(a, result)
        if raw := _raw(a):
            yield soft(raw)
        if a.warnings:
            yield Notes(lines=a.warnings)
        if (rows := tables.conditions_table(a, result)) is not None:
            yield rows
        if said := words.conditions_verdict(a):
            yield Text(text=said)
        if measures := tables.measures_table(a, result):
            yield measures
        yield tables.ratios_table(a, result)
    if result.joint:
        yield Heading(text="Attributes together")
    if "joint" in pictures:
        yield pictures["joint"]
    for pair in result.joint:
        yield Heading(text=" and ".join(pair.attributes))
        yield tables.joint_table(pair, result)
        if pair.missing:
            yield Text(text=pair.missing, soft=True)
        if warnings := dict.fromkeys(w for side in pair.sides.values() for w in side.warnings):
            yield Notes(lines=tuple(warnings))
    if any(a.target for a in result.attributes.values()) and context.two_sided:
        yield soft(
            "Whether a target is reached is judged by equivalence: the whole interval inside the tolerance. There "
            "are no p-values here, and so none to adjust."
        )
    if result.power is not None:
        yield soft(power_sentence(result.power))


def _raw(a: AttributeResult) -> str:
    """What the classifier alone calls the images of the focus class."""
    calls = [percent(s[a.focus].raw) for s in (a.before, a.after) if s and s[a.focus].raw is not None]
    return f"Uncorrected, the classifier calls {' → '.join(calls)} of the images {a.focus}." if calls else ""
