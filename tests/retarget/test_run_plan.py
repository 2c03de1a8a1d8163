"""What a run fixes before it begins, and what it refuses to go on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json, sha256_json, write_json
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.job import Job, prepare
from fairsims.retarget.pipeline import retarget
from fairsims.retarget.plan import fix_plan, retarget_plan
from fairsims.run import read_plan

CONFIG = RetargetConfig(model="digits-8", attr="parity", target="0.6", pool=256, pilots=(64, 96), audit=64, steps=3)


class Killed(BaseException):
    """What no handler takes for an error of the run."""


@pytest.fixture(scope="module")
def job() -> Job:
    return prepare(CONFIG)


def test_the_plan_is_there_when_the_first_images_are(job: Job, tmp_path: Path) -> None:
    """And stays as it is when the run, killed there, is gone on with; so does one killed before it had a plan."""
    seen = []

    def killed(stage: str, done: int, total: int) -> None:
        seen.append((stage, (tmp_path / "plan.json").read_bytes(), list(tmp_path.rglob("shard-*"))))
        raise Killed

    write_json(tmp_path / "config.json", job.settings)
    for _ in range(2):
        with pytest.raises(Killed):
            retarget(job, tmp_path, progress=killed)
    (stage, plan, _), (_, again, _) = seen
    assert stage == "pool"
    assert plan == again == (tmp_path / "plan.json").read_bytes()
    assert "taken_over" not in read_plan(tmp_path)["plan"]


def test_a_target_that_depends_on_the_base_is_open(job: Job) -> None:
    plan = retarget_plan(job)
    assert plan["attributes"]["parity"]["target"] is None
    assert plan["attributes"]["parity"]["target_text"] == "0.6"
    named = retarget_plan(prepare(replace(CONFIG, target="odd=0.6")))
    assert named["attributes"]["parity"]["target"] == {"even": pytest.approx(0.4), "odd": 0.6}
    assert plan["seeds"] == {"pool": [0, 255], "calibration": [4_000_000, 4_000_095], "audit": [6_000_000, 6_000_063]}
    assert sum("FD (digits-parity features)" in m for m in plan["metrics"]) == 2
    assert not [m for m in retarget_plan(replace(job, reference=None))["metrics"] if "FD" in m]


def test_another_plan_is_refused_and_stays(job: Job, tmp_path: Path) -> None:
    fixed = fix_plan(tmp_path, job)
    before = (tmp_path / "plan.json").read_bytes()
    assert fix_plan(tmp_path, job) == fixed
    with pytest.raises(ChangedSettings, match=r"planned with n = 64, now n = 80 \(and seeds\.audit\)"):
        fix_plan(tmp_path, replace(job, config=replace(CONFIG, audit=80)))
    # A plan that was made to fit afterwards, digest and all, is still not what the settings say.
    found = read_json(tmp_path / "plan.json")
    found["plan"]["attributes"]["parity"]["tolerance"] = 0.3
    write_json(tmp_path / "plan.json", found | {"sha256": sha256_json(found["plan"])})
    with pytest.raises(ChangedSettings, match=r"parity\.tolerance = 0\.3, now attributes\.parity\.tolerance = 0\.03"):
        fix_plan(tmp_path, job)
    write_json(tmp_path / "plan.json", found)
    write_json(tmp_path / "config.json", job.settings)
    with pytest.raises(InputError, match="its digest does not fit what it says"):
        retarget(job, tmp_path)
    assert not (tmp_path / "pool").exists()
    (tmp_path / "plan.json").write_bytes(before)
    assert fix_plan(tmp_path, job) == fixed


def test_what_is_older_than_the_plan_is_said(job: Job, tmp_path: Path) -> None:
    """A sweep's pool and auxiliary; with a complement set a run has gone on without a plan, which is too late."""
    for name in ("pool", "auxiliary"):
        (tmp_path / "taken" / name).mkdir(parents=True)
    fixed = fix_plan(tmp_path / "taken", job)
    assert read_plan(tmp_path / "taken")["plan"]["taken_over"] == ["pool", "auxiliary"]
    (tmp_path / "taken" / "before").mkdir()
    assert fix_plan(tmp_path / "taken", job) == fixed
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "complement.parquet").touch()
    with pytest.raises(InputError, match=r"has a complement set and no plan\.json"):
        fix_plan(tmp_path / "late", job)
    assert not (tmp_path / "late" / "plan.json").exists()
