"""All forms of a report, from one audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from fairsims.errors import InputError
from fairsims.files import write_json, write_text
from fairsims.report.croissant import as_croissant, pool_of
from fairsims.report.html import as_html, pdf_lacks, write_pdf
from fairsims.report.markdown import as_markdown
from fairsims.report.model_card import as_model_card
from fairsims.report.questions import FILE, write_answers
from fairsims.report.sections import Context, document, read_context
from fairsims.run import relisted

FORMS = {
    "html": "report.html",
    "pdf": "report.pdf",
    "md": "report.md",
    "card": "model_card.md",
    "croissant": "croissant.json",
}
"""Form to file name."""


def write_reports(run: Path, forms: Sequence[str] = ()) -> list[Path]:
    """Write the forms asked for, by default all that can be, and list them in the run's manifest; returns their paths.

    `pdf` is left out where weasyprint or Pango are not installed, `croissant` where the run holds no retargeted pool
    and `card` where nothing was retargeted, unless they are asked for: then it is an InputError, as is a missing or
    broken audit.
    """
    # Drawing imports seaborn, which takes longer than everything else a reader of audits needs.
    from fairsims.report.figures import draw

    unknown = [f for f in forms if f not in FORMS]
    if unknown:
        raise InputError(f"there is no form {unknown[0]!r} of a report; expected {', '.join(FORMS)}")
    context = read_context(run)
    impossible = _impossible(context)
    wanted = list(dict.fromkeys(forms)) or [f for f in FORMS if f not in impossible]
    for form in wanted:
        # What is missing to print is said by whoever tries.
        if form in impossible and form != "pdf":
            raise InputError(f"{run} has {impossible[form]}; leave out --form {form}")
    with relisted(run):
        report = document(context, draw(context))
        write: dict[str, Callable[[Path], None]] = {
            "html": lambda path: write_text(path, as_html(report)),
            "pdf": lambda path: write_pdf(report, path),
            "md": lambda path: write_text(path, as_markdown(report, run)),
            "card": lambda path: write_text(path, as_model_card(report, context)),
            "croissant": lambda path: write_json(path, as_croissant(context)),
        }
        for form in wanted:
            write[form](run / FORMS[form])
        if not (run / FILE).exists():
            write_answers(run, context.answers)
        # Answers are written by hand: what the report now says is what the manifest lists.
        (run / FILE).touch()
    return [run / FORMS[f] for f in wanted]


def unwritten(run: Path) -> list[str]:
    """Why forms are left out of what `write_reports` writes by default, a line each."""
    return [f"no {FORMS[form]}: {why}" for form, why in _impossible(read_context(run)).items()]


def _impossible(context: Context) -> dict[str, str]:
    """Forms that the run cannot have, and why."""
    found = {}
    if (lacks := pdf_lacks()) is not None:
        found["pdf"] = f"it needs {lacks}"
    if context.result.method is None:
        found["card"] = "no retargeted model to write a card of"
    if pool_of(context) is None:
        found["croissant"] = "no pool of a retargeted model to describe"
    return found


def find_run(path: Path) -> Path:
    """The folder of a run from itself, its `audit/` or its `audit.json`. Raises InputError when there is no audit."""
    for folder in (path, path.parent, path.parent.parent):
        if (folder / "audit" / "audit.json").is_file() and path in (
            folder,
            folder / "audit",
            folder / "audit" / "audit.json",
        ):
            return folder
    for made, verb in (("compare.json", "compare"), ("sweep.json", "sweep"), ("collapse.json", "collapse")):
        if (path / made).is_file():
            raise InputError(
                f"{path} is of `fairsims {verb}`, whose own tables and figures are in it; expected the folder of a "
                "retargeting or of `fairsims audit --out`"
            )
    if (path / "status.json").is_file():
        raise InputError(f"{path} has no audit/audit.json yet; run its command again until it is finished")
    raise InputError(
        f"{path} has no audit/audit.json; expected the folder of a finished run or of `fairsims audit --out`"
    )
