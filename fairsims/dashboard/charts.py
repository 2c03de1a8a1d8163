"""The dashboard's charts, in altair. Colours and shapes are those of the report's figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from fairsims.audit.facts import SIDES
from fairsims.audit.result import AttributeResult, AuditResult, Cell, JointResult
from fairsims.report.collapse_figures import LEVELS, NAMES
from fairsims.report.collapse_report import estimate
from fairsims.report.measured import steered
from fairsims.report.numbers import NOTHING, ShareLike, percent, points, share_text

_COLORS = alt.Scale(domain=["before", "after"], range=["#D9792B", "#2E93D1"])
"""Lighter than on paper: they have to stand on white and on Streamlit's dark background."""
_SHAPES = alt.Scale(domain=["before", "after"], range=["circle", "square"])
_TARGET = "#888888"


def shares_chart(attribute: AttributeResult) -> alt.LayerChart:
    """Share of every class before and after, with 95% intervals and a rule at each target."""
    rows = [
        _row(share, {"class": c, "side": side})
        for c in attribute.classes
        for side in SIDES
        if (share := attribute.side(side).get(c)) is not None
    ]
    y = alt.Y("class:N", title=None, sort=list(attribute.classes))
    offset = alt.YOffset("side:N", sort=["before", "after"])
    x = alt.X(
        "share:Q",
        title="share; bars: 95% intervals, grey: target",
        axis=alt.Axis(format=".0%", tickCount=5),
        scale=alt.Scale(domain=[0, 1]),
    )
    color = alt.Color("side:N", scale=_COLORS, legend=alt.Legend(title=None, orient="top") if attribute.after else None)
    shape = alt.Shape("side:N", scale=_SHAPES, legend=alt.Legend(title=None, orient="top") if attribute.after else None)
    tooltip = [alt.Tooltip("class:N"), alt.Tooltip("side:N"), alt.Tooltip("text:N", title="share")]
    base = alt.Chart(_data(rows))
    bars = base.mark_rule(strokeWidth=3).encode(
        y=y, yOffset=offset, x=alt.X("low:Q", title=""), x2="high:Q", color=color, tooltip=tooltip
    )
    dots = base.mark_point(size=45, filled=True, opacity=1).encode(
        y=y, yOffset=offset, x=x, color=color, shape=shape, tooltip=tooltip
    )
    targets = (
        alt.Chart(_data([{"class": c, "target": t, "text": f"{t:.4g}"} for c, t in attribute.target.items()]))
        .mark_tick(thickness=2, size=70, color=_TARGET)
        .encode(
            y=y, x=alt.X("target:Q", title=""), tooltip=[alt.Tooltip("class:N"), alt.Tooltip("target:Q", format=".1%")]
        )
    )
    layers = [targets, bars, dots] if attribute.target else [bars, dots]
    return alt.LayerChart(layer=layers).properties(height=80 * len(attribute.classes) + 110)


def calibration_chart(result: AuditResult) -> alt.LayerChart:
    """The controlled share against strength, with the target and the audited result at the chosen strength."""
    controlled = steered(result)
    rows = [_row(p, {"strength": p.strength, "side": "before", "seeds": "calibration"}) for p in result.by_strength]
    if result.strength is not None and controlled.after is not None:
        rows.append(_row(controlled.after, {"strength": result.strength, "side": "after", "seeds": "audit"}))
    domain = ["calibration", "audit"]
    color = alt.Color(
        "seeds:N", scale=alt.Scale(domain=domain, range=_COLORS.range), legend=alt.Legend(title="seeds", orient="top")
    )
    shape = alt.Shape("seeds:N", scale=alt.Scale(domain=domain, range=_SHAPES.range))
    x = alt.X("strength:Q", title="strength", scale=alt.Scale(padding=12, nice=False, zero=False))
    y = alt.Y("share:Q", title=controlled.name, axis=alt.Axis(format=".0%"), scale=alt.Scale(zero=False))
    tooltip = [alt.Tooltip("seeds:N"), alt.Tooltip("strength:Q"), alt.Tooltip("text:N", title="share")]
    base = alt.Chart(_data(rows))
    line = (
        base.transform_filter("datum.seeds == 'calibration'")
        .mark_line(opacity=0.6, strokeWidth=1.5, color=_COLORS.range[0])
        .encode(x=x, y=y)
    )
    bars = base.mark_rule(strokeWidth=3).encode(
        x=x, y=alt.Y("low:Q", title=""), y2="high:Q", color=color, tooltip=tooltip
    )
    dots = base.mark_point(size=45, filled=True, opacity=1).encode(x=x, y=y, color=color, shape=shape, tooltip=tooltip)
    layers = [line, bars, dots]
    if controlled.target is not None:
        rule = alt.Chart(_data([{"target": controlled.target}])).mark_rule(
            strokeDash=[6, 4], strokeWidth=2, color=_TARGET
        )
        layers.insert(0, rule.encode(y=alt.Y("target:Q", title=""), tooltip=[alt.Tooltip("target:Q", format=".1%")]))
    return alt.LayerChart(layer=layers).properties(height=280)


