"""`fairsims audit` through the command line: what it measures of any images, and what it refuses in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator
from support import MakePool

from fairsims.audit.compare import Aim, audit
from fairsims.audit.result import AuditResult, audit_schema
from fairsims.audit.tables import share_rows
from fairsims.classifiers import load_classifier
from fairsims.cli import main
from fairsims.dashboard.runs_index import read_run
from fairsims.data import ImageDataset
from fairsims.files import read_json, write_json
from fairsims.pools import Pool, export_edm_zip, export_folder

SCHEMA = Draft202012Validator(audit_schema())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def run(*args: object) -> dict[str, Any]:
    """What an audit prints as JSON, checked against the schema and read back as the report reads it."""
    result = CliRunner().invoke(main, ["audit", *map(str, args), "--json"])
    assert result.exit_code == 0, result.stderr or result.exception
    found: dict[str, Any] = json.loads(result.stdout)
    errors = [f"{e.json_path}: {e.message}" for e in SCHEMA.iter_errors(found)]
    assert errors == []
    assert AuditResult.from_json(found).to_json() == found
    return found


def refused(*args: object) -> str:
    """The one line of an audit that has to fail with exit code 2, with nothing written."""
    out = Path(str(args[-1])) if args[-2] == "--out" else None
    before = sorted(out.rglob("*")) if out else []
    result = CliRunner().invoke(main, ["audit", *map(str, args)])
    assert result.exit_code == 2, (result.output, result.exception)
    lines = result.stderr.splitlines()
    assert (result.stdout, len(lines)) == ("", 1), result.stderr
    assert (sorted(out.rglob("*")) if out else []) == before
    return lines[0]


def labels_of(pool: Pool, path: Path, n: int) -> Path:
    """Right labels of the first n images of each class; the pool's name says how many of its first are even."""
    even = int(pool.folder.name.split("-")[1])
    true = np.array([0] * even + [1] * (len(pool) - even))
    chosen = np.concatenate([np.flatnonzero(true == k)[:n] for k in (0, 1)])
    parity = [("even", "odd")[k] for k in true[chosen]]
    pd.DataFrame({"seed": pool.seeds[chosen], "parity": parity}).to_csv(path, index=False)
    return path


def test_a_pool_alone_without_target_or_reference(digits_pool: MakePool) -> None:
    found = run("--before", digits_pool(60, 40).folder, "--attr", "parity")
    parity = found["attributes"]["parity"]
    assert set(parity) >= {"classes", "tier", "assumption", "sensitivity"}
    assert not {"after", "target", "reached", "measures", "difference", "drift"} & set(parity)
    assert parity["tier"] == {"before": "B"}
    assert abs(parity["before"]["even"]["share"] - 0.6) < 0.05
    assert "quality" not in found
    assert "joint" not in found
    assert found["settings"]["attr"] == ["parity"]


