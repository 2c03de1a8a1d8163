"""How it was measured: methods, and the errors of the classifiers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from fairsims.audit.facts import ClassifierFacts
from fairsims.audit.result import AttributeResult, AuditResult
from fairsims.report import tables, words
from fairsims.report.document import Block, Facts, Heading, Text, soft
from fairsims.report.numbers import value_text
from fairsims.report.sections.context import Context

FEW = 30
"""Images of a class below which its share is little more than a guess (measurement of small groups)."""
SAID = {
    "name": "name",
    "kind": "kind",
    "digest": "digest",
    "weights_digest": "weights digest",
    "input_size": "input size, pixels",
    "preprocessing": "preprocessing",
    "prompts": "prompts",
    "temperature": "temperature",
    "threshold": "abstains below",
}
"""What a classifier records of itself, and how a reader calls it."""


def measurement(context: Context) -> Iterator[Block]:
    """Methods, and the errors of the classifiers."""
    result = context.result
    several = len(result.attributes) > 1
    for a in result.attributes.values():
        yield from _method(a, result)
    for classifier in tables.classifiers_of(result):
        facts = tuple(_facts(classifier))
        if facts:
            yield Heading(text=f"The classifier of {classifier.attribute or result.main.name}")
            yield Facts(rows=facts)
    confusions = list(tables.confusion_tables(result))
    for attribute, splits in groupby(confusions, key=lambda c: c[0]):
        yield Heading(text=f"The classifier on images with known labels{f' ({attribute})' if several else ''}")
        for _, found in splits:
            yield found
    if not confusions:
        yield Text(text="No errors of the classifier on images with known labels are recorded.")
    yield from context.questions("measurement")


def _method(a: AttributeResult, result: AuditResult) -> Iterator[Block]:
    yield Heading(text=a.name)
    if note := words.tier_note(a):
        yield Text(text=f"{note} {words.assumption_note(a)}".strip())
    method = f"{a.method[:1].upper()}{a.method[1:]}" if a.method else "Method not recorded"
    corrected = a.split and (not a.tier or "B" in a.tier.values())
    split = f"; corrected with the classifier's errors on the “{a.split}” split" if corrected else ""
    yield soft(f"{method}{split}. Classes with fewer than {FEW} images are named in a warning.")
    if len(a.by_split) == 1:
        yield soft(
            "The classifier's errors were measured in one way only, so how far the share depends on that is not known."
        )
    if len(a.by_split) > 1:
        of = f" ({a.name})" if len(result.attributes) > 1 else ""
        yield Heading(text=f"How much depends on the classifier's errors{of}")
        if said := words.sensitivity_sentence(a):
            yield Text(text=said)
        if moved := words.moved_sentence(a, result.sides):
            yield Text(
                text=f"{moved} A shift that every row shows does not depend on where those errors were measured."
            )
        yield tables.splits_table(a, result)


def _facts(classifier: ClassifierFacts) -> Iterator[tuple[str, str]]:
    values = {"name": classifier.name, "digest": classifier.digest, **classifier.more}
    for key, label in SAID.items():
        if values.get(key) not in (None, "", [], 0):
            yield label, value_text(values[key])
