"""The dashboard's tables: one dict per row, column heading to text."""

from __future__ import annotations

from fairsims.dashboard.runs_index import RunEntry
from fairsims.report.quality_view import QualityRow, QualitySection
from fairsims.report.view import AttributeView, AuditView
from fairsims.report.words import (
    NOTHING,
    bounds,
    duration,
    fixed,
    number,
    percent,
    points,
    points_interval,
    share_text,
    short_percent,
    side_name,
)

Row = dict[str, str]


def shares_table(audit: AuditView, attribute: AttributeView) -> list[Row]:
    """A row per class: target, shares with intervals, their difference; columns that the audit lacks are left out."""
    rows = []
    for c in attribute.classes:
        row = {"class": c}
        if attribute.target:
            row["target"] = short_percent(attribute.target.get(c))
        row[side_name("before", audit)] = share_text(attribute.before[c])
        if attribute.after:
            row["after"] = share_text(attribute.after[c])
        if attribute.difference:
            delta = attribute.difference[c]
            row["difference, points"] = f"{points(delta.share)} {points_interval(delta)}".rstrip()
        rows.append(row)
    return rows


def splits_table(audit: AuditView, attribute: AttributeView) -> list[Row]:
    """The focus class's share under each confusion split."""
    return [
        {"classifier errors measured on": split}
        | {f"{attribute.focus}, {side_name(s, audit)}": share_text(sides[s].get(attribute.focus)) for s in audit.sides}
        for split, sides in attribute.by_split.items()
    ]


def quality_table(audit: AuditView, section: QualitySection) -> list[Row]:
    """A row per number of one feature extractor; the real images' own where any has one."""
    after = len(audit.sides) == 2

    def text(row: QualityRow, side: str, value: float | None) -> str:
        limits = row.intervals.get(side)
        return fixed(value, row.digits) + (f" {bounds(limits, row.digits)}" if limits else "")

    return [
        {"quality": q.name, side_name("before", audit): text(q, "before", q.before)}
        | ({"after": text(q, "after", q.after)} if after else {})
        | ({"real images": fixed(q.reference, q.digits)} if section.has_reference else {})
        for q in section.rows
    ]


def cost_table(audit: AuditView) -> list[Row]:
    """Plain resampling of the base beside the retargeted model."""
    if len(audit.sides) == 1:
        return [{"cost": r.name, "measured": fixed(r.base, r.digits)} for r in audit.cost]
    return [
        {"cost": r.name, "base, resampled": fixed(r.base, r.digits), "retargeted": fixed(r.retargeted, r.digits)}
        for r in audit.cost
    ]


def stages_table(audit: AuditView) -> list[Row]:
    """A row per stage of the run."""
    return [
        {
            "stage": s.stage,
            "images": number(s.images),
            "evaluations": number(s.evaluations),
            "time": duration(s.seconds),
        }
        for s in audit.stages
    ]


def runs_table(runs: list[RunEntry]) -> list[Row]:
    """A row per run; what a run has not measured yet is empty."""
    return [{"run": r.name, "state": r.state, "stage": r.stage} | _result(r.audit) | {"note": r.message} for r in runs]


def _result(audit: AuditView | None) -> Row:
    names = ("share", "target", "FD to the target mix", "time")
    if audit is None:
        return dict.fromkeys(names, "")
    distance = next((q for q in audit.quality if "target" in q.name), None)
    shown = audit.targeted
    values = (
        "; ".join(f"{t.focus} " + " → ".join(percent(t.side(s)[t.focus].share) for s in audit.sides) for t in shown),
        "; ".join(short_percent(t.target.get(t.focus)) for t in shown),
        " → ".join(fixed(v, distance.digits) for v in (distance.before, distance.after) if v is not None)
        if distance
        else NOTHING,
        duration(audit.seconds),
    )
    return dict(zip(names, values, strict=True))
