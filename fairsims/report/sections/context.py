"""What every section is written from: the folder of a run, read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairsims.audit.result import AuditResult, load_audit
from fairsims.files import read_json
from fairsims.report.document import Answer, Figure
from fairsims.report.questions import QUESTIONS, read_answers
from fairsims.run import PLAN, read_plan


@dataclass(frozen=True, kw_only=True)
class Context:
    """A run that is reported on."""

    run: Path
    result: AuditResult
    config: Mapping[str, Any]
    """Settings of the run, empty where it has none."""
    plan: Mapping[str, Any] | None
    """`plan.json`, None where nothing was fixed beforehand."""
    answers: Mapping[str, str]
    pictures: Mapping[str, Figure] = field(default_factory=dict)
    """Figures by name, once they are drawn."""
    places: Mapping[str, int] = field(default_factory=dict)
    """Id of each section to its number, once they are put in order."""

    @property
    def audit(self) -> Path:
        """Folder of the audit, its tables and figures."""
        return self.run / "audit"

    @property
    def two_sided(self) -> bool:
        return len(self.result.sides) == 2

    def questions(self, *prefixes: str) -> Iterator[Answer]:
        """The questions whose id is or starts with one of these, with their answers."""
        for q in QUESTIONS:
            if q.id in prefixes or q.id.split(".")[0] in prefixes:
                yield Answer(id=q.id, question=q.question, why=q.why, answer=self.answers[q.id])


def read_context(run: Path) -> Context:
    """Raises InputError when the audit is missing, or when any of the files is broken."""
    config = run / "config.json"
    return Context(
        run=run,
        result=load_audit(run),
        config=read_json(config) if config.exists() else {},
        plan=_plan(run),
        answers=read_answers(run),
    )


def _plan(run: Path) -> Mapping[str, Any] | None:
    path = run / PLAN
    # Of a run from before plans were fixed the file says how the complement was planned.
    return None if not path.exists() or "omega" in read_json(path) else read_plan(run)
