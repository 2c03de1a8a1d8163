"""One run: how it stands, what changed, at what quality and cost."""

from __future__ import annotations

import shlex
import time
from typing import Any

import streamlit as st

from fairsims.audit.result import AttributeResult, AuditResult
from fairsims.dashboard.charts import CHANGE, calibration_chart, joint_alt, joint_chart, loss_chart, shares_chart
from fairsims.dashboard.experiments import show_comparison, show_figures, show_sweep
from fairsims.dashboard.prompting import show_prompt_comparison, show_prompts
from fairsims.dashboard.runs_index import RunEntry, progress, read_run
from fairsims.dashboard.widgets import BADGES, guarded, page, plain, show_table
from fairsims.report import tables, words
from fairsims.report.measured import cost_numbers, target_distance
from fairsims.report.numbers import duration, fixed, percent, points, short_percent
from fairsims.report.screened import image_notes, images_table
from fairsims.report.words import calibration_alt, grid_alt, shares_alt

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
    elif run.kind == "prompts" and (run.folder / "prompts.json").exists():
        show_prompts(run)
    elif run.kind == "prompt comparison" and (run.folder / "prompt-compare.json").exists():
        show_prompt_comparison(run)
    elif run.kind == "sweep":
        show_sweep(run)
    elif run.state in ("finished", "stopped", "failed") or run.kind == "collapse":
        show_nothing(run)


def show_audit(run: RunEntry, audit: AuditResult) -> None:
    show_result(audit)
    show_grids(run, audit)
    show_shares(run, audit)
    if audit.joint:
        show_joint(run, audit)
    left, right = st.columns(2, gap="large")
    with left:
        show_images(run, audit)
        show_quality(run, audit)
    with right:
        show_cost(run, audit)
    st.caption(words.LIMIT)


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


def show_result(audit: AuditResult) -> None:
    a, two_sided = audit.main, len(audit.sides) == 2
    q, cost = target_distance(audit), cost_numbers(audit.cost)[-1:]
    places = iter(st.columns(1 + bool(a.target) + (q is not None) + len(cost)))
    delta = f"{points(a.difference[a.focus].delta)} points" if a.difference else None
    plainly: dict[str, Any] = {"border": True, "delta_color": "off"}
    next(places).metric(f"{plain(a.focus)} share", percent((a.after or a.before)[a.focus].share), delta, **plainly)
    plainly |= {"delta_arrow": "off"}
    if a.target:
        next(places).metric("Target", short_percent(a.target.get(a.focus)), words.short_verdict(a), **plainly)
    if q is not None:
        change = f"{q.values['after'] - q.values['before']:+.{q.digits}f}" if len(q.values) == 2 else None
        metric = None if audit.quality is None else audit.quality.metric
        next(places).metric(
            "FD to the target mix" if q.key == "fd_target" else "Quality",
            fixed(q.values.get(audit.sides[-1]), q.digits),
            change,
            delta_color="inverse",
            border=True,
            help=plain(f"{metric or 'metric not recorded'}, {q.name}; lower is closer"),
        )
    for row in cost:
        spent = fixed(row.retargeted if two_sided else row.base, row.digits)
        beside = f"{fixed(row.base, row.digits)} by resampling" if two_sided else None
        next(places).metric("Evaluations per kept image", spent, beside, **plainly)
    for t in audit.targeted:
        said = f" · {plain(words.short_verdict(t) or '')}" if len(audit.targeted) > 1 and t.target else ""
        st.write(f"**{plain(words.headline(t))}**{said} · brackets are 95% intervals")
    for kept in audit.preserved:
        st.write(plain(f"{kept.name}: {words.drift_verdict(kept)}"))
    for other in audit.untargeted:
        st.write(plain(f"{other.name}: {words.untargeted_note(other)}"))
    if audit.warnings:
        st.warning("  \n".join(map(plain, audit.warnings)), icon=":material/warning:")


