"""Every form of the report says the same, takes nothing given for markup, and leaves open what nobody answered."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import report_fixtures as fixtures
from click.testing import CliRunner
from huggingface_hub import ModelCard
from PIL import ImageFile
from support import ARGS, CHROMIUM, MakePool, label

from fairsims.audit.result import AuditResult
from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.files import read_json, sha256_file, sha256_json, write_json
from fairsims.report import words
from fairsims.report.clauses import CLAUSES, PARTIAL, PRESENT, REVIEWED, YOURS, evidence, stale
from fairsims.report.document import Answer
from fairsims.report.figures import draw
from fairsims.report.forms import find_run, unwritten, write_reports
from fairsims.report.markdown import plain
from fairsims.report.questions import QUESTIONS, read_answers, write_answers
from fairsims.report.sections import SECTIONS, document, read_context
from fairsims.report.signing import verify
from fairsims.run import write_manifest

EVIL = '<script>alert("x")</script> | `*_[a](b) & # 🙂'


@pytest.fixture
def run(tmp_path: Path, digits_pool: MakePool) -> Path:
    """A finished run with the pool of the retargeted model, labelled."""
    folder = fixtures.finished_run(tmp_path)
    pool = digits_pool(6, 4)
    label(pool, "digits-parity", "parity", ["even", "odd"], np.tile(np.float32([0.25, 0.75]), (10, 1)))
    shutil.move(pool.folder, folder / "after")
    return folder


def test_all_forms_are_written_and_listed(run: Path) -> None:
    write_manifest(run, {})
    written = write_reports(run, ["html", "md", "card", "croissant"])
    assert [p.name for p in written] == ["report.html", "report.md", "model_card.md", "croissant.json"]
    listed = read_json(run / "manifest.json")["outputs"]
    for path in (*written, run / "report.toml", run / "audit" / "shares.png"):
        assert listed[path.relative_to(run).as_posix()] == sha256_file(path)
    first = [p.read_bytes() for p in written]
    assert [p.read_bytes() for p in write_reports(run, ["html", "md", "card", "croissant"])] == first


def test_answers_written_by_hand_are_listed_with_the_report(run: Path) -> None:
    write_manifest(run, {})
    write_reports(run, ["html"])
    path = run / "report.toml"
    path.write_text(path.read_text().replace('intended = ""', 'intended = "a demo"'))
    assert verify(run).changed == ("report.toml",)
    write_reports(run, ["html"])
    assert verify(run).intact
    assert "a demo" in (run / "report.html").read_text(encoding="utf-8")


def test_markdown_says_what_the_page_says(run: Path) -> None:
    html, md = (p.read_text(encoding="utf-8") for p in write_reports(run, ["html", "md"]))
    for number, title in re.findall(r'<h2><span class="n">(\d+)</span>([^<]*)</h2>', html):
        assert f"## {number}. {title}" in md
    assert "woman share 25.1% \\[23.2, 27.0\\] → 49.8% \\[47.5, 52.1\\]; target 50%" in md
    assert "| **woman** | **50%** | **25.1% \\[23.2, 27.0\\]** |" in md
    for path in re.findall(r"!\[[^\n]*\]\(<([^>]*)>\)", md):
        assert (run / path).is_file()
    rows = [re.sub(r"\\.", "", line) for line in md.splitlines() if line.startswith("|")]
    widths = [r.count("|") for r in rows]
    assert all(a == b or rows[k + 1].startswith("|") for k, (a, b) in enumerate(zip(widths, widths[1:], strict=False)))


def test_nothing_given_becomes_markup(run: Path) -> None:
    value = read_json(run / "audit" / "audit.json")
    gender = value["attributes"]["gender"]
    text = json.dumps(gender).replace('"woman"', json.dumps(EVIL))
    value["attributes"] = {EVIL: json.loads(text)}
    value["model"] = value["command"] = EVIL
    value["warnings"] = [EVIL]
    write_json(run / "audit" / "audit.json", value)
    write_answers(run, read_answers(run) | {"purpose.intended": f"{EVIL}\n\n# heading", "data.licence": EVIL})
    written = write_reports(run, ["html", "md", "card", "croissant"])
    html, md, card, croissant = (p.read_text(encoding="utf-8") for p in written)
    assert "<script" not in html
    for text in (md, card.split("---\n", 2)[2]):
        outside = re.sub(r"(?ms)^(`{3,})\n.*?^\1$", "", text)
        assert not re.search(r"(?<!\\)<script", outside)
        assert not re.search(r"(?m)^# heading", outside)
        assert not re.search(r"(?<!\\)\[a\\?\]\(b\)", outside)
    assert ModelCard(card).data.to_dict()["base_model"] == EVIL
    assert json.loads(croissant)["license"] == EVIL


def test_text_stays_text() -> None:
    assert plain("a\n- b  <c>") == "a - b \\<c\\>"
    assert plain("- b") == "\\- b"
    assert plain("1. b") == "1\\. b"
    assert plain("x & &lt; |") == "x &amp; &amp;lt; \\|"
    assert plain("https://a.b") == "https:\\//a.b"


def test_open_questions_stand_as_open_until_they_are_answered(run: Path) -> None:
    context = read_context(run)
    asked = [b for s in document(context, draw(context)).sections for b in s.blocks if isinstance(b, Answer)]
    assert sorted(a.id for a in asked) == sorted(f.id for f in QUESTIONS), "every question is asked once"
    (page,) = write_reports(run, ["html"])
    assert page.read_text(encoding="utf-8").count('<div class="question open">') == len(QUESTIONS)
    write_answers(run, read_answers(run) | {"purpose.intended": "icons for a chat <b>"})
    text = write_reports(run, ["html"])[0].read_text(encoding="utf-8")
    assert text.count('<div class="question open">') == len(QUESTIONS) - 1
    assert "icons for a chat &lt;b&gt;" in text


def test_the_card_can_be_read_by_the_hub(run: Path) -> None:
    card = ModelCard(write_reports(run, ["card"])[0].read_text(encoding="utf-8"))
    assert card.data.base_model == "emoji-people-32"
    assert card.data.license is None, "nobody said which"
    results = {r.metric_name: r.metric_value for r in card.data.eval_results}
    assert results["share perceived as gender woman [47.5, 52.1]"] == 0.498
    assert results["FD (emoji-gender features): against the target-reweighted reference"] == 2.36
    assert "fairsims generate --model merged" in card.text
    assert "evidence, not a certificate" in card.text


def test_croissant_describes_what_lies_there(run: Path) -> None:
    value = json.loads(write_reports(run, ["croissant"])[0].read_text(encoding="utf-8"))
    assert value["conformsTo"] == ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
    files = [d for d in value["distribution"] if d["@type"] == "cr:FileObject"]
    assert files
    for f in files:
        assert f["sha256"] == sha256_file(run / f["contentUrl"])
    ids = {d["@id"] for d in value["distribution"]}
    for record_set in value["recordSet"]:
        for field in record_set["field"]:
            (place,) = (field["source"].get(k) for k in ("fileSet", "fileObject") if k in field["source"])
            assert place["@id"] in ids
    assert "license" not in value, "nobody said which"
    assert "not a certificate" in value["rai:dataBiases"]


def test_what_a_run_cannot_have_is_said(tmp_path: Path) -> None:
    audit = fixtures.finished_run(tmp_path, "audit-of-one", fixtures.single_source())
    assert {line.split(":")[0] for line in unwritten(audit)} >= {"no model_card.md", "no croissant.json"}
    assert "report.md" in {p.name for p in write_reports(audit, ["html", "md"])}
    with pytest.raises(InputError, match="no retargeted model to write a card of; leave out --form card"):
        write_reports(audit, ["card"])
    with pytest.raises(InputError, match="no form 'docx' of a report; expected html"):
        write_reports(audit, ["docx"])


def test_without_weasyprint_the_pdf_is_refused_and_the_rest_is_written(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "weasyprint", None)
    assert "report.pdf" not in {p.name for p in write_reports(run)}
    assert any("pip install 'fairsims[pdf]'" in line for line in unwritten(run))
    with pytest.raises(InputError, match="a PDF needs weasyprint") as error:
        write_reports(run, ["pdf"])
    assert "\n" not in str(error.value)


def test_the_plan_is_shown_with_its_digest_and_time(run: Path) -> None:
    plan = {
        "when": "before generating",
        "attributes": {
            "gender": {"classes": ["man", "woman"], "target": {"man": 0.5, "woman": 0.5}, "tolerance": 0.03}
        },
        "metrics": ["shares, tier B"],
        "alpha": 0.05,
        "n": 2048,
        "seeds": {"audit": [200000, 202047]},
    }
    digest = sha256_json(plan)
    found = {"format": "fairsims-plan/1", "written": "2026-11-22T06:00:00Z", "sha256": digest, "plan": plan}
    write_json(run / "plan.json", found)
    value = fixtures.audit(plan={"file": "plan.json", "sha256": digest, "written": "2026-11-22T06:00:00Z"})
    write_json(run / "audit" / "audit.json", value)
    text = write_reports(run, ["md"])[0].read_text(encoding="utf-8")
    assert digest in text
    assert "2026-11-22 06:00 UTC, before generating" in text
    assert "| gender | man 50%, woman 50% | ±3 |" in text
    other = plan | {"n": 64, "taken_over": ["pool"]}
    write_json(run / "plan.json", found | {"plan": other})
    with pytest.raises(InputError, match="was changed after it was written"):
        write_reports(run, ["md"])
    write_json(run / "plan.json", found | {"plan": other, "sha256": sha256_json(other)})
    with pytest.raises(InputError, match="not the plan that the audit was made by"):
        write_reports(run, ["md"])
    value["plan"]["sha256"] = sha256_json(other)
    write_json(run / "audit" / "audit.json", value)
    text = write_reports(run, ["md"])[0].read_text(encoding="utf-8")
    assert 'older than this plan, taken over from an earlier run: \\["pool"\\]' in text


def test_the_complements_plan_of_an_earlier_version_is_no_plan(run: Path) -> None:
    write_json(run / "plan.json", {"omega": 1.0, "complement": {}})
    assert "No plan was fixed beforehand" in write_reports(run, ["md"])[0].read_text(encoding="utf-8")


def test_status_of_a_rule_follows_what_is_there(run: Path) -> None:
    view, answers = AuditResult.from_json(fixtures.AUDIT), read_context(run).answers
    statuses = {c.rule: c.status(view, answers, run) for c in CLAUSES}
    assert statuses["AI Act, Art. 10(2)(f)"] == PRESENT
    measures = {m: statuses[f"AI Act, Art. 50(2), measure {m}"] for m in ("1.1.1", "1.1.2", "1.1.3", "1.2")}
    assert measures["1.1.1"] == measures["1.1.2"] == measures["1.2"] == YOURS
    marked = replace(view, pools={s: replace(p, kind="pool", marked=True) for s, p in view.pools.items()})
    assert all(
        c.status(marked, answers, run) == PARTIAL for c in CLAUSES if c.rule.endswith(("measure 1.1.1", "measure 1.2"))
    )
    assert statuses["AI Act, Art. 5 as amended"] == YOURS and statuses["AI Act, Art. 15(4)"] in (YOURS, PARTIAL)
    assert all(c.edition and c.since for c in CLAUSES)
    assert statuses["AI Act, Annex IV 2(g)"] == PARTIAL
    answered = dict.fromkeys(answers, "yes")
    assert all(c.status(view, answered, run) == PRESENT for c in CLAUSES if c.questions and not c.needs)
    ids = {f.id for f in QUESTIONS}
    assert all(set(c.questions) <= ids for c in CLAUSES)
    assert {id for c in CLAUSES for id in c.sections} <= {id for id, *_ in SECTIONS}
    assert {n for c in CLAUSES for n in c.needs} <= set(evidence(view, run))


def test_a_table_of_rules_grows_old(run: Path) -> None:
    assert not stale(REVIEWED) and not stale(REVIEWED + dt.timedelta(days=180))
    assert "181 days before this report" in stale(REVIEWED + dt.timedelta(days=181))


def test_the_bias_profile_and_what_article_4a_concerns(run: Path) -> None:
    view = AuditResult.from_json(fixtures.AUDIT)
    (run / "report.toml").write_text(
        '[risk]\nhazard = "men only are shown as doctors"\ntrigger = "a new base model"\n', encoding="utf-8"
    )
    text = write_reports(run, ["md"])[0].read_text(encoding="utf-8")
    profile = text[text.index("Bias profile") :]
    group = words.furthest_below(view.main, "before")
    row = next(line for line in profile.splitlines() if f"{view.main.name}: {group}" in line)
    assert "men only are shown as doctors" in row and "a new base model" in row and "±" in row
    assert "Art. 4a concerns this audit: shares of perceived gender" in text
    assert "measure 1.1.2" in text and "2 Dec 2026" in text and f"reviewed {REVIEWED.isoformat()}" in text


def test_quality_at_each_strength_has_its_figure(run: Path) -> None:
    value = read_json(run / "audit" / "audit.json")
    for point in value["calibration"]:
        point |= {"fd_reference": 1 + point["strength"], "fd_target": 7 - point["strength"], "quality_n": 512}
    write_json(run / "audit" / "audit.json", value)
    text = write_reports(run, ["md"])[0].read_text(encoding="utf-8")
    assert (run / "audit" / "quality.png").is_file()
    assert "0.75: against the reference 1.75, against the target-reweighted reference 6.25" in text


@pytest.mark.parametrize("place", [".", "audit", "audit/audit.json"])
def test_the_command_takes_a_run_or_its_audit(run: Path, place: str) -> None:
    assert find_run(run / place) == run
    result = CliRunner().invoke(main, ["report", str(run / place), "--form", "md"])
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{run / 'report.md'}\n"
    assert (
        f"{len(QUESTIONS)} of {len(QUESTIONS)} questions are open; answer them in {run / 'report.toml'}"
        in result.stderr
    )


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    running = fixtures.running_run(tmp_path)
    for path, said in ((running, "no audit/audit.json yet"), (tmp_path / "none", "expected the folder of a finished")):
        result = CliRunner().invoke(main, ["report", str(path)])
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1


@pytest.mark.browser
def test_the_pdf_has_every_section_and_fetches_nothing(run: Path) -> None:
    import pypdfium2

    write_answers(run, read_answers(run) | {"purpose.intended": EVIL + " word" * 400 + "x" * 500})
    (path,) = write_reports(run, ["pdf"])
    pdf = pypdfium2.PdfDocument(path)
    text = "\n".join(page.get_textpage().get_text_range() for page in pdf)
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert len(pdf) > 3
    for said in (
        "woman share 25.1%",
        "Which rule asks for what",
        "Reproduction",
        "alert(",
        "All settings (config.json)",
    ):
        assert said in text, said


@pytest.mark.browser
def test_the_page_asks_for_nothing_and_complains_of_nothing(run: Path) -> None:
    from playwright.sync_api import sync_playwright

    (page,) = write_reports(run, ["html"])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        for width in (1280, 390):
            tab = browser.new_page(viewport={"width": width, "height": 900})
            said: list[str] = []
            asked: list[str] = []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.as_uri())
            assert said == []
            assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
            assert tab.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"
            tab.close()
        browser.close()
