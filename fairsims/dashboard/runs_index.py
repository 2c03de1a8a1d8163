"""Runs in a folder and how each one stands, whatever state their files are in. Nothing outside the folder is read."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairsims.audit.result import AuditResult, load_audit
from fairsims.errors import FairsimsError, InputError
from fairsims.files import read_json, read_jsonl
from fairsims.pools.writing import SHARD_SIZE
from fairsims.report.document import Row, Table, row, table
from fairsims.report.measured import QualityNumber, target_distance
from fairsims.report.numbers import NOTHING, duration, fixed, percent, short_percent
from fairsims.run import PLAN, has_ended

STATES = ("running", "stopped", "finished", "failed", "broken", "refused")
DEPTH = 3
"""Folders of runs may lie in folders, this deep."""
QUIET_SECONDS = 3600
"""A run whose process can't be looked for has stopped when nothing in it has changed for so long."""
RESULTS = {
    "retargeting": "audit/audit.json",
    "audit": "audit/audit.json",
    "comparison": "compare.json",
    "prompts": "prompts.json",
    "prompt comparison": "prompt-compare.json",
    "sweep": "sweep.json",
    "collapse": "collapse.json",
    "training": "model.safetensors",
}
"""What a finished run of each kind has. Of a pool it is its last shard."""
_TRACES = (
    "status.json",
    "config.json",
    "audit/audit.json",
    "stats.jsonl",
    "collapse.json",
    "sweep.json",
    "pool.json",
    PLAN,
)


@dataclass(frozen=True, kw_only=True)
class RunEntry:
    """One run. Reading it never raises: what is wrong with it stands in `message`."""

    name: str
    """Path below the folder of runs, with forward slashes."""
    folder: Path
    kind: str
    """retargeting, prompts, audit, comparison, prompt comparison, training, pool, sweep or collapse."""
    state: str
    """One of `STATES`; stopped: it says that it is at work, and is not; broken: a file that the state calls for is
    missing or unreadable; refused: not even opened."""
    stage: str
    message: str
    audit: AuditResult | None
    """The finished audit, if there is a readable one."""
    updated: float
    """When anything in the run last changed, seconds since the epoch."""


def list_runs(root: Path) -> list[RunEntry]:
    """Runs under `root`, newest number first; folders that hold no trace of a run are left out."""
    try:
        top = Path(os.path.realpath(root))
        folders = list(_folders(top, top, DEPTH))
    except OSError:
        return []
    return [read_run(p, root) for p in sorted(folders, key=_order, reverse=True)]


def read_run(folder: Path, root: Path | None = None) -> RunEntry:
    """How one run stands. A run with a link that leads out of it is refused: nothing of it is opened. Never raises.

    `root` is the folder of runs that its name is relative to; by default the one that it lies in.
    """
    kind, state, stage, message, audit, updated = "retargeting", "broken", "", "", None, 0.0
    top = Path(os.path.realpath(root or folder.parent))
    place = Path(os.path.realpath(folder))
    try:
        if not place.is_relative_to(top) or place == top:
            state, message = "refused", "this is a link that leads out of the folder of runs; it is not opened"
        elif (way_out := leads_out(place)) is not None:
            state = "refused"
            message = f"{way_out} leads out of the run or is no ordinary file; nothing of the run is opened; remove it"
        else:
            updated, kind = _updated(folder), _kind(folder)
            if (folder / "audit" / "audit.json").exists():
                audit = load_audit(folder)
            state, stage, message = _state(folder, kind, updated)
    except FairsimsError as e:
        state, message = "broken", str(e)
    except OSError as e:
        state, message = "broken", f"{folder} can't be read ({e.strerror}); check its permissions"
    return RunEntry(
        name=(place.relative_to(top) if place.is_relative_to(top) and place != top else Path(folder.name)).as_posix(),
        folder=folder,
        kind=kind,
        state=state,
        stage=stage,
        message=message,
        audit=audit,
        updated=updated,
    )


def leads_out(folder: Path) -> str | None:
    """An entry of a folder that is a link out of it, a pipe or a device, by relative name; None when there is none."""
    top = os.path.realpath(folder)
    waiting = [top]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for e in entries:
                if e.is_symlink():
                    inside = Path(os.path.realpath(e.path)).is_relative_to(top)
                elif inside := e.is_dir(follow_symlinks=False):
                    waiting.append(e.path)
                else:
                    inside = e.is_file(follow_symlinks=False)
                if not inside:
                    return os.path.relpath(e.path, top)
    return None


def pools_of(run: RunEntry) -> dict[str, Path]:
    """The pools in a run by relative name: those of the audit seeds first. A pool is its own only one."""
    if run.kind == "pool":
        return {"pool": run.folder}
    found = [p.parent for pattern in ("*/pool.json", "*/*/pool.json") for p in sorted(run.folder.glob(pattern))]
    names = {p.relative_to(run.folder).as_posix(): p for p in found if any(p.glob("shard-*.parquet"))}
    first = [n for n in ("before", "after") if n in names]
    return {n: names[n] for n in dict.fromkeys([*first, *names])}


