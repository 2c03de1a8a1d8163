"""What a run fixes before it begins, and what it refuses to go on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json, sha256_json, write_json
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.preregistration import READY_MADE, begin, retarget_plan
from fairsims.retarget.retarget import retarget
from fairsims.retarget.retargeting import Retargeting
from fairsims.run import read_plan, silent

CONFIG = RetargetConfig(model="digits-8", attr="parity", target="0.6", pool=256, calibration=160, audit=64, steps=3)


class Killed(BaseException):
    """What no handler takes for an error of the run."""


@pytest.fixture(scope="module")
def work() -> Retargeting:
    return prepare(CONFIG)


def begun(work: Retargeting, folder: Path) -> dict[str, str]:
    return begin(work, folder, silent, beside=READY_MADE)


def test_the_plan_is_there_when_the_first_images_are(work: Retargeting, tmp_path: Path) -> None:
    """And stays as it is when the run, killed there, is gone on with; so does one killed before it had a plan."""
    seen = []

    def killed(stage: str, done: int, total: int) -> None:
        seen.append((stage, (tmp_path / "plan.json").read_bytes(), list(tmp_path.rglob("shard-*"))))
        raise Killed

    write_json(tmp_path / "config.json", work.settings)
    for _ in range(2):
        with pytest.raises(Killed):
            retarget(work, tmp_path, progress=killed)
    (stage, plan, _), (_, again, _) = seen
    assert stage == "pool"
    assert plan == again == (tmp_path / "plan.json").read_bytes()
    assert "taken_over" not in read_plan(tmp_path)["plan"]


def test_a_target_that_depends_on_the_base_is_open(work: Retargeting) -> None:
    plan = retarget_plan(work)
    assert plan["attributes"]["parity"]["target"] is None
    assert plan["attributes"]["parity"]["target_text"] == "0.6"
    named = retarget_plan(prepare(replace(CONFIG, target="odd=0.6")))
    assert named["attributes"]["parity"]["target"] == {"even": pytest.approx(0.4), "odd": 0.6}
    assert plan["seeds"] == {"pool": [0, 255], "calibration": [4_000_000, 4_000_159], "audit": [6_000_000, 6_000_063]}
    assert sum("FD (digits-parity features)" in m for m in plan["metrics"]) == 2
    assert not [m for m in retarget_plan(replace(work, reference=None))["metrics"] if "FD" in m]


def test_another_plan_is_refused_and_stays(work: Retargeting, tmp_path: Path) -> None:
    fixed = begun(work, tmp_path)
    before = (tmp_path / "plan.json").read_bytes()
    assert begun(work, tmp_path) == fixed
    with pytest.raises(ChangedSettings, match=r"planned with n = 64, now n = 80 \(and power\.n, seeds\.audit\)"):
        begun(replace(work, power=replace(work.power, n=80)), tmp_path)
    # A plan that was made to fit afterwards, digest and all, is still not what the settings say.
    found = read_json(tmp_path / "plan.json")
    found["plan"]["attributes"]["parity"]["tolerance"] = 0.3
    write_json(tmp_path / "plan.json", found | {"sha256": sha256_json(found["plan"])})
    with pytest.raises(ChangedSettings, match=r"parity\.tolerance = 0\.3, now attributes\.parity\.tolerance = 0\.03"):
        begun(work, tmp_path)
    write_json(tmp_path / "plan.json", found)
    with pytest.raises(InputError, match="its digest does not fit what it says"):
        retarget(work, tmp_path)
    assert not (tmp_path / "pool").exists()
    (tmp_path / "plan.json").write_bytes(before)
    assert begun(work, tmp_path) == fixed


def test_what_is_older_than_the_plan_is_said(work: Retargeting, tmp_path: Path) -> None:
    """A sweep's pool and auxiliary; with a complement set a run has gone on without a plan, which is too late."""
    for name in ("pool", "auxiliary"):
        (tmp_path / "taken" / name).mkdir(parents=True)
    fixed = begun(work, tmp_path / "taken")
    assert read_plan(tmp_path / "taken")["plan"]["taken_over"] == ["pool", "auxiliary"]
    (tmp_path / "taken" / "before").mkdir()
    assert begun(work, tmp_path / "taken") == fixed
    write_json(tmp_path / "late" / "config.json", work.settings)
    (tmp_path / "late" / "complement.parquet").touch()
    with pytest.raises(InputError, match=r"has a complement set and no plan\.json"):
        begun(work, tmp_path / "late")
    assert not (tmp_path / "late" / "plan.json").exists()
