"""Comparisons on the embedded digits model: equal costs, rows that say what the images are, resumption, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from support import in_memory, killed_and_gone_on

from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.labelling import label_source, predicted_counts
from fairsims.cli import main
from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json
from fairsims.models import ModelSpec, merge, open_checkpoint, open_model
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool, write_pool
from fairsims.recipes.entries import Comparison
from fairsims.recipes.repeating import table_of
from fairsims.report.comparison import comparison_alt, comparison_text, write_comparison
from fairsims.report.markdown import plain
from fairsims.retarget.arms import ARMS, equal_steps
from fairsims.retarget.compare import compare
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.retargeting import Retargeting

OPTIONS = {
    "model": "digits-8",
    "attr": "parity",
    "target": "0.5",
    "pool": 256,
    "calibration": 256,
    "audit": 64,
    "steps": 3,
    "solver": "heun",
    "budget": 0.32,
    "batch-size": 32,
    "lr": 1e-3,
    "precision": "float32",
}
COMMAND = ["compare", *(str(part) for name, value in OPTIONS.items() for part in (f"--{name}", value))]
CONFIG = RetargetConfig(mode="guided", batch_size=32, **{k: v for k, v in OPTIONS.items() if k != "batch-size"})
TIMES = ("sampling_seconds", "training_seconds", "calibration_seconds")


@pytest.fixture(scope="module")
def work() -> Retargeting:
    return prepare(CONFIG)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, work: Retargeting) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("compare") / "out"
    return folder, compare(work, folder, publish=write_comparison, command="fairsims compare")


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "compare.parquet").set_index("arm")


def files(folder: Path) -> dict[str, int]:
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_every_arm_costs_the_same(compared: tuple[Path, dict[str, Any]]) -> None:
    """As near to guided as the solver's steps allow: Heun's come in twos, of which resampling generates several."""
    folder, result = compared
    table = rows(folder)
    assert tuple(table.index) == ARMS
    assert (table["images"] == 64).all()
    assert (table["evaluations_per_kept"] == table["evaluations_per_image"] * table["images_per_kept"]).all()
    assert (table["evaluations_per_image"] == np.where(table.index == "guided", 2, 1) * (2 * table["steps"] - 1)).all()
    spend = result["evaluations_per_kept"]
    assert table.loc["guided", "evaluations_per_kept"] == spend
    # A step more or less is two evaluations of every image generated; how many are kept of 64 is chance besides.
    chance = np.where(table.index == "resampled", 0.15 * spend, 0.0)
    assert ((table["evaluations_per_kept"] - spend).abs() <= 1.25 * table["images_per_kept"] + chance).all()
    assert table.loc["guided", "steps"] == 3 < table.loc["base", "steps"]
    assert table.loc["resampled", "images_per_kept"] > 1.2
    assert (table.drop(index=["resampled", "guided"])["images_per_kept"] == 1).all()


def test_steps_are_the_nearest() -> None:
    heun, fast = (
        open_model(ModelSpec(base="digits-8", sampler=SamplerConfig(steps=3, solver=s))) for s in ("heun", "dpmpp2m")
    )
    guided = fast.retargeted("digits-8", 1.0, "guided")
    assert [equal_steps(heun, e).steps for e in (0.5, 8.9, 9.0, 11.1)] == [2, 5, 5, 6]
    assert [equal_steps(fast, e).steps for e in (0.5, 8.9, 17.4)] == [2, 9, 17]
    assert equal_steps(guided, 17.4).steps == 9


def test_rows_are_of_the_images_they_say(
    compared: tuple[Path, dict[str, Any]], work: Retargeting, tmp_path: Path
) -> None:
    """Merged and fine-tuned images made by hand from the two networks, and the share counted from them."""
    folder, _ = compared
    table = rows(folder)
    base, aux, mix = (open_checkpoint(f).network for f in ("digits-8", folder / "auxiliary", folder / "target-mix"))
    negative, positive = (open_checkpoint(folder / name).network for name in ("negative", "positive"))
    strengths = table["strength"]
    by_hand = {
        "merged": merge(base, aux, strengths["merged"]),
        "paired": merge(base, negative, strengths["paired"], positive),
        "finetuned": mix,
        "base": base,
    }
    for arm, denoiser in by_hand.items():
        sampler = SamplerConfig(solver="heun", steps=int(table.loc[arm, "steps"]))
        seeds = range(6_000_000, 6_000_064)
        for _ in write_pool(tmp_path / arm, in_memory(denoiser, sampler=sampler), seeds):
            pass
        pool, theirs = Pool(tmp_path / arm), Pool(folder / arm / "images")
        assert (pool.seeds == theirs.seeds).all()
        assert (pool.read(range(64)) == theirs.read(range(64))).all()
        counts = predicted_counts(label_source(pool, work.classifier))
        found = corrected_shares(("even", "odd"), counts, work.confusions[0])
        assert table.loc[arm, "share.odd"] == found.share[1]
        assert table.loc[arm, ["error", "error_low", "error_high"]].tolist() == pytest.approx(
            [found.share[1] - 0.5, found.low[1] - 0.5, found.high[1] - 0.5]
        )
    kept, candidates = (Pool(folder / "resampled" / part) for part in ("images", "candidates"))
    until = candidates.seeds.tolist().index(kept.seeds[-1]) + 1
    assert table.loc["resampled", "images_per_kept"] == until / 64
    assert set(kept.seeds) < set(candidates.seeds)


def test_the_remedies_are_trained_alike(compared: tuple[Path, dict[str, Any]]) -> None:
    """The same budget and rate on sets of the same pool: the complement, and the target's mix."""
    folder, result = compared
    names = ("auxiliary", "negative", "positive", "target-mix")
    aux, negative, positive, mix = (read_json(folder / name / "training.json") for name in names)
    assert aux["train"] == mix["train"]
    assert (
        negative["train"]
        == positive["train"]
        == aux["train"] | {"kimg": 0.16} | {k: negative["train"][k] for k in ("tick_kimg", "state_kimg")}
    )
    assert aux["data_digest"] != mix["data_digest"]
    drawn = {name: pd.read_parquet(folder / f"{name}.parquet") for name in ("complement", "target-mix")}
    assert (drawn["target-mix"]["parity"] == "odd").mean() == pytest.approx(0.5, abs=1 / len(drawn["target-mix"]))
    planned = result["complement"]["complement"][1]
    assert (drawn["complement"]["parity"] == "odd").mean() == pytest.approx(planned, abs=1 / len(drawn["complement"]))
    table = rows(folder)
    assert table["training_kimg"].to_dict() == dict.fromkeys(ARMS, 0.32) | {"base": 0, "resampled": 0}
    assert table.loc["guided", "training_images"] == table.loc["merged", "training_images"] == len(drawn["complement"])
    assert table.loc["finetuned", "training_images"] == len(drawn["target-mix"])
    assert (table.loc[["merged", "guided"], "strength"] > 0).all()
    assert table.loc[["base", "resampled", "finetuned"], "strength"].isna().all()
    assert (table.loc[["merged", "guided"], "calibration_images"] >= 64).all()