def show_grids(run: RunEntry, audit: AuditResult) -> None:
    st.subheader("Images", anchor=False, divider="gray")
    grids = [(s, p) for s in audit.sides if (p := run.folder / "audit" / f"grid-{s}.png").exists()]
    if not grids:
        st.write("No image grid was written for this run.")
    elif len(grids) == 2 and audit.same_seeds:
        st.caption(words.SAME_SEEDS)
    for column, (side, path) in zip(st.columns(2), grids, strict=False):
        column.write(f"**{words.side_name(side, audit).capitalize()}**")
        with column, guarded():
            st.image(path.read_bytes(), width="stretch", alt=grid_alt(side, audit.model))


def show_shares(run: RunEntry, audit: AuditResult) -> None:
    st.subheader("Shares", anchor=False, divider="gray")
    shown = names = list(audit.attributes)
    if len(names) > 1:
        shown = st.pills(
            "Attributes", names, selection_mode="multi", default=names, format_func=plain, key="attributes"
        )
        if not shown:
            st.info("Choose an attribute above.")
    for name in names:
        if name in shown:
            show_attribute(run, audit, audit.attributes[name])


def show_attribute(run: RunEntry, audit: AuditResult, a: AttributeResult) -> None:
    left, right = st.columns([2, 3], gap="large")
    left.write(f"**{plain(a.name)}**")
    left.altair_chart(shares_chart(a), width="stretch", alt=shares_alt(audit, a), key=f"shares-{a.name}")
    with right:
        show_table(tables.shares_table(a, audit), run, f"shares-{a.name}")
        said = (words.tier_note(a), words.assumption_note(a), words.limits_note(audit, a))
        for note in (*said, *(w for w in a.warnings if w not in audit.warnings)):
            if note:
                st.caption(plain(note))
        if len(a.by_split) > 1:
            show_table(tables.splits_table(a, audit), run)
            st.caption(plain(words.moved_sentence(a, audit.sides) or ""))


def show_joint(run: RunEntry, audit: AuditResult) -> None:
    st.subheader("Joint shares", anchor=False, divider="gray")
    left, right = st.columns(2)
    pairs = {" and ".join(j.attributes): j for j in audit.joint}
    pair = pairs[left.selectbox("Attributes", list(pairs), key="pair")]
    choices: list[str] = list(pair.sides)
    if not choices:
        st.write(plain(pair.missing or "No joint shares were measured."))
        return
    choices += [CHANGE] if len(choices) == 2 else []
    shown = right.segmented_control("Shown", choices, default=choices[0], required=True, key="joint-side") or choices[0]
    st.altair_chart(joint_chart(pair, shown), width="stretch", alt=joint_alt(pair, shown), key="joint")
    st.caption(
        "Lift is a cell's share over the product of its two classes' shares: 1 where the attributes are independent."
    )
    for warning in dict.fromkeys(w for side in pair.sides.values() for w in side.warnings):
        st.caption(plain(warning))
    with st.expander("As a table"):
        show_table(tables.joint_table(pair, audit), run, "joint")


def show_quality(run: RunEntry, audit: AuditResult) -> None:
    st.subheader("Quality", anchor=False, divider="gray")
    if not audit.sections:
        st.write("Quality was not measured.")
    for k, section in enumerate(audit.sections):
        show_table(tables.quality_table(section, audit), run, f"quality-{k + 1}")
    if sentence := words.neighbours_sentence(audit):
        st.caption(plain(sentence))
    if audit.calibration:
        st.subheader("Calibration", anchor=False, divider="gray")
        st.altair_chart(calibration_chart(audit), width="stretch", alt=calibration_alt(audit), key="calibration")


def show_images(run: RunEntry, audit: AuditResult) -> None:
    if (images := images_table(audit)) is None:
        return
    st.subheader("Images", anchor=False, divider="gray")
    show_table(images, run, "images")
    for line in image_notes(audit):
        st.caption(plain(line))


def show_cost(run: RunEntry, audit: AuditResult) -> None:
    st.subheader("Cost", anchor=False, divider="gray")
    if cost_numbers(audit.cost):
        show_table(tables.cost_table(audit), run)
        if said := words.resampling_note(audit):
            st.caption(said)
    else:
        st.write("Cost was not recorded.")
    if stages := tables.stages_table(audit):
        show_table(stages, run, "stages")


page("Audit", show_run)
