"""The report: what it says, the questions that are open, the files, and whether they are as they were signed."""

from __future__ import annotations

import html
import io
import tempfile
import zipfile
from itertools import groupby
from pathlib import Path

import streamlit as st

from fairsims.dashboard.experiments import offer
from fairsims.dashboard.runs_index import RunEntry
from fairsims.dashboard.widgets import download, guarded, page, plain
from fairsims.report.forms import FORMS, write_reports
from fairsims.report.html import pdf_lacks
from fairsims.report.questions import FILE, QUESTIONS, open_ids, read_answers, write_answers
from fairsims.report.signing import problems, read_public_key, verify
from fairsims.run import PLAN, SIGNATURE, relisted

FILES = (*FORMS.values(), FILE, PLAN, "audit/audit.json", "manifest.json", SIGNATURE)
OTHERS = {
    "comparison": ("compare.md", "compare.png", "compare.json", "compare.parquet"),
    "prompts": ("report.html", "report.md", "prompts.png", "prompts.json"),
    "prompt comparison": ("report.html", "report.md", "prompt-compare.png", "prompt-compare.json"),
    "sweep": ("quality.png", "share.png", "sweep.json", "sweep.parquet"),
    "collapse": ("report.md", "drift.png", "collapse.json", "collapse.parquet"),
}
"""What runs without an audit are made into."""
HEIGHT = 720
# A page larger than this is offered for download only.
MOST_BYTES = 40_000_000
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:"


def show_run(run: RunEntry) -> None:
    if run.audit is None:
        show_others(run)
        return
    preview, questions, files, check = st.tabs(["Preview", "Open questions", "Files", "Verify"])
    with preview, guarded():
        show_preview(run)
    with questions, guarded():
        ask_questions(run)
    with files, guarded():
        offer_files(run)
    with check, guarded():
        show_verdict(run)


def show_others(run: RunEntry) -> None:
    """What there is instead, of runs that no report is made of."""
    if run.kind not in OTHERS:
        st.info("There is no audit to report on yet. A finished run has one; `fairsims audit` makes one of any images.")
    elif run.state != "finished":
        st.info("This run is not finished. What it has found is written into files when it is.")
    else:
        st.info("No audit was made here to report on. What was found is in these files:")
        offer(run, *OTHERS[run.kind])


def show_preview(run: RunEntry) -> None:
    path = run.folder / "report.html"
    if not path.exists():
        st.info("No report is written yet.")
        write_again(run, "Write the report", "preview-write")
        return
    if path.stat().st_size > MOST_BYTES:
        st.info("The report is too large to be shown here. Download it under Files.")
        return
    st.iframe(boxed(path.read_text(encoding="utf-8", errors="replace")), height=HEIGHT, alt="The report")


def boxed(page: str) -> str:
    """A page inside a frame that runs nothing, sends nothing and cannot reach the dashboard, whatever it holds."""
    return (
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        "<style>html, body {margin: 0; height: 100%}"
        " iframe {border: 0; width: 100%; height: 100%; background: white}</style>"
        f'<iframe sandbox="" title="The report" srcdoc="{html.escape(page)}"></iframe>'
    )


def write_again(run: RunEntry, label: str, key: str) -> None:
    signed = (run.folder / SIGNATURE).exists()
    if signed:
        st.caption("This run is signed: a new report does not fit its signature. Sign it again afterwards.")
    if st.button(label, key=key, icon=":material/description:", type="secondary" if signed else "primary"):
        with guarded():
            with st.spinner("Writing all forms of the report"):
                write_reports(run.folder)
            st.rerun()


def ask_questions(run: RunEntry) -> None:
    values = read_answers(run.folder)
    still = open_ids(values)
    st.write(
        f"What no tool can know. **{len(still)} of {len(QUESTIONS)} are open**; the report lists open ones as open. "
        f"Answers are kept in `{FILE}`."
    )
    with st.form("questions", border=False):
        answers = {}
        for section, fields in groupby(QUESTIONS, key=lambda f: f.under):
            members = list(fields)
            missing = sum(f.id in still for f in members)
            with st.expander(f"{section} · {f'{missing} open' if missing else 'answered'}", expanded=False):
                for f in members:
                    answers[f.id] = st.text_area(
                        f.question, values[f.id], height=68, help=f.why, key=f"{run.name} {f.id}"
                    )
        saved = st.form_submit_button("Save answers", type="primary", icon=":material/save:")
    if saved:
        with relisted(run.folder):
            write_answers(run.folder, answers)
        st.toast("Answers are saved. Write the report again to have them in it.", icon=":material/check:")
        st.rerun()


def offer_files(run: RunEntry) -> None:
    write_again(
        run, "Write the report again" if (run.folder / "report.html").exists() else "Write the report", "write-report"
    )
    if not (run.folder / "report.pdf").exists() and (lacks := pdf_lacks()) is not None:
        st.caption(plain(f"No PDF is written here: it needs {lacks}."))
    there = [run.folder / name for name in FILES if (run.folder / name).is_file()]
    tables = sorted(p for ext in ("csv", "parquet", "png") for p in (run.folder / "audit").glob(f"*.{ext}"))
    left, right = st.columns(2, gap="large")
    with left:
        st.caption("Report")
        for path in there:
            download(path, run)
    with right:
        st.caption("Tables and figures")
        for path in tables:
            download(path, run)
    if there:
        st.download_button(
            "All of them in one file",
            lambda: packed(run.folder, [*there, *tables]),
            f"{run.folder.name}-report.zip",
            "application/zip",
            key="download-all",
            icon=":material/folder_zip:",
            on_click="ignore",
        )


def packed(folder: Path, files: list[Path]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        for path in files:
            z.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def show_verdict(run: RunEntry) -> None:
    st.write("Whether each file is what it was when the run was finished or signed.")
    given = st.file_uploader(
        "Public key (optional)",
        type=["pub", "pem"],
        key="public-key",
        help="Without it the key inside the run is used: the files then belong together, but anybody may have signed.",
    )
    if not st.button("Verify", key="verify", type="primary", icon=":material/verified_user:"):
        return
    with tempfile.NamedTemporaryFile(suffix=".pub") as file:
        if given is not None:
            file.write(given.getvalue())
            file.flush()
        verdict = verify(run.folder, read_public_key(Path(file.name)) if given is not None else None)
    if not verdict.signed:
        st.warning(
            "This run is not signed: anybody could have changed files and manifest together. `fairsims sign` signs it."
        )
    elif verdict.problem is None:
        who = "the key you gave" if verdict.trusted else "the key that lies in the run, which anybody could have made"
        st.write(f"Signed with {who}:")
        st.code(verdict.key, language=None, wrap_lines=True)
    if verdict.intact:
        st.success(f"All {verdict.files} files are what they were.", icon=":material/check:")
    else:
        found = problems(verdict)
        st.error(f"{len(found)} things are not as they were.", icon=":material/error:")
        for line in found[:50]:
            st.write(plain(line))
        if len(found) > 50:
            st.caption(f"and {len(found) - 50} more; `fairsims verify` names all")


page("Report", show_run)
