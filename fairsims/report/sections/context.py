"""What every section is written from: the folder of a run, read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairsims.files import read_json
from fairsims.report.document import Answer, Figure
from fairsims.report.open_fields import FIELDS, read_fields
from fairsims.report.view import AuditView, read_audit
from fairsims.run import PLAN, read_plan


@dataclass(frozen=True, kw_only=True)
class Context:
    """A run that is reported on."""

    run: Path
    view: AuditView
    config: Mapping[str, Any] | None
    """Settings of the run, None where it has none."""
    plan: Mapping[str, Any] | None
    """`plan.json`, None where nothing was fixed beforehand."""
    answers: Mapping[str, str]
    pictures: Mapping[str, Figure] = field(default_factory=dict)
    """Figures by name, once they are drawn."""

    @property
    def audit(self) -> Path:
        """Folder of the audit, its tables and figures."""
        return self.run / "audit"

    @property
    def two_sided(self) -> bool:
        return len(self.view.sides) == 2

    def questions(self, *prefixes: str) -> Iterator[Answer]:
        """The questions whose id is or starts with one of these, with their answers."""
        for f in FIELDS:
            if f.id in prefixes or f.id.split(".")[0] in prefixes:
                yield Answer(id=f.id, question=f.question, why=f.why, answer=self.answers[f.id])


def read_context(run: Path) -> Context:
    """Raises InputError when the audit is missing, or when any of the files is broken."""
    view = read_audit(read_json(run / "audit" / "audit.json"))
    return Context(
        run=run,
        view=view,
        config=read_json(run / "config.json") if (run / "config.json").exists() else None,
        plan=_plan(run),
        answers=read_fields(run),
    )


def _plan(run: Path) -> Mapping[str, Any] | None:
    path = run / PLAN
    # Of a run from before plans were fixed the file says how the complement was planned.
    return None if not path.exists() or "omega" in read_json(path) else read_plan(run)
