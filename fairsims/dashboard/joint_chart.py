"""The dashboard's heat map of joint shares, in altair."""

from __future__ import annotations

from typing import Any

import altair as alt

from fairsims.audit.result import Cell, JointResult
from fairsims.report.numbers import NOTHING, percent, points, share_text

CHANGE = "change"
"""Shown beside the sides: after - before."""


def joint_chart(pair: JointResult, shown: str) -> alt.LayerChart:
    """Share of each pair of classes on a side, or its change. Each cell has its number: no colour has to be read."""
    rows, (first, second) = _rows(pair, shown), pair.attributes
    values = [float(r["value"]) for r in rows]
    largest = max(map(abs, values), default=0.0) or 1.0
    side = list(pair.sides.values())[-1]
    scale = (
        alt.Scale(scheme="purpleorange", domain=[-largest, largest], reverse=True)
        if shown == CHANGE
        else alt.Scale(scheme="blues", domain=[0, largest])
    )
    base = alt.Chart(alt.InlineData(values=rows)).encode(
        x=alt.X("column:N", title=second, sort=list(side.columns), axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("row:N", title=first, sort=list(side.rows)),
        tooltip=[
            alt.Tooltip("row:N", title=first),
            alt.Tooltip("column:N", title=second),
            *(alt.Tooltip(f"{name}:N") for name in (*pair.sides, "lift")),
        ],
    )
    boxes = base.mark_rect(stroke="#888888", strokeWidth=0.5).encode(
        color=alt.Color("value:Q", scale=scale, legend=None)
    )
    dark = alt.datum.size > (0.8 if shown == CHANGE else 0.6) * largest
    text = base.mark_text(fontSize=13).encode(
        text="text:N", color=alt.condition(dark, alt.value("white"), alt.value("black"))
    )
    return alt.LayerChart(layer=[boxes, text]).properties(height=70 + 46 * len(side.rows))


def joint_alt(pair: JointResult, shown: str) -> str:
    """Every number of the heat map in words."""
    said = "; ".join(f"{r['row']} and {r['column']} {r['text']}" for r in _rows(pair, shown))
    what = "change in points" if shown == CHANGE else f"shares {shown}"
    return f"Joint {what} of {' and '.join(pair.attributes)}: {said}."


def _rows(pair: JointResult, shown: str) -> list[dict[str, Any]]:
    """A row per cell; `shown` is a side or the change, which takes both."""
    sides = {name: {c.classes: c for c in side.cells} for name, side in pair.sides.items()}
    rows = []
    for cell in sides["after" if shown == CHANGE else shown].values():  # type: ignore[index]
        found: dict[str, Cell | None] = {name: cells.get(cell.classes) for name, cells in sides.items()}
        before = found.get("before") if shown == CHANGE else None
        value = cell.share if before is None else cell.share - before.share
        rows.append(
            {
                "row": cell.classes[0],
                "column": cell.classes[1],
                "value": value,
                "size": abs(value),
                "text": percent(value) if before is None else points(value),
                "lift": NOTHING if cell.lift is None else f"{cell.lift:.2f}",
            }
            | {name: share_text(c) for name, c in found.items()}
        )
    return rows
