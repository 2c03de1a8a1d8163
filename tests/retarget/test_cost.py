"""What a run says that its stages cost."""

from __future__ import annotations

from pathlib import Path

from support import MakePool

from fairsims.files import write_json
from fairsims.retarget.cost import stage_costs
from fairsims.run import Run


def test_every_look_is_counted(tmp_path: Path, digits_pool: MakePool) -> None:
    """Those of a round that is given up, too."""
    settings = {"pool": 300, "calibration": 30, "audit": 50, "budget": 0.5}
    with Run(tmp_path, settings) as run:
        for side in ("before", "after"):
            pool = digits_pool(4, 3, side)
            write_json(pool.folder / "pool.json", pool.meta | {"evaluations_per_image": 7})
        for name, n in (("0.500000-0", 5), ("1.000000-5", 10), ("1.000000-15", 10)):
            digits_pool(n, n, f"calibration/{name}")
        digits_pool(5, 5, "calibration-2/1.000000-0")
        for stage in ("pool", "calibration", "calibration-2"):
            with run.stage(stage):
                pass
    made = {s.stage: s for s in stage_costs(run).stages}
    assert (made["pool"].images, made["pool"].evaluations) == (300, 2100)
    assert (made["calibration"].images, made["calibration"].evaluations) == (50, 350)
    assert made["calibration-2"].images == 10
