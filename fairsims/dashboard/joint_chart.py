"""The dashboard's heat map of joint shares, in altair."""

from __future__ import annotations

import altair as alt

from fairsims.report.joint_view import Cell, JointView
from fairsims.report.view import Share
from fairsims.report.words import NOTHING, percent, points, share_text

SIDES = ("before", "after", "change")


def joint_rows(joint: JointView, shown: str) -> list[dict[str, str | float | None]]:
    """A row per cell: `shown` is before, after or change (after - before, when both are there)."""
    first = {c.classes: c for c in joint.cells.get("before", ())}
    cells = joint.cells["after" if shown == "change" else shown]
    return [_row(joint, c, first.get(c.classes) if shown == "change" else None) for c in cells]


def joint_chart(joint: JointView, shown: str) -> alt.LayerChart:
    """Share, or its change, of each pair of classes. Each cell has its number, so that no colour has to be read."""
    rows, (first, second) = joint_rows(joint, shown), joint.attributes
    data = alt.InlineData(values=rows)
    values = [float(r["value"] or 0) for r in rows]
    largest = max(map(abs, values), default=0.0) or 1.0
    side = "after" if shown == "change" else shown
    x = alt.X("column:N", title=second, sort=list(joint.columns(side)), axis=alt.Axis(labelAngle=0, orient="top"))
    y = alt.Y("row:N", title=first, sort=list(joint.rows(side)))
    scale = (
        alt.Scale(scheme="purpleorange", domain=[-largest, largest], reverse=True)
        if shown == "change"
        else alt.Scale(scheme="blues", domain=[0, largest])
    )
    tooltip = [
        alt.Tooltip("row:N", title=first), alt.Tooltip("column:N", title=second), alt.Tooltip("before:N"),
        alt.Tooltip("after:N"), alt.Tooltip("lift:N"),
    ]  # fmt: skip
    base = alt.Chart(data).encode(x=x, y=y, tooltip=tooltip)
    boxes = base.mark_rect(stroke="#888888", strokeWidth=0.5).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    dark = alt.datum.value > 0.6 * largest if shown != "change" else alt.datum.size > 0.8 * largest
    text = base.mark_text(fontSize=13).encode(
        text="text:N", color=alt.condition(dark, alt.value("white"), alt.value("black"))
    )
    return alt.LayerChart(layer=[boxes, text]).properties(height=70 + 46 * len(joint.rows(side)))


def joint_alt(joint: JointView, shown: str) -> str:
    """Every number of the heat map in words."""
    said = "; ".join(f"{r['row']} and {r['column']} {r['text']}" for r in joint_rows(joint, shown))
    what = "change in points" if shown == "change" else f"shares {shown}"
    return f"Joint {what} of {' and '.join(joint.attributes)}: {said}."


def _row(joint: JointView, cell: Cell, before: Cell | None) -> dict[str, str | float | None]:
    texts = {
        s: next((_text(c) for c in cells if c.classes == cell.classes), NOTHING) for s, cells in joint.cells.items()
    }
    value = cell.share if before is None else cell.share - before.share
    return {
        "row": cell.classes[0], "column": cell.classes[1], "value": value, "size": abs(value),
        "text": percent(value) if before is None else points(value),
        "before": texts.get("before", NOTHING), "after": texts.get("after", NOTHING),
        "lift": NOTHING if cell.lift is None else f"{cell.lift:.2f}",
    }  # fmt: skip


def _text(cell: Cell) -> str:
    return share_text(Share(share=cell.share, low=cell.low, high=cell.high))
