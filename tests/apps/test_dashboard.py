"""The dashboard in each state that a folder of runs can be in; never an exception on the page."""

from __future__ import annotations

import json
import os

import pytest
import report_fixtures as fixtures
from streamlit.testing.v1 import AppTest

from fairsims.report.dashboard import app_file
from fairsims.report.widgets import plain


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIRSIMS_RUNS", str(tmp_path))
    return tmp_path


def shown():
    app = AppTest.from_file(app_file(), default_timeout=60).run()
    assert not app.exception
    return app


def test_no_runs_says_what_to_do(root):
    app = shown()
    assert plain(str(root)) in app.info[0].value
    assert app.code[0].value == "fairsims retarget --attr gender --target 0.5"
    assert not app.selectbox
    app.switch_page("pages/runs.py").run()
    assert not app.exception
    assert app.code[0].value == "fairsims retarget --attr gender --target 0.5"


def test_finished_run(root):
    fixtures.finished_run(root)
    app = shown()
    assert [(m.label, m.value, m.delta) for m in app.metric] == [
        ("woman share", "49.8%", "+24.7 points"),
        ("Target", "50%", "reached, ±3 points"),
        ("FD to the target mix", "2.36", "-4.12"),
        ("Evaluations per kept image", "23.0", "45.8 by resampling"),
    ]
    assert [s.value for s in app.subheader] == ["Images", "Shares", "Quality", "Calibration", "Cost"]
    assert len(app.table) == 5
    assert "confusion split" in app.warning[0].value
    assert not app.error


def test_report_is_written_on_demand(root):
    run = fixtures.finished_run(root)
    app = shown()
    app.button(key="write-report").click().run()
    assert not app.exception
    assert not app.error
    assert (run / "report.html").exists()
    app.run()
    assert not app.button


def test_another_run_can_be_picked(root):
    fixtures.finished_run(root)
    fixtures.running_run(root)
    app = shown()
    assert app.title[0].value == plain("00004-gender-0.50")
    assert [m.value for m in app.metric][0] == "finetune"
    app.selectbox(key="run").select("00003-gender-0.50").run()
    assert not app.exception
    assert app.title[0].value == plain("00003-gender-0.50")
    app.switch_page("pages/runs.py").run()
    assert not app.exception
    assert app.dataframe[0].value["state"].tolist() == ["running", "finished"]


def test_running_run_that_went_quiet(root):
    run = fixtures.running_run(root)
    assert not shown().warning
    for file in run.iterdir():
        os.utime(file, (1e9, 1e9))
    assert "the same command resumes it" in shown().warning[0].value


def test_failed_run_says_how_to_go_on(root):
    run = fixtures.running_run(root)
    (run / "status.json").write_text(json.dumps({"stage": "finetune", "state": "failed", "message": "loss is *nan*"}))
    app = shown()
    assert app.error[0].value == r"loss is \*nan\*"
    assert "resumes" in app.markdown[-1].value


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("status.json", b"{"),
        ("audit/audit.json", b'{"format": "fairsims-audit/1"}'),
        ("audit/audit.json", b"\xff\xfe"),
        ("audit/grid-after.png", b"cut off"),
        ("audit/grid-after.png", b""),
    ],
)
def test_broken_run_shows_one_line(root, file, content):
    run = fixtures.finished_run(root)
    (run / file).write_bytes(content)
    app = shown()
    assert len(app.error) == 1
    assert "Traceback" not in app.error[0].value


def test_single_source_and_names_with_markdown(root):
    value = fixtures.single_source()
    gender = value["attributes"]["gender"]
    names = {"man": "$x$ [a](b)", "woman": "**w** <b>"}
    gender["classes"], gender["focus"] = list(names.values()), names["woman"]
    gender["before"] = {names[k]: v for k, v in gender["before"].items()}
    del gender["by_split"], value["quality"], value["cost"]
    run = fixtures.finished_run(root, value=value)
    (run / "audit" / "grid-before.png").unlink()
    app = shown()
    assert app.metric[0].label == r"\*\*w\*\* \<b\> share"
    assert [m.value for m in app.metric] == ["25.1%"]
    assert not app.error
