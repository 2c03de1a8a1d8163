"""`fairsims audits`: recipes are found, carried out, resumed and held against what is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from fairsims.cli import main
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.recipes import find_recipe, list_recipes, read_recipe, recipes_folder
from fairsims.recipes.entries import Loop
from fairsims.recipes.recorded import differences, read_results
from fairsims.recipes.repeating import runs_of
from fairsims.recipes.retargeting import Retargeting

LOOP = """
kind = "collapse"
[[runs]]
name = "a"
setting = "gaussian"
repeats = 2
n = 20
generations = 2
levels = [1.0]
[[runs]]
name = "b"
setting = "gaussian"
repeats = 3
n = 20
generations = 2
levels = [1.0]
seed = 1
"""
DIGITS = """
kind = "retarget"
[defaults]
model = "digits-8"
attr = "parity"
pool = 256
calibration = 64
audit = 64
solver = "heun"
steps = 4
budget = 0.32
batch_size = 32
lr = 1e-3
precision = "float32"
[[runs]]
target = "0.5"
[[runs]]
target = "0.45"
"""
SWEEP = """
kind = "sweep"
[defaults]
model = "digits-8"
attr = "parity"
pool = 256
steps = 3
batch_size = 32
lr = 1e-3
precision = "float32"
[[runs]]
target = "0.5"
grid = { budgets = [0.16, 0.32], omegas = [1], sizes = [64, "all"], modes = ["merged", "guided"], intervals = ["none", [0.5, 10]], images = 64, confirm = 64 }
[[runs]]
grid = { budgets = [0.16], omegas = [1], images = 64, auxiliary = false }
"""


def recipe(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "recipe.toml").write_text(text)
    return folder


def repeat(folder: Path | str, runs: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["audits", "run", str(folder), "--runs", str(runs), *options])


def test_a_retargeting_repeated_is_as_recorded(tmp_path: Path) -> None:
    folder, runs = recipe(tmp_path / "tiny", DIGITS + "omega = 1\n"), tmp_path / "runs"
    first = repeat(folder, runs, "--record")
    assert first.exit_code == 0, first.stderr
    assert "nothing was recorded" in first.stdout
    made = ["paired-parity-0.5-seed0", "paired-parity-0.45-seed0"]
    assert [Path(line).name for line in first.stderr.splitlines()] == made
    table = pd.read_csv(folder / "results.csv")
    assert table["target"].tolist() == [0.5, 0.45]
    assert list(table)[:8] == ["mode", "interval", "target", "seed", "before", "after", "low", "high"]
    # The second one took the first one's images over, and not its auxiliary, which is of another complement.
    assert read_json(runs / "tiny" / made[1] / "plan.json")["plan"]["taken_over"] == ["pool"]
    assert table["before"].nunique() == 1
    assert table["seconds_auxiliary"].gt(0.3).all()
    again = repeat(folder, runs)
    assert (again.exit_code, (runs / "tiny" / "results.csv").exists()) == (0, True)
    assert again.stdout.startswith(
        "paired, target 0.5, seed 0: as recorded\npaired, target 0.45, seed 0: as recorded\n"
    )


def test_targets_with_one_complement_share_its_auxiliary(tmp_path: Path) -> None:
    """At the least omega the complement of either has no odd digits."""
    folder, runs = recipe(tmp_path / "pure", DIGITS.replace("0.45", "0.55")), tmp_path / "runs"
    assert repeat(folder, runs, "--record").exit_code == 0
    second = runs / "pure" / "paired-parity-0.55-seed0"
    assert read_json(second / "plan.json")["plan"]["taken_over"] == ["pool", "auxiliary", "positive"]
    assert read_json(second / "complement.json")["complement"] == {"even": 1.0, "odd": 0.0}
    first, again = (
        read_json(runs / "pure" / f"paired-parity-{t}-seed0" / "auxiliary" / "training.json") for t in ("0.5", "0.55")
    )
    assert again == first


def test_runs_that_sample_otherwise_share_nothing(tmp_path: Path) -> None:
    folder, runs = recipe(tmp_path / "two", DIGITS + "steps = 5\n"), tmp_path / "runs"
    assert repeat(folder, runs).exit_code == 0
    made = [runs / "two" / f"paired-parity-{t}-seed0" for t in ("0.5", "0.45")]
    assert [read_json(m / "pool" / "pool.json")["sampler"]["steps"] for m in made] == [4, 5]
    assert not list(runs.rglob("*.part"))


def test_a_sweep_repeated_is_as_recorded(tmp_path: Path) -> None:
    folder, runs = recipe(tmp_path / "map", SWEEP), tmp_path / "runs"
    first = repeat(folder, runs, "--record")
    assert first.exit_code == 0, first.stderr
    assert [Path(line).name for line in first.stderr.splitlines()] == ["parity-0.5-seed0", "parity-base-seed0"]
    table = pd.read_csv(folder / "results.csv")
    steered, plain = table[table["target"].notna()], table[table["target"].isna()]
    # The base, and of two sizes and two budgets the auxiliary, merged, and guided with and without an interval.
    assert steered["use"].value_counts()["points"] == 1 + 2 * 2 * 4
    assert {"base", "merged", "guided"} >= set(steered.loc[steered["use"] == "confirmed", "mode"]) > {"base"}
    assert steered["after"].between(steered["low"], steered["high"]).all()
    assert set(steered["interval"]) == {"none", "0.5:10"}
    # Nothing is steered there: no share to reach, quality alone.
    assert plain["mode"].tolist() == ["base", "merged"]
    assert plain["after"].isna().all()
    assert plain["fd_reference"].notna().all()
    again = repeat(folder, runs)
    assert (again.exit_code, f"rows: {len(table)} as recorded" in again.stdout) == (0, True)
    assert (
        "points, merged, size 64, budget_kimg 0.16, interval none, strength 1, target 0.5, seed 0: as" in again.stdout
    )


def test_what_differs_is_said(tmp_path: Path) -> None:
    folder, runs = recipe(tmp_path / "loops", LOOP), tmp_path / "runs"
    assert repeat(folder, runs, "--record").exit_code == 0
    path, table = folder / "results.csv", pd.read_csv(folder / "results.csv")
    assert table[["run", "method"]].to_numpy().tolist() == [[r, m] for r in "ab" for m in ("standard", "sims")]
    assert "rows: 4 as recorded" in repeat(folder, runs).stdout

    table.loc[0, "last"] *= 1.25
    table.drop(index=3).to_csv(path, index=False, float_format="%.4f")
    said = repeat(folder, runs)
    assert said.exit_code == 0
    assert "a, standard, level 1, w2: differs\n  last " in said.stdout
    assert ", -20" in said.stdout
    assert "b, sims, level 1, w2: not recorded" in said.stdout

    table.loc[0, ["difference_low", "difference_mean", "difference_high"]] = 5.0, 6.0, 7.0
    table.loc[4] = ["gone", *table.loc[0].tolist()[1:]]
    table.to_csv(path, index=False, float_format="%.4f")
    said = repeat(folder, runs)
    assert said.exit_code == 1
    assert "a, standard, level 1, w2: outside" in said.stdout
    assert "outside of the recorded interval [5, 7]" in said.stdout
    assert "gone, standard, level 1, w2: not run here" in said.stdout
    found = json.loads(repeat(folder, runs, "--json").stdout)
    assert [r["state"] for r in found["rows"]] == [
        "outside",
        "as recorded",
        "as recorded",
        "as recorded",
        "not run here",
    ]
    change = next(c for c in found["rows"][0]["changes"] if c["column"] == "difference_mean")
    assert (change["recorded"], change["limits"], change["outside"]) == ("6.0000", [5.0, 7.0], True)
    # A repetition leaves what is recorded as it is, unless it is asked to keep what came out.
    assert len(pd.read_csv(path)) == 5
    assert repeat(folder, runs, "--record").exit_code == 1
    assert len(pd.read_csv(path)) == 4


def test_part_of_a_recipe(tmp_path: Path) -> None:
    folder, runs = recipe(tmp_path / "loops", LOOP), tmp_path / "runs"
    assert repeat(folder, runs, "--seed", "1").exit_code == 0
    assert [p.name for p in (runs / "loops").iterdir() if p.is_dir()] == ["b"]
    assert repeat(folder, runs, "--only", "a").exit_code == 0
    assert pd.read_csv(runs / "loops" / "results.csv")["run"].tolist() == ["a", "a", "b", "b"]
    said = repeat(folder, runs, "--seed", "7")
    assert (said.exit_code, said.stderr) == (2, "error: loops has no such run; expected --seed and one of 0, 1\n")
    said = repeat(folder, runs, "--only", "c")
    assert (said.exit_code, "the start of one of a, b" in said.stderr) == (2, True)


def test_shares_are_held_against_their_interval() -> None:
    def rows(**changes: str) -> pd.DataFrame:
        row = {"mode": "merged", "interval": "", "target": "0.5000", "seed": "0", "after": "0.4900", "low": "0.4700"}
        row |= {"high": "0.5100", "raw": "0.4800", "seconds": "1.0000", "peak_memory_gb": "1.0", "reached": "True"}
        return pd.DataFrame([row | changes])

    def state(**changes: str) -> str:
        return differences(rows(), rows(**changes), Retargeting.keys)[0].state

    assert state(seconds="900", seconds_pool="3", peak_memory_gb="9", target="0.5") == "as recorded"
    assert state(after="0.5100") == state(after="0.4700") == "differs"
    assert state(after="0.5101") == state(after="0.4699") == "outside"
    assert state(raw="0.9000") == state(reached="False") == "differs"
    # What was not measured when it was recorded is nothing to compare with; what is gone is.
    assert differences(rows(raw=""), rows(), Retargeting.keys)[0].state == "as recorded"
    assert state(raw="") == "differs"
    (change,) = differences(rows(), rows(raw="0.6000"), Retargeting.keys)[0].changes
    assert change.relative == pytest.approx(0.25)
    twice = pd.concat([rows(), rows(raw="0.1")])
    assert [f.state for f in differences(twice, twice, Retargeting.keys)] == ["as recorded"] * 2
    assert [f.state for f in differences(rows(), rows(seed="1"), Retargeting.keys)] == ["not run here", "not recorded"]


def test_unknown_and_broken_recipes(tmp_path: Path) -> None:
    said = repeat("emoji-people-gendr", tmp_path)
    assert (said.exit_code, said.stderr.count("\n")) == (2, 1)
    assert "did you mean 'emoji-people-gender'" in said.stderr
    said = repeat("ffhq64-gender", tmp_path)
    assert said.exit_code == 2
    assert "needs files of your own" in said.stderr
    broken = {
        "[": "is no TOML",
        "x = 1": "has kind None; expected one of retarget, compare, sweep, collapse, prompts, prompt-compare, paper",
        'kind = "collapse"': "lists no runs",
        DIGITS + "sped = 1": "recipe.toml: there is no setting 'sped'",
    }
    for k, (text, message) in enumerate(broken.items()):
        said = repeat(recipe(tmp_path / str(k), text), tmp_path)
        assert (said.exit_code, said.stderr.count("\n"), message in said.stderr) == (2, 1, True), said.stderr
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe,")
    with pytest.raises(InputError, match="is no table of results"):
        read_results(tmp_path / "results.csv")


def test_the_recipes_that_come_along() -> None:
    said = CliRunner().invoke(main, ["audits", "list"])
    assert said.exit_code == 0
    known = json.loads(CliRunner().invoke(main, ["audits", "list", "--json"]).stdout)
    assert [r["name"] for r in known] == sorted(p.parent.name for p in recipes_folder().glob("*/recipe.toml"))
    assert len(said.stdout.splitlines()) == len(known)
    assert {r["name"]: r["runs"] for r in known}["emoji-people-gender"] == 9


@pytest.mark.parametrize("found", [r for r in list_recipes() if r.kind != "paper"], ids=lambda r: r.name)
def test_recipes_name_runs_that_can_be_made_and_rows_that_were(found, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    runs = runs_of(found, tmp_path)
    assert len({r.folder for r in runs}) == len(runs)
    assert all(r.folder.parent == tmp_path / found.name for r in runs)
    assert not any(r.threshold for r in runs if isinstance(r, Loop) and r.config.setting != "gaussian")
    if found.results.exists():
        table = read_results(found.results)
        assert {f.state for f in differences(table, table, runs[0].keys)} == {"as recorded"}


def test_folders_of_runs_keep_their_names() -> None:
    """Experiments go on from them."""
    names = [r.folder.as_posix() for r in runs_of(find_recipe("emoji-people-modes"), Path("runs/audits"))]
    assert names[:2] == [
        "runs/audits/emoji-people-modes/merged-gender-0.5-seed0",
        "runs/audits/emoji-people-modes/guided-1-20-gender-0.5-seed0",
    ]
    joint = [r.folder.name for r in runs_of(read_recipe(recipes_folder() / "emoji-people-joint"), Path())]
    assert joint == ["merged-gender-0.5-skin_tone-uniform-seed0", "merged-gender-0.5-hold-skin_tone-seed0"]
