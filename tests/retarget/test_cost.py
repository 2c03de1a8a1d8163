"""What a run says that its stages cost."""

from __future__ import annotations

from pathlib import Path

from support import MakePool

from fairsims.files import write_json
from fairsims.retarget.cost import stage_costs
from fairsims.run import Run


def test_every_pilot_is_counted(tmp_path: Path, digits_pool: MakePool) -> None:
    """Calibration may need more than were planned, in a round that is given up, too."""
    settings = {"pool": 300, "pilots": [10, 20], "audit": 50, "budget": 0.5}
    with Run(tmp_path, settings) as run:
        for side in ("before", "after"):
            pool = digits_pool(4, 3, side)
            write_json(pool.folder / "pool.json", pool.meta | {"evaluations_per_image": 7})
        for name, n in (("0.500000-10", 5), ("1.000000-20", 10), ("2.000000-20", 10)):
            digits_pool(n, n, f"calibration/{name}")
        digits_pool(5, 5, "calibration-2/1.000000-10")
        for stage in ("pool", "calibration", "calibration-2"):
            with run.stage(stage):
                pass
    made = {s.stage: s for s in stage_costs(run).stages}
    assert (made["pool"].images, made["pool"].evaluations) == (300, 2100)
    assert (made["calibration"].images, made["calibration"].evaluations) == (50, 350)
    assert made["calibration-2"].images == 10
