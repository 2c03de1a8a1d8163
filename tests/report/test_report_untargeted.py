"""Attributes that nobody targeted, in every form of a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import report_fixtures as fixtures

from fairsims.audit.result import AuditResult
from fairsims.report import words
from fairsims.report.forms import write_reports


def watched(vendor_after: float = 0.425, skin_after: float = 0.17) -> dict[str, Any]:
    """Gender was targeted; skin tone and vendor were watched."""
    value = fixtures.several()
    for name, focus, after in (("vendor", "noto", vendor_after), ("skin_tone", "none", skin_after)):
        a = value["attributes"][name]
        for key in ("target", "tolerance", "reached", "drift"):
            a.pop(key, None)
        delta = after - a["before"][focus]["share"]
        a["focus"], a["difference"][focus] = focus, {"delta": delta, "low": delta - 0.024, "high": delta + 0.024}
        low = a["difference"][focus]["low"], a["difference"][focus]["high"]
        a["untargeted"] = {"limit": 0.03, "moved": low[0] > 0.03 or low[1] < -0.03}
    return value


def test_the_largest_drift_stands_beside_the_verdict() -> None:
    result = AuditResult.from_json(watched())
    assert [a.name for a in result.untargeted] == ["vendor", "skin_tone"]
    assert (result.preserved, [a.name for a in result.targeted]) == ((), ["gender"])
    said = words.side_effect(result)
    assert said == "Not targeted: vendor moved, noto −9.5 points [−11.9, −7.1]."
    assert words.untargeted_note(result.attributes["skin_tone"]) == (
        "Not targeted. Its largest change is none −3.0 points [−5.4, −0.6]: none clearly beyond ±3 points."
    )
    assert words.untargeted_note(result.main) is None
    still = AuditResult.from_json(watched(0.515, 0.21))
    assert (words.side_effect(still) or "").startswith("Not targeted: skin_tone moved most, none +1.0 points")
    both = AuditResult.from_json(watched(0.3, 0.1))
    assert (words.side_effect(both) or "").endswith("; 2 attributes moved.")
    assert words.side_effect(AuditResult.from_json(fixtures.several())) is None
    assert AuditResult.from_json(result.to_json()) == result


def test_every_form_names_them(tmp_path: Path) -> None:
    printed = fixtures.printed(watched())
    assert "not targeted: largest change" in printed
    row = next(line for line in printed.splitlines() if "vendor: noto" in line)
    assert row.endswith("moved")
    assert "Not targeted: vendor moved, noto" in printed
    assert "twemoji" not in printed, "one row each is enough here"
    run = fixtures.finished_run(tmp_path, value=watched())
    write_reports(run, ("html", "md", "card"))
    for name in ("report.html", "report.md", "model_card.md"):
        text = (run / name).read_text(encoding="utf-8")
        assert "Not targeted: vendor moved" in text, name
        assert "vendor (not targeted)" in text, name
        assert "twemoji" in text, name
