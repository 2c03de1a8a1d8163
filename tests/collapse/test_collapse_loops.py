"""Settings, running and resuming, thresholds, what is written, and the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from fairsims.cli import main
from fairsims.collapse import kde, loop, loops, measures, mixture
from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.images import ImageLoop, joined
from fairsims.collapse.loop import Loop, run_cell
from fairsims.collapse.loops import run_loops
from fairsims.collapse.threshold import crossing, find_thresholds
from fairsims.data.marks import is_generated
from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json
from fairsims.report.collapse_figures import collapse_figures, minority
from fairsims.report.collapse_report import collapse_text, write_collapse_report
from fairsims.seeds import noise_for

TINY = {"generations": 4, "repeats": 3, "n": 40, "steps": 8}


# Measures


@given(seed=st.integers(0, 10**6))
def test_gaussian_distances_by_hand(seed):
    """Diagonal Gaussians: W2 and KL are sums over axes, 1 + chi2 a product."""
    rng = np.random.default_rng(seed)
    mean, v = rng.standard_normal((1, 2)), rng.uniform(0.3, 1.8, (1, 2))
    args = mean, v[:, :, None] * np.eye(2), np.zeros(2), np.eye(2)
    assert measures.gaussian_w2(*args)[0] ** 2 == pytest.approx((mean**2 + (np.sqrt(v) - 1) ** 2).sum())
    assert measures.gaussian_kl(*args)[0] == pytest.approx((v - 1 - np.log(v) + mean**2).sum() / 2, abs=1e-12)
    ratio = np.exp(mean**2 / (2 - v)) / np.sqrt(v * (2 - v))
    assert measures.gaussian_chi2(*args)[0] == pytest.approx(ratio.prod() - 1, rel=1e-9, abs=1e-9)


def test_chi2_of_a_twice_as_wide_gaussian_is_infinite():
    args = np.zeros((2, 2)), np.stack([2.0 * np.eye(2), 1.9 * np.eye(2)]), np.zeros(2), np.eye(2)
    found = measures.gaussian_chi2(*args)
    assert np.isinf(found[0])
    assert np.isfinite(found[1])


def test_point_distances_see_a_shift():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((400, 2))
    assert measures.exact_w2(a, a[::-1]) == pytest.approx(0, abs=1e-6)
    assert measures.exact_w2(a, a + [3.0, 4.0]) == pytest.approx(5)
    # Along random directions of the plane a shift of 5 has the mean square 25 / 2.
    assert measures.sliced_w2(a, a + [3.0, 4.0], rng, directions=2000) == pytest.approx(5 / np.sqrt(2), rel=0.03)


def test_intervals_cover_the_mean():
    rng = np.random.default_rng(1)
    covered = [(i := measures.Interval.over(rng.standard_normal(6))).low <= 0 <= i.high for _ in range(2000)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)
    assert measures.Interval.over([2.0]) == measures.Interval(mean=2.0, low=None, high=None)


# Settings


@pytest.mark.parametrize(
    ("loop", "level", "first", "later"),
    [
        ("synthetic", 0.0, (100, 0, 0), (0, 0, 100)),
        ("augmentation", 0.25, (100, 0, 0), (100, 0, 25)),
        ("fresh", 0.3, (100, 0, 0), (0, 30, 70)),
    ],
)
def test_training_sets_of_the_three_loops(loop, level, first, later):
    config = CollapseConfig.of("gaussian", loop=loop, levels=(level,))
    for g, wanted in ((1, first), (2, later), (9, later)):
        parts = config.composition(level, g, 100)
        assert (parts.fixed, parts.fresh, parts.synthetic) == wanted
        assert parts.share == wanted[2] / sum(wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loop": "other"}, "loop is 'other'; expected one of synthetic, augmentation, fresh"),
        ({"loop": "fresh", "levels": (1.5,)}, "expected numbers from 0 to 1"),
        ({"methods": ("neon",)}, "expected standard, sims or both"),
        ({"generations": 0}, "generations is 0; expected 1 or more"),
        ({"n": 3}, "n is 3; expected 10 or more"),
        ({"omega": -1.0}, "omega is -1.0; expected 0 or more"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        CollapseConfig.of("gaussian", **changes)


@pytest.mark.parametrize(
    ("setting", "changes"),
    [
        ("gaussian", {"samples": 100}),
        ("gaussian", {"classifier": "digits-parity"}),
        ("mixture", {"h": 0.5}),
        ("kde", {"budget": 2.0}),
        ("kde", {"steps": 9, "methods": ("standard",)}),
        ("digits", {"h": 0.5}),
        ("gaussian", {"budget": 2.0, "methods": ("standard",)}),
    ],
)
def test_what_would_change_nothing_is_refused(setting, changes):
    with pytest.raises(ValueError, match=f"^{next(iter(changes))} is .*; expected none: it changes nothing with the"):
        CollapseConfig.of(setting, **changes)


# Kernels


def test_kernel_denoiser_is_the_mixture_of_its_points():
    from fairsims.models import GaussianMixtureDenoiser

    points = np.random.default_rng(0).standard_normal((7, 10))
    known = GaussianMixtureDenoiser(torch.tensor(points), [0.6] * 7, [1 / 7] * 7)
    x = torch.randn(5, 10, generator=torch.Generator().manual_seed(1)).double()
    for sigma in (0.05, 2.0):
        own = kde.KernelDenoiser(points, 0.6)(x, torch.tensor(sigma))
        assert torch.allclose(own, known(x, torch.tensor(sigma)))


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_kernel_generations_follow_the_closed_form(alpha):
    config = CollapseConfig.of("kde", loop="fresh", levels=(alpha,), methods=("standard",), n=20_000, repeats=2)
    loop, cell, state, drift = kde.KernelLoop(config), Cell(method="standard", level=alpha), {}, []
    for g in range(1, 9):
        state, rows = loop.generation(g, cell, state)
        drift.append(np.mean([row["second_moment_drift"] for row in rows]))
    assert drift == pytest.approx(loop.theory(cell)[:8], abs=0.02)
    assert drift[-1] > drift[0] or alpha == 0.9


def test_guided_kernels_without_guidance_are_the_kernels():
    """omega = 0: the ODE over a kernel density draws from it, as adding noise to its points does."""
    config = CollapseConfig.of("kde", loop="fresh", levels=(0.5,), n=400, repeats=1, samples=400, steps=24, omega=0.0)
    found = {}
    for method in ("standard", "sims"):
        state, rows = kde.KernelLoop(config).generation(1, Cell(method=method, level=0.5), {})
        found[method] = rows[0]
        assert state["made"].shape == (1, 400, 10)
    # One standard error of the difference is 0.03; most of it comes from how many points each mode got.
    drift = [found[m]["second_moment_drift"] for m in ("standard", "sims")]
    assert drift[0] == pytest.approx(drift[1], abs=0.1)
    assert found["standard"]["within_variance"] == pytest.approx(0.72, rel=0.2)


# The network


def test_repeats_of_the_network_are_separate():
    """Other data for the second repeat leave the first one's weights alone."""
    rng = np.random.default_rng(0)
    points, made = rng.standard_normal((2, 60, 2)).astype(np.float32), []
    for shift in (0.0, 3.0):
        net = mixture.RepeatedMLP(2, 8, torch.Generator().manual_seed(0))
        mixture.fit(net, points + np.array([0.0, shift], dtype=np.float32)[:, None, None], 2.0, (0,))
        made.append([w.detach().clone() for w in net.weights])
    assert all(torch.equal(a[0], b[0]) for a, b in zip(*made, strict=True))
    assert not any(torch.equal(a[1], b[1]) for a, b in zip(*made, strict=True))


