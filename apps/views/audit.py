"""One run: how it stands, what changed, at what quality and cost."""

from __future__ import annotations

import shlex
import time

import streamlit as st

from fairsims.dashboard.charts import calibration_chart, loss_chart, shares_chart
from fairsims.dashboard.experiments import show_comparison, show_figures, show_sweep
from fairsims.dashboard.joint_chart import joint_alt, joint_chart, joint_rows
from fairsims.dashboard.runs_index import RunEntry, progress, read_run
from fairsims.dashboard.tables import cost_table, quality_table, shares_table, splits_table, stages_table
from fairsims.dashboard.widgets import BADGES, csv_button, guarded, picked_run, plain, table
from fairsims.report.alternatives import calibration_alt, grid_alt, shares_alt
from fairsims.report.quality_view import QUALITY_NAMES
from fairsims.report.view import AttributeView, AuditView
from fairsims.report.words import (
    LIMIT,
    assumption_note,
    drift_verdict,
    duration,
    fixed,
    headline,
    moved_sentence,
    neighbours_sentence,
    percent,
    points,
    short_percent,
    short_verdict,
    side_name,
    tier_note,
)

# After this long without a change, a run that says it is running has probably been stopped.
QUIET_SECONDS = 600


def show_run(run: RunEntry) -> None:
    if run.state == "running":
        show_progress(run)
    elif run.state == "stopped":
        where = f" in stage {run.stage}" if run.stage else ""
        st.warning(plain(f"Stopped{where}: {run.message}."), icon=BADGES[run.state][1])
    elif run.state != "finished":
        st.error(plain(run.message or f"stopped in stage {run.stage}"), icon=BADGES[run.state][1])
    if run.state == "failed":
        st.write("The same command resumes it after the last finished stage.")
    if run.audit is not None:
        show_audit(run, run.audit)
    elif run.kind == "comparison" and (run.folder / "compare.json").exists():
        show_comparison(run)
    elif run.kind == "sweep":
        show_sweep(run)
    elif run.state in ("finished", "stopped", "failed") or run.kind == "collapse":
        show_nothing(run)


def show_audit(run: RunEntry, audit: AuditView) -> None:
    show_result(audit)
    show_grids(run, audit)
    show_shares(run, audit)
    if audit.joint:
        show_joint(run, audit)
    left, right = st.columns(2, gap="large")
    with left:
        show_quality(run, audit)
    with right:
        show_cost(run, audit)
    st.caption(LIMIT)


