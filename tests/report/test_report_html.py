"""The HTML report: self-contained, escaped, the same bytes from the same audit, and whole whatever an audit leaves out."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser

import pytest
import report_fixtures as fixtures

from fairsims.errors import InputError
from fairsims.report.html import write_report

MINIMAL = {
    "format": "fairsims-audit/1",
    "attributes": {"parity": {"classes": ["even", "odd"], "before": {"even": {"share": 0.5}, "odd": {"share": 0.5}}}},
}


class Tags(HTMLParser):
    """Every tag with its attributes, and which of the non-void ones were left open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def report(tmp_path, value=None, name="00003-gender-0.50"):
    path = write_report(fixtures.finished_run(tmp_path, name, value))
    return path.read_text(encoding="utf-8")


def text_of(html):
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())


def test_says_what_changed(tmp_path):
    text = text_of(report(tmp_path))
    assert "woman share 25.1% [23.2, 27.0] → 49.8% [47.5, 52.1] ; target 50%" in text
    assert "Target reached (every 95% interval lies within ±3 points of it)." in text
    assert "+24.7 [+22.0, +27.4]" in text
    assert "Between the splits the woman share moves by 2.2 points before and 3.6 points after." in text
    assert "FD (emoji-gender features), lower is closer: against the reference 1.08 → 6.02" in text
    assert "against the target-reweighted reference 6.48 2.36" in text
    assert "images generated per kept image 1.99 1.00" in text
    assert "fairsims retarget --attr gender --target 0.5" in text
    assert "seeds 200000–202047" in text
    assert (
        "perceived presentation as labelled by a classifier or by people; this report is evidence, not a certificate"
        in text
    )
    assert "the share of gender moves by 3.6 points" in text


def test_needs_nothing_from_outside(tmp_path):
    html = report(tmp_path)
    parsed = Tags(html)
    assert not parsed.open
    assert not re.search(r"https?:|@import|url\(|<script", html)
    links = [a[k] for _, a in parsed.tags for k in ("src", "href", "srcset", "data", "action") if k in a]
    assert len([link for link in links if link.startswith("data:")]) == 5
    ids = {a["id"] for _, a in parsed.tags if "id" in a}
    assert all(link.startswith("data:") or link.removeprefix("#") in ids for link in links)
    assert all(a.get("alt") for tag, a in parsed.tags if tag == "img")
    assert not any(k.startswith("on") for _, a in parsed.tags for k in a)


def test_same_audit_same_bytes(tmp_path):
    first, second = fixtures.finished_run(tmp_path / "a"), fixtures.finished_run(tmp_path / "b")
    once = write_report(first).read_bytes()
    assert write_report(first).read_bytes() == once
    assert write_report(second).read_bytes() == once
    assert (first / "audit" / "shares.png").read_bytes() == (second / "audit" / "shares.png").read_bytes()


def test_everything_given_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>"
    value = copy.deepcopy(fixtures.AUDIT)
    gender = value["attributes"].pop("gender")

    def renamed(node):
        if isinstance(node, dict):
            return {evil if k == "woman" else k: renamed(v) for k, v in node.items()}
        return [renamed(v) for v in node] if isinstance(node, list) else (evil if node == "woman" else node)

    value["attributes"][f'"{evil}'] = renamed(gender) | {"split": evil, "method": evil}
    value["classifier"]["confusions"]["variant"]["description"] = evil
    for key in ("model", "command", "created", "fairsims"):
        value[key] = f"'\"{evil}"
    value["warnings"] = [evil]
    value["method"]["reason"] = evil
    value["pools"]["before"]["checkpoint"] = evil
    value["quality"]["metric"] = evil
    value["quality"]["reference"]["name"] = evil
    value["cost"]["stages"][0]["stage"] = evil
    html = report(tmp_path, value, name="00003-<img src=x onerror=alert(1)>&amp;")
    assert "<script" not in html
    assert "onerror=alert(1)&gt;&amp;amp;" in html
    assert [a["src"][:5] for tag, a in Tags(html).tags if tag == "img"] == ["data:"] * 4


def test_settings_are_shown_and_escaped(tmp_path):
    run = fixtures.finished_run(tmp_path)
    (run / "config.json").write_text('{"data": "</pre><script>"}', encoding="utf-8")
    html = write_report(run).read_text(encoding="utf-8")
    assert "&#34;data&#34;: &#34;&lt;/pre&gt;&lt;script&gt;&#34;" in html


