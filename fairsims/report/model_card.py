"""The retargeted model's card, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from huggingface_hub import EvalResult, ModelCardData

from fairsims.report import words
from fairsims.report.document import Document
from fairsims.report.fields import object_of
from fairsims.report.markdown import block_lines, plain, section_lines
from fairsims.report.sections import Context
from fairsims.report.view import AuditView

TASK = "unconditional-image-generation"
SECTIONS = (1, 2, 3, 6, 7, 8, 9, 10, 11, 13)
"""Sections of the report that the card repeats."""


def as_model_card(report: Document, context: Context) -> str:
    """YAML metadata and the sections that a user of the model reads, as Markdown.

    What nobody has answered is left out of the metadata and stands as open in the text.
    """
    view, name = context.view, report.run
    data = ModelCardData(
        model_name=name,
        base_model=view.model,
        library_name="fairsims",
        pipeline_tag=TASK,
        tags=["diffusion", "fairness", "SIMS", *(a.name for a in view.targeted)],
        license="other" if context.answers["data.licence"].strip() else None,
        license_name=context.answers["data.licence"].strip()[:100] or None,
        eval_results=list(_results(view)),
    )
    lines = ["---", data.to_yaml(), "---", "", f"# {plain(name)}", ""]
    for r in report.results:
        lines += [f"**{plain(r.line)}**", "", *([plain(r.verdict), ""] if r.verdict else [])]
    lines += [plain(f"{report.summary} {words.LIMIT}"), ""]
    mode = view.section("method").get("mode")
    if mode:
        lines += [
            "## Use",
            "",
            f"The checkpoint is the folder `{mode}` of the run:",
            "",
            "```",
            f"fairsims generate --model {mode} --seeds 0-1023 --out images",
            "```",
            "",
        ]
    for section in report.sections:
        if section.number in SECTIONS:
            lines += [f"## {plain(section.title)}", "", *block_lines(section.blocks, context.run)]
    last = report.sections[-1]
    return "\n".join([*lines, *section_lines(last, context.run)]) + "\n"


def _results(view: AuditView) -> Iterator[EvalResult]:
    """Each share and each quality number of the newest side as the hub's evaluation results."""
    side = view.sides[-1]
    pool = view.section("pools", side)
    n = pool.get("n")
    source = f"{n:,} generated images" if isinstance(n, int) else "generated images"
    result = partial(EvalResult, task_type=TASK, dataset_type="generated")
    for a in view.attributes:
        for c in a.classes:
            share = a.side(side)[c]
            label = f"share perceived as {a.name} {c} {words.interval(share)}".strip()
            yield result(
                dataset_name=source, metric_type="share", metric_name=label, metric_value=round(share.share, 4)
            )
    for section in view.sections:
        reference = str(object_of(section.raw, "reference").get("name") or "reference")
        for q in section.rows:
            value = q.after if side == "after" else q.before
            if value is not None:
                yield result(
                    dataset_name=f"{source} against {reference}",
                    metric_type=q.key,
                    metric_name=f"{section.metric or 'quality'}: {q.name}",
                    metric_value=value,
                )
