"""One run: how it stands, what changed, at what quality and cost."""

from __future__ import annotations

import time

import streamlit as st

from fairsims.report import write_report
from fairsims.report.alternatives import calibration_alt, grid_alt, shares_alt
from fairsims.report.charts import calibration_chart, loss_chart, shares_chart
from fairsims.report.dashboard import runs_root
from fairsims.report.runs_index import RunEntry, list_runs, progress, read_run
from fairsims.report.tables import cost_table, quality_table, shares_table, splits_table, stages_table
from fairsims.report.view import QUALITY_NAMES, AuditView
from fairsims.report.widgets import guarded, no_runs, plain, table
from fairsims.report.words import (
    LIMIT,
    drift_verdict,
    duration,
    fixed,
    headline,
    moved_sentence,
    percent,
    points,
    short_percent,
    short_verdict,
    side_name,
)

BADGES = {
    "running": ("blue", ":material/progress_activity:"),
    "finished": ("green", ":material/check:"),
    "failed": ("red", ":material/error:"),
    "broken": ("orange", ":material/warning:"),
}
# After this long without a change, a run that says it is running has probably been stopped.
QUIET_SECONDS = 600


def show_run(run: RunEntry) -> None:
    color, icon = BADGES[run.state]
    st.title(plain(run.name), anchor=False)
    st.badge(run.state, color=color, icon=icon)
    if run.state == "running":
        show_progress(run)
    elif run.state != "finished":
        st.error(plain(run.message or f"stopped in stage {run.stage}"), icon=icon)
    if run.state == "failed":
        st.write("The same command resumes it after the last finished stage.")
    if run.audit is not None:
        show_result(run.audit)
        show_images(run, run.audit)
        show_shares(run.audit)
        left, right = st.columns(2, gap="large")
        with left:
            show_quality(run.audit)
        with right:
            show_cost(run.audit)
        st.caption(LIMIT)


@st.fragment(run_every=2.0)
def show_progress(run: RunEntry) -> None:
    """What a running run is doing now; when it ends, the whole page is drawn again."""
    with guarded():
        run = read_run(run.folder)
        if run.state != "running":
            st.rerun()
        quiet = max(0.0, time.time() - run.updated)
        left, right = st.columns(2)
        left.metric("Stage", plain(run.stage) or "starting", border=True)
        right.metric("Last sign of life", f"{duration(quiet)} ago", border=True)
        if run.message:
            st.write(plain(run.message))
        if quiet > QUIET_SECONDS:
            st.warning("Nothing has changed for a while. If the run was stopped, the same command resumes it.")
        if (chart := loss_chart(progress(run.folder))) is not None:
            st.altair_chart(chart, width="stretch", alt="Training loss against images seen", key="loss")


def show_result(audit: AuditView) -> None:
    a, two_sided = audit.main, len(audit.sides) == 2
    share, target, quality, cost = st.columns(4)
    delta = f"{points(a.difference[a.focus].share)} points" if a.difference else None
    share.metric(
        f"{plain(a.focus)} share", percent((a.after or a.before)[a.focus].share), delta, delta_color="off", border=True
    )
    if a.target:
        target.metric(
            "Target",
            short_percent(a.target[a.focus]),
            short_verdict(a),
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
    for q in [q for q in audit.quality if q.name in QUALITY_NAMES.values()][-1:]:
        change = (
            f"{q.after - q.before:+.{audit.quality_digits}f}" if q.after is not None and q.before is not None else None
        )
        quality.metric(
            "FD to the target mix" if "target" in q.name else "Quality",
            fixed(q.after if two_sided else q.before, audit.quality_digits),
            change,
            delta_color="inverse",
            border=True,
            help=plain(f"{audit.metric}, {q.name}; lower is closer"),
        )
    for row in audit.cost[-1:]:
        cost.metric(
            "Evaluations per kept image",
            fixed(row.retargeted if two_sided else row.base, row.digits),
            f"{fixed(row.base, row.digits)} by resampling" if two_sided else None,
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
    for t in audit.targeted:
        said = f" · {plain(short_verdict(t) or '')}" if len(audit.targeted) > 1 and t.target else ""
        st.write(f"**{plain(headline(t))}**{said} · brackets are 95% intervals")
    for held in audit.held:
        st.write(plain(f"{held.name}: {drift_verdict(held)}"))
    for warning in audit.warnings:
        st.warning(plain(warning), icon=":material/warning:")


def show_images(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Images", anchor=False, divider="gray")
    grids = [(s, p) for s in audit.sides if (p := run.folder / "audit" / f"grid-{s}.png").exists()]
    if not grids:
        st.write("No image grid was written for this run.")
    elif len(grids) == 2:
        st.caption("Both grids come from the same seeds, in the same order.")
    for column, (side, path) in zip(st.columns(2), grids, strict=False):
        column.write(f"**{side_name(side, audit).capitalize()}**")
        column.image(path.read_bytes(), width="stretch", alt=grid_alt(side, audit.model))


def show_shares(audit: AuditView) -> None:
    st.subheader("Shares", anchor=False, divider="gray")
    for a in audit.attributes:
        left, right = st.columns([2, 3], gap="large")
        left.write(f"**{plain(a.name)}**")
        left.altair_chart(shares_chart(a), width="stretch", alt=shares_alt(audit), key=f"shares-{a.name}")
        with right:
            table(shares_table(audit, a))
        if len(a.by_split) > 1:
            with right:
                table(splits_table(audit, a))
                st.caption(plain(moved_sentence(a, audit.sides) or ""))


def show_quality(audit: AuditView) -> None:
    st.subheader("Quality", anchor=False, divider="gray")
    if audit.quality:
        st.caption(plain(f"{audit.metric or 'metric not recorded'}; reference {audit.reference or 'not recorded'}"))
        table(quality_table(audit))
    else:
        st.write("Quality was not measured.")
    if audit.calibration:
        st.subheader("Calibration", anchor=False, divider="gray")
        st.altair_chart(calibration_chart(audit), width="stretch", alt=calibration_alt(audit), key="calibration")


def show_cost(audit: AuditView) -> None:
    st.subheader("Cost", anchor=False, divider="gray")
    if audit.cost:
        table(cost_table(audit))
    if audit.stages:
        table(stages_table(audit))
    if audit.seconds is not None:
        st.write(f"Whole run: **{duration(audit.seconds)}**")


def offer_files(run: RunEntry) -> None:
    report = run.folder / "report.html"
    if not report.exists() and st.button("Write the report", key="write-report", icon=":material/description:"):
        write_report(run.folder)
    for path, mime in ((report, "text/html"), (run.folder / "audit" / "audit.json", "application/json")):
        if path.exists():
            st.download_button(
                path.name,
                path.read_bytes(),
                f"{run.name}-{path.name}",
                mime,
                key=f"download-{path.name}",
                icon=":material/download:",
                on_click="ignore",
                width="stretch",
            )


with guarded():
    root = runs_root()
    runs = {r.name: r for r in list_runs(root)}
    if runs:
        with st.sidebar:
            name = st.selectbox("Run", list(runs), format_func=lambda n: f"{n} · {runs[n].state}", key="run")
            st.caption(f"in {plain(str(root))}")
            if runs[name].audit is not None:
                with guarded():
                    offer_files(runs[name])
        show_run(runs[name])
    else:
        st.title("fairsims", anchor=False)
        no_runs(root)
