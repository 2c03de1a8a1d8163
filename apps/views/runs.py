"""Every run at a glance: what was asked for, what was reached, at which quality, and what is still at work."""

from __future__ import annotations

import time

import streamlit as st

from fairsims.audit.result import AuditResult
from fairsims.dashboard.launch import runs_root
from fairsims.dashboard.runs_index import RunEntry, distance_text, list_runs, pools_of, progress, runs_table
from fairsims.dashboard.widgets import badge, guarded, no_runs, plain
from fairsims.files import read_json
from fairsims.report.collapse_report import loops_headline
from fairsims.report.comparison import comparison_headline
from fairsims.report.measured import target_distance
from fairsims.report.numbers import duration, number
from fairsims.report.prompt_comparison import prompt_comparison_headline
from fairsims.report.prompts import prompts_headline
from fairsims.report.words import headline, short_verdict

PER_PAGE = 20
SEARCH_FROM = 8
REFRESH_SECONDS = 3.0
NEXT = {"pool": "images.py", "collapse": "collapse.py"}


def show_all(root_runs: list[RunEntry], sought: str) -> None:
    found = [r for r in root_runs if sought.lower() in f"{r.name} {r.state} {r.kind}".lower()]
    if not found:
        st.info(f"No run has {plain(sought)} in its name, kind or state. Clear the search to see all.")
    first = 0
    if len(found) > PER_PAGE:
        first = (st.pagination(-(-len(found) // PER_PAGE), key="runs-page") - 1) * PER_PAGE
    for run in found[first : first + PER_PAGE]:
        with st.container(border=True):
            show_row(run)


def show_row(run: RunEntry) -> None:
    left, middle, right = st.columns([3, 4, 2], vertical_alignment="center")
    with left:
        if run.state == "refused":
            st.markdown(f"**{plain(run.name)}**")
        else:
            page = f"views/{NEXT.get(run.kind, 'audit.py')}"
            st.page_link(page, label=f"**{plain(run.name)}**", icon="", query_params={"run": run.name})
        with st.container(horizontal=True, vertical_alignment="center"):
            badge(run)
            st.caption(run.kind)
    with middle:
        if run.audit is not None:
            for a in run.audit.targeted:
                said = short_verdict(a)
                st.write(plain(headline(a)) + (f" · **{plain(said)}**" if said else ""))
        elif run.state == "running":
            show_progress(run)
        elif run.message or run.state != "finished":
            st.write(plain(run.message))
        else:
            with guarded():
                st.write(plain(contents(run)))
        if run.audit is not None and run.message:
            st.caption(plain(run.message))
    with right:
        if run.audit is not None:
            st.caption(plain(quality(run.audit)))
        elif run.updated:
            st.caption(f"changed {duration(max(0.0, time.time() - run.updated))} ago")


def show_progress(run: RunEntry) -> None:
    said = f"{run.stage or 'at work'}{f': {run.message}' if run.message else ''}"
    last = next((r for r in reversed(progress(run.folder)) if isinstance(r.get("loss"), int | float)), None)
    if last is not None:
        seen = last.get("kimg", last.get("nimg", 0) / 1000)
        said += f" · loss {number(float(last['loss']))} after {number(float(seen))} thousand images"
    st.write(plain(said))


def contents(run: RunEntry) -> str:
    if run.kind == "comparison":
        return comparison_headline(read_json(run.folder / "compare.json"))
    if run.kind == "prompts":
        return prompts_headline(read_json(run.folder / "prompts.json"))
    if run.kind == "prompt comparison":
        return prompt_comparison_headline(read_json(run.folder / "prompt-compare.json"))
    if run.kind == "sweep":
        best = read_json(run.folder / "sweep.json")["best"]
        return "a grid of strengths and budgets" + (f"; best {best['quality']['point']}" if "quality" in best else "")
    if run.kind == "collapse":
        return loops_headline(read_json(run.folder / "collapse.json"))
    return {
        "pool": "generated images; look at them under Images",
        "training": "a trained model",
    }.get(run.kind, f"{len(pools_of(run))} pools")


def quality(audit: AuditResult) -> str:
    q = target_distance(audit)
    if q is None:
        return "quality not measured"
    metric = (audit.quality.metric if audit.quality is not None else None) or "FD"
    return f"{metric.split(' (')[0]} {q.name}: {distance_text(q)}"


@st.fragment(run_every=REFRESH_SECONDS)
def live(sought: str) -> None:
    with guarded():
        runs = list_runs(runs_root())
        show_all(runs, sought)
        if not any(r.state == "running" for r in runs):
            st.rerun()


with guarded():
    st.title("Runs", anchor=False)
    root = runs_root()
    if runs := list_runs(root):
        st.caption(f"in {plain(str(root))}; 95% intervals in brackets")
        sought = ""
        if len(runs) >= SEARCH_FROM:
            sought = st.text_input("Search", placeholder="name, kind or state", key="search").strip()
        if any(r.state == "running" for r in runs):
            live(sought)
        else:
            show_all(runs, sought)
        with st.expander("As a table"):
            st.dataframe(runs_table(runs).records(), hide_index=True, key="runs")
    else:
        no_runs(root)