def loss_chart(records: list[dict[str, Any]]) -> alt.Chart | None:
    """Training loss so far against thousands of images; None without two points to join."""
    rows = [
        {"kimg": r.get("kimg", r.get("nimg", 0) / 1000), "loss": r["loss"]}
        for r in records
        if isinstance(r.get("loss"), int | float) and isinstance(r.get("kimg", r.get("nimg")), int | float)
    ]
    if len(rows) < 2:
        return None
    chart: alt.Chart = (
        alt.Chart(_data(rows))
        .mark_line(point=True, color=_COLORS.range[1])
        .encode(
            x=alt.X("kimg:Q", title="thousands of images seen", axis=alt.Axis(tickCount=6)),
            y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
        )
        .properties(height=220)
    )
    return chart


def _row(share: ShareLike, keys: dict[str, Any]) -> dict[str, Any]:
    return keys | {
        "share": share.share,
        "low": share.share if share.low is None else share.low,
        "high": share.share if share.high is None else share.high,
        "text": share_text(share),
    }


def _data(rows: list[dict[str, Any]]) -> alt.InlineData:
    return alt.InlineData(values=rows)


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


_METHODS = alt.Scale(domain=list(NAMES.values()), range=_COLORS.range)
_LEGEND: dict[str, Any] = {"title": None, "orient": "top", "symbolType": "stroke", "symbolOpacity": 1}


def drift_rows(result: Mapping[str, Any], measure: str) -> list[dict[str, Any]]:
    """A row per cell and generation: mean and 95% interval over the repeats."""
    level = LEVELS[result["settings"]["loop"]]
    return [
        {
            "method": NAMES.get(cell["method"], cell["method"]),
            "level": level.format(cell["level"]),
            "generation": k,
            "mean": e["mean"],
            "low": e["mean"] if e["low"] is None else e["low"],
            "high": e["mean"] if e["high"] is None else e["high"],
            "text": estimate(e),
        }
        for cell in result["cells"]
        for k, e in enumerate(cell["measures"][measure], start=1)
    ]


def drift_chart(result: Mapping[str, Any], measure: str) -> alt.LayerChart:
    """A measure against the generation, a line for each method and level, with its interval."""
    base = alt.Chart(alt.InlineData(values=drift_rows(result, measure))).encode(
        x=alt.X("generation:Q", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("method:N", scale=_METHODS, legend=alt.Legend(**_LEGEND)),
        detail="level:N",
        tooltip=[
            alt.Tooltip("method:N"),
            alt.Tooltip("level:N"),
            alt.Tooltip("generation:Q"),
            alt.Tooltip("text:N", title=measure),
        ],
    )
    bands = base.mark_area(opacity=0.12).encode(y=alt.Y("low:Q", title=measure.replace("_", " ")), y2="high:Q")
    dash = alt.StrokeDash("level:N", legend=alt.Legend(**_LEGEND | {"orient": "bottom", "columns": 2}))
    y = alt.Y("mean:Q", title=measure.replace("_", " "))
    lines, points = base.mark_line().encode(y=y, strokeDash=dash), base.mark_point(filled=True, size=40).encode(y=y)
    return alt.LayerChart(layer=[bands, lines, points]).properties(height=320)
