"""The report's sections, in their order."""

from __future__ import annotations

from collections.abc import Mapping

from fairsims.report import words
from fairsims.report.document import Document, Figure, Result
from fairsims.report.open_fields import open_ids
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


def document(context: Context, pictures: Mapping[str, Figure]) -> Document:
    """The whole report of a run. Raises InputError where the audit is broken."""
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
        sections=(
            summary(context),
            system(context),
            data(context),
            attributes(context),
            measurement(context),
            plan(context),
            representation(context, pictures),
            quality(context),
            side_effects(context, pictures),
            mitigation(context, pictures),
            limits(context),
            oversight(context),
            changes(context),
            marking(context),
            mapping(context),
            reproduction(context),
        ),
        open=tuple(open_ids(context.answers)),
    )
