"""An audit as typed values: what was recorded is read, written again as it was, and refused by place when broken."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from fairsims.audit.result import AuditResult, Share, audit_schema, load_audit, save_audit
from fairsims.errors import InputError

RECORDED = Path(__file__).parents[2] / "audits" / "emoji-people-gender" / "seed0"


@pytest.fixture
def recorded() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / "audit" / "audit.json").read_text(encoding="utf-8"))
    return found


def with_names_of_now(recorded: dict[str, Any]) -> dict[str, Any]:
    """Planned and least strength were called omega."""
    return recorded | {"method": {k.replace("_omega", "_strength"): v for k, v in recorded["method"].items()}}


def first_format() -> dict[str, Any]:
    """An audit of `fairsims-audit/1`: no tiers, measures, joint shares; nothing beside what it always held."""
    shares = {"man": {"share": 0.7, "low": 0.6, "high": 0.8}, "woman": {"share": 0.3, "low": 0.2, "high": 0.4}}
    return {
        "format": "fairsims-audit/1",
        "attributes": {"gender": {"classes": ["man", "woman"], "target": {"man": 0.5, "woman": 0.5}, "before": shares}},
    }


def test_a_recorded_audit_is_read_and_written_as_it_was(recorded: dict[str, Any], tmp_path: Path) -> None:
    result = load_audit(RECORDED)
    assert (result.method.planned_strength, result.method.least_strength) == (1.238212989199468, 1.238212989199468)
    assert result.to_json() == with_names_of_now(recorded)
    assert list(Draft202012Validator(audit_schema()).iter_errors(result.to_json())) == []
    save_audit(tmp_path, result)
    assert load_audit(tmp_path) == result
    assert result.main.name == "gender"
    assert result.main.before["woman"] == Share(
        share=0.23610901233075432, low=0.2128478153945096, high=0.2584126187230821, raw=0.24560546875, count=503
    )
    assert result.sides == ("before", "after")
    assert result.same_seeds
    assert result.main.moved_between_splits("before") == pytest.approx(0.0272330, abs=1e-6)
    assert result.strength == pytest.approx(0.69382, abs=1e-5)
    assert [p.n for p in result.by_strength] == [3072, 1024, 3072, 512]


def test_the_first_format_is_read(tmp_path: Path) -> None:
    result = AuditResult.from_json(first_format())
    gender = result.main
    assert (gender.name, gender.focus, gender.tier, gender.after) == ("gender", "woman", {}, {})
    assert result.sides == ("before",)
    assert (result.sections, result.joint, result.cost, result.strength) == ((), (), None, None)
    # Without a target the headline speaks of the last class.
    value = first_format()
    del value["attributes"]["gender"]["target"]
    assert AuditResult.from_json(value).main.focus == "woman"


def test_keys_of_another_version_are_kept(recorded: dict[str, Any]) -> None:
    recorded["later"] = {"x": [1, None]}
    recorded["classifier"]["kind"] = "network"
    result = AuditResult.from_json(recorded)
    assert (result.more, result.classifier and result.classifier.more["kind"]) == (
        {"later": {"x": [1, None]}},
        "network",
    )
    assert result.to_json() == with_names_of_now(recorded)


@pytest.mark.parametrize(
    ("place", "wrong", "message"),
    [
        (("format",), "other/1", "the audit has format 'other/1'; expected 'fairsims-audit/2'"),
        (("attributes",), {}, "the audit has no attributes; expected at least one"),
        (("attributes",), [1], "attributes of the audit is a list; expected an object"),
        (("attributes", "gender", "classes"), [], "attributes.gender of the audit lists no classes"),
        (("attributes", "gender", "before"), None, "attributes.gender.before of the audit is missing"),
        (
            ("attributes", "gender", "after", "woman", "share"),
            None,
            "attributes.gender.after.woman.share of the audit is",
        ),
        (
            ("attributes", "gender", "after", "woman", "low"),
            float("nan"),
            "woman.low of the audit is nan; expected a fin",
        ),
        (
            ("attributes", "gender", "after"),
            {"man": {"share": 1}},
            "attributes.gender of the audit has no class 'woman' in",
        ),
        (("attributes", "gender", "tier", "after"), "D", "tier.after of the audit is 'D'; expected 'A' or 'B' or 'C'"),
        (("attributes", "gender", "reached"), "yes", "gender.reached of the audit is 'yes'; expected true or false"),
        (("attributes", "gender", "n", "before"), 0.5, "gender.n.before of the audit is 0.5; expected a whole number"),
        (("calibration",), {}, "calibration of the audit is an object; expected a list"),
        (("calibration",), [1], "calibration[0] of the audit is 1; expected an object"),
        (("calibration",), [{"share": 0.5}], "calibration[0].strength of the audit is missing"),
        (("quality", "before", "kid"), "0.1", "quality.before.kid of the audit is '0.1'; expected a finite number"),
        (("method", "interval"), [1], "method.interval of the audit is a list; expected a list of 2"),
    ],
)
def test_what_is_broken_is_named_by_its_place(
    recorded: dict[str, Any], place: tuple[str, ...], wrong: object, message: str
) -> None:
    node = recorded
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = wrong
    with pytest.raises(InputError) as error:
        AuditResult.from_json(recorded)
    assert message in str(error.value)
    assert str(error.value).endswith("run the audit again")
    assert "\n" not in str(error.value)


def test_the_schema_refuses_what_is_no_audit(recorded: dict[str, Any]) -> None:
    schema = Draft202012Validator(audit_schema())
    Draft202012Validator.check_schema(schema.schema)
    gender = recorded["attributes"]["gender"]
    for key, value in (
        ("share", gender["before"]["man"]["share"] + 1),
        ("share", None),
        ("low", "0.1"),
        ("extra", 1.0),
    ):
        broken = copy.deepcopy(recorded)
        broken["attributes"]["gender"]["before"]["man"][key] = value
        assert list(schema.iter_errors(broken)), key
    for key in ("tier", "assumption", "reached", "measures", "tolerance"):
        broken = copy.deepcopy(recorded)
        del broken["attributes"]["gender"][key]
        assert list(schema.iter_errors(broken)), key
    assert list(schema.iter_errors(recorded | {"format": "fairsims-audit/1"}))
