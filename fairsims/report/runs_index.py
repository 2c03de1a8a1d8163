"""Runs in a folder and how each one stands, whatever state their files are in."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairsims.errors import FairsimsError
from fairsims.report.view import AuditView, load_audit
from fairsims.runs import read_json, read_jsonl

STATES = ("running", "finished", "failed", "broken")
_TRACES = ("status.json", "config.json", "audit/audit.json", "stats.jsonl")


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run. Reading it never raises: what is wrong with it stands in `message`."""

    name: str
    folder: Path
    state: str
    """One of `STATES`; broken: a file that the state calls for is missing or unreadable."""
    stage: str
    message: str
    audit: AuditView | None
    """The finished audit, if there is a readable one."""
    updated: float
    """When anything in the run last changed, seconds since the epoch."""


def list_runs(root: Path) -> list[RunEntry]:
    """Runs under `root`, newest number first; folders that hold no trace of a run are left out."""
    try:
        folders = [p for p in root.iterdir() if p.is_dir() and any((p / t).exists() for t in _TRACES)]
    except OSError:
        return []
    return [read_run(p) for p in sorted(folders, key=_order, reverse=True)]


def read_run(folder: Path) -> RunEntry:
    """How one run stands. Never raises."""
    state, stage, message, audit = "broken", "", "", None
    try:
        if (folder / "audit" / "audit.json").exists():
            audit = load_audit(folder)
        if (folder / "status.json").exists():
            status = read_json(folder / "status.json")
            state, stage, message = (str(status.get(k) or "") for k in ("state", "stage", "message"))
            if state not in STATES:
                state, message = "broken", f"status.json has state {state!r}; expected one of {', '.join(STATES)}"
            elif state == "finished" and audit is None:
                state, message = "broken", "the run is finished but has no audit/audit.json; run its command again"
        elif audit is not None:
            # An audit of existing images has no stages to report on.
            state = "finished"
        else:
            message = "status.json is missing; run its command again"
    except FairsimsError as e:
        state, message = "broken", str(e)
    except OSError as e:
        state, message = "broken", f"{folder} can't be read ({e.strerror}); check its permissions"
    return RunEntry(
        name=folder.name,
        folder=folder,
        state=state,
        stage=stage,
        message=message,
        audit=audit,
        updated=_updated(folder),
    )


def progress(folder: Path) -> list[dict[str, Any]]:
    """Training statistics of the run, or else of the last auxiliary it trains, oldest first. Never raises."""
    # A further round trains auxiliary-2.
    auxiliaries = sorted(folder.glob("auxiliary*/stats.jsonl"), reverse=True)
    for path in (folder / "stats.jsonl", *auxiliaries):
        try:
            if records := [r for r in read_jsonl(path) if isinstance(r, dict)]:
                return records
        except (OSError, UnicodeDecodeError):
            continue
    return []


def _order(folder: Path) -> tuple[int, str]:
    number = re.match(r"(\d+)-", folder.name)
    return (int(number[1]) if number else -1, folder.name)


def _updated(folder: Path) -> float:
    times = [0.0]
    # Shards of pools and statistics of the auxiliary lie one level down.
    for path in (*folder.glob("*"), *folder.glob("*/*")):
        with contextlib.suppress(OSError):
            times.append(path.stat().st_mtime)
    return max(times)