def test_any_two_sources_with_target_reference_and_report(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(150, 50, "b"), digits_pool(100, 100, "a")
    export_folder(digits_pool(90, 80, "real"), tmp_path / "real")
    export_folder(before, tmp_path / "before")
    export_edm_zip(after, tmp_path / "after.zip")
    out = tmp_path / "out"
    found = run(
        "--before",
        tmp_path / "before",
        "--after",
        tmp_path / "after.zip",
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--reference",
        tmp_path / "real",
        "--tolerance",
        "0.2",
        "--out",
        out,
    )
    assert found == read_json(out / "audit" / "audit.json")
    parity = found["attributes"]["parity"]
    assert parity["reached"] is True
    assert parity["measures"]["before"]["total_variation"] > parity["measures"]["before"]["null"]["total_variation"]
    assert parity["measures"]["after"]["achieved_shift"]["odd"] == pytest.approx(1, abs=0.25)
    assert found["pools"]["after"]["kind"] == "images"
    assert "seeds" not in found["pools"]["after"]
    assert "cost" not in found
    # The same numbers as of the pools that the images came from.
    pools = run(
        "--before",
        before.folder,
        "--after",
        after.folder,
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--reference",
        tmp_path / "real",
        "--tolerance",
        "0.2",
    )
    assert pools["attributes"] == found["attributes"]
    assert pools["quality"]["after"] == found["quality"]["after"]
    assert pools["cost"]["before"] == {"evaluations_per_image": 1}
    files_written = {p.name for p in (out / "audit").iterdir()}
    assert files_written == {
        "audit.json",
        "shares.parquet",
        "grid-before.png",
        "grid-after.png",
        "nearest-before.png",
        "nearest-after.png",
        "shares.png",
    }
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Tier B" in report
    assert parity["assumption"]["after"].split("(")[0] in report
    assert "KID" in report
    assert "Both grids come from the same seeds" not in report


def test_the_plan_is_fixed_before_measuring(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after, out = digits_pool(150, 50, "b-150"), digits_pool(100, 90, "a-100"), tmp_path / "out"
    labels = labels_of(after, tmp_path / "a.csv", 40)
    common = [
        "--before",
        before.folder,
        "--after",
        after.folder,
        "--attr",
        "parity",
        "--reference",
        "digits",
        "--labels",
        f"after={labels}",
        "--target",
        "odd=0.4",
    ]
    audited = run(*common, "--out", out)
    found = read_json(out / "plan.json")
    plan = found["plan"]
    assert audited["plan"] == {"file": "plan.json", "sha256": found["sha256"], "written": found["written"]}
    assert found["written"] <= audited["created"]
    assert plan["when"] == "before measuring"
    assert plan["attributes"]["parity"] == {
        "classes": ["even", "odd"],
        "target": {"even": 0.6, "odd": 0.4},
        "target_text": "odd=0.4",
        "tolerance": 0.03,
    }
    assert (plan["alpha"], plan["n"]) == (0.05, {"before": 200, "after": 190})
    assert {when: i["digest"] for when, i in plan["images"].items()} == {
        when: p["digest"] for when, p in audited["pools"].items()
    }
    assert plan["reference"]["digest"] == audited["quality"]["reference"]["digest"]
    assert plan["extractors"] == [audited["quality"]["extractor"]]
    assert plan["labels"]["parity"]["after"]["n"] == 80
    assert any("before: tier B" in m and "after: tier A" in m for m in plan["metrics"])
    assert "plan.json" in read_json(out / "manifest.json")["outputs"]
    assert read_run(out).kind == "audit"
    # Once more, the plan stays; another plan, or a plan that was changed, is refused before anything is written.
    first = (out / "plan.json").read_bytes()
    run(*common, "--out", out)
    assert (out / "plan.json").read_bytes() == first
    line = refused(*common, "--tolerance", "0.2", "--out", out)
    assert "was planned with attributes.parity.tolerance = 0.03, now attributes.parity.tolerance = 0.2;" in line
    write_json(out / "plan.json", found | {"plan": plan | {"alpha": 0.2}})
    assert "plan.json was changed after it was written" in refused(*common, "--out", out)


def test_a_killed_audit_goes_on_by_its_plan(tmp_path: Path, digits_pool: MakePool) -> None:
    out, common = tmp_path / "out", ["--before", digits_pool(30, 30).folder, "--attr", "parity"]
    run(*common, "--out", out)
    plan = (out / "plan.json").read_bytes()
    assert read_json(out / "plan.json")["plan"]["attributes"]["parity"]["target_text"] == "none: measured only"
    shutil.rmtree(out / "audit")
    for gone in ("report.html", "manifest.json"):
        (out / gone).unlink()
    assert "planned with" in refused(*common, "--target", "0.5", "--out", out)
    run(*common, "--out", out)
    assert (out / "plan.json").read_bytes() == plan
    # One that an earlier version made had no plan: writing it now would be too late.
    (out / "plan.json").unlink()
    assert "holds an audit without the plan.json that is written before measuring" in refused(*common, "--out", out)
    write_json(out / "plan.json", {"omega": 1.0, "complement": {"even": 1.0, "odd": 0.0}})
    assert "is the plan of a complement" in refused(*common, "--out", out)


def test_labels_by_people_make_tier_a(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(150, 50, "b-150"), digits_pool(100, 100, "a-100")
    labels = [
        f"before={labels_of(before, tmp_path / 'b.csv', 40)}",
        f"after={labels_of(after, tmp_path / 'a.csv', 40)}",
    ]
    common = ["--before", before.folder, "--after", after.folder, "--attr", "parity", "--target", "0.5"]
    both = run(*common, "--labels", labels[0], "--labels", labels[1], "--out", tmp_path / "out")
    parity = both["attributes"]["parity"]
    assert parity["tier"] == {"before": "A", "after": "A"}
    assert parity["labels"]["after"]["n"] == 80
    assert parity["labels"]["after"]["counts"] == {"even": 40, "odd": 40}
    assert parity["after"]["odd"]["low"] < 0.5 < parity["after"]["odd"]["high"]
    table = pd.read_parquet(tmp_path / "out" / "audit" / "shares.parquet")
    chosen = table[table["chosen"]]
    assert set(chosen["tier"]) == {"A"}
    assert len(chosen) == 4
    # What the held-out errors would have said stays beside it.
    assert set(table.loc[~table["chosen"], "tier"]) == {"B"}
    used = pd.read_parquet(tmp_path / "out" / "audit" / "labels.parquet")
    assert used.groupby("when").size().to_dict() == {"after": 80, "before": 80}
    report = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Tier A" in report
    one = run(*common, "--labels", labels[1])["attributes"]["parity"]
    assert one["tier"] == {"before": "B", "after": "A"}
    assert one["after"] == parity["after"]


def test_undetermined_is_a_class_when_people_say_so(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(60, 60, "b-60")
    table = pd.read_csv(labels_of(pool, tmp_path / "l.csv", 30))
    table.loc[::6, "parity"] = "undetermined"
    table.to_csv(tmp_path / "l.csv", index=False)
    found = run(
        "--before",
        pool.folder,
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--labels",
        tmp_path / "l.csv",
        "--out",
        tmp_path / "out",
    )
    parity = found["attributes"]["parity"]
    assert parity["classes"] == ["even", "odd", "undetermined"]
    assert parity["target"]["undetermined"] == 0
    assert parity["before"]["undetermined"]["share"] == pytest.approx(1 / 6, abs=0.05)
    assert parity["by_split"] == {}
    line = refused(
        "--before",
        pool.folder,
        "--after",
        digits_pool(30, 60, "a-30").folder,
        "--attr",
        "parity",
        "--labels",
        f"before={tmp_path / 'l.csv'}",
    )
    assert "people found undetermined images, which digits-parity does not know, and after has no labels" in line


def test_without_errors_or_labels_the_shares_are_called_uncorrected(digits_pool: MakePool) -> None:
    classifier = load_classifier("digits-parity")
    classifier.confusions, classifier.default_split = {}, ""
    found = audit(digits_pool(60, 40), digits_pool(50, 50, "a"), [(classifier, Aim(target=np.array([0.5, 0.5])))])
    assert list(SCHEMA.iter_errors(found.to_json())) == []
    parity = found.main
    assert parity.tier == {"before": "C", "after": "C"}
    assert parity.method is not None
    assert "uncorrected" in parity.method
    assert parity.split is None
    assert parity.before["even"].share == parity.before["even"].raw
    assert {(r["tier"], r["split"]) for r in share_rows(found)} == {("C", None)}


def write_table(pool: Pool, path: Path) -> Path:
    """Another attribute by another tool: whether the seed is a multiple of three."""
    rows = [("three" if s % 3 == 0 else "other") for s in pool.seeds]
    pd.DataFrame({"seed": pool.seeds, "kind": rows}).to_csv(path, index=False)
    return path


def test_several_attributes_together(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(150, 60, "b"), digits_pool(120, 90, "a")
    kinds = write_table(before, tmp_path / "kinds.csv")
    found = run(
        "--before",
        before.folder,
        "--after",
        after.folder,
        "--attr",
        "parity",
        "--hold",
        "kind",
        "--classifier",
        kinds,
        "--target",
        "0.5",
        "--drift",
        "0.3",
        "--out",
        tmp_path / "out",
    )
    assert found["attributes"]["kind"]["tier"] == {"before": "C", "after": "C"}
    assert found["attributes"]["kind"]["drift"]["preserved"] is True
    (pair,) = found["joint"]
    assert pair["attributes"] == ["parity", "kind"]
    shares = {tuple(c["classes"]): c["share"] for c in pair["before"]["cells"]}
    assert sum(shares.values()) == pytest.approx(1)
    # Of the errors of one classifier only, nothing is corrected.
    assert pair["before"]["tier"] == "C"
    assert all(0.7 < c["lift"] < 1.4 for c in pair["before"]["cells"])
    assert len(pair["difference"]) == 4
    assert {p.name for p in (tmp_path / "out" / "audit").iterdir()} >= {"joint.parquet", "joint.png"}
    assert len(pd.read_parquet(tmp_path / "out" / "audit" / "joint.parquet")) == 8


def test_a_split_of_errors_that_nobody_measured_is_refused(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(30, 30)
    options = ["--attr", "kind", "--classifier", write_table(pool, tmp_path / "kinds.csv"), "--split", "variant"]
    message = refused("--before", pool.folder, *options, "--out", tmp_path / "out")
    assert "--split variant changes nothing: nobody measured the classifier's errors; leave it out" in message


def test_without_out_nothing_is_written(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(30, 30)
    there = sorted(p for p in tmp_path.rglob("*"))
    result = CliRunner().invoke(main, ["audit", "--before", str(pool.folder), "--attr", "parity"])
    assert result.exit_code == 0
    assert "Tier B: corrected" in result.stdout
    assert "report" not in result.stdout
    labels = [pool.folder / "labels", *(pool.folder / "labels").rglob("*")]
    kept = [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]
    assert sorted(p for p in tmp_path.rglob("*")) == sorted([*there, *labels, *kept])


def test_few_images_are_a_warning(digits_pool: MakePool) -> None:
    found = run("--before", digits_pool(20, 20).folder, "--attr", "parity")
    assert any("only 40 images were counted; below 50" in w for w in found["warnings"])
    assert found["attributes"]["parity"]["warnings"] == found["warnings"]


def test_a_class_without_images_is_measured(digits_pool: MakePool) -> None:
    found = run("--before", digits_pool(80, 0).folder, "--attr", "parity", "--target", "0.5")
    odd = found["attributes"]["parity"]["before"]["odd"]
    assert odd["low"] <= odd["share"] < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--attr", "parity", "--target", "even=0.7,odd=0.7"], "sum to 1.4; expected 1 over even, odd"),
        (["--attr", "parity", "--target", "evn=0.7,odd=0.3"], "parity has no class 'evn'; did you mean 'even'"),
        (["--attr", "gender", "--target", "0.5"], "no embedded classifier for gender at 8x8 grey"),
        (["--attr", "parity", "--classifier", "emoji-gender"], "emoji-gender labels 'gender', not 'parity'"),
        (["--attr", "parity", "--attr", "parity"], "--attr is parity, parity; expected different attributes"),
        (
            ["--attr", "parity", "--target", "0.5", "--target", "0.4"],
            "--target is 0.5 and 0.4 for parity; expected one for each --attr in",
        ),
        (["--attr", "parity", "--hold", "digit"], "--hold is digit without --after; expected a second source"),
        (
            ["--attr", "parity", "--classifier", "digits-parity", "--classifier", "x"],
            "--classifier x is used for none of parity; give one for each of them",
        ),
        (["--attr", "parity", "--split", "moon"], "there is no split 'moon'"),
        (
            ["--attr", "parity", "--target", "0.5", "--tolerance", "0"],
            "--tolerance is 0.0; expected a number between 0 and 1",
        ),
        (["--attr", "parity", "--reference", "digit"], "did you mean 'digits'"),
        (["--attr", "parity", "--reference", "emoji-people"], "emoji-people has 3 channels; expected 1"),
        (["--attr", "parity", "--reference", "nowhere.npz"], "nowhere.npz is missing"),
        (["--attr", "parity", "--reference", "digits", "--features", "incepton"], "no feature extractor 'incepton'"),
        (["--attr", "parity", "--reference", "digits", "--inception-weights", "x"], "without --features inception"),
        (["--attr", "parity", "--labels", "nowhere.csv"], "found no file nowhere.csv"),
    ],
)
def test_refuses_bad_options(tmp_path: Path, digits_pool: MakePool, options: list[str], message: str) -> None:
    assert message in refused("--before", digits_pool(30, 10).folder, *options, "--out", tmp_path / "out")


def test_refuses_bad_sources(tmp_path: Path, digits_pool: MakePool, digits: ImageDataset) -> None:
    attr, out = ["--attr", "parity"], ["--out", tmp_path / "out"]
    pool = digits_pool(30, 10)
    assert "found no dataset or path" in refused("--before", tmp_path / "nowhere", *attr, *out)
    assert "are the same images" in refused("--before", pool.folder, "--after", pool.folder, *attr, *out)
    line = refused("--before", pool.folder, "--after", "emoji-people", *attr, *out)
    assert "before has images of shape [1, 8, 8], after of [3, 64, 64]" in line
    (tmp_path / "empty").mkdir()
    assert "found no images in" in refused("--before", tmp_path / "empty", *attr, *out)
    base, merged = digits_pool(30, 20, "base"), digits_pool(20, 30, "merged")
    for p, kind in ((base, "base"), (merged, "merged")):
        write_json(p.folder / "pool.json", read_json(p.folder / "pool.json") | {"made_by": {"kind": kind}})
    assert "they look swapped" in refused("--before", merged.folder, "--after", base.folder, *attr, *out)
    run("--before", base.folder, "--after", merged.folder, *attr)
    shard = pool.folder / "shard-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:100])
    assert "a shard of" in refused("--before", pool.folder, *attr, *out)
    other = digits_pool(10, 30, "other")
    run("--before", other.folder, *attr)
    (labels,) = (other.folder / "labels").glob("*/*.parquet")
    table = pd.read_parquet(labels)
    table["seed"] += 1
    table.to_parquet(labels)
    assert "the seeds of" in refused("--before", other.folder, *attr, *out)


def test_refuses_a_reference_that_lacks_a_class(tmp_path: Path, digits_pool: MakePool, digits: ImageDataset) -> None:
    export_folder(digits_pool(60, 0, "even"), tmp_path / "even")
    line = refused(
        "--before",
        digits_pool(30, 30).folder,
        "--attr",
        "parity",
        "--target",
        "0.5",
        "--reference",
        tmp_path / "even",
        "--out",
        tmp_path / "out",
    )
    assert "has no image of parity odd, which the target wants" in line


def test_refuses_labels_that_do_not_belong(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(200, 100, "b-200"), digits_pool(60, 240, "a-60")
    mine = labels_of(before, tmp_path / "l.csv", 90)
    common = ["--before", before.folder, "--after", after.folder, "--attr", "parity"]
    out = ["--out", tmp_path / "out"]
    assert "names the images of both before and after" in refused(*common, "--labels", mine, *out)
    line = refused(*common, "--labels", f"after={mine}", *out)
    assert "is given for after, but the classifier agrees with it on" in line
    assert "these look like labels of before" in line
    pd.DataFrame({"seed": [1, 2], "parity": ["even", "green"]}).to_csv(tmp_path / "green.csv", index=False)
    assert "has parity 'green'" in refused(*common, "--labels", f"after={tmp_path / 'green.csv'}", *out)
    pd.DataFrame({"seed": [1, 9999], "parity": ["even", "odd"]}).to_csv(tmp_path / "far.csv", index=False)
    assert "names seed '9999', which is not in" in refused(*common, "--labels", f"after={tmp_path / 'far.csv'}", *out)
