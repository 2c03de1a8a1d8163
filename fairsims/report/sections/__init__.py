"""The report's sections, in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from fairsims.report import words
from fairsims.report.document import Block, Document, Figure, Result, Section
from fairsims.report.sections.context import Context, read_context
from fairsims.report.sections.governance import changes, limits, mapping, marking, oversight
from fairsims.report.sections.measurement import measurement, plan
from fairsims.report.sections.mitigation import mitigation
from fairsims.report.sections.quality import quality, side_effects
from fairsims.report.sections.representation import representation
from fairsims.report.sections.reproduction import reproduction
from fairsims.report.sections.summary import summary
from fairsims.report.sections.system import attributes, data, system

__all__ = ["Context", "document", "read_context"]

SECTIONS: tuple[tuple[str, str, Callable[[Context], Iterable[Block]]], ...] = (
    ("Summary and sign-off", "", summary),
    ("System and purpose", "AI Act, Annex IV 1 and 2(a)–(b); NIST AI RMF, Map 1", system),
    ("Data", "AI Act, Art. 10(2)(b)–(e) and (h), Annex IV 2(d); NIST AI 600-1, MS-2.11-005", data),
    ("Attributes", "AI Act, Art. 4a and 10(4); GDPR, Art. 9", attributes),
    ("Measurement", "AI Act, Annex IV 2(g) and 4; NIST AI 600-1, MS-2.13-001", measurement),
    ("Plan fixed before the results", "AI Act, Art. 9(8)", plan),
    (
        "Representation",
        "AI Act, Art. 10(2)(f) and 13(3)(b)(v), Annex IV 3; NIST AI 600-1, MS-2.11-002; form of NYC LL144",
        representation,
    ),
    ("Quality", "AI Act, Annex IV 2(g), 3 and 4; NIST AI 600-1, MS-2.10-003", quality),
    ("Side effects", "AI Act, Annex IV 3; NIST AI 600-1, MS-2.11-004", side_effects),
    ("Bias examination and mitigation", "AI Act, Art. 10(2)(f)–(h); NIST AI 600-1, MG-2.2-004", mitigation),
    ("Limits", "AI Act, Art. 13(3)(b), Annex IV 3 and 5", limits),
    ("Oversight", "AI Act, Art. 14, Annex IV 2(e) and 9", oversight),
    ("Change log", "AI Act, Annex IV 6", changes),
    ("Marking of generated images", "AI Act, Art. 50(2)", marking),
    ("Which rule asks for what", "", mapping),
    ("Reproduction", "AI Act, Annex IV 2(g)", reproduction),
)
"""Title, the rules that ask for it, and what it consists of; a section's number is its place."""


def document(context: Context, pictures: Mapping[str, Figure]) -> Document:
    """The whole report of a run. Raises InputError where the audit is broken."""
    context = replace(context, pictures=pictures)
    view = context.view
    sentences = [s for s in (words.quality_sentence(view), words.cost_sentence(view)) if s]
    return Document(
        run=context.run.resolve().name,
        title=words.headline(view.main),
        model=view.model,
        created=words.moment(view.raw.get("created")),
        version=view.raw.get("fairsims"),
        results=tuple(
            Result(
                name=a.name,
                line=words.headline(a),
                verdict=" ".join(s for s in (words.verdict(a), words.tier_note(a)) if s),
            )
            for a in view.targeted
        ),
        held=tuple(f"{a.name}: {words.drift_verdict(a)}" for a in view.held),
        summary=" ".join([*sentences, "Brackets are 95% intervals."]),
        warnings=view.warnings,
        sections=tuple(
            Section(number=k, title=title, clauses=clauses, blocks=tuple(blocks(context)))
            for k, (title, clauses, blocks) in enumerate(SECTIONS)
        ),
    )
