"""The dashboard's chart and table of a self-consuming loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import altair as alt

from fairsims.report.collapse_figures import LEVELS, NAMES
from fairsims.report.collapse_report import estimate

_COLORS = alt.Scale(domain=list(NAMES.values()), range=["#D9792B", "#2E93D1"])
"""Those of before and after elsewhere: they stand on white and on black."""
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
        color=alt.Color("method:N", scale=_COLORS, legend=alt.Legend(**_LEGEND)),
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
