"""The runs as a table, a row each."""

from __future__ import annotations

from collections.abc import Iterable

from fairsims.audit.result import AuditResult
from fairsims.dashboard.runs_index import RunEntry
from fairsims.report.document import Row, Table, row, table
from fairsims.report.measured import QualityNumber, target_distance
from fairsims.report.numbers import NOTHING, duration, fixed, percent, short_percent

COLUMNS = ("run", "state", "stage", "share", "target", "FD to the target mix", "time", "note")


def runs_table(runs: Iterable[RunEntry]) -> Table:
    """What a run has not measured yet is empty."""
    return table(COLUMNS, (_row(r) for r in runs))


def distance_text(q: QualityNumber | None) -> str:
    """ "6.48 → 2.36"."""
    return NOTHING if q is None else " → ".join(fixed(v, q.digits) for v in q.values.values())


def _row(run: RunEntry) -> Row:
    result = _result(run.audit) if run.audit is not None else ("", "", "", "")
    return row(run.name, run.state, run.stage, *result, run.message)


def _result(audit: AuditResult) -> tuple[str, str, str, str]:
    shares = (
        f"{a.focus} " + " → ".join(percent(a.side(s)[a.focus].share) for s in audit.sides if a.side(s))
        for a in audit.targeted
    )
    seconds = None if audit.cost is None else audit.cost.seconds
    q = target_distance(audit)
    return (
        "; ".join(shares),
        "; ".join(short_percent(a.target.get(a.focus)) for a in audit.targeted),
        distance_text(q if q is not None and q.key == "fd_target" else None),
        duration(seconds),
    )
