"""Files that exist whole or not at all, digests, run folders and their settings."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from fairsims.errors import ChangedSettings, InputError


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; on success it replaces `path`, on any failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        yield temporary
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(e, OSError) and e.filename is None:
            e.filename = str(path)  # writing itself, unlike opening, does not say which file
        raise


def cache_folder(what: str) -> Path:
    """Where things are kept that can be made again: a folder in `$FAIRSIMS_CACHE` (or `~/.cache/fairsims`)."""
    cache = os.environ.get("FAIRSIMS_CACHE")
    return (Path(cache) if cache else Path.home() / ".cache" / "fairsims") / what


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: sorted nowhere (order carries meaning), two spaces, NaN refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises InputError naming the file when it is missing or broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; expected a JSON file there") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as e:
        raise InputError(f"{path} is not valid JSON ({e}); restore it or delete its folder and run again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected an object")
    return value


def append_jsonl(path: Path, record: Mapping[str, object]) -> None:
    """Append one record to a `stats.jsonl`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(record) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Records of a `stats.jsonl`; a last line cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sha256_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def settle_settings(path: Path, settings: Mapping[str, Any], *, beside: Collection[str] = ()) -> None:
    """Write `settings` to `path`, or check that the folder's earlier settings are the same.

    A folder without has to be new, empty, or hold no more than what is named in `beside`. Raises InputError when it
    holds other things, ChangedSettings naming every key that differs: what was made with other settings is never mixed
    with new things.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        refuse_foreign(path.parent, beside)
        write_json(path, settings)
    elif changed := _changed(read_json(path), settings, "made"):
        raise ChangedSettings(f"{path.parent} was {changed}; give the earlier settings to resume it, or another folder")


def refuse_foreign(folder: Path, own: Collection[str] = ()) -> None:
    """Raises InputError when a folder to be written into holds things that are not one's own."""
    # What begins with a dot is what a kill left of writing, or an operating system's.
    there = {p.name for p in folder.iterdir() if not p.name.startswith(".")} if folder.is_dir() else set()
    if foreign := sorted(there - set(own)):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise InputError(f"{folder} holds other files ({', '.join(foreign[:3])}{more}); give a new folder")


PLAN, PLAN_FORMAT = "plan.json", "fairsims-plan/1"


def write_plan(folder: Path, plan: Mapping[str, Any]) -> dict[str, str]:
    """Fix in `plan.json` what will be measured and how, before it is; the file, its digest and time for `audit.json`.

    One that is there stays as it is. Raises ChangedSettings naming what differs when it says something else,
    InputError when it was changed after it was written.
    """
    plan, path = json.loads(json.dumps(plan)), folder / PLAN
    if not path.exists():
        written = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        write_json(path, {"format": PLAN_FORMAT, "written": written, "sha256": sha256_json(plan), "plan": plan})
    found = read_plan(folder)
    if changed := _changed(found["plan"], plan, "planned"):
        raise ChangedSettings(f"{folder} was {changed}; ask for what was planned, or give another folder")
    return {"file": PLAN, "sha256": found["sha256"], "written": found["written"]}


def read_plan(folder: Path) -> dict[str, Any]:
    """The content of a folder's `plan.json`: `format`, `written`, `sha256` and `plan`, whose digest that is.

    Raises InputError when the file is missing, of an earlier version, or was changed after it was written.
    """
    path = folder / PLAN
    found = read_json(path)
    if "omega" in found:
        raise InputError(
            f"{path} is the plan of a complement, which earlier versions called so; expected one of format "
            f"{PLAN_FORMAT}; finish {folder} with the version that began it, or begin again in another folder"
        )
    plan, written = found.get("plan"), found.get("written")
    if found.get("format") != PLAN_FORMAT or not isinstance(plan, dict) or not isinstance(written, str):
        raise InputError(f"{path} is no plan of format {PLAN_FORMAT}; restore it, or begin again in another folder")
    if found.get("sha256") != sha256_json(plan):
        raise InputError(
            f"{path} was changed after it was written: its digest does not fit what it says; restore it, or begin "
            "again in another folder"
        )
    return found


def _changed(earlier: Mapping[str, Any], now: Mapping[str, Any], done: str) -> str:
    """`made with a = 1, now a = 2 (and b)`: every key whose value differs; empty when none does."""
    earlier, now = dict(_flat(earlier)), dict(_flat(now))
    changed = [k for k in dict.fromkeys([*earlier, *now]) if earlier.get(k) != now.get(k)]
    if not changed:
        return ""
    k = changed[0]
    more = f" (and {', '.join(changed[1:])})" if changed[1:] else ""
    return f"{done} with {k} = {_short(earlier.get(k))}, now {k} = {_short(now.get(k))}{more}"


def _flat(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Settings with those of sections under dotted names, so that a message can name the one that changed."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield above + key, value


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def new_run_folder(root: Path, label: str) -> Path:
    """`root/00007-label`, numbered after the highest there is."""
    numbers = [int(m[1]) for p in root.glob("*") if (m := re.match(r"(\d{5})-", p.name))] if root.exists() else []
    return root / f"{max(numbers, default=-1) + 1:05d}-{label}"


SIGNATURE = "manifest.dsse.json"
UNLISTED = frozenset({"manifest.json", "status.json", SIGNATURE})
"""What a manifest cannot list: itself, and what is written after it."""


def run_files(run: Path) -> list[str]:
    """Every file of a folder by relative name, sorted; links as themselves, without what `atomic` left of a kill."""
    found = []
    for folder, folders, names in os.walk(run):
        links = [f for f in folders if (Path(folder) / f).is_symlink()]
        found += [(Path(folder) / n).relative_to(run).as_posix() for n in [*names, *links] if not _left_over(n)]
    return sorted(found)


def _left_over(name: str) -> bool:
    return name.startswith(".") and name.endswith(".part")


def write_manifest(run: Path, inputs: Mapping[str, str]) -> None:
    """`manifest.json`: SHA-256 of every input (name to digest) and of every file in the run."""
    outputs = {n: sha256_file(run / n) for n in run_files(run) if n not in UNLISTED and not (run / n).is_symlink()}
    write_json(run / "manifest.json", {"inputs": dict(inputs), "outputs": outputs})


_RELISTING = threading.Lock()


@contextlib.contextmanager
def relisted(run: Path) -> Iterator[None]:
    """The run's `manifest.json`, where there is one, lists what is written inside and no longer what is removed there.

    What changed before stays in view: only files that another hand touches at that very time are taken for ours.
    """
    before = _marks(run)
    try:
        yield
    finally:
        if (run / "manifest.json").exists():
            # Several people may label the same run from one dashboard.
            with _RELISTING:
                _relist(run, before)


def _relist(run: Path, before: Mapping[str, tuple[int, ...]]) -> None:
    value, after = read_json(run / "manifest.json"), _marks(run)
    listed = value.get("outputs")
    if not isinstance(listed, dict):
        return
    kept = {n: digest for n, digest in listed.items() if n in after or n not in before}
    written = {n: sha256_file(run / n) for n, mark in after.items() if before.get(n) != mark}
    if written or len(kept) < len(listed):
        write_json(run / "manifest.json", value | {"outputs": kept | written})


def _marks(run: Path) -> dict[str, tuple[int, ...]]:
    """What shows that a file was written, of every file that a manifest can list."""
    files = {n: (run / n).lstat() for n in run_files(run) if n not in UNLISTED and not (run / n).is_symlink()}
    return {n: (s.st_mtime_ns, s.st_size, s.st_ino) for n, s in files.items()}