def audited(run: RunEntry) -> list[str]:
    """The pools of a run that its audit is about: since 0.2 the pool is what is measured before."""
    names = pools_of(run)
    sides = ("pool", "after") if run.audit is None or run.audit.shown is not None else ("before", "after")
    return [n for n in sides if n in names]


def progress(folder: Path) -> list[dict[str, Any]]:
    """Training statistics of the run, or else of the last network it trains, oldest first. Never raises."""
    # A further round trains auxiliary-2, a comparison target-mix.
    auxiliaries = sorted(
        (p for n in ("auxiliary*", "target-mix") for p in folder.glob(f"{n}/stats.jsonl")), reverse=True
    )
    for path in (folder / "stats.jsonl", *auxiliaries):
        try:
            if records := [r for r in read_jsonl(path) if isinstance(r, dict)]:
                return records
        except (OSError, UnicodeDecodeError):
            continue
    return []


def _folders(folder: Path, top: Path, depth: int) -> Iterator[Path]:
    for p in folder.iterdir():
        if p.is_symlink():
            # One that stays inside shows what is listed anyway.
            if p.is_dir() and not Path(os.path.realpath(p)).is_relative_to(top):
                yield p
        elif p.is_dir() and not p.name.startswith("."):
            if any((p / t).exists() for t in _TRACES) and not _is_checkpoint(p):
                yield p
            elif depth > 1 and not _is_checkpoint(p):
                with contextlib.suppress(OSError):
                    yield from _folders(p, top, depth - 1)


def _is_checkpoint(folder: Path) -> bool:
    """Whether this is a model that no run here has trained."""
    return (folder / "model.safetensors").exists() and not (folder / "training.json").exists()


def _kind(folder: Path) -> str:
    signs = {
        "collapse": ("collapse.json", "cells"),
        "sweep": ("sweep.json", "points"),
        "comparison": ("compare.json", "target-mix"),
        "retargeting": ("complement.json",),
        "audit": ("audit/audit.json",),
        "pool": ("pool.json",),
        "training": ("training.json", "stats.jsonl"),
    }
    if (folder / PLAN).exists() and isinstance(plan := read_json(folder / PLAN).get("plan"), dict):
        if plan.get("when") == "before measuring":
            return "audit"
        over_prompts, compared = bool(plan.get("prompts")), bool(plan.get("arms"))
        kinds = {(False, False): "retargeting", (False, True): "comparison", (True, False): "prompts"}
        return kinds.get((over_prompts, compared), "prompt comparison")
    # A run that was audited anew has both.
    if (folder / "audit" / "audit.json").exists() and (folder / "status.json").exists():
        return "retargeting"
    return next((k for k, names in signs.items() if any((folder / n).exists() for n in names)), "retargeting")


def _state(folder: Path, kind: str, updated: float) -> tuple[str, str, str]:
    """State, stage and message."""
    result = RESULTS.get(kind)
    done = (folder / result).exists() if result else _is_whole(folder)
    status = read_json(folder / "status.json") if (folder / "status.json").exists() else None
    if status is None:
        # These say by what lies in their folder how far they are.
        if not done and kind in ("retargeting", "comparison", "prompts", "prompt comparison"):
            return "broken", "", "status.json is missing; run its command again"
        return ("finished", "", "") if done else _at_work({}, updated)
    state, stage, message = (str(status.get(k) or "") for k in ("state", "stage", "message"))
    if state not in ("running", "finished", "failed"):
        return "broken", stage, f"status.json has state {state!r}; expected running, finished or failed"
    if state == "finished" and not done:
        return "broken", stage, f"the run is finished but has no {result}; run its command again"
    if state == "running":
        process = status.get("process")
        found, _, why = _at_work(process if isinstance(process, dict) else {}, updated)
        return found, stage, message or why
    return state, stage, message


def _at_work(process: Mapping[str, Any], updated: float) -> tuple[str, str, str]:
    """Whether unfinished work goes on, by its process or else by what has changed of late."""
    ended = has_ended(process)
    if ended:
        return "stopped", "", "its process has ended; the same command goes on from there"
    if ended is None and (quiet := time.time() - updated) > QUIET_SECONDS:
        return "stopped", "", f"nothing has changed for {duration(quiet)}; the same command goes on from there"
    return "running", "", ""


def _is_whole(folder: Path) -> bool:
    """Whether a pool has all of its shards."""
    seeds: Any = read_json(folder / "pool.json").get("seeds")
    try:
        n = seeds[0][1] - seeds[0][0] + 1 if isinstance(seeds[0], list) else len(seeds)
    except (TypeError, IndexError):
        raise InputError(f"{folder / 'pool.json'} does not say which seeds it is of; restore it") from None
    return bool(sum(1 for _ in folder.glob("shard-*.parquet")) >= -(-n // SHARD_SIZE))


def _order(folder: Path) -> tuple[int, str]:
    number = re.match(r"(\d+)-", folder.name)
    return (int(number[1]) if number else -1, folder.name)


def _updated(folder: Path) -> float:
    times = [0.0]
    # Shards of pools, pilots and points lie some levels down.
    for place, _, names in os.walk(folder):
        for path in (place, *(os.path.join(place, n) for n in names)):
            with contextlib.suppress(OSError):
                times.append(os.lstat(path).st_mtime)
    return max(times)


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
