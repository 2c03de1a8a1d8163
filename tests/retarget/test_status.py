"""What a run says of its stages and their cost."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from fairsims.retarget.status import Status


def test_the_time_of_a_stage_that_was_cut_off_counts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Status(tmp_path) as status, status.stage("pool"):
        raise KeyboardInterrupt
    first = json.loads((tmp_path / "timings.json").read_text())["pool"]
    with Status(tmp_path) as status, status.stage("pool"):
        pass
    assert json.loads((tmp_path / "timings.json").read_text())["pool"] >= first >= 0


def test_every_pilot_is_counted(tmp_path: Path) -> None:
    """Calibration may need more than were planned."""
    (tmp_path / "config.json").write_text(json.dumps({"pool": 300, "pilots": [100, 200], "audit": 50, "budget": 0.5}))
    for part in ("before", "after"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "pool.json").write_text(json.dumps({"evaluations_per_image": 7}))
    pilots = pd.DataFrame({"strength": [0, 1, 2, 2.0], "share": 0.3, "se": 0.01, "n": [300, 100, 200, 200]})
    pilots.to_parquet(tmp_path / "calibration.parquet")
    with Status(tmp_path) as status:
        for stage in ("pool", "calibration", "calibration-2"):
            with status.stage(stage):
                pass
    made = {s["stage"]: s for s in status.cost()["stages"]}
    assert (made["calibration"]["images"], made["calibration"]["evaluations"]) == (500, 3500)
    # A round that was given up has no table.
    assert made["calibration-2"]["images"] == 300
