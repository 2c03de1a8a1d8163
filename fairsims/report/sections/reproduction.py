"""What it takes to do all of this again."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fairsims.audit.result import AuditResult
from fairsims.files import sha256_file
from fairsims.report import tables
from fairsims.report.document import Block, Code, Facts
from fairsims.report.numbers import seeds, value_text
from fairsims.report.sections.context import Context
from fairsims.report.words import side_name


def reproduction(context: Context) -> Iterator[Block]:
    """Commands, digests, seeds, versions, settings."""
    digest = ("audit/audit.json", f"SHA-256 {sha256_file(context.audit / 'audit.json')}")
    yield Facts(rows=(*_facts(context.result), digest), mono=True)
    settings, said = context.config, "All settings (config.json)"
    if not settings:
        settings, said = context.result.settings, "All settings of the audit"
    if settings:
        yield Code(text=json.dumps(dict(settings), indent=2, ensure_ascii=False), summary=said)


def _facts(result: AuditResult) -> Iterator[tuple[str, str]]:
    for label, said in (("command", result.command), ("model", result.model)):
        if said:
            yield label, said
    for side in result.sides:
        pool, name = result.pools.get(side), side_name(side, result)
        if pool is None:
            continue
        source = str(pool.name) if pool.kind == "images" else ""
        n = "" if pool.n is None else f"{value_text(pool.n)} images"
        of = f"seeds {seeds(pool.seeds)}" if pool.seeds else ""
        yield f"{name}: images", ", ".join(p for p in (source, n, of) if p)
        if pool.digest:
            yield f"{name}: digest", pool.digest
        if pool.checkpoint:
            yield f"{name}: checkpoint", pool.checkpoint
    for classifier in tables.classifiers_of(result):
        if classifier.name is not None:
            yield "classifier", f"{classifier.name}  {classifier.digest or ''}".strip()
    reference = None if result.quality is None else result.quality.reference
    if reference is not None and reference.name is not None:
        yield "reference images", f"{reference.name}  {reference.digest or ''}".strip()
    for a in result.attributes.values():
        for labelled, given in a.labels.items():
            yield f"{side_name(labelled, result)}: labels of {a.name}", f"{given.file}  {given.digest}"
    for section in result.sections:
        if section.extractor is not None:
            yield "features", f"{section.extractor.name}  {section.extractor.weights_digest or ''}".strip()
    if result.fairsims:
        yield "fairsims", result.fairsims
    yield from result.versions.items()
    if result.cost is not None and result.cost.peak_memory_gb is not None:
        yield "peak memory", f"{value_text(result.cost.peak_memory_gb)} GB"