def test_mixture_generations_learn_and_measure(tmp_path: Path):
    config = CollapseConfig.of(
        "mixture",
        kimg=30.0,
        budget=2.0,
        generations=2,
        repeats=2,
        n=300,
        samples=300,
        levels=(2.0,),
        auxiliary="narrow",
    )
    result = run_loops(config, tmp_path)
    first, last = (result["cells"][1]["measures"]["sliced_w2"][g]["mean"] for g in (0, 1))
    # The data's own spread is 1.7: a network that had learnt nothing would be off by that.
    assert 0 < first < 1
    assert last != first
    shares = [result["cells"][0]["measures"][f"share.{k}"][0]["mean"] for k in range(3)]
    assert sum(shares) == pytest.approx(1)
    assert minority(result) == "share.2"


# Running


def test_resuming_equals_an_uninterrupted_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop, "SAVE_SECONDS", -1.0)
    config = CollapseConfig.of("gaussian", **TINY | {"generations": 6})
    cell = Cell(method="sims", level=1.0)
    whole = run_cell(loops.loop_of(config, tmp_path), cell, tmp_path / "whole", lambda *_: None)

    class Killed(Exception):
        pass

    def kill(stage: str, done: int, total: int) -> None:
        if done == 4:
            raise Killed

    with pytest.raises(Killed):
        run_cell(loops.loop_of(config, tmp_path), cell, tmp_path / "cut", kill)
    assert (tmp_path / "cut" / "state.npz").exists()
    seen: list[int] = []
    resumed = run_cell(loops.loop_of(config, tmp_path), cell, tmp_path / "cut", lambda _, done, __: seen.append(done))
    assert resumed == whole
    assert seen == [4, 5, 6]
    assert not (tmp_path / "cut" / "state.npz").exists()
    assert run_cell(loops.loop_of(config, tmp_path), cell, tmp_path / "cut", kill) == whole