def show_nothing(run: RunEntry) -> None:
    """What there is to see of a run that has no audit, and what to do with it."""
    if run.kind == "collapse":
        st.info("A self-consuming loop has no audit; its drift is on a page of its own.")
        st.page_link(
            "views/collapse.py", label="Show the loop", icon=":material/arrow_forward:", query_params={"run": run.name}
        )
        return
    show_figures(run, {"samples.png": "Samples of the trained model", "loss.png": "Training loss against images seen"})
    if (chart := loss_chart(progress(run.folder))) is not None:
        st.altair_chart(chart, width="stretch", alt="Training loss against images seen", key="loss-done")
    if run.kind == "pool":
        st.info("These images have no audit yet. Measure the shares of a class among them with:")
        command = f"fairsims audit --before {shlex.quote(str(run.folder))} --attr gender --out "
        st.code(command + shlex.quote(f"{run.folder}-audit"), language="bash", wrap_lines=True)
        st.page_link(
            "views/images.py",
            label="Look at the images",
            icon=":material/arrow_forward:",
            query_params={"run": run.name},
        )


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
    distances = [q for q in audit.quality if q.key in QUALITY_NAMES][-1:]
    places = iter(st.columns(1 + bool(a.target) + len(distances) + len(audit.cost[-1:])))
    delta = f"{points(a.difference[a.focus].share)} points" if a.difference else None
    next(places).metric(
        f"{plain(a.focus)} share", percent((a.after or a.before)[a.focus].share), delta, delta_color="off", border=True
    )
    if a.target:
        next(places).metric(
            "Target",
            short_percent(a.target[a.focus]),
            short_verdict(a),
            delta_color="off",
            delta_arrow="off",
            border=True,
        )
    for q in distances:
        change = f"{q.after - q.before:+.{q.digits}f}" if q.after is not None and q.before is not None else None
        next(places).metric(
            "FD to the target mix" if "target" in q.name else "Quality",
            fixed(q.after if two_sided else q.before, q.digits),
            change,
            delta_color="inverse",
            border=True,
            help=plain(f"{audit.metric}, {q.name}; lower is closer"),
        )
    for row in audit.cost[-1:]:
        next(places).metric(
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
    if audit.warnings:
        st.warning("  \n".join(map(plain, audit.warnings)), icon=":material/warning:")


def show_grids(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Images", anchor=False, divider="gray")
    grids = [(s, p) for s in audit.sides if (p := run.folder / "audit" / f"grid-{s}.png").exists()]
    if not grids:
        st.write("No image grid was written for this run.")
    elif len(grids) == 2 and audit.same_seeds:
        st.caption("Both grids come from the same seeds, in the same order.")
    for column, (side, path) in zip(st.columns(2), grids, strict=False):
        column.write(f"**{side_name(side, audit).capitalize()}**")
        with column, guarded():
            st.image(path.read_bytes(), width="stretch", alt=grid_alt(side, audit.model))


def show_shares(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Shares", anchor=False, divider="gray")
    names = [a.name for a in audit.attributes]
    shown = names
    if len(names) > 1:
        shown = st.pills(
            "Attributes", names, selection_mode="multi", default=names, format_func=plain, key="attributes"
        )
        if not shown:
            st.info("Choose an attribute above.")
    for a in [a for a in audit.attributes if a.name in shown]:
        show_attribute(run, audit, a)


def show_attribute(run: RunEntry, audit: AuditView, a: AttributeView) -> None:
    left, right = st.columns([2, 3], gap="large")
    left.write(f"**{plain(a.name)}**")
    left.altair_chart(shares_chart(a), width="stretch", alt=shares_alt(audit), key=f"shares-{a.name}")
    with right:
        rows = shares_table(audit, a)
        table(rows)
        csv_button(rows, f"shares-{a.name}", run)
        for note in (tier_note(a), assumption_note(a), *(w for w in a.warnings if w not in audit.warnings)):
            if note:
                st.caption(plain(note))
        if len(a.by_split) > 1:
            table(splits_table(audit, a))
            st.caption(plain(moved_sentence(a, audit.sides) or ""))


def show_joint(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Joint shares", anchor=False, divider="gray")
    left, right = st.columns(2)
    pairs = {" and ".join(j.attributes): j for j in audit.joint}
    joint = pairs[left.selectbox("Attributes", list(pairs), key="pair")]
    sides = [s for s in ("before", "after") if joint.cells.get(s)]
    if not sides:
        st.write(plain(joint.missing or "No joint shares were measured."))
        return
    choices = [*sides, "change"] if len(sides) == 2 else sides
    shown = right.segmented_control("Shown", choices, default=choices[0], required=True, key="joint-side")
    chart = joint_chart(joint, shown or choices[0])
    st.altair_chart(chart, width="stretch", alt=joint_alt(joint, shown or choices[0]), key="joint")
    st.caption(
        "Lift is a cell's share over the product of its two classes' shares: 1 where the attributes are independent."
    )
    for warning in joint.warnings:
        st.caption(plain(warning))
    first, second = joint.attributes
    rows = [
        {first: str(r["row"]), second: str(r["column"])} | {k: str(r[k]) for k in ("before", "after", "lift")}
        for r in joint_rows(joint, sides[-1])
    ]
    with st.expander("As a table"):
        table(rows)
        csv_button(rows, "joint", run)


def show_quality(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Quality", anchor=False, divider="gray")
    if not audit.sections:
        st.write("Quality was not measured.")
    for k, section in enumerate(audit.sections):
        said = f"{section.metric or 'metric not recorded'}; reference {section.reference or 'not recorded'}"
        st.caption(plain(said))
        rows = quality_table(audit, section)
        table(rows)
        csv_button(rows, f"quality-{k + 1}", run)
    if sentence := neighbours_sentence(audit):
        st.caption(plain(sentence))
    if audit.calibration:
        st.subheader("Calibration", anchor=False, divider="gray")
        st.altair_chart(calibration_chart(audit), width="stretch", alt=calibration_alt(audit), key="calibration")


def show_cost(run: RunEntry, audit: AuditView) -> None:
    st.subheader("Cost", anchor=False, divider="gray")
    if audit.cost:
        table(cost_table(audit))
    if audit.stages:
        rows = stages_table(audit)
        table(rows)
        csv_button(rows, "stages", run)
    if audit.seconds is not None:
        st.write(f"Whole run: **{duration(audit.seconds)}**")


with guarded():
    if (run := picked_run("Audit")) is not None:
        show_run(run)
