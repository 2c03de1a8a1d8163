"""What a run says of its stages and their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import MakePool

from fairsims.retarget.status import Status


def test_the_time_of_a_stage_that_was_cut_off_counts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Status(tmp_path) as status, status.stage("pool"):
        raise KeyboardInterrupt
    first = json.loads((tmp_path / "timings.json").read_text())["pool"]
    with Status(tmp_path) as status, status.stage("pool"):
        pass
    assert json.loads((tmp_path / "timings.json").read_text())["pool"] >= first >= 0


def test_every_pilot_is_counted(tmp_path: Path, digits_pool: MakePool) -> None:
    """Calibration may need more than were planned, in a round that is given up, too."""
    (tmp_path / "config.json").write_text(json.dumps({"pool": 300, "pilots": [10, 20], "audit": 50, "budget": 0.5}))
    for part in ("before", "after"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "pool.json").write_text(json.dumps({"evaluations_per_image": 7}))
    for name, n in (("0.500000-10", 5), ("1.000000-20", 10), ("2.000000-20", 10)):
        digits_pool(n, n, f"calibration/{name}")
    digits_pool(5, 5, "calibration-2/1.000000-10")
    with Status(tmp_path) as status:
        for stage in ("pool", "calibration", "calibration-2"):
            with status.stage(stage):
                pass
    made = {s["stage"]: s for s in status.cost()["stages"]}
    assert (made["calibration"]["images"], made["calibration"]["evaluations"]) == (50, 350)
    assert made["calibration-2"]["images"] == 10
