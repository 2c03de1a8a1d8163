"""Tasks that write a number, for the tests of engines; Ray's workers import them without torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairsims.errors import InputError


@dataclass(frozen=True, kw_only=True)
class NumberTask:
    path: Path
    number: int

    @property
    def what(self) -> str:
        return f"the number of seeds {self.number}-{self.number}"


def numbered() -> int:
    return 10


def write_number(factor: int, task: NumberTask) -> Iterator[int]:
    """3 is refused, 4 fails the first time, 5 ends the process."""
    if task.number == 3:
        raise InputError("3 is refused")
    if task.number == 4 and not (before := task.path.with_name("before")).exists():
        before.touch()
        raise ValueError("not the first time")
    if task.number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    yield 1
    task.path.write_text(str(factor * task.number))
    yield 2
