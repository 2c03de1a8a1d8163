"""Run folders: settings, pre-registration, stages, status, manifest, and whether their process is still there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from fairsims.errors import ChangedSettings, InputError
from fairsims.files import now, read_json, sha256_file, sha256_json, write_json

Progress = Callable[[str, int, int], None]
"""(stage, done, total): called as images are made or trained on."""


def silent(stage: str, done: int, total: int) -> None:
    """The progress of one who does not listen."""


class Run:
    """A folder that one command works in, resumes and finishes: retarget, compare, sweep and the collapse loops.

    `config.json` has its settings, `plan.json` what was pre-registered, `status.json` what it is doing and in which
    process, `timings.json` the seconds of every stage, `manifest.json` in the end the digest of every file. Around the
    whole work, as a context, it says that the run failed when that raises.

    Of several processes that work in the same folder only the one with `main` writes; it has to begin the run before
    the others do, and they may read what it finished only after it did.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        *,
        beside: Collection[str] = (),
        progress: Progress = silent,
        main: bool = True,
    ) -> None:
        """Begin or resume. Raises ChangedSettings or InputError as `settle_settings`, which `beside` is passed to."""
        settle_settings(folder / "config.json", settings, beside=beside)
        self.folder, self.settings, self.progress, self.main = folder, settings, progress, main
        self._stage, timings = "", folder / "timings.json"
        self.seconds: dict[str, float] = read_json(timings) if timings.exists() else {}
        """Of every stage, added up over resumptions."""

    @staticmethod
    def is_finished(folder: Path, settings: Mapping[str, Any], *, replaced: Mapping[str, str] | None = None) -> bool:
        """Whether the folder holds a finished run. Raises ChangedSettings when it is one of other settings.

        `replaced` names settings of earlier versions and what is in their place now: where a run has the former,
        neither is compared.
        """
        status, path = folder / "status.json", folder / "config.json"
        if not status.exists() or read_json(status).get("state") != "finished":
            return False
        earlier = read_json(path) if path.exists() else {}
        for old, new in (replaced or {}).items():
            if old in earlier:
                settings = {k: v for k, v in settings.items() if k != new} | {old: earlier[old]}
        settle_settings(path, settings)
        return True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            # The disk may be what failed.
            with contextlib.suppress(OSError):
                self._say("failed", " ".join(str(error).split()) or type(error).__name__)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What happens inside is stage `name`: its time is counted even when it fails."""
        self._stage, start = name, time.perf_counter()
        self._say("running")
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 2)
            if self.main:
                # The disk may be what failed.
                with contextlib.suppress(OSError):
                    write_json(self.folder / "timings.json", self.seconds)

    def finish(self) -> None:
        """The run is whole: its manifest lists every file, and the digests that its settings name as inputs."""
        if self.main:
            inputs = {k: v for k, v in self.settings.items() if k.endswith("_digest") and v is not None}
            write_manifest(self.folder, inputs)
        self._say("finished")

    def _say(self, state: str, message: str = "") -> None:
        if self.main:
            # A killed process leaves "running" behind.
            who = {"process": this_process()} if state == "running" else {}
            write_json(self.folder / "status.json", {"stage": self._stage, "state": state, "message": message} | who)


def settle_settings(path: Path, settings: Mapping[str, Any], *, beside: Collection[str] = ()) -> None:
    """Write `settings` to `path`, or check that the folder's earlier settings are the same.

    A folder without has to be new, empty, or hold no more than what is named in `beside`. Raises InputError when it
    holds other things, ChangedSettings naming every key that differs: what was made with other settings is never mixed
    with new things.
    """
    settings = json.loads(json.dumps(settings))
    if not path.exists():
        try:
            refuse_foreign(path.parent, beside)
        except InputError:
            if not path.exists():
                raise
    # Another process may have begun the same meanwhile.
    if not path.exists():
        write_json(path, settings, shared=True)
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
        written = now()
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


def numbered(name: str, number: int) -> str:
    """What a stage is called: `name` in the first round, `name-2` in the second."""
    return name if number == 1 else f"{name}-{number}"


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


def this_process() -> dict[str, Any]:
    """What identifies this process on its machine; the machine's name is a digest, since runs are handed on."""
    space = Path("/proc/self/ns/pid")  # a container counts its processes for itself
    name = f"{platform.node()} {os.readlink(space) if space.is_symlink() else ''}"
    machine = hashlib.sha256(name.encode()).hexdigest()[:12]
    return {"machine": machine, "pid": os.getpid(), "started": _started(os.getpid())}


def has_ended(process: Mapping[str, Any]) -> bool | None:
    """Whether a process of this machine has ended; None where that can't be known from here."""
    pid = process.get("pid")
    if os.name != "posix" or process.get("machine") != this_process()["machine"] or not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's
    # Another one may have the number by now.
    return _started(pid) != process.get("started")


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None for one that has ended, and outside of Linux."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
