"""Sweeps on the embedded digits model: what a row says, one fine-tune for all budgets, resumption, refusals."""

from __future__ import annotations

import json
import random
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
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source, predicted_counts
from fairsims.cli import main
from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json, write_json
from fairsims.models import merge, open_checkpoint
from fairsims.models.guidance import SIMSGuidance
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool, write_pool
from fairsims.report.sweep_figures import sweep_figures
from fairsims.report.sweep_table import read_points, sweep_text
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import Point, SweepConfig
from fairsims.retarget.points import best_points, linear_rule
from fairsims.retarget.sweep import begin_run, sweep

RUN = RetargetConfig(
    model="digits-8", attr="parity", target="0.5", pool=256, solver="heun", steps=3, batch_size=16, lr=1e-3
)
GRID = SweepConfig(run=RUN, budgets=(0.16, 0.32), omegas=(0.5, 1.0), sizes=(None, 64), images=64)

COMMAND = [
    "sweep",
    "--model",
    "digits-8",
    "--attr",
    "parity",
    "--target",
    "0.5",
    "--budgets",
    "0.16,0.32",
    "--omegas",
    "0.5,1",
    "--sizes",
    "all,64",
    "--images",
    "64",
    "--pool",
    "256",
    "--solver",
    "heun",
    "--steps",
    "3",
    "--batch-size",
    "16",
    "--lr",
    "1e-3",
    "--precision",
    "float32",
]
"""The same from the command line."""


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A sweep of two budgets, two strengths and two sizes."""
    folder = tmp_path_factory.mktemp("sweep") / "out"
    return folder, sweep(GRID, folder, command="fairsims sweep")


def rows(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "sweep.parquet").set_index("point")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and when it was written."""
    return {
        p.relative_to(folder).as_posix(): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_row_for_every_point(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, result = swept
    table = rows(folder)
    assert list(table.index) == [p.name for p in GRID.points()]
    assert len(table) == 1 + 2 * 2 * 3
    assert table["mode"].value_counts().to_dict() == {"merged": 8, "auxiliary": 4, "base": 1}
    assert (table["nfe"] == 5).all()
    assert (table["images"] == 64).all()
    assert set(table["size"].dropna()) == {64, len(pd.read_parquet(folder / "set-all.parquet"))}
    seeds = {n: set(pd.read_parquet(folder / f"set-{n}.parquet")["seed"]) for n in ("64", "all")}
    assert seeds["64"] < seeds["all"]
    assert ((table["share.even"] + table["share.odd"]).sub(1).abs() < 1e-9).all()
    assert (table["low.odd"] <= table["share.odd"]).all()
    assert result["focus"] == ["odd"]
    assert (table["share"] == table["share.odd"]).all()
    for name in ("precision", "recall"):
        assert table[name].between(0, 1).all()
    assert (table["nearest_low"] < table["nearest_median"]).all()
    # Every point is another model.
    assert table["fd_target"].nunique() == len(table)


def test_the_linear_rule_is_told_beside(swept: tuple[Path, dict[str, Any]]) -> None:
    """(1 + omega) pi - omega rho, and the same from what the auxiliary makes by itself."""
    folder, result = swept
    table, pi, rho = rows(folder), result["pool_shares"]["odd"], result["plan"]["complement"]["odd"]
    for point in GRID.points():
        row = table.loc[point.name]
        assert row["linear"] == pytest.approx((1 + point.omega) * pi - point.omega * rho)
        if point.mode == "merged":
            auxiliary = Point(mode="auxiliary", size=point.size, budget=point.budget, omega=-1.0)
            measured = table.loc[auxiliary.name, "share.odd"]
            assert row["linear_measured"] == pytest.approx((1 + point.omega) * pi - point.omega * measured)
    assert table.loc["base", "linear"] == pytest.approx(pi)
    assert linear_rule(np.array([0.75, 0.25]), np.array([1.0, 0.0]), 1.0).tolist() == [0.5, 0.5]


def test_points_are_the_models_they_say(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Images and shares made by hand from the state that the fine-tune left at the budget."""
    folder, _ = swept
    aux = open_checkpoint(folder / "auxiliary-64" / "kimg-00000.160").network
    by_hand = merge(open_checkpoint("digits-8").network, aux, 1.0)
    model = in_memory(by_hand, sampler=SamplerConfig(solver="heun", steps=3))
    for _ in write_pool(tmp_path / "pool", model, range(4_000_000, 4_000_064)):
        pass
    pool, point = Pool(tmp_path / "pool"), Point(mode="merged", size=64, budget=0.16, omega=1.0)
    theirs = Pool(folder / "points" / point.name)
    assert (pool.seeds == theirs.seeds).all()
    assert (pool.read(range(64)) == theirs.read(range(64))).all()
    parity = load_classifier("digits-parity")
    counts = predicted_counts(label_source(pool, parity))
    found = corrected_shares(("even", "odd"), counts, parity.confusions[parity.default_split])
    assert rows(folder).loc[point.name, "share.odd"] == found.share[1]


def test_one_fine_tune_serves_all_budgets(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The state at the smaller budget is what a sweep of that budget alone trains."""
    folder, _ = swept
    alone = replace(GRID, budgets=(0.16,), omegas=(1.0,), sizes=(64,))
    sweep(alone, tmp_path / "alone")
    theirs = open_checkpoint(tmp_path / "alone" / "auxiliary-64" / "kimg-00000.160").network.state_dict()
    ours = open_checkpoint(folder / "auxiliary-64" / "kimg-00000.160").network.state_dict()
    assert all((ours[k] == theirs[k]).all() for k in theirs)


def test_finished_points_are_read(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """The same call makes nothing again; a lost point and a further strength are made, the rest is left."""
    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    # A row of an earlier version says omega.
    path = folder / "points" / f"{Point(mode='merged', size=64, budget=0.16, omega=1.0).name}.json"
    row = read_json(path)
    write_json(path, {"omega": row.pop("strength")} | row)
    table, before = rows(folder), files(folder)
    changed = {"sweep.json", "sweep.parquet", "manifest.json", "status.json", "timings.json"}
    assert sweep(GRID, folder)["best"] == swept[1]["best"]
    again = files(folder)
    assert {k for k in again if again[k] != before[k]} <= changed
    lost = Point(mode="merged", size=64, budget=0.32, omega=0.5).name
    (folder / "points" / f"{lost}.json").unlink()
    (folder / "points" / lost / "shard-00000.parquet").unlink()
    sweep(replace(GRID, omegas=(0.5, 1.0, 1.5)), folder)
    after = rows(folder)
    timeless = [c for c in table.columns if c != "seconds"]
    pd.testing.assert_frame_equal(after.loc[table.index, timeless], table[timeless])
    assert len(after) == len(table) + 4
    assert np.isnan(after.loc[lost, "seconds"])
    made = {k for k, v in files(folder).items() if v != again.get(k)} - changed
    assert all("w1.5" in k or lost in k for k in made)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_sweep_goes_on(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """SIGKILL at a random moment, the same command again: the rows of the uninterrupted one, times aside."""
    out, enough = tmp_path / "out", random.Random(0).randrange(20, 60)
    killed_and_gone_on(
        [*COMMAND, "--out", str(out)], lambda: sum(1 for _ in tmp_path.rglob("*")) >= enough, out / "sweep.json"
    )
    timeless = [c for c in rows(swept[0]).columns if c != "seconds"]
    pd.testing.assert_frame_equal(rows(tmp_path / "out")[timeless], rows(swept[0])[timeless])


def test_changed_settings_are_refused(swept: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = swept
    with pytest.raises(ChangedSettings, match="images = 64, now images = 80"):
        sweep(replace(GRID, images=80), folder)
    with pytest.raises(ChangedSettings, match="budgets"):
        sweep(replace(GRID, budgets=(0.16,)), folder)


def test_figures_and_table(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, result = swept
    first = {p.name: p.read_bytes() for p in sweep_figures(folder)}
    assert set(first) == {"quality.png", "share.png"}
    assert {p.name: p.read_bytes() for p in sweep_figures(folder)} == first
    for name in first:
        grey = np.asarray(Image.open(folder / name).convert("L"))
        # Something is drawn, dark enough to be seen, on a white ground.
        assert (grey == 255).mean() > 0.5
        assert (grey < 110).mean() > 0.002
        (folder / name).unlink()
    (tmp_path / "earlier").mkdir()
    read_points(folder).rename(columns={"strength": "omega"}).to_parquet(tmp_path / "earlier" / "sweep.parquet")
    pd.testing.assert_frame_equal(read_points(tmp_path / "earlier"), read_points(folder))
    text = sweep_text(read_points(folder), result)
    assert max(map(len, text.splitlines())) <= 100
    marked = [line.split()[-1] for line in text.splitlines() if line.endswith(("*", "="))]
    assert sorted("".join(marked)) == ["*", "="]
    assert "= the best near the target, odd 50%" in text


def test_a_run_starts_from_a_point(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Pool and auxiliary of the point are those that the run itself would make: it takes them and goes on."""
    from fairsims.retarget.opening import prepare
    from fairsims.retarget.retarget import retarget

    folder, _ = swept
    point = Point(mode="merged", size=64, budget=0.16, omega=1.0)
    chosen = begin_run(replace(GRID, run=replace(RUN, calibration=64, audit=64)), folder, point, tmp_path / "run")
    assert (chosen.budget, chosen.complement_size, chosen.mode) == (0.16, 64, "merged")
    retarget(prepare(chosen), tmp_path / "run")
    # Nothing was trained: the state was taken as it is.
    assert not (tmp_path / "run" / "auxiliary" / "stats.jsonl").exists()
    retarget(prepare(chosen), tmp_path / "whole")
    for part in ("complement.parquet", "calibration.parquet", "merged/model.safetensors", "after/shard-00000.parquet"):
        assert (tmp_path / "run" / part).read_bytes() == (tmp_path / "whole" / part).read_bytes(), part


def test_without_a_target_quality_alone(tmp_path: Path) -> None:
    """Plain SIMS: the auxiliary learns the pool as it is; guided with and without an interval; best points confirmed."""
    config = SweepConfig(
        run=replace(RUN, target="uniform"),
        steer=False,
        budgets=(0.16,),
        omegas=(1.0,),
        sizes=(96,),
        modes=("guided",),
        intervals=(None, (0.3, 5.0)),
        images=64,
        auxiliary=False,
        confirm=64,
    )
    result = sweep(config, tmp_path / "out")
    table = rows(tmp_path / "out")
    assert not {"share", "linear", "fd_target"} & set(table)
    assert result["target"] is None
    assert pd.read_parquet(tmp_path / "out" / "set-96.parquet")["seed"].tolist() == list(range(96))
    assert table["interval"].tolist() == ["none", "none", "0.3:5"]
    whole, inside = table["nfe"].iloc[1:]
    assert whole == 10 > inside > 5
    assert set(result["best"]) == {"quality", "guided"}
    best = result["best"]["quality"]["point"]
    assert set(result["confirmed"]) == {"base", best}
    assert result["confirmed"][best]["fd_reference"] != result["best"]["quality"]["fd_reference"]
    assert Pool(tmp_path / "out" / "confirmed-64" / best).seeds[0] == 6_000_000
    assert [p.name for p in sweep_figures(tmp_path / "out")] == ["quality.png"]
    assert "target" not in sweep_text(pd.read_parquet(tmp_path / "out" / "sweep.parquet"), result)
    guided = SIMSGuidance(
        open_checkpoint("digits-8").network,
        open_checkpoint(tmp_path / "out" / "auxiliary-96" / "kimg-00000.160").network,
        1.0,
        interval=(0.3, 5.0),
    )
    assert SamplerConfig(solver="heun", steps=3).evaluations(guided) == inside


def test_another_number_of_confirming_images_is_measured(swept: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """More, then as many as before: each number has its own images, and what is there is read."""
    folder = tmp_path / "copy"
    shutil.copytree(swept[0], folder)
    found = {}
    for confirm in (64, 96):
        found[confirm] = sweep(replace(GRID, confirm=confirm), folder)
        assert {row["images"] for row in found[confirm]["confirmed"].values()} == {confirm}
        assert found[confirm]["seeds"]["confirmed"] == [6_000_000, 6_000_000 + confirm - 1]
    before = files(folder)
    again = sweep(replace(GRID, confirm=64), folder)
    assert again["confirmed"] == found[64]["confirmed"]
    after = files(folder)
    assert {k for k in after if after[k] != before.get(k) and k.startswith("confirmed")} == set()


def test_an_auxiliary_measured_later_is_told_beside_the_points(
    swept: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """Points first without their auxiliaries, then with: the table of a sweep that had them from the start."""
    folder, grid = tmp_path / "out", replace(GRID, omegas=(1.0,), sizes=(64,))
    sweep(replace(grid, auxiliary=False), folder)
    assert rows(folder)["linear_measured"].isna().all()
    result = sweep(replace(grid, confirm=64), folder)
    table = rows(folder)
    timeless = [c for c in table.columns if c != "seconds"]
    pd.testing.assert_frame_equal(table[timeless], rows(swept[0]).loc[table.index, timeless])
    merged = table[table["mode"] == "merged"]
    assert merged["linear_measured"].notna().all()
    for row in [*result["best"].values(), result["confirmed"][result["best"]["at_target"]["point"]]]:
        assert row["linear_measured"] == merged.loc[row["point"], "linear_measured"]
    # And from then on, asked for or not.
    sweep(replace(grid, auxiliary=False), folder)
    assert rows(folder)["linear_measured"].notna().sum() == len(merged)


def test_a_size_beyond_the_pool_is_refused(tmp_path: Path) -> None:
    config = replace(GRID, steer=False, sizes=(300,))
    with pytest.raises(InputError, match="the pool has 256 images"):
        sweep(config, tmp_path / "out")


def test_best_points() -> None:
    points = [Point(mode="base")] + [Point(mode="merged", budget=1.0, omega=w) for w in (0.5, 1.0, 1.5)]
    numbers = [(0.25, 9.0, 2.0), (0.40, 3.0, 5.0), (0.49, 4.0, 6.0), (0.52, 4.5, 7.0)]
    found = {
        p: {"mode": p.mode, "share": s, "fd_target": t, "fd_reference": r}
        for p, (s, t, r) in zip(points, numbers, strict=True)
    }
    assert best_points(found, 0.5, 0.03) == {"quality": points[1], "at_target": points[2]}
    # Nobody is within 0.005: the nearest.
    assert best_points(found, 0.5, 0.005)["at_target"] == points[2]
    assert best_points(found, None, 0.03) == {"quality": points[1], "merged": points[1]}
    unmeasured = {p: {"mode": p.mode, "share": r["share"]} for p, r in found.items()}
    assert best_points(unmeasured, 0.5, 0.03) == {"at_target": points[2]}
    assert best_points({points[0]: found[points[0]]}, 0.5, 0.03) == {}
    # On two feature spaces the best is what gains most where it gains least: of 4, 4.4 and 9 to 10 there.
    for p, other in zip(points, (10.0, 9.0, 4.4, 4.0), strict=True):
        found[p] |= {"fd_reference": {0.5: 1.6, 1.0: 1.0, 1.5: 1.9}.get(p.omega, 2.0), "random.fd_reference": other}
    assert best_points(found, None, 0.03) == {"quality": points[2], "merged": points[2]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budgets": ()}, "budgets is ()"),
        ({"budgets": (2.0, 1.0)}, "smallest first"),
        ({"omegas": (0.0,)}, "positive numbers"),
        ({"omegas": (1.0, 1.0)}, "each once"),
        ({"modes": ("merged", "mixed")}, "modes is 'mixed'; expected some of merged, guided"),
        ({"intervals": ((0.3, 5.0),)}, "without guided"),
        ({"modes": ("guided",), "intervals": ((5.0, 0.3),)}, "interval is"),
        ({"sizes": (0,)}, "complement_size is 0"),
        ({"images": 49}, "images is 49"),
        ({"confirm": 49}, "confirm is 49"),
        ({"run": replace(RUN, attr=("parity", "digit"), target=("0.5", "uniform"))}, "one attribute"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(").replace(")", r"\)")):
        replace(GRID, **changes)


def test_settings_of_the_fine_tune_by_name() -> None:
    asked = replace(RUN, finetune={"augment": 0.15, "P_mean": -1.2, "micro_batch": 16.0, "xflip": 0.0})
    settings = asked.fine_tuning(1.0, xflip=True)
    assert (settings.augment, settings.P_mean, settings.micro_batch, settings.xflip) == (0.15, -1.2, 16, False)
    assert asked.fine_tuning(1.0).batch_size == RUN.batch_size
    with pytest.raises(ValueError, match="finetune is seed=1; expected one of"):
        replace(RUN, finetune={"seed": 1})
    with pytest.raises(ValueError, match="augment=2.0; expected"):
        replace(RUN, finetune={"augment": 2.0})


def test_the_command(swept: tuple[Path, dict[str, Any]]) -> None:
    """Finished, it prints at once: the table, or JSON."""
    folder, result = swept
    command = [*COMMAND, "--out", str(folder)]
    printed = CliRunner().invoke(main, command)
    assert printed.exit_code == 0, printed.output
    assert "merged" in printed.stdout
    assert f"table   {folder / 'sweep.parquet'}" in printed.stdout
    found = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
    assert found["best"] == result["best"]
    for option, value, words in (
        ("--omegas", "much", "--omegas is 'much'"),
        ("--sizes", "few", "--sizes is 'few'"),
        ("--intervals", "0.3", "--intervals is '0.3'"),
        ("--intervals", "1:inf", "--intervals is '1:inf'"),
        ("--finetune", "augment", "--finetune is 'augment'"),
        ("--modes", "mixed", "--modes is 'mixed'"),
    ):
        refused = CliRunner().invoke(main, [*command, option, value])
        assert refused.exit_code == 2
        assert words in refused.stderr
        assert refused.stderr.count("\n") == 1
    unvisited = CliRunner().invoke(main, [*command, "--modes", "guided", "--intervals", "1000:2000"])
    assert unvisited.exit_code == 2
    assert "--interval 1000,2000 holds none of the 3 noise levels" in unvisited.stderr
    nameless = CliRunner().invoke(main, ["sweep", "--model", "digits-8", "--out", str(folder)])
    assert "give --attr, or the --classifier" in nameless.stderr
