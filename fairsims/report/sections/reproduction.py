"""Section 15: what it takes to do all of this again."""

from __future__ import annotations

import json
from collections.abc import Iterator

from fairsims.files import sha256_file
from fairsims.report import words
from fairsims.report.document import Block, Code, Facts
from fairsims.report.fields import object_of
from fairsims.report.sections.context import Context
from fairsims.report.sections.values import value_text
from fairsims.report.view import AuditView


def reproduction(context: Context) -> Iterator[Block]:
    """Commands, digests, seeds, versions, settings."""
    digest = ("audit/audit.json", f"SHA-256 {sha256_file(context.audit / 'audit.json')}")
    yield Facts(rows=(*_facts(context.view), digest), mono=True)
    if context.config is not None:
        settings = json.dumps(dict(context.config), indent=2, ensure_ascii=False)
        yield Code(text=settings, summary="All settings (config.json)")
    elif context.view.section("settings"):
        settings = json.dumps(dict(context.view.section("settings")), indent=2, ensure_ascii=False)
        yield Code(text=settings, summary="All settings of the audit")


def _facts(view: AuditView) -> Iterator[tuple[str, str]]:
    raw = view.raw
    for label, key in (("command", "command"), ("model", "model")):
        if raw.get(key):
            yield label, str(raw[key])
    for side in view.sides:
        pool, name = view.section("pools", side), words.side_name(side, view)
        if pool:
            n = f"{value_text(pool['n'])} images" if pool.get("n") is not None else ""
            source = "" if pool.get("kind") != "images" else str(pool.get("name"))
            seeds = f"seeds {words.seeds(pool['seeds'])}" if pool.get("seeds") else ""
            yield f"{name}: images", ", ".join(p for p in (source, n, seeds) if p)
            if pool.get("digest"):
                yield f"{name}: digest", str(pool["digest"])
            if pool.get("checkpoint"):
                yield f"{name}: checkpoint", f"{pool['checkpoint']}"
    several = [view.section("classifiers", name) for name in view.section("classifiers")]
    reference = view.section("quality", "reference")
    sources = [*(("classifier", c) for c in several or [view.section("classifier")]), ("reference images", reference)]
    for label, named in sources:
        if named.get("name") is not None:
            yield label, f"{named['name']}  {named.get('digest') or ''}".strip()
    for a in view.attributes:
        for side, given in view.section("attributes", a.name, "labels").items():
            yield f"{words.side_name(side, view)}: labels of {a.name}", f"{given['file']}  {given['digest']}"
    for section in view.sections:
        extractor = object_of(section.raw, "extractor")
        if extractor:
            yield "features", f"{extractor.get('name')}  {extractor.get('weights_digest') or ''}".strip()
    if raw.get("fairsims"):
        yield "fairsims", str(raw["fairsims"])
    for name in view.section("versions"):
        yield name, str(view.section("versions")[name])
    if view.section("cost").get("peak_memory_gb") is not None:
        yield "peak memory", f"{value_text(view.section('cost')['peak_memory_gb'])} GB"