def test_a_corrupt_state_is_named(tmp_path: Path):
    (tmp_path / "state.npz").write_bytes(b"not a state")
    config = CollapseConfig.of("gaussian", **TINY)
    with pytest.raises(InputError, match=r"state\.npz is corrupt .*; delete it"):
        run_cell(loops.loop_of(config, tmp_path), Cell(method="sims", level=1.0), tmp_path, lambda *_: None)


def test_run_writes_table_result_figures_and_report(tmp_path: Path):
    config = CollapseConfig.of("gaussian", **TINY | {"levels": (0.25, 4.0)})
    result = run_loops(config, tmp_path, threshold=True, command="fairsims collapse")
    table = pd.read_parquet(tmp_path / "collapse.parquet")
    assert len(table) == 2 * 2 * 4 * 3
    assert set(zip(table["method"], table["level"], strict=True)) == set(
        itertools.product(("standard", "sims"), (0.25, 4.0))
    )
    assert table.loc[table["generation"] == 1, "share"].eq(0).all()
    assert sorted(table.loc[table["generation"] == 2, "share"].unique()) == pytest.approx([0.2, 0.8])
    assert read_json(tmp_path / "collapse.json") == json.loads(json.dumps(result))
    assert result["format"] == "fairsims-collapse/1"
    of = table[(table["method"] == "sims") & (table["level"] == 4) & (table["generation"] == 4)]
    cell = next(c for c in result["cells"] if c["name"] == "sims-4")
    assert cell["measures"]["w2"][3]["mean"] == pytest.approx(of["w2"].mean())
    assert cell["change"]["difference"]["mean"] == pytest.approx(
        cell["change"]["last"]["mean"] - cell["change"]["first"]["mean"]
    )
    assert len(result["theory"]["curves"]["sims-4"]) == 4
    drawn = collapse_figures(tmp_path)
    assert [p.name for p in drawn] == ["drift.png", "threshold.png"]
    before = [p.read_bytes() for p in drawn]
    assert [p.read_bytes() for p in collapse_figures(tmp_path)] == before
    text = write_collapse_report(tmp_path).read_text(encoding="utf-8")
    assert "![threshold](threshold.png)" in text
    assert "Published for a 2-D Gaussian with SIMS: 25%." in text
    assert "SIMS" in collapse_text(result)
    with pytest.raises(ChangedSettings, match="omega"):
        run_loops(CollapseConfig.of("gaussian", **TINY | {"levels": (0.25, 4.0), "omega": 2.0}), tmp_path)


