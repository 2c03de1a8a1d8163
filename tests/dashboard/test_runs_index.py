"""The index of runs: every state, and nothing that a folder can hold makes it raise."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import report_fixtures as fixtures

from fairsims.audit.result import AuditResult
from fairsims.dashboard import launch
from fairsims.dashboard.charts import calibration_chart, loss_chart, shares_chart
from fairsims.dashboard.runs_index import list_runs, progress, read_run, runs_table
from fairsims.errors import InputError
from fairsims.files import write_json
from fairsims.report.tables import cost_table, shares_table
from fairsims.run import Run, this_process, write_plan

SAY = "import json; from fairsims.run import this_process; print(json.dumps(this_process()))"


def test_newest_first_and_only_runs(tmp_path):
    fixtures.finished_run(tmp_path)
    fixtures.running_run(tmp_path)
    fixtures.finished_run(tmp_path, "00012-age")
    (tmp_path / "notes").mkdir()
    (tmp_path / "file.txt").write_text("x")
    runs = list_runs(tmp_path)
    assert [(r.name, r.state) for r in runs] == [
        ("00012-age", "finished"),
        ("00004-gender-0.50", "running"),
        ("00003-gender-0.50", "finished"),
    ]
    assert list_runs(tmp_path / "nowhere") == list_runs(tmp_path / "file.txt") == []


def test_running_run_has_progress_without_its_cut_off_line(tmp_path):
    run = fixtures.running_run(tmp_path)
    entry = read_run(run)
    assert (entry.stage, entry.message, entry.audit) == ("finetune", "6.4 of 9.6 kimg", None)
    (run / "pool").mkdir()
    (run / "pool" / "shard-00000.parquet").touch()
    os.utime(run / "pool" / "shard-00000.parquet", (4e9, 4e9))
    assert read_run(run).updated == 4e9
    assert [r["kimg"] for r in progress(run)][:2] == [0.0, 0.8]
    assert len(progress(run)) == 8
    (run / "stats.jsonl").write_bytes(b"\xff\xfe")
    assert progress(run) == []
    (run / "auxiliary").mkdir()
    (run / "auxiliary" / "stats.jsonl").write_text('{"nimg": 512, "loss": 0.2}\n')
    assert progress(run) == [{"nimg": 512, "loss": 0.2}]


def test_audit_without_status_is_finished(tmp_path):
    run = fixtures.finished_run(tmp_path, value=fixtures.single_source())
    (run / "status.json").unlink()
    assert read_run(run).state == "finished"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("status.json", '{"stage": "fin', "not valid JSON"),
        ("status.json", '"x"', "expected an object"),
        ("status.json", '{"state": "odd"}', "has state 'odd'"),
        ("plan.json", "{", "not valid JSON"),
        ("status.json", '{"state": ["x"], "stage": 1}', "has state"),
        ("audit/audit.json", "{", "not valid JSON"),
        ("audit/audit.json", "{}", "the audit has format None"),
        ("audit/audit.json", None, "finished but has no audit/audit.json"),
    ],
)
def test_broken_runs_say_why(tmp_path, file, text, message):
    run = fixtures.finished_run(tmp_path)
    (run / file).unlink(missing_ok=True)
    if text is not None:
        (run / file).write_text(text)
    entry = read_run(run)
    assert entry.state == "broken"
    assert message in entry.message


def test_failed_run_keeps_its_message(tmp_path):
    run = fixtures.running_run(tmp_path)
    (run / "status.json").write_text(json.dumps({"stage": "finetune", "state": "failed", "message": "loss is nan"}))
    assert (read_run(run).state, read_run(run).message) == ("failed", "loss is nan")


def seen(root):
    return {r.name: (r.kind, r.state) for r in list_runs(root)}


def test_a_killed_run_has_stopped(tmp_path):
    """By its process where that can be looked for, else by how long nothing has changed."""
    run = fixtures.running_run(tmp_path)
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | {"process": this_process()}))
    assert read_run(run).state == "running"
    ended = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True)
    (run / "status.json").write_text(json.dumps(status | {"message": "", "process": json.loads(ended.stdout)}))
    assert read_run(run).state == "stopped"
    assert "its process has ended; the same command goes on" in read_run(run).message
    (run / "status.json").write_text(json.dumps(status | {"message": "", "process": {"machine": "another", "pid": 1}}))
    assert read_run(run).state == "running"
    for path in (run, *run.rglob("*")):
        os.utime(path, (1e9, 1e9))
    assert read_run(run).state == "stopped"
    assert "nothing has changed for" in read_run(run).message


def test_a_fixed_plan_tells_the_kinds_apart_from_the_start(tmp_path):
    for name, plan in (
        ("00001-r", {"when": "before generating", "mode": "merged"}),
        ("00002-c", {"when": "before generating", "arms": ["base", "merged"]}),
        ("00003-a", {"when": "before measuring"}),
    ):
        write_plan(tmp_path / name, plan)
        if name != "00003-a":
            write_json(tmp_path / name / "status.json", {"state": "running", "stage": "pool", "message": ""})
    assert seen(tmp_path) == {
        "00001-r": ("retargeting", "running"),
        "00002-c": ("comparison", "running"),
        "00003-a": ("audit", "running"),
    }
    # Audits of images report no stages; a comparison that is finished has what it found.
    fixtures.finished_run(tmp_path, "00004-a", value=fixtures.single_source())
    (tmp_path / "00004-a" / "status.json").unlink()
    write_plan(tmp_path / "00004-a", {"when": "before measuring"})
    write_json(tmp_path / "00002-c" / "status.json", {"state": "finished"})
    assert seen(tmp_path)["00004-a"] == ("audit", "finished")
    assert seen(tmp_path)["00002-c"] == ("comparison", "broken")
    assert "has no compare.json" in read_run(tmp_path / "00002-c").message
    write_json(tmp_path / "00002-c" / "compare.json", {})
    assert seen(tmp_path)["00002-c"] == ("comparison", "finished")


def test_sweeps_loops_and_pools_say_how_far_they_are(tmp_path):
    sweep, loop, pool = (tmp_path / n for n in ("00001-sweep", "00002-loop", "00003-pool"))
    write_json(sweep / "points" / "base.json", {})
    write_json(loop / "cells" / "sims-1" / "rows.json", {})
    write_json(pool / "pool.json", {"seeds": [[0, 600]]})
    for folder in (sweep, loop):
        write_json(folder / "config.json", {})
    (pool / "shard-00000.parquet").touch()
    kinds = {sweep.name: "sweep", loop.name: "collapse", pool.name: "pool"}
    assert seen(tmp_path) == {n: (k, "running") for n, k in kinds.items()}
    write_json(sweep / "sweep.json", {})
    write_json(loop / "collapse.json", {})
    (pool / "shard-00001.parquet").touch()
    assert seen(tmp_path) == {n: (k, "finished") for n, k in kinds.items()}
    # Further points are being made.
    with Run(sweep, {}) as run, run.stage("points"):
        assert seen(tmp_path)[sweep.name] == ("sweep", "running")
        run.finish()
    assert seen(tmp_path)[sweep.name] == ("sweep", "finished")
    with pytest.raises(ZeroDivisionError), Run(loop, {}) as run, run.stage("generations"):
        _ = 1 / 0
    assert seen(tmp_path)[loop.name] == ("collapse", "failed")
    assert read_run(loop).message == "division by zero"
    write_json(pool / "pool.json", {"seeds": 3})
    assert (read_run(pool).state, "which seeds" in read_run(pool).message) == ("broken", True)


def rows_of(chart):
    """The rows behind each layer of a chart."""
    value = chart.to_dict()
    return [value["datasets"][layer["data"]["name"]] for layer in value["layer"]]


def test_charts_hold_the_audit_and_are_valid():
    view = AuditResult.from_json(fixtures.AUDIT)
    targets, bars, dots = rows_of(shares_chart(view.main))
    assert bars == dots
    assert [(r["class"], r["target"]) for r in targets] == [("man", 0.5), ("woman", 0.5)]
    woman = dots[-1]
    assert (woman["class"], woman["side"], woman["text"]) == ("woman", "after", "49.8% [47.5, 52.1]")
    assert woman["low"] == pytest.approx(0.475)
    assert {r["seeds"] for r in rows_of(calibration_chart(view))[-1]} == {"calibration", "audit"}
    single = shares_chart(AuditResult.from_json(fixtures.single_source()).main).to_dict()
    assert len(single["layer"]) == 2
    assert {r["side"] for rows in single["datasets"].values() for r in rows} == {"before"}
    assert loss_chart([{"nimg": 800, "loss": 0.2}, {"nimg": 1600, "loss": 0.1}, {"loss": None}, {}]) is not None
    assert loss_chart([{"kimg": 1, "loss": 0.2}]) is None


def test_tables(tmp_path):
    view, single = AuditResult.from_json(fixtures.AUDIT), AuditResult.from_json(fixtures.single_source())
    assert shares_table(view.main, view).records()[1] == {
        "gender": "woman",
        "target": "50%",
        "before": "25.1% [23.2, 27.0]",
        "after": "49.8% [47.5, 52.1]",
        "difference, points": "+24.7 [+22.0, +27.4]",
    }
    assert shares_table(single.main, single).titles == ("gender", "measured")
    assert cost_table(single).titles == ("cost", "measured")
    fixtures.finished_run(tmp_path)
    fixtures.running_run(tmp_path)
    running, finished = runs_table(list_runs(tmp_path)).records()
    assert list(running) == list(finished)
    assert finished["share"] == "woman 25.1% → 49.8%"
    assert finished["FD to the target mix"] == "6.48 → 2.36"


def test_dashboard_finds_its_script_and_runs(monkeypatch, tmp_path):
    assert launch.app_file().name == "dashboard.py"
    monkeypatch.setenv("FAIRSIMS_RUNS", str(tmp_path))
    assert launch.runs_root() == tmp_path
    monkeypatch.delenv("FAIRSIMS_RUNS")
    assert str(launch.runs_root()) == "runs"
    monkeypatch.setattr(launch.fairsims, "__file__", str(tmp_path / "fairsims" / "__init__.py"))
    with pytest.raises(InputError, match="reinstall fairsims"):
        launch.app_file()