def test_the_plan_names_the_arms(compared: tuple[Path, dict[str, Any]]) -> None:
    folder, result = compared
    found = read_json(folder / "plan.json")
    assert result["plan"] == {"file": "plan.json", "sha256": found["sha256"], "written": found["written"]}
    assert found["plan"]["arms"] == list(ARMS)
    assert (found["plan"]["when"], found["plan"]["n"], found["plan"]["rounds"]) == ("before generating", 64, 1)
    assert (folder / "plan.json").stat().st_mtime_ns < min(p.stat().st_mtime_ns for p in folder.rglob("shard-*"))


def test_quality_is_measured_of_every_arm(compared: tuple[Path, dict[str, Any]]) -> None:
    folder, result = compared
    table = rows(folder)
    assert table["fd_target"].nunique() == table["fd_reference"].nunique() == len(ARMS)
    assert table[["precision", "recall"]].stack().between(0, 1).all()
    assert result["quality"]["reference"]["name"]
    assert not set(ARMS) & set(result["quality"])


def test_page_and_figure(compared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = compared
    page = (folder / "compare.md").read_text()
    text = comparison_text(result)
    assert max(map(len, text.splitlines())) <= 100
    for name in ("base", "base, resampled", "base, fine-tuned", "SIMS, merged", "SIMS, guided"):
        assert page.count(f"| {name} |") == 2, "where it ends up and what it costs"
        assert len([line for line in text.splitlines() if line.startswith(f"  {name}  ")]) == 2
    assert plain(comparison_alt(result)) in page
    assert "](<compare.png>)" in page
    grey = np.asarray(Image.open(folder / "compare.png").convert("L"))
    # Something is drawn, dark enough to be seen, on a white ground.
    assert (grey == 255).mean() > 0.5
    assert (grey < 110).mean() > 0.002
    write_comparison(tmp_path, result)
    assert (tmp_path / "compare.png").read_bytes() == (folder / "compare.png").read_bytes()
    arms = [
        {k: v for k, v in row.items() if not k.startswith(("fd_", "precision", "recall"))} for row in result["arms"]
    ]
    write_comparison(tmp_path, result | {"quality": None, "arms": arms})
    assert "FD" not in (tmp_path / "compare.md").read_text()


def test_what_is_finished_is_read(compared: tuple[Path, dict[str, Any]], work: Retargeting, tmp_path: Path) -> None:
    """Stopped before its last arms, the same call makes those alone, and ends the same."""
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    for gone in ("base", "finetuned", "resampled/images"):
        shutil.rmtree(folder / gone)
    for gone in ("compare.json", "compare.parquet", "compare.md", "compare.png", "manifest.json", "status.json"):
        (folder / gone).unlink()
    before = files(folder)
    compare(work, folder, publish=write_comparison)
    pd.testing.assert_frame_equal(rows(folder).drop(columns=[*TIMES]), rows(compared[0]).drop(columns=[*TIMES]))
    touched = {name.split("/")[0] for name, written in files(folder).items() if before.get(name) != written}
    made = {"base", "finetuned", "resampled", "compare.json", "compare.parquet", "compare.md", "compare.png"}
    # Tables that are the same again, and what keeps the time.
    again = {"complement.parquet", "target-mix.parquet", "complement.json", "merged", "guided"}
    again |= {"negative.parquet", "positive.parquet", "positive.json", "paired"}
    assert made <= touched <= made | again | {"manifest.json", "status.json", "timings.json"}
    assert not [n for n, w in files(folder).items() if n.endswith((".safetensors", "stats.jsonl")) and before[n] != w]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_comparison_goes_on(compared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """SIGKILL once the first pilot is begun, then the same command: the rows of the uninterrupted one, times aside."""
    out = tmp_path / "out"
    printed = killed_and_gone_on([*COMMAND, "--out", str(out)], (out / "guided").exists, out / "compare.json")
    assert "  SIMS, guided  " in printed
    ours, theirs = (rows(f).drop(columns=[*TIMES]) for f in (tmp_path / "out", compared[0]))
    pd.testing.assert_frame_equal(ours, theirs)


def test_the_command(compared: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Finished, it prints at once; other settings are refused, and so is what cannot be compared."""
    folder, result = compared
    command = [*COMMAND, "--out", str(folder)]
    assert (folder / "status.json").read_text().count("finished") == 1
    written = files(folder)
    printed = CliRunner().invoke(main, command)
    assert printed.exit_code == 0, printed.output
    assert comparison_text(result) in printed.stdout
    assert files(folder) == written
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert found["arms"] == result["arms"]
    refused = CliRunner().invoke(main, [*command, "--audit", "80"])
    note, error = refused.stderr.splitlines()
    assert (refused.exit_code, note[:5], error[:6]) == (2, "note:", "error:")
    assert "audit = 64, now audit = 80" in refused.stderr


def test_refusals(compared: tuple[Path, dict[str, Any]], work: Retargeting, tmp_path: Path) -> None:
    merged = replace(work, config=replace(CONFIG, mode="merged"))
    with pytest.raises(InputError, match="found merged for parity; expected guided for one attribute"):
        compare(merged, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ChangedSettings, match="steps"):
        compare(prepare(replace(CONFIG, steps=4)), compared[0])


def test_a_recipe_can_compare(compared: tuple[Path, dict[str, Any]]) -> None:
    """Its table holds each arm's worst share with its interval; a finished comparison is read, not repeated."""
    folder, result = compared
    run, before = Comparison(folder=folder, config=CONFIG), files(folder)
    run.carry_out([], progress=lambda *_: None, command="")
    assert files(folder) == before
    table = table_of([run]).set_index("arm")
    assert tuple(table.index) == ARMS
    for arm in result["arms"]:
        row = table.loc[arm["arm"]]
        assert row["after"] - row["target"] == pytest.approx(arm["error"])
        assert row["low"] <= row["after"] <= row["high"]