def test_crossing_finds_the_place():
    assert crossing(lambda share: share - 0.3) == pytest.approx(0.3, abs=0.01)
    assert crossing(lambda share: share + 0.1) == 0
    assert crossing(lambda share: share - 2) is None


def test_threshold_brackets_a_drift_that_is_known(tmp_path: Path):
    """A loop whose drift is 1 + share^2 + noise leaves 1.1 times its level where share^2 = 0.1."""

    class Known(Loop):
        headline = "w2"

        def generation(self, g, cell, state):
            share = cell.level / (1 + cell.level)
            noise = 0.03 * np.random.default_rng(0).standard_normal(40)
            return {"g": np.array([g])}, [{"w2": 1 + (g > 1) * (share**2 + e)} for e in noise - noise.mean()]

    config = CollapseConfig.of("gaussian", generations=2, repeats=40, methods=("standard",))
    (found,) = find_thresholds(Known(config), tmp_path, lambda *_: None)["found"]
    assert found["share"] == pytest.approx(np.sqrt(0.1), abs=0.01)
    assert found["ratio"] == pytest.approx(found["share"] / (1 - found["share"]))
    half = 2.02 * 0.03 / np.sqrt(40)
    assert found["low"] == pytest.approx(np.sqrt(0.1 - half), abs=0.015)
    assert found["high"] == pytest.approx(np.sqrt(0.1 + half), abs=0.015)


def test_a_threshold_needs_augmentation(tmp_path: Path):
    with pytest.raises(InputError, match="found loop 'fresh' with a threshold"):
        run_loops(CollapseConfig.of("gaussian", loop="fresh", levels=(0.5,)), tmp_path, threshold=True)


# Images


IMAGES = {
    "generations": 2,
    "repeats": 1,
    "n": 60,
    "samples": 60,
    "kimg": 0.256,
    "budget": 0.128,
    "steps": 3,
    "width": 4,
}


def test_digits_loop_resumes_and_shares_its_first_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = CollapseConfig.of("digits", levels=(0.5,), **IMAGES)
    result = run_loops(config, tmp_path)
    assert result["facts"]["metric"] == "FD (digits-parity features)"
    assert minority(result) in ("share.odd", "share.even", None)
    table = pd.read_parquet(tmp_path / "collapse.parquet")
    assert {"fd", "precision", "recall", "share.odd", "low.odd", "high.odd"} <= set(table)
    assert (table["low.odd"] <= table["share.odd"]).all()
    first = sorted(p.parent.parent.name for p in (tmp_path / "images").glob("first/*/base/model.safetensors"))
    assert first == ["repeat-0"]
    assert not list((tmp_path / "images").glob("*/repeat-0/generation-001/base"))
    # The last pool is gone, as after a kill: the same call makes it again and nothing else.
    last = tmp_path / "images" / "sims-0.5" / "repeat-0" / "generation-002"
    (tmp_path / "cells" / "sims-0.5" / "rows.json").unlink()
    before = (last / "pool" / "shard-00000.parquet").read_bytes()
    (last / "row.json").unlink()
    (last / "pool" / "shard-00000.parquet").unlink()
    again = run_loops(config, tmp_path)
    assert (last / "pool" / "shard-00000.parquet").read_bytes() == before
    assert again["cells"] == result["cells"]


