"""The report's sections, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fairsims.report import words
from fairsims.report.document import Block, Document, Figure, Result, Section
from fairsims.report.numbers import moment
from fairsims.report.sections.context import Context, read_context
from fairsims.report.sections.governance import changes, limits, marking, oversight, rules
from fairsims.report.sections.measurement import measurement
from fairsims.report.sections.mitigation import mitigation
from fairsims.report.sections.plan import plan
from fairsims.report.sections.quality import quality, side_effects
from fairsims.report.sections.representation import representation
from fairsims.report.sections.reproduction import reproduction
from fairsims.report.sections.system import attributes, data, summary, system

__all__ = ["SECTIONS", "Context", "document", "read_context"]

SECTIONS: tuple[tuple[str, str, str, Callable[[Context], Iterable[Block]]], ...] = (
    ("summary", "Summary and sign-off", "", summary),
    ("system", "System and purpose", "AI Act, Annex IV 1 and 2(a)–(b); NIST AI RMF, Map 1", system),
    ("data", "Data", "AI Act, Art. 10(2)(b)–(e) and (h), Annex IV 2(d); NIST AI 600-1, MS-2.11-005", data),
    ("attributes", "Attributes", "AI Act, Art. 4a and 10(4); GDPR, Art. 9", attributes),
    ("measurement", "Measurement", "AI Act, Annex IV 2(g) and 4; NIST AI 600-1, MS-2.13-001", measurement),
    ("plan", "Plan fixed before the results", "AI Act, Art. 9(8)", plan),
    (
        "representation",
        "Representation",
        "AI Act, Art. 10(2)(f) and 13(3)(b)(v), Annex IV 3; NIST AI 600-1, MS-2.11-002; form of NYC LL144",
        representation,
    ),
    ("quality", "Quality", "AI Act, Annex IV 2(g), 3 and 4; NIST AI 600-1, MS-2.10-003", quality),
    ("side-effects", "Side effects", "AI Act, Annex IV 3; NIST AI 600-1, MS-2.11-004", side_effects),
    (
        "mitigation",
        "Bias examination and mitigation",
        "AI Act, Art. 10(2)(f)–(h); NIST AI 600-1, MG-2.2-004",
        mitigation,
    ),
    ("limits", "Limits", "AI Act, Art. 13(3)(b), Annex IV 3 and 5", limits),
    ("oversight", "Oversight", "AI Act, Art. 14, Annex IV 2(e) and 9", oversight),
    ("changes", "Change log", "AI Act, Annex IV 6", changes),
    ("marking", "Marking of generated images", "AI Act, Art. 50(2)", marking),
    ("rules", "Which rule asks for what", "", rules),
    ("reproduction", "Reproduction", "AI Act, Annex IV 2(g)", reproduction),
)
"""Id, title, the rules that ask for it, and what it consists of; its number is its place."""


def document(context: Context, pictures: Mapping[str, Figure]) -> Document:
    """The whole report of a run. Raises InputError where the audit is broken."""
    places = {id: k for k, (id, *_) in enumerate(SECTIONS)}
    context = replace(context, pictures=pictures, places=places)
    result = context.result
    sentences = [s for s in (words.quality_sentence(result), words.cost_sentence(result)) if s]
    results = []
    for a in result.targeted:
        beside = words.side_effect(result) if a is result.main else None
        said = " ".join(s for s in (words.verdict(a), beside, words.tier_note(a)) if s)
        results.append(Result(name=a.name, line=words.headline(a), verdict=said))
    return Document(
        run=context.run.resolve().name,
        title=words.headline(result.main),
        model=result.model,
        created=moment(result.created),
        version=result.fairsims,
        results=tuple(results),
        preserved=tuple(f"{a.name}: {words.drift_verdict(a)}" for a in result.preserved),
        summary=" ".join([*sentences, "Brackets are 95% intervals."]),
        warnings=result.warnings,
        sections=tuple(
            Section(id=id, number=places[id], title=title, clauses=clauses, blocks=tuple(blocks(context)))
            for id, title, clauses, blocks in SECTIONS
        ),
    )
