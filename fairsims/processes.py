"""Whether the process that began a piece of work is still there: what tells a run at work from one that was killed."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


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