def test_training_sets_of_images(tmp_path: Path):
    plain = {k: v for k, v in IMAGES.items() if k != "budget"}
    config = CollapseConfig.of("digits", loop="fresh", levels=(0.5,), methods=("standard",), mark=False, **plain)
    loop = ImageLoop(config, tmp_path)
    cell = Cell(method="standard", level=0.5)
    one = loop._training_set(config.composition(0.5, 1, 60), 1, cell, 0)
    assert (len(one), one.attributes) == (60, {})
    loop.generation(1, cell, {})
    two = loop._training_set(config.composition(0.5, 2, 60), 2, cell, 0)
    assert len(two) == 60
    # The fresh half is new, the other half is what generation 1 made.
    assert not {x.tobytes() for x in one.read(range(60)).numpy()} & {x.tobytes() for x in two.read(range(30)).numpy()}
    from fairsims.pools import Pool

    made = Pool(tmp_path / "images" / "standard-0.5" / "repeat-0" / "generation-001" / "pool")
    assert np.array_equal(two.read(range(30, 60)).numpy(), made.read(range(30)).numpy())
    # Unmarked as asked for; loops that are marked have the settings that they had before there was a choice.
    assert not is_generated(made.encoded(0))
    assert config.as_dict()["mark"] is False
    assert "mark" not in CollapseConfig.of("digits").as_dict()
    with pytest.raises(ValueError, match="mark is False; expected none: it changes nothing with the setting gaussian"):
        CollapseConfig.of("gaussian", mark=False)


def test_no_two_loops_sample_from_the_same_seeds(tmp_path: Path):
    """Seed 0 keeps the seeds that recorded loops were sampled from; whatever lies beyond shares none with it."""
    loops = {seed: ImageLoop(CollapseConfig.of("digits", seed=seed), tmp_path) for seed in (0, 1, 2**32, 2**40)}
    assert loops[0]._seeds(0, 1, 5) == range(5)
    assert loops[0]._seeds(3, 2, 5, offset=2**19) == range(97 * 2**20 + 2**19, 97 * 2**20 + 2**19 + 5)
    made = [
        of._seeds(r, g, 2**19, offset=half)
        for of in loops.values()
        for r in (0, 1, 127, 128)
        for g in (1, 2, 32, 33)
        for half in (0, 2**19)
    ]
    ordered = sorted(made, key=lambda seeds: seeds.start)
    assert all(a.stop <= b.start for a, b in zip(ordered, ordered[1:], strict=False))
    assert ordered[-1].stop <= 2**63
    starts = torch.cat([noise_for([seeds[0]], (2,)) for seeds in made])
    assert len(torch.unique(starts[:, 0])) == len(made)


def test_fresh_images_run_out(tmp_path: Path):
    config = CollapseConfig.of("digits", loop="fresh", levels=(0.5,), generations=9, n=600)
    with pytest.raises(InputError, match="has 1188 images, enough for 237 in generation 1 of 9"):
        ImageLoop(config, tmp_path)


def test_joined_images_keep_their_order(digits):
    parts = [digits.subset([3, 1]), digits.subset([5]), digits.subset([0, 2, 4])]
    whole = joined(parts, name="all")
    assert np.array_equal(whole.read([5, 0, 2, 3]).numpy(), digits.read([4, 3, 5, 0]).numpy())


# The command


def invoke(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, ["collapse", *arguments])
    return done.exit_code, done.stdout, done.stderr


def test_command(tmp_path: Path):
    sizes = ["--generations", "3", "--repeats", "2", "--n", "50", "--steps", "5", "--no-threshold"]
    code, text, _ = invoke(*sizes, "--synthetic-ratio", "0.5,2", "--out", str(tmp_path / "a"))
    assert code == 0
    assert text.count("standard ") == 2
    assert "drift.png" in text
    code, text, _ = invoke(*sizes, "--loop", "fresh", "--alpha", "0.5", "--out", str(tmp_path / "b"), "--json")
    assert code == 0
    assert json.loads(text)["settings"]["levels"] == [0.5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--alpha", "0.5"], "found --alpha with the loop 'augmentation'; it belongs to the fresh loop"),
        (["--loop", "synthetic", "--synthetic-ratio", "1"], "it belongs to augmentation: leave it out"),
        (["--synthetic-ratio", "much"], "--synthetic-ratio is 'much'; expected numbers"),
        (["--generations", "0"], "--generations is 0; expected 1 or more"),
        (["--setting", "nothing"], "found no setting or path 'nothing'"),
    ],
)
def test_command_says_what_is_wrong(tmp_path: Path, arguments, message):
    code, _, text = invoke(*arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in text
    assert text.count("\n") == 1
