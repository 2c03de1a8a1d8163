"""Each page in each state that a folder of runs can be in; never an exception on the page."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest
import report_fixtures as fixtures
from dashboard_pages import rerun, shown, texts

from fairsims.dashboard.widgets import plain
from fairsims.files import write_json
from fairsims.report.forms import write_reports
from fairsims.report.questions import FILE, read_answers
from fairsims.report.signing import create_key, read_private_key, sign
from fairsims.run import write_manifest

PAGES = ("runs", "audit", "images", "label", "plan", "report", "collapse")


def test_no_runs_says_what_to_do_on_every_page(root):
    app = shown("runs")
    for page in PAGES:
        if page != "runs":
            app.switch_page(f"views/{page}.py").run()
        assert not app.exception
        assert plain(str(root)) in app.info[0].value
        assert app.code[0].value == "fairsims retarget --attr gender --target 0.5"
        assert not app.selectbox


def test_every_page_in_every_state_of_a_run(root, whole_run):
    fixtures.running_run(root, "00004-running")
    failed = fixtures.running_run(root, "00005-failed")
    (failed / "status.json").write_text(
        json.dumps({"stage": "finetune", "state": "failed", "message": "loss is *nan*"})
    )
    (fixtures.finished_run(root, "00006-broken") / "audit" / "audit.json").write_text("{")
    (fixtures.finished_run(root, "00007-refused") / "leak").symlink_to("/etc")
    (root / "00008-pool").mkdir()
    (root / "00008-pool" / "pool.json").write_text("{")
    for page in PAGES[1:]:
        app = shown(page)
        for name in app.selectbox(key="run").options:
            rerun(app.selectbox(key="run").select(name))
            assert "Traceback" not in texts(app)
            if name == "00007-refused":
                assert "leak leads out of the run" in app.error[0].value.replace("\\", "")
                assert len(app.selectbox) == 1, "more of a refused run is shown than its name"
    states = shown("runs").dataframe[0].value.set_index("run")["state"]
    assert states.to_dict() == {
        "00003-gender-0.50": "finished",
        "00004-running": "running",
        "00005-failed": "failed",
        "00006-broken": "broken",
        "00007-refused": "refused",
        "00008-pool": "broken",
    }


def test_runs_are_listed_with_what_they_reached(root, whole_run):
    fixtures.running_run(root)
    app = shown("runs")
    said = texts(app)
    assert plain("woman share 25.1% [23.2, 27.0] → 49.8% [47.5, 52.1]; target 50%") in said
    assert plain("reached, ±3 points") in said
    assert plain("FD against the target-reweighted reference: 6.48 → 2.36") in said
    assert plain("finetune: 6.4 of 9.6 kimg · loss 0.154 after 5.60 thousand images") in said
    for k in range(8):
        fixtures.running_run(root, f"0010{k}-more")
    app = rerun(app)
    rerun(app.text_input(key="search").input("finished"))
    assert "0010" not in texts(app)
    rerun(app.text_input(key="search").input("<b>nothing"))
    assert plain("<b>nothing") in app.info[0].value


def test_a_finished_audit(whole_run):
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


def test_another_run_can_be_picked(root):
    fixtures.finished_run(root)
    fixtures.running_run(root)
    app = shown()
    assert app.selectbox(key="run").value == "00004-gender-0.50"
    assert [m.value for m in app.metric][0] == "finetune"
    rerun(app.selectbox(key="run").select("00003-gender-0.50"))
    assert app.metric[0].label == "woman share"


def test_a_run_that_went_quiet_and_one_that_was_killed(root):
    run = fixtures.running_run(root)
    assert not shown().warning
    for ago, said in ((1200, "the same command resumes it"), (7200, "Stopped in stage finetune")):
        for path in (run, *run.iterdir()):
            os.utime(path, (time.time() - ago,) * 2)
        assert said in shown().warning[0].value
    assert "stopped" in texts(shown("runs"))


@pytest.mark.parametrize(
    ("file", "content"),
    [
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


def test_names_with_markdown_and_html_are_text(root):
    value = fixtures.single_source()
    gender = value["attributes"]["gender"]
    names = {"man": "$x$ [a](b) 😀", "woman": "**w** <script>alert(1)</script>"}
    gender["classes"], gender["focus"] = list(names.values()), names["woman"]
    gender["before"] = {names[k]: v for k, v in gender["before"].items()}
    del gender["by_split"], value["quality"], value["cost"]
    fixtures.finished_run(root, 'x" <img src=x onerror=alert(1)> ' + "w" * 120, value=value)
    app = shown()
    assert app.metric[0].label == r"\*\*w\*\* \<script\>alert\(1\)\</script\> share"
    assert not app.error
    for page in PAGES:
        words = texts(app if page == "audit" else shown(page))
        assert "<img" not in words.replace("\\<", "")
        assert "<script" not in words.replace("\\<", "")


def test_images_are_paired_filtered_and_opened(whole_run):
    app = shown("images")
    assert "40 of 40 pairs" in texts(app)
    assert len(app.get("image")) == 24
    rerun(app.selectbox(key="class-after").select("woman"))
    assert "20 of 40 pairs" in texts(app)
    rerun(app.selectbox(key="class-before").select("man"))
    assert "10 of 40 pairs" in texts(app)
    rerun(app.selectbox(key="order").select("least certain first"))
    # Image 19 is the last that is called a woman after: certainty falls from image to image.
    assert [b.label for b in app.button][0] == "519"
    rerun(app.button[0].click())
    assert "Seed **519**" in texts(app)
    rerun(app.slider(key="certainty").set_range(0.999, 1.0))
    assert "No image fits" in app.info[0].value
    rerun(app.selectbox(key="pool").select("pool"))
    assert not app.error


def test_labelling_by_button_is_kept_after_each_and_gives_shares(whole_run):
    app = shown("label")
    app.number_input[0].set_value(12)
    rerun(app.button(key="FormSubmitter:new-sample-Draw the sample").click())
    for rater, last in (("Ada", "woman"), ("Bo", "man")):
        app.text_input[0].input(rater)
        rerun(app.button(key="FormSubmitter:rater-Begin").click())
        for k in range(4):
            rerun(app.button(key=f"label-{rater}-{k}-{'man' if k < 3 else last}").click())
        table = (whole_run / "labels" / "gender-1" / f"{rater}.csv").read_text().splitlines()
        assert [row.split(",")[1] for row in table] == ["gender", "man", "man", "man", last]
        rerun(app.button(key="undo-4").click())
        assert len((whole_run / "labels" / "gender-1" / f"{rater}.csv").read_text().splitlines()) == 4
        rerun(app.button(key=f"label-{rater}-3-{last}").click())
        rerun(app.button(key="change-rater").click())
    rerun(app.toggle(key="results").set_value(True))
    said = texts(app)
    assert "agree in 75% of pairs of labels, on the 4 images" in said
    assert "1 image has no majority" in said
    assert "Tier A" in said
    assert "--labels" in app.code[0].value
    rerun(app.toggle(key="settle").set_value(True))
    rerun(app.button(key="label-adjudication-0-undetermined").click())
    assert "no majority" not in texts(app)
    consensus = (whole_run / "labels" / "gender-1" / "consensus.csv").read_text().splitlines()
    assert sorted(row.split(",")[1] for row in consensus[1:]) == ["man", "man", "man", "undetermined"]
    rerun(app.button(key="extend").click())
    assert "more" not in texts(app) or not app.error


def test_before_the_first_label_a_signed_run_says_what_labels_do_to_it(whole_run):
    assert "signed" not in texts(shown("label"))
    write_manifest(whole_run, {})
    create_key(whole_run.parent / "key")
    sign(whole_run, read_private_key(whole_run.parent / "key"))
    app = shown("label")
    assert "This run is signed" in texts(app)
    app.number_input[0].set_value(2)
    rerun(app.button(key="FormSubmitter:new-sample-Draw the sample").click())
    assert "This run is signed" in texts(app)


def test_a_rater_name_that_is_no_file_name_is_refused(whole_run):
    app = shown("label")
    rerun(app.button(key="FormSubmitter:new-sample-Draw the sample").click())
    assert "100 images of before were asked for; it has 40 left" in app.error[0].value.replace("\\", "")
    app.number_input[0].set_value(2)
    rerun(app.button(key="FormSubmitter:new-sample-Draw the sample").click())
    app.text_input[0].input("../../Eve")
    rerun(app.button(key="FormSubmitter:rater-Begin").click())
    assert "choose another" in app.error[0].value
    assert not list(whole_run.parent.rglob("*Eve*"))


def test_a_plan_says_what_it_takes(whole_run):
    app = shown("plan")
    assert [(m.label, m.value) for m in app.metric[:3]] == [
        ("Least strength", "0.99"),
        ("Planned strength", "0.99"),
        ("Within the cap", "yes"),
    ]
    assert app.code[0].value.startswith("fairsims retarget --attr gender --target man=0.5,woman=0.5 --mode paired")
    rerun(app.number_input(key="target-gender-woman").set_value(90.0))
    assert app.metric[2].value == "no"
    assert "resampled with the classifier" in texts(app)
    assert "--target man=0.1,woman=0.9" in app.code[0].value
    rerun(app.number_input(key="target-gender-woman").set_value(100.0))
    assert "one class only" in app.warning[0].value
    assert not app.error


def test_questions_are_answered_and_the_report_is_written_and_verified(whole_run):
    app = shown("report")
    assert "No report is written yet" in app.info[0].value
    rerun(app.button(key="preview-write").click())
    assert (whole_run / "report.html").exists()
    # Every written form is offered.
    written = [p.name for p in write_reports(whole_run)]
    assert {"report.html", "report.md", "model_card.md", "croissant.json"} <= set(written)
    assert {plain(n) for n in written} <= {b.label for b in app.get("download_button")}
    app.text_area(key=f"{whole_run.name} purpose.intended").input("Tests\nonly <b>")
    rerun(app.button(key="FormSubmitter:questions-Save answers").click())
    assert read_answers(whole_run)["purpose.intended"] == "Tests\nonly <b>"
    rerun(app.button(key="verify").click())
    assert "has no manifest.json" in app.error[0].value.replace("\\", "")
    write_manifest(whole_run, {})
    app.text_area(key=f"{whole_run.name} purpose.intended").input("Something else")
    rerun(app.button(key="FormSubmitter:questions-Save answers").click())
    rerun(app.button(key="write-report").click())
    rerun(app.button(key="verify").click())
    assert "files are what they were" in app.success[0].value
    assert "not signed" in app.warning[0].value
    create_key(whole_run.parent / "key")
    sign(whole_run, read_private_key(whole_run.parent / "key"))
    (whole_run / "config.json").write_text("{}")
    rerun(app.button(key="verify").click())
    assert plain("changed: config.json") in texts(app)
    assert "which anybody could have made" in texts(app)
    (whole_run / FILE).write_text('[purpose]\nsecret = "x"\n')
    assert "which no report asks for" in rerun(app).error[0].value


def test_without_weasyprint_the_page_says_how_to_get_a_pdf(whole_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    app = shown("report")
    said = [c.value for c in app.caption if "No PDF is written here" in c.value]
    assert len(said) == 1
    assert plain("pip install 'fairsims[pdf]'") in said[0]


def test_a_loop_that_consumes_itself_is_shown(root):
    """A tiny loop as `fairsims collapse` writes it, then one that is cut off."""
    from click.testing import CliRunner

    from fairsims.cli.collapsing import collapse

    run = root / "00009-collapse"
    asked = ["--generations", "2", "--repeats", "2", "--n", "50", "--synthetic-ratio", "1", "--out", str(run)]
    done = CliRunner().invoke(collapse, asked, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    app = shown("collapse")
    assert not app.error
    assert app.selectbox(key="measure").value == "w2"
    assert app.table[0].value["method"].tolist() == ["standard", "SIMS"]
    rerun(app.selectbox(key="measure").select("kl"))
    assert not app.error
    (run / "collapse.json").write_text('{"cells": []}')
    assert len(rerun(app).error) == 1
    assert "a page of its own" in rerun(app.switch_page("views/audit.py")).info[0].value
    app.switch_page("views/collapse.py")
    (run / "collapse.json").unlink()
    write_json(run / "status.json", {"state": "running", "stage": "generations"})
    assert "at work, 2 of its cells are whole" in rerun(app).info[0].value
    write_json(run / "status.json", {"state": "failed", "stage": "generations", "message": "loss is *nan*"})
    assert plain("loss is *nan*") in rerun(app).warning[0].value
    assert "goes on from there" in texts(app)
