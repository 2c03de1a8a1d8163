"""The retargeted model's card, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from huggingface_hub import EvalResult, ModelCardData

from fairsims.audit.result import AuditResult
from fairsims.report import words
from fairsims.report.document import Document
from fairsims.report.markdown import block_lines, plain, section_lines
from fairsims.report.measured import quality_numbers
from fairsims.report.numbers import interval
from fairsims.report.sections import Context

TASK = "unconditional-image-generation"
SECTIONS = (
    "system",
    "data",
    "attributes",
    "representation",
    "quality",
    "side-effects",
    "mitigation",
    "limits",
    "oversight",
    "marking",
)
"""Ids of the report's sections that the card repeats."""


def as_model_card(report: Document, context: Context) -> str:
    """YAML metadata and the sections that a user of the model reads, as Markdown.

    What nobody has answered is left out of the metadata and stands as open in the text.
    """
    result, name = context.result, report.run
    data = ModelCardData(
        model_name=name,
        base_model=result.model,
        library_name="fairsims",
        pipeline_tag=TASK,
        tags=["diffusion", "fairness", "SIMS", *(a.name for a in result.targeted)],
        license="other" if context.answers["data.licence"].strip() else None,
        license_name=context.answers["data.licence"].strip()[:100] or None,
        eval_results=list(_results(result)),
    )
    lines = ["---", data.to_yaml(), "---", "", f"# {plain(name)}", ""]
    for r in report.results:
        lines += [f"**{plain(r.line)}**", "", *([plain(r.verdict), ""] if r.verdict else [])]
    lines += [plain(f"{report.summary} {words.LIMIT}"), ""]
    if result.method is not None and (mode := result.method.mode):
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
        if section.id in SECTIONS:
            lines += [f"## {plain(section.title)}", "", *block_lines(section.blocks, context.run)]
    last = report.sections[-1]
    return "\n".join([*lines, *section_lines(last, context.run)]) + "\n"


def _results(result: AuditResult) -> Iterator[EvalResult]:
    """Each share and each quality number of the newest side as the hub's evaluation results."""
    side = result.sides[-1]
    pool = result.pools.get(side)
    source = "generated images" if pool is None or pool.n is None else f"{pool.n:,} generated images"
    found = partial(EvalResult, task_type=TASK, dataset_type="generated")
    for a in result.attributes.values():
        for c in a.classes if a.side(side) else ():
            share = a.side(side)[c]
            label = f"share perceived as {a.name} {c} {interval(share)}".strip()
            yield found(dataset_name=source, metric_type="share", metric_name=label, metric_value=round(share.share, 4))
    for section in result.sections:
        reference = (section.reference and section.reference.name) or "reference"
        for q in quality_numbers(section):
            if side in q.values:
                yield found(
                    dataset_name=f"{source} against {reference}",
                    metric_type=q.key,
                    metric_name=f"{section.metric or 'quality'}: {q.name}",
                    metric_value=q.values[side],
                )
