"""A self-consuming loop: how its generations drift, its table, its figures, its settings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import streamlit as st

from fairsims.dashboard.charts import drift_chart
from fairsims.dashboard.experiments import show_figures
from fairsims.dashboard.runs_index import RunEntry
from fairsims.dashboard.widgets import BADGES, download, guarded, page, plain, show_table, table
from fairsims.files import read_json
from fairsims.report.collapse_report import collapse_table, threshold_lines
from fairsims.report.numbers import number


def show_run(run: RunEntry) -> None:
    path = run.folder / "collapse.json"
    if not path.exists():
        if run.kind == "collapse":
            show_unfinished(run)
            return
        st.info("This run holds no self-consuming loop. Choose one that does, or make one with:")
        st.code("fairsims collapse --setting gaussian --out runs/collapse", language="bash")
        return
    result = read_json(path)
    with guarded():
        show_drift(run, result)
    figures = sorted(run.folder.glob("*.png"))
    if figures:
        st.subheader("Figures", anchor=False, divider="gray")
    show_figures(run, {f.name: f"{f.stem.replace('-', ' ')} of this loop" for f in figures})
    with st.expander("Settings and facts"):
        table([{"what": k, "value": shown(v)} for k, v in flat(result) if not isinstance(v, list) or len(str(v)) < 80])
    download(path, run)


def show_unfinished(run: RunEntry) -> None:
    done = len(list(run.folder.glob("cells/*/rows.json")))
    if run.state == "running":
        st.info(f"The loop is at work, {done} of its cells are whole; its numbers stand here when the last one is.")
    else:
        st.warning(plain(run.message), icon=BADGES[run.state][1])
        st.write(f"{done} of its cells are whole. The same command goes on from there.")


def show_drift(run: RunEntry, result: Mapping[str, Any]) -> None:
    measures = list(result["cells"][0]["measures"])
    first = result.get("headline")
    measure = st.selectbox("Measure", measures, index=measures.index(first) if first in measures else 0, key="measure")
    chart = drift_chart(result, measure)
    found = collapse_table(result, measure)
    said = "; ".join(", ".join(r.values()) for r in found.records())
    st.altair_chart(chart, width="stretch", alt=f"{measure} by generation: {said}", key="drift")
    show_table(found, run, f"collapse-{measure}")
    for line in threshold_lines(result):
        st.write(plain(line))


def flat(value: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    parts: list[tuple[str, Any]] = []
    for key, part in value.items():
        parts += flat(part, f"{above}{key}.") if isinstance(part, Mapping) and part else [(f"{above}{key}", part)]
    return parts


def shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "—"}[value]
    if isinstance(value, int | float):
        return number(float(value))
    return value if isinstance(value, str) else json.dumps(value)


page("Collapse", show_run)
