"""Which rule asks for which part of a report, and whether the report holds it.

Rules as third parties read them in 2026 (AI Act consolidated on 27 July 2026); ISO titles only, their texts were not
seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fairsims.report.view import AuditView

PRESENT, PARTIAL, YOURS, ABSENT, UNSEEN = "present", "partial", "you must supply it", "not measured", "not verified"


@dataclass(frozen=True, kw_only=True)
class Clause:
    """One demand of one rule."""

    rule: str
    asks: str
    sections: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    """Parts of the audit: keys of `_HAS`."""
    questions: tuple[str, ...] = ()
    """Ids of open fields."""
    files: tuple[str, ...] = ()

    def status(self, view: AuditView, answers: Mapping[str, str], run: Path) -> str:
        """One of the words above."""
        if not self.needs and not self.questions:
            return UNSEEN
        parts = [_has(n, view, run) for n in self.needs] + [bool(answers[q].strip()) for q in self.questions]
        if all(parts):
            return PRESENT
        if any(parts):
            return PARTIAL
        return YOURS if self.questions else ABSENT


def _has(part: str, view: AuditView, run: Path) -> bool:
    found = {
        "model": bool(view.model),
        "shares": True,
        "target": any(a.target for a in view.attributes),
        "groups": any(s.groups for s in view.sections),
        "joint": bool(view.joint),
        "errors": any(a.by_split or "A" in a.tier.values() for a in view.attributes),
        "quality": bool(view.sections),
        "nearest": any("nearest" in q.key or q.key == "auth_pct" for q in view.quality),
        "mitigation": bool(view.section("method")),
        "ratio": view.section("method").get("complement_size") is not None,
        "plan": (run / "plan.json").exists() and bool(view.section("plan")),
        "settings": (run / "config.json").exists() or bool(view.section("settings")),
        "both sides": len(view.sides) == 2,
    }
    return found[part]


CLAUSES = (
    Clause(
        rule="AI Act, Annex IV 1, 2(a)–(b)",
        asks="what the system is for and how it was designed",
        sections=(1,),
        needs=("model",),
        questions=("purpose.intended", "purpose.affected_groups"),
    ),
    Clause(
        rule="AI Act, Art. 10(2)(b)–(e), Annex IV 2(d)",
        asks="origin, purpose, preparation and labelling of data",
        sections=(2,),
        questions=("data.origin", "data.licence", "data.labelling"),
        files=("croissant.json",),
    ),
    Clause(
        rule="AI Act, Art. 4a; GDPR, Art. 9",
        asks="conditions and records, where special categories of data serve to find and correct bias",
        sections=(3,),
        questions=("attributes.legal_basis",),
    ),
    Clause(
        rule="AI Act, Art. 10(4)",
        asks="the setting that the system is used in",
        sections=(1, 3),
        questions=("purpose.affected_groups", "attributes.taxonomy"),
    ),
    Clause(
        rule="AI Act, Art. 9(8)",
        asks="metrics and thresholds set before the test",
        sections=(5,),
        needs=("plan",),
        files=("plan.json",),
    ),
    Clause(
        rule="AI Act, Art. 10(2)(f)",
        asks="examination of possible bias",
        sections=(6, 9),
        needs=("shares", "errors"),
        files=("audit/audit.json",),
    ),
    Clause(
        rule="AI Act, Art. 10(2)(g)",
        asks="measures against the bias found",
        sections=(9,),
        needs=("mitigation", "both sides"),
        files=("config.json",),
    ),
    Clause(
        rule="AI Act, Art. 10(2)(h)",
        asks="gaps of the data, and how they are dealt with",
        sections=(2, 9),
        questions=("data.gaps", "residual.gaps", "residual.owner", "residual.due"),
    ),
    Clause(
        rule="AI Act, Art. 13(3)(b)(v), Annex IV 3",
        asks="performance for each group",
        sections=(6, 7),
        needs=("shares", "groups"),
        files=("audit/shares.parquet",),
    ),
    Clause(
        rule="AI Act, Annex IV 2(g)",
        asks="test reports, dated and signed by those responsible",
        sections=(0, 4, 15),
        needs=("errors", "settings"),
        questions=("report.prepared_by", "report.reviewed_by"),
        files=("manifest.json",),
    ),
    Clause(
        rule="AI Act, Annex IV 4",
        asks="why the metrics are appropriate",
        sections=(4,),
        questions=("measurement.metrics_why",),
    ),
    Clause(
        rule="AI Act, Annex IV 3 and 5",
        asks="limits, foreseeable misuse, risks",
        sections=(10,),
        questions=("limits.misuse", "limits.known", "purpose.out_of_scope"),
    ),
    Clause(
        rule="AI Act, Art. 14, Annex IV 2(e)",
        asks="oversight by people",
        sections=(11,),
        questions=("oversight.measures",),
    ),
    Clause(rule="AI Act, Annex IV 6", asks="changes over the lifecycle", sections=(12,), questions=("report.changes",)),
    Clause(
        rule="AI Act, Annex IV 9",
        asks="monitoring after placing on the market",
        sections=(11,),
        questions=("oversight.monitoring",),
    ),
    Clause(
        rule="AI Act, Art. 50(2)",
        asks="machine-readable marking of generated images",
        sections=(13,),
        questions=("marking.method", "marking.content_credentials"),
    ),
    Clause(
        rule="NIST AI 600-1, MS-2.11-002",
        asks="measurement for groups and subgroups",
        sections=(6,),
        needs=("shares", "joint"),
    ),
    Clause(
        rule="NIST AI 600-1, MS-2.11-004",
        asks="sources of bias, intersections",
        sections=(6, 9),
        needs=("target", "joint"),
    ),
    Clause(
        rule="NIST AI 600-1, MS-2.11-005",
        asks="share of synthetic in training data",
        sections=(2,),
        needs=("ratio",),
    ),
    Clause(rule="NIST AI 600-1, MS-2.13-001", asks="error of the measurement itself", sections=(4,), needs=("errors",)),
    Clause(
        rule="NIST AI 600-1, MS-2.10-003",
        asks="images that repeat training data",
        sections=(7, 8),
        needs=("nearest",),
    ),
    Clause(
        rule="NIST AI 600-1, MG-2.2-002",
        asks="provenance of generated content",
        sections=(13, 15),
        needs=("settings",),
        questions=("marking.method",),
        files=("manifest.json",),
    ),
    Clause(
        rule="NIST AI 600-1, MG-2.2-004",
        asks="representational bias reduced, e.g. by re-sampling",
        sections=(9,),
        needs=("mitigation",),
    ),
    Clause(
        rule="NYC LL144, the form of its tables only",
        asks="rates and ratios of every category and intersection",
        sections=(6,),
        needs=("shares", "joint"),
    ),
    Clause(rule="ISO/IEC 42001, TR 24027, 5259", asks="titles only; their texts were not seen"),
)
