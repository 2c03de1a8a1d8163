"""Comparisons and sweeps on the dashboard: listed, finished, at work, broken."""

from __future__ import annotations

import shutil

import pytest
from dashboard_pages import rerun, shown, texts

from fairsims.dashboard.widgets import plain
from fairsims.files import write_json
from fairsims.report.comparison import NAMES, write_comparison
from fairsims.report.sweep_figures import sweep_figures
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import SweepConfig
from fairsims.retarget.sweep import sweep
from fairsims.run import write_plan

ARM = {
    "worst": "odd",
    "share.odd": 0.474,
    "error": -0.026,
    "error_low": -0.04,
    "error_high": -0.01,
    "fd_target": 2.1,
    "fd_reference": 0.8,
    "precision": 0.6,
    "recall": 0.9,
    "images": 64,
    "steps": 5,
    "evaluations_per_image": 9.0,
    "images_per_kept": 1.0,
    "evaluations_per_kept": 9.0,
    "training_kimg": 9.6,
    "training_seconds": 60.0,
    "calibration_images": 512,
    "strength": 1.2,
}
RESULT = {
    "attribute": "parity",
    "target": {"even": 0.5, "odd": 0.5},
    "tolerance": 0.03,
    "split": "variant",
    "evaluations_per_kept": 10.0,
    "quality": {"metric": "FD (digits-parity features)", "reference": {"name": "digits", "labels": "its own"}},
    "arms": [ARM | {"arm": name, "error": 0.06 - k / 100} for k, name in enumerate(NAMES)],
}


@pytest.fixture
def comparison(root):
    """A finished comparison, as `fairsims compare` leaves it."""
    run = root / "00002-compare"
    write_plan(run, {"when": "before generating", "arms": list(NAMES)})
    write_json(run / "compare.json", RESULT)
    write_comparison(run, RESULT)
    write_json(run / "status.json", {"state": "finished", "stage": "audit", "message": ""})
    return run


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept") / "00001-sweep"
    run = RetargetConfig(model="digits-8", attr="parity", target="0.5", pool=256, steps=3, batch_size=16, lr=1e-3)
    config = SweepConfig(run=run, budgets=(0.16,), omegas=(1.0,), images=50, auxiliary=False)
    sweep(config, folder, publish=sweep_figures, command="fairsims sweep")
    return folder


def test_a_finished_comparison_is_listed_and_shown(comparison):
    said = texts(shown("runs"))
    assert "comparison" in said
    assert plain("of 6 ways the nearest is paired contrast, odd off target by +1.0 [−4.0, −1.0] points") in said
    app = shown("audit")
    assert not app.error
    assert [s.value for s in app.subheader] == ["Where they end up", "What they cost"]
    assert app.table[0].value["way"].tolist() == [plain(n) for n in NAMES.values()]
    assert len(app.get("image")) == 1
    assert {b.label for b in app.get("download_button")} >= {plain("compare.md"), "CSV"}
    report = shown("report")
    assert "No audit was made here" in report.info[0].value
    assert plain("compare.md") in {b.label for b in report.get("download_button")}


def test_a_comparison_at_work_and_a_broken_one(comparison):
    (comparison / "compare.json").unlink()
    write_json(comparison / "status.json", {"state": "running", "stage": "guided", "message": ""})
    app = shown("audit")
    assert app.metric[0].value == "guided"
    assert "not finished" in shown("report").info[0].value
    (comparison / "compare.json").write_text("{")
    write_json(comparison / "status.json", {"state": "finished", "stage": "audit", "message": ""})
    for page in ("audit", "runs"):
        assert "is not valid JSON" in shown(page).error[0].value


def test_a_sweep_is_shown_while_it_grows_and_when_it_is_whole(root, swept):
    run = root / "00001-sweep"
    shutil.copytree(swept, run)
    assert "sweep" in texts(shown("runs"))
    app = shown("audit")
    assert not app.error
    assert plain("2 points; best quality") in texts(app)
    points = app.dataframe[0].value
    assert points["mode"].tolist() == ["base", "merged"]
    assert {"share", "FD (target mix)", "strength"} <= set(points)
    assert len(app.get("image")) == 2
    for gone in ("sweep.json", "quality.png", "share.png"):
        (run / gone).unlink()
    write_json(run / "status.json", {"state": "running", "stage": "points", "message": ""})
    assert "2 points so far" in texts(rerun(app))
    assert len(app.dataframe[0].value) == 2
    (run / "sweep.parquet").write_bytes(b"x")
    assert "is broken" in rerun(app).error[0].value
    (run / "sweep.parquet").unlink()
    assert "No point is measured yet" in rerun(app).info[0].value
