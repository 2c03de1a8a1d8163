"""What files of the second format add: tiers, measures, joint shares, groups, several extractors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as fixtures

from fairsims.audit.result import AuditResult
from fairsims.report.html import write_report
from fairsims.report.measured import QualityNumber
from fairsims.report.numbers import fixed
from fairsims.report.words import assumption_note, sensitivity_sentence, tier_note


def second(**changes: Any) -> dict[str, Any]:
    """The fixture's audit as the second format has it."""
    value = fixtures.audit(format="fairsims-audit/2")
    value["attributes"]["gender"] |= {
        "tier": {"before": "B", "after": "A"},
        "assumption": {"before": "Errors are alike.", "after": "Labels are true."},
        "n": {"before": 2048, "after": 2048},
        "labels": {
            "after": {"file": "l.csv", "digest": fixtures.DIGEST, "n": 400, "counts": {"man": 200, "woman": 200}}
        },
        "warnings": ["after: few labels by predicted class (woman 12); 30 each are wanted"],
        "measures": {"after": {"total_variation": 0.002, "least_ratio": 0.99, "null": {"total_variation": 0.031}}},
        "sensitivity": {
            "before": {"points": 0.02, "low": {"woman": 0.24, "man": 0.73}, "high": {"woman": 0.27, "man": 0.76}}
        },
    }
    cells = [("man", "noto", 0.4), ("man", "twemoji", 0.35), ("woman", "noto", 0.15), ("woman", "twemoji", 0.1)]
    rows = [
        {"classes": [a, b], "share": s, "low": s - 0.02, "high": s + 0.02, "lift": None if s == 0.1 else 1.05}
        for a, b, s in cells
    ]
    value["joint"] = [
        {
            "attributes": ["gender", "vendor"],
            "before": {"tier": "B", "cells": rows, "warnings": ["w1"]},
            "missing": "Not measured after: x.",
        }
    ]
    value["quality"] |= {
        "groups": {
            "gender": {
                "man": {
                    "before": {"kid": 0.0004, "low": -0.001, "high": 0.002, "n": 200},
                    "after": {"refused": "12 generated images"},
                }
            }
        },
        "unavailable": {"group_fd": "too few"},
        "warnings": ["before has 20 images"],
        "further": [
            {
                "metric": "FID",
                "extractor": {"name": "inception"},
                "reference": {"name": "real", "n": 10},
                "before": {"fd_reference": 12.3, "n": 9},
            }
        ],
    }
    return value | changes


def test_every_section_is_on_the_page(tmp_path: Path) -> None:
    page = write_report(fixtures.finished_run(tmp_path, value=second())).read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for wanted in (
        "Before, tier b: corrected with the classifier",
        "after, tier A: corrected with labels that people gave",
        "(400 labelled)",
        "Before: Errors are alike. After: Labels are true.",
        "few labels by predicted class (woman 12)",
        "Attributes together",
        "35.0% [33.0, 37.0] ×1.05",
        "×—",
        "Not measured after: x.",
        "w1",
        "total variation",
        "0.031",
        "the woman share would lie in [24.0, 27.0] before.",
        "not measured: 12 generated images",
        "0.00040 [−0.00100, 0.00200]",
        "Not given, Fréchet distance of each class: too few.",
        "before has 20 images",
        "Against real (10 images)",
        "12.30",
        "labels of gender l.csv",
    ):
        assert wanted.lower() in text.lower(), wanted
    assert (tmp_path / "00003-gender-0.50" / "audit" / "joint.png").exists()
    table = fixtures.printed(second())
    assert "12.30" in table
    assert max(map(len, table.splitlines())) <= 100


def test_the_tier_is_said_once_where_the_sides_agree() -> None:
    value = second()
    gender = value["attributes"]["gender"]
    gender |= {
        "tier": {"before": "C", "after": "C"},
        "assumption": {"before": "x", "after": "x"},
        "labels": {},
        "sensitivity": {},
    }
    main = AuditResult.from_json(value).main
    assert tier_note(main) == "Tier C: uncorrected classifier counts; brackets cover sampling error only."
    assert assumption_note(main) == "x"
    assert sensitivity_sentence(main) is None
    old = AuditResult.from_json(fixtures.AUDIT).main
    assert (tier_note(old), assumption_note(old)) == (None, "")


@pytest.mark.parametrize(
    ("before", "after", "interval", "wanted"),
    [
        (0.071, 6.02, None, 3),
        (1.08, 6.48, None, 2),
        (0.873, 0.761, None, 3),
        (-0.0003, 0.204, None, 4),
        (48.2, 50.3, None, 2),
        (0.0004, None, (-0.002, 0.003), 5),
        (0.0, 0.0, None, 2),
        (0.03, 4.75, (0.0, 9.0), 3),
    ],
)
def test_numbers_have_the_decimals_that_tell_them_apart(
    before: float, after: float | None, interval: tuple[float, float] | None, wanted: int
) -> None:
    values = {"before": before} | ({} if after is None else {"after": after})
    found = QualityNumber(key="k", values=values, intervals={"before": interval} if interval else {})
    assert found.digits == wanted


def test_minus_signs() -> None:
    assert (fixed(-0.0001, 3), fixed(-0.0015, 3), fixed(-1234.5, 1)) == ("0.000", "−0.002", "−1,234.5")
