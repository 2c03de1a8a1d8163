"""What was found, what was done about it, what it cost, what is left."""

from __future__ import annotations

from collections.abc import Iterator

from fairsims.audit.facts import Method
from fairsims.report import tables, words
from fairsims.report.document import Block, Column, Facts, Heading, Table, Text, row, soft, table
from fairsims.report.measured import cost_numbers
from fairsims.report.numbers import mix, percent, short_percent, value_text
from fairsims.report.sections.context import Context


def mitigation(context: Context) -> Iterator[Block]:
    """Finding, method, cost, and who owns what is left."""
    result = context.result
    found = tables.findings_table(result)
    yield found or Text(text="No target was set, so the audit finds no group short of one.")
    facts = () if result.method is None else tuple(_method(result.method))
    if facts:
        yield Heading(text="Method")
        yield Facts(rows=facts)
    if rounds := tables.rounds_table(result):
        yield rounds
    if "calibration" in context.pictures:
        yield context.pictures["calibration"]
    elif result.method is not None:
        yield soft("This run has no calibration points.")
    yield Heading(text="Cost")
    if cost_numbers(result.cost):
        yield tables.cost_table(result)
        if said := words.resampling_note(result):
            yield soft(said)
        if result.resampling is not None:
            yield soft(f"Before anything was trained: {result.resampling}.")
    else:
        yield Text(text="Cost was not recorded.")
    if stages := tables.stages_table(result):
        yield stages
    yield Heading(text="Bias profile")
    yield _profile(context)
    yield soft(
        "Rows as prEN 18283 drafts them (third-party reading; not cited in the Official Journal): what is open stands "
        "with the questions below."
    )
    yield from context.questions("risk.hazard", "risk.trigger")
    yield from context.questions("residual")


def _profile(context: Context) -> Table:
    """For each attribute with a target, or else the first: group at risk, hazard, measurement, threshold, ..."""
    result, rows = context.result, []
    opened = {q.id: q.answer.strip() or "open" for q in context.questions("risk")}
    method = result.method
    done = (
        "none"
        if method is None
        else f"{words.MODES.get(str(method.mode), str(method.mode))}, strength {value_text(method.strength)}"
    )
    for a in result.targeted:
        group = words.furthest_below(a, "before") if a.target else min(a.classes, key=lambda c: a.before[c].share)
        tier = f", tier {a.tier['before']}" if "before" in a.tier else ""
        limit = f"{short_percent(a.target[group])} ± {short_percent(a.tolerance)}" if a.target else "no target was set"
        measured = f"share {percent(a.before[group].share)}{tier}"
        rows.append(row(f"{a.name}: {group}", opened["risk.hazard"], measured, limit, done, opened["risk.trigger"]))
    names = ("hazard", "measurement", "threshold", "mitigation", "review trigger")
    return table(("group at risk", *(Column(title=t, name=True) for t in names)), rows)


def _method(m: Method) -> Iterator[tuple[str, str]]:
    if m.mode is not None:
        yield "mode", words.MODES.get(m.mode, m.mode)
    if m.replaced is not None:
        alike = f"alike in {', '.join(m.alike_in)}" if m.alike_in else "of no other known attribute"
        yield "two sets", f"{m.replaced} images differ, {alike}; {m.unmatched} of them could not be matched"
    for label, value in (
        ("strength", m.strength),
        ("largest strength allowed", m.cap),
        ("planned by the complement rule", m.planned_strength),
        ("least feasible by the rule", m.least_strength),
        ("complement set, images", m.complement_size),
    ):
        if value is not None:
            yield label, value_text(value)
    if m.complement:
        yield "complement set, mix", mix(m.complement)
    if m.budget_kimg is not None:
        yield "fine-tuning, thousands of images", value_text(m.budget_kimg)
    if m.interval is not None:
        yield "auxiliary called", f"at noise levels from {value_text(m.interval[0])} to {value_text(m.interval[1])}"
    if m.resampled is not None:
        done = "yes, images of the retargeted model were kept or dropped by the classifier"
        yield "remainder resampled", done if m.resampled else "no"
    for name, shares in m.generated.items():
        yield f"{name} before resampling", mix(shares)
    if m.reason:
        yield "why this plan", m.reason
