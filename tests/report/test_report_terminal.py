"""The terminal's summary and the words that every output shares."""

from __future__ import annotations

import copy

import pytest
import report_fixtures as fixtures
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsims.report import terminal_table, words
from fairsims.report.view import read_audit

EXPECTED = """\
gender                                  before                after   target           difference
  man                      74.9% [73.0, 76.8]   50.2% [47.9, 52.5]       50%  -24.7 [-27.4, -22.0]
  woman                    25.1% [23.2, 27.0]   49.8% [47.5, 52.1]       50%  +24.7 [+22.0, +27.4]
  Target reached (every 95% interval lies within ±3 points of it).

FD (emoji-gender features)                        before      after       real
  against the reference                             1.08       6.02
  against the target-reweighted reference           6.48       2.36
  precision                                        0.873      0.851
  recall                                           0.761      0.742
  nearest reference image, median                  0.420      0.440      0.310
  nearest reference image, 1% quantile             0.170      0.190      0.120

cost                                                base retargeted
  network evaluations per image                       23         23
  images generated per kept image                   1.99       1.00
  network evaluations per kept image                45.8       23.0
  (base: resampled to the target with the classifier)

time                                          4 min 10 s
warning: the share of gender moves by 3.6 points with the confusion split"""


def test_whole_table():
    assert terminal_table(fixtures.AUDIT) == EXPECTED


def test_open_verdict_fits():
    value = fixtures.audit()
    value["attributes"]["gender"] |= {"reached": None, "tolerance": 0.0125}
    assert terminal_table(value).splitlines()[3].endswith("reaches beyond ±1.25 points of it).")


def test_single_source():
    table = terminal_table(fixtures.single_source())
    assert "25.1% [23.2, 27.0]" in table
    for word in ("after", "Target", "retargeted", "difference", "None"):
        assert word not in table


def test_not_reached_and_nothing_but_shares():
    value = fixtures.audit(cost=None, quality=None, warnings=None)
    value["attributes"]["gender"]["reached"] = False
    last = terminal_table(value).splitlines()[-1]
    assert last == "  Target not reached (a 95% interval lies wholly outside ±3 points of it)."


def test_a_long_warning_goes_on_on_the_next_line():
    told = "the two halves of this sentence are of equal weight and neither is to be lost " * 3
    lines = terminal_table(fixtures.audit(warnings=[told.strip()])).splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("warning: "))
    assert " ".join(line.strip() for line in lines[first:]) == f"warning: {told.strip()}"
    assert len(lines) - first == 3
    assert max(map(len, lines)) <= 100


def test_one_source_is_held_against_its_target_too():
    value = copy.deepcopy(fixtures.AUDIT)
    for section in value["attributes"].values():
        del section["after"], section["difference"]
    table = terminal_table(value)
    assert "Target reached (every 95% interval lies within ±3 points of it)." in table


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1, max_size=200), st.floats(0, 1), st.floats(0, 1e12))
def test_never_wider_than_100_columns_nor_more_lines(name, share, distance):
    value = copy.deepcopy(fixtures.AUDIT)
    gender = value["attributes"].pop("gender")
    for side in ("before", "after", "difference"):
        gender[side][name] = gender[side].pop("woman") | {"share": share, "delta": -share}
    gender["target"] = {name: share}
    del gender["by_split"]
    value["attributes"][name] = gender | {"classes": ["man", name], "focus": name}
    value["quality"]["metric"] = name
    value["quality"]["after"]["fd_target"] = distance
    value["warnings"] = [name[:80]]
    table = terminal_table(value)
    assert len(table.splitlines()) == len(EXPECTED.splitlines())
    assert max(map(len, table.splitlines())) <= 100
    assert "\x1b" not in table


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "—"), (0, "0"), (23, "23"), (70656, "70,656"), (6.4812, "6.48"), (45.8, "45.8"), (123.45, "123"),
        (12345.6, "12,346"), (0.00123, "0.00123"), (0.0000012, "1.2e-06"), (2.5e9, "2,500,000,000"), (1234567.8, "1.23e+06"),
        (-1.5, "-1.50"),
    ],
)  # fmt: skip
def test_number(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "—"), (0, "0.0 s"), (41.04, "41.0 s"), (59.96, "1 min 0 s"), (250.3, "4 min 10 s"), (7300, "2 h 1 min")],
)
def test_duration(seconds, text):
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("created", "text"),
    [
        ("2026-11-22T07:00:00Z", "2026-11-22 07:00 UTC"), ("2026-11-22T08:28:31+00:00", "2026-11-22 08:28 UTC"),
        ("2026-11-22T08:28:31+02:00", "2026-11-22T08:28:31+02:00"), ("2026-11-22", "2026-11-22"), ("today", "today"),
        (None, None),
    ],
)  # fmt: skip
def test_moment(created, text):
    assert words.moment(created) == text


def test_small_distances_keep_their_digits():
    value = fixtures.audit()
    value["quality"]["before"]["fd_reference"] = 0.0712
    assert "0.071      6.020" in terminal_table(value)


def test_seeds():
    assert words.seeds([[200000, 202047]]) == "200000–202047"
    assert words.seeds([1, 2, 5]) == "1, 2, 5"
    assert words.seeds(list(range(100))).endswith("7, … (100 in all)")
    assert words.seeds(None) == words.seeds([]) == words.seeds("x") == "—"


def test_focus_is_the_class_furthest_from_its_target_when_none_is_named():
    value = fixtures.audit()
    del value["attributes"]["gender"]["focus"]
    value["attributes"]["gender"]["target"] = {"man": 0.2, "woman": 0.5}
    assert read_audit(value).main.focus == "man"


def test_main_attribute_is_the_one_with_a_target():
    value = fixtures.audit()
    other = copy.deepcopy(value["attributes"]["gender"])
    del other["target"]
    value["attributes"] = {"age": other, **value["attributes"]}
    assert read_audit(value).main.name == "gender"