def test_least_audit(tmp_path):
    run = fixtures.finished_run(tmp_path, value=MINIMAL)
    for path in (*run.glob("audit/grid-*.png"), run / "config.json"):
        path.unlink()
    text = text_of(write_report(run).read_text(encoding="utf-8"))
    assert "odd share 50.0%" in text
    assert "No image grid was written for this run." in text
    assert "Quality was not measured: no real images were given to hold it against." in text
    assert "Cost was not recorded." in text
    assert "None" not in text
    assert not (run / "audit" / "calibration.png").exists()


def test_single_source_has_no_after(tmp_path):
    text = text_of(report(tmp_path, fixtures.single_source()))
    assert "woman share 25.1% [23.2, 27.0] Brackets" in text
    assert "Measured" in text
    for word in ("→", "difference", "retargeted", "Both grids"):
        assert word not in text


@pytest.mark.parametrize("key", [k for k in fixtures.AUDIT if k not in ("format", "attributes")])
def test_every_other_section_may_be_missing(tmp_path, key):
    text = text_of(report(tmp_path, fixtures.audit(**{key: None})))
    assert "49.8%" in text


def test_three_classes_and_an_attribute_without_target(tmp_path):
    value = fixtures.audit()
    shares = {c: {"share": s, "low": s - 0.02, "high": s + 0.02} for c, s in zip("abc", (0.5, 0.3, 0.2), strict=True)}
    sides = {"before": shares, "after": shares}
    value["attributes"]["skin_tone"] = {
        "classes": ["a", "b", "c"],
        **sides,
        "by_split": {"variant": sides, "concept": sides},
    }
    text = text_of(report(tmp_path, value))
    assert "woman share 25.1%" in text
    assert "variant b 30.0% [28.0, 32.0]" in text
    assert "Between the splits the c share moves by 0.0 points before and 0.0 points after." in text


@pytest.mark.parametrize(
    ("reached", "words"), [(False, "Target not reached"), (None, "Open whether the target is reached")]
)
def test_target_not_or_perhaps_reached_is_said(tmp_path, reached, words):
    value = fixtures.audit()
    value["attributes"]["gender"]["reached"] = reached
    assert words in text_of(report(tmp_path, value))


def test_one_split_cannot_tell_how_far_the_share_depends_on_it(tmp_path):
    value = fixtures.audit()
    for holder in (value["attributes"]["gender"]["by_split"], value["classifier"]["confusions"]):
        del holder["concept"]
    text = text_of(report(tmp_path, value))
    assert "measured in one way only" in text
    assert "How much depends" not in text


@pytest.mark.parametrize(
    ("path", "wrong", "message"),
    [
        (("format",), "other/1", "'other/1'; expected 'fairsims-audit/2'"),
        (("attributes",), {}, "no attributes"),
        (("attributes",), [], "no attributes"),
        (("attributes", "gender", "classes"), [], "attributes.gender of the audit lists no classes"),
        (("attributes", "gender", "before"), None, "attributes.gender.before of the audit is missing"),
        (("attributes", "gender", "after", "woman", "share"), None, "attributes.gender.after.woman.share"),
        (("attributes", "gender", "after", "woman", "low"), float("nan"), "expected a finite number"),
        (("attributes", "gender", "after"), {"man": {"share": 1}}, "has no class 'woman' in after"),
        (("calibration",), {}, "calibration of the audit is an object; expected a list"),
        (("calibration",), [1], r"calibration\[0\] of the audit is 1; expected an object"),
        (("calibration",), [{"share": 0.5}], r"calibration\[0\].strength"),
        (("classifier", "confusions", "variant", "counts"), [[1, 2]], "is no 2 x 2 table"),
    ],
)
def test_broken_audit_names_the_place(tmp_path, path, wrong, message):
    value = fixtures.audit()
    node = value
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = wrong
    with pytest.raises(InputError, match=message) as error:
        report(tmp_path, value)
    assert "\n" not in str(error.value)


def test_missing_audit_and_broken_picture(tmp_path):
    with pytest.raises(InputError, match="audit.json is missing"):
        write_report(tmp_path)
    run = fixtures.finished_run(tmp_path)
    (run / "audit" / "grid-after.png").write_bytes(b"cut off")
    with pytest.raises(InputError, match="grid-after.png is no PNG"):
        write_report(run)
