"""A process that works, one that has ended, and those that can't be known from here."""

from __future__ import annotations

import json
import subprocess
import sys

from fairsims.run import has_ended, this_process

SAY = "import json; from fairsims.run import this_process; print(json.dumps(this_process()), flush=True); input()"


def test_a_killed_process_has_ended_and_a_working_one_has_not() -> None:
    with subprocess.Popen([sys.executable, "-c", SAY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        theirs = json.loads(other.stdout.readline())
        assert theirs["pid"] == other.pid
        assert has_ended(theirs) is False
        other.kill()
        other.wait()
    assert has_ended(theirs) is True
    assert has_ended(this_process()) is False


def test_another_process_with_the_same_number_is_another() -> None:
    ours = this_process()
    if ours["started"] is not None:
        assert has_ended(ours | {"started": ours["started"] - 1}) is True


def test_what_can_not_be_known() -> None:
    assert has_ended({}) is None
    assert has_ended(this_process() | {"machine": "another"}) is None
    assert has_ended(this_process() | {"pid": "x"}) is None
