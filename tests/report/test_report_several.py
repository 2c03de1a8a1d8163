"""Reports of several attributes: each has its section, what was held says so, and the calibration its own number."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as fixtures

from fairsims.audit.result import AuditResult
from fairsims.dashboard.charts import calibration_chart
from fairsims.dashboard.runs_index import list_runs, runs_table
from fairsims.errors import InputError
from fairsims.report.html import write_report
from fairsims.report.measured import steered
from fairsims.report.numbers import mix
from fairsims.report.words import calibration_alt, drift_verdict, shares_alt


def drifted(largest: float, held: bool | None) -> dict[str, Any]:
    value = fixtures.several()
    value["attributes"]["vendor"]["drift"] = {"limit": 0.03, "largest": largest, "held": held}
    return value


def test_targeted_and_preserved_attributes_are_told_apart() -> None:
    view = AuditResult.from_json(fixtures.several())
    assert [a.name for a in view.targeted] == ["gender", "skin_tone"]
    assert [a.name for a in view.preserved] == ["vendor"]
    assert view.main.name == "gender"
    one = AuditResult.from_json(fixtures.audit())
    assert [a.name for a in one.targeted] == ["gender"]
    assert one.preserved == ()
    assert [a.name for a in AuditResult.from_json(fixtures.single_source()).targeted] == ["gender"]


@pytest.mark.parametrize(
    ("held", "largest", "said"),
    [
        (True, 0.004, "Preserved: the largest change is 0.4 points, every 95% interval lies within ±3."),
        (
            None,
            0.015,
            "Open whether it is preserved: the largest change is 1.5 points, a 95% interval reaches beyond ±3.",
        ),
        (False, 0.08, "Not preserved: the largest change is 8.0 points, a 95% interval lies wholly outside ±3."),
    ],
)
def test_what_was_held_is_said(held: bool | None, largest: float, said: str) -> None:
    value = drifted(largest, held)
    gender, _, vendor = AuditResult.from_json(value).attributes.values()
    assert drift_verdict(vendor) == said
    assert drift_verdict(gender) is None
    assert f"  {said}" in fixtures.printed(value).splitlines()


def test_terminal_shows_every_attribute_within_its_width() -> None:
    text = fixtures.printed(fixtures.several())
    assert max(map(len, text.splitlines())) <= 100
    for said in ("gender", "skin_tone", "vendor", "medium-dark", "Open whether the target is reached"):
        assert said in text


def test_page_has_a_section_for_each(tmp_path: Path) -> None:
    run = fixtures.finished_run(tmp_path, value=fixtures.several())
    page = write_report(run).read_text(encoding="utf-8")
    assert re.findall(r"<h3>([^<]*)</h3>", html.unescape(page))[1:3] == [
        "gender",
        "How much depends on the classifier's errors (gender)",
    ]
    for said in (
        "<h3>vendor (was to stay as it is)</h3>",
        "skin_tone: Open whether the target is reached",
        "vendor: Open whether it is preserved",
        "The classifier on images with known labels (skin_tone)",
        "called medium-dark",
        "Rounds:",
        "2, kept",
        "none of the other 12",
        "emoji-vendor",
        "err independently of each other",
    ):
        assert said in page, said
    assert write_report(run).read_text(encoding="utf-8") == page


def test_page_of_one_attribute_does_not_speak_of_several(tmp_path: Path) -> None:
    page = write_report(fixtures.finished_run(tmp_path)).read_text(encoding="utf-8")
    for said in ("Rounds:", "(held)", "known labels (", "independently of each other"):
        assert said not in page


def test_calibration_shows_what_it_steered() -> None:
    view = AuditResult.from_json(fixtures.several())
    assert (steered(view).name, steered(view).target) == ("share of all cells that grow", 0.51)
    assert steered(view).after is not None
    assert steered(view).after.share == 0.50
    assert calibration_alt(view).startswith("share of all cells that grow at each strength")
    assert "share of all cells that grow" in str(calibration_chart(view).to_dict())
    one = AuditResult.from_json(fixtures.audit())
    assert (steered(one).name, steered(one).target) == ("woman share", 0.5)
    assert steered(one).after == one.main.after["woman"]
    value = fixtures.several()
    del value["controlled"]["after"]
    assert steered(AuditResult.from_json(value)).after is None


def test_alternative_text_names_the_attributes() -> None:
    assert "vendor: noto: before 52.0%" in shares_alt(AuditResult.from_json(fixtures.several()))
    assert "gender:" not in shares_alt(AuditResult.from_json(fixtures.audit()))


def test_runs_table_shows_every_target(tmp_path: Path) -> None:
    fixtures.finished_run(tmp_path, "00004-gender-0.5-skin_tone-uniform", fixtures.several())
    row = runs_table(list_runs(tmp_path)).records()[0]
    assert row["share"] == "woman 25.1% → 49.8%; dark 12.0% → 16.0%"
    assert row["target"] == "50%; 16.67%"


def test_a_mix_of_many_classes_is_short() -> None:
    shares = {f"c{k}": 0.0 for k in range(9)} | {"a": 0.25, "b": 0.75}
    assert mix(shares) == "b 75.0%, a 25.0%; none of the other 9"
    assert mix({"man": 1.0, "woman": 0.0}) == "man 100%, woman 0%"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("attributes", "vendor", "drift"),
            {"limit": 0.03},
            r"attributes.vendor.drift.largest of the audit is missing",
        ),
        (("attributes", "vendor", "drift"), 3, "attributes.vendor.drift of the audit is 3; expected an object"),
        (("controlled",), [], "controlled of the audit is a list; expected an object"),
        (("rounds",), [{"round": 1}, {"round": 2}], "rounds.0..kept of the audit is missing"),
        (
            ("classifiers", "skin_tone", "confusions"),
            {"v": {"counts": [[1]]}},
            "confusions.v of the classifier of skin_tone in the audit is no 6 x 6 table",
        ),
    ],
)
def test_broken_sections_are_named(tmp_path: Path, path: tuple[str, ...], value: Any, message: str) -> None:
    audit = fixtures.several()
    parent = audit
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(InputError, match=message):
        write_report(fixtures.finished_run(tmp_path, value=audit))
