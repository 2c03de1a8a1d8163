"""The dashboard's charts, in altair. Colours and shapes are those of the report's figures."""

from __future__ import annotations

from typing import Any

import altair as alt

from fairsims.audit.facts import SIDES
from fairsims.audit.result import AttributeResult, AuditResult
from fairsims.report.measured import steered
from fairsims.report.numbers import ShareLike, share_text

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
