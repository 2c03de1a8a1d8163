"""`fairsims compare --prompts` through the command line, on a tiny pipeline that knows two shades."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image
from support import refused, run, succeeds
from tiny_pipelines import SHADE_PROMPTS, install_shades, tiny_clip, two_shades

from fairsims.dashboard.runs_index import read_run
from fairsims.pools import Pool
from fairsims.recipes import find_recipe
from fairsims.recipes.prompts import ArmsOverPrompts
from fairsims.recipes.repeating import runs_of
from fairsims.retarget import calibration, prompt_run
from fairsims.retarget.prompt_arms import PROMPT_ARMS
from fairsims.retarget.prompt_config import PromptConfig

pytest.importorskip("diffusers")
ASKED = (
    *("--attr", "shade", "--target", "light=0.8,dark=0.2", "--classifier", "shade=shade", "--pool", 16, "--audit", 8),
    *("--calibration", 16, "--budget", 0.08, "--batch-size", 16, "--lr", 0.04, "--rank", 4, "--omega", 0.6),
    *("--agreement", "job", "--positive", "always"),
    *("--guidance-scale", 2, "--size", "32,32", "--precision", "float32", "--sample-batch", 64, "--steps", 4),
)
NEUTRAL, HELD = ("a photo of a nurse", "a photo of a pilot"), "a photo of a judge"
Compared = tuple[Path, dict[str, Any], dict[str, Any]]
"""Folder, result, and its arms by name."""


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[object, ...]]:
    """The command but for its folder; an installed package has the classifiers."""
    place = tmp_path_factory.mktemp("site")
    install_shades(place)
    sys.path.insert(0, str(place))
    (place / "set.toml").write_text(SHADE_PROMPTS)
    model = two_shades(tmp_path_factory.mktemp("tiny") / "shades")
    yield ("compare", "--model", model, "--prompts", place / "set.toml", *ASKED)
    sys.path.remove(str(place))


@pytest.fixture(scope="module")
def compared(asked: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """All arms; stopped while the second adapter is trained and gone on. Two looks at most calibrate an arm."""
    folder = tmp_path_factory.mktemp("compare") / "run"
    whole = prompt_run.train_adapter

    def killed(*given: Any, **named: Any) -> Iterator[object]:
        for tick in whole(*given, **named):
            yield tick
            if named["kind"] == "complement":
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "LOOKS", 2)
        # So short a training need not move the share.
        patch.setattr(calibration, "SURE", -10)
        patch.setattr(prompt_run, "train_adapter", killed)
        stopped = run(*asked, "--out", folder)
        assert "the same command goes on from here" in stopped.stderr, stopped.stderr
        patch.setattr(prompt_run, "train_adapter", whole)
        result = succeeds(*asked, "--out", folder)
        assert succeeds(*asked, "--out", folder) == result, "a finished comparison is read"
    return folder, result, {arm["arm"]: arm for arm in result["arms"]}


def test_every_arm_has_the_same_seeds_of_the_same_prompts(compared: Compared) -> None:
    folder, result, arms = compared
    assert tuple(arms) == PROMPT_ARMS
    assert result["left_out"] == {}
    base = Pool(folder / "base" / "images")
    assert len(base) == 8 * len(result["kinds"])
    for name in PROMPT_ARMS:
        pool = Pool(folder / name / "images")
        assert pool.conditions == base.conditions == tuple(result["kinds"])
        assert np.bincount(pool.positions).tolist() == [8] * len(base.conditions)
        if name != "resampled":
            assert (pool.seeds == base.seeds).all()
    table = pd.read_parquet(folder / "prompt-compare.parquet")
    assert len(table) == len(PROMPT_ARMS) * len(result["kinds"])
    for name, arm in arms.items():
        rows = table[table["arm"] == name].set_index("prompt")
        assert [r["prompt"] for r in arm["prompts"]] == list(result["kinds"])
        for r in arm["prompts"]:
            assert rows.loc[r["prompt"], ["low.light", "share.light", "high.light"]].tolist() == [
                r["low"][1],
                r["share"][1],
                r["high"][1],
            ]
        off = [max(abs(s - t) for s, t in zip(r["share"], (0.2, 0.8), strict=True)) for r in arm["prompts"][:2]]
        found = arm["summary"]["neutral"]["metrics"]["off"]
        assert found["value"] == pytest.approx(np.mean(off))
        assert found["were_the_target_met"] > 0.05, "so few images scatter"
        assert arm["agreement"]["neutral"] == 0.5, "one of the two prompts names what every image shows"


def test_words_are_those_of_the_explicit_prompts(compared: Compared) -> None:
    """Each image's prompt is drawn in the target's shares, held-out prompts too; all other prompts are left alone."""
    folder, _, _ = compared
    base, words = (Pool(folder / arm / "images") for arm in ("base", "words"))
    said = words.meta["sampler"]["variants"]
    assert said[NEUTRAL[0]] == {"a photo of a male nurse": pytest.approx(0.2), "a photo of a female nurse": 0.8}
    assert set(said[HELD]) == {"a photo of a male judge", "a photo of a female judge"}
    assert set(said) == {*NEUTRAL, HELD}
    changed = (base.read(range(len(base))) != words.read(range(len(base)))).flatten(1).any(dim=1).numpy()
    assert changed[np.isin(base.positions, [0, 1, 2])].all()
    assert not changed[~np.isin(base.positions, [0, 1, 2])].any()


def test_resampling_keeps_images_of_the_base_and_counts_what_it_made(compared: Compared) -> None:
    folder, _, arms = compared
    kept, first = Pool(folder / "resampled" / "images"), Pool(folder / "base" / "images")
    candidates = [first, *(Pool(p) for p in sorted((folder / "resampled").glob("candidates-*")))]
    assert len(candidates) > 1, "of eight images of a prompt not all are kept"
    made = {
        int(seed): image
        for pool in candidates
        for seed, image in zip(pool.seeds, pool.read(range(len(pool))), strict=True)
    }
    for seed, image in zip(kept.seeds, kept.read(range(len(kept))), strict=True):
        assert (image == made[int(seed)]).all()
    size, spent = len(first.conditions), []
    for p in range(3):
        last = kept.seeds[kept.positions == p].max()
        spent.append(len(range(int(first.seeds[p]), int(last) + 1, size)) / 8)
        assert [s for s in made if s % size == p and s <= last]
    others = kept.seeds[kept.positions > 2]
    assert (others == first.seeds[first.positions > 2]).all(), "explicit and unrelated prompts are the base's"
    cost = arms["resampled"]["cost"]
    assert cost["images_per_kept"] == pytest.approx(np.mean(spent))
    assert cost["evaluations_per_kept"] == pytest.approx(8 * np.mean(spent))
    assert cost["images_per_kept"] > 1.2
    assert {arm["cost"]["evaluations_per_kept"] for name, arm in arms.items() if name != "resampled"} == {8}


def test_adapters_and_strengths_are_those_that_an_arm_names(compared: Compared) -> None:
    folder, result, arms = compared
    worn = {name: Pool(folder / name / "images").meta["made_by"] for name in PROMPT_ARMS}
    kinds = ["base", "base", "base", "towards", "merged", "merged", "merged", "unconditional"]
    assert [worn[name]["kind"] for name in PROMPT_ARMS] == kinds
    assert worn["negative"]["aux"] == worn["unconditional"]["aux"] != worn["control"]["aux"]
    assert "positive" in worn["negative-positive"]
    assert arms["control"]["strength"] == arms["negative"]["strength"] > 0
    for name, adapters in {"base": 0, "words": 0, "positive": 1, "negative-positive": 2, "control": 1}.items():
        assert arms[name]["cost"]["trained_kimg"] == pytest.approx(0.08 * adapters)
        assert (arms[name]["strength"] is None) == (adapters == 0)
    for name, arm in arms.items():
        tried = arm["calibration"][1:]
        assert bool(tried) == (name not in ("base", "words", "resampled", "control"))
        made = 48 if name == "resampled" else sum(r["n"] for r in tried)
        assert arm["cost"]["calibration_images"] == made <= 48
        assert not tried or tried[0]["strength"] > 0
        assert 0 <= arm["quality"]["precision"] <= 1
    quality = {name: arm["quality"] for name, arm in arms.items()}
    assert result["quality"]["metric"] == "FD (shade features)"
    assert quality["base"]["fd_reference"] < quality["base"]["fd_target"]
    assert quality["resampled"]["fd_target"] < quality["base"]["fd_target"]


def test_the_report_and_the_dashboard_show_it(compared: Compared, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, result, arms = compared
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        for said in ("branch alone", "What a kept image costs", "What was to stay, and quality", "words added"):
            assert said in text, (name, said)
        assert "FD (shade features)" in text
    assert f"{arms['resampled']['cost']['images_per_kept']:.2f}" in (folder / "report.md").read_text()
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "dashboard"))
    pages = importlib.import_module("dashboard_pages")
    monkeypatch.setenv("FAIRSIMS_RUNS", str(folder.parent))
    found = read_run(folder)
    assert (found.kind, found.state) == ("prompt comparison", "finished")
    app = pages.shown("audit", "run")
    assert not app.error
    assert "Shares by prompt" in [s.value for s in app.subheader]
    assert "the nearest is" in pages.texts(pages.shown("runs"))
    assert json.loads((folder / "plan.json").read_text())["plan"]["arms"] == list(PROMPT_ARMS)


def test_the_recipe_has_a_row_for_each_arm_and_kind(compared: Compared) -> None:
    folder, _, arms = compared
    config = PromptConfig(model="shades", prompts="set.toml", attr="shade", target="uniform")
    rows = ArmsOverPrompts(folder=folder, config=config, arms=None).rows()
    assert [(r["arm"], r["prompts"]) for r in rows] == [(a, k) for a in PROMPT_ARMS for k in ("neutral", "held-out")]
    for row in rows:
        off = arms[row["arm"]]["summary"][row["prompts"]]["metrics"]["off"]
        assert (row["off"], row["floor"]) == (off["value"], off["were_the_target_met"])
    assert rows[4]["evaluations_per_kept"] == arms["resampled"]["cost"]["evaluations_per_kept"]
    planned = runs_of(find_recipe("emoji-t2i-compare"))
    assert [(run.folder.name, run.seed) for run in planned] == [("seed0", 0), ("seed1", 1), ("seed2", 2)]


def test_other_arms_are_another_comparison(compared: Compared, asked: tuple[object, ...]) -> None:
    assert "now arms" in refused(*asked, "--out", compared[0], "--arms", "base,words")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arms", "base,wrds"), "--arms has 'wrds'; did you mean 'words'?"),
        (("--arms", "control"), "--arms has control without negative, whose strength it takes"),
        (("--arms", "unconditional", "--guidance-scale", 1), "is not possible: the pipeline is sampled without an unc"),
        (("--arms", "negative-positive", "--positive", "never"), "is not possible: --positive is never"),
        (("--reference", "digits"), "--reference changes nothing with --prompts"),
        (("--target", 0.4), "--target 0.4 is one number; prompts differ"),
    ],
)
def test_refused_in_one_line(
    options: tuple[object, ...], message: str, asked: tuple[object, ...], tmp_path: Path
) -> None:
    kept = [v for pair in zip(asked[1::2], asked[2::2], strict=True) if pair[0] not in options for v in pair]
    assert message in refused("compare", *kept, *options, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_arm_that_does_nothing_stands_at_its_planned_strength(asked: tuple[object, ...], tmp_path: Path) -> None:
    kept = [
        v for pair in zip(asked[1::2], asked[2::2], strict=True) if pair[0] not in ("--lr", "--budget") for v in pair
    ]
    still = ("--lr", 1e-9, "--budget", 0.016, "--arms", "base,negative", "--out", tmp_path / "run")
    base, negative = succeeds("compare", *kept, *still)["arms"]
    assert (negative["strength"], negative["calibration"]) == (0.6, [])
    assert "does not rise with the strength" in negative["note"]
    assert negative["cost"]["calibration_images"] > 0
    assert negative["summary"]["neutral"]["worst"] == base["summary"]["neutral"]["worst"]


def test_what_the_prompts_do_not_allow_is_left_out_and_clip_reads_prompts(
    asked: tuple[object, ...], tmp_path: Path
) -> None:
    """A file of neutral prompts alone; CLIP-T of each as open_clip itself has it."""
    (tmp_path / "plain.txt").write_text("a photo of a nurse\n")
    (tmp_path / "clip").mkdir()
    place = f"local-dir:{tiny_clip(tmp_path / 'clip')}"
    other = ("--prompts", "--agreement")
    kept = [v for pair in zip(asked[1::2], asked[2::2], strict=True) if pair[0] not in other for v in pair]
    plain = ("compare", *kept, "--prompts", tmp_path / "plain.txt", "--out", tmp_path / "run")
    assert "words, which is not possible" in refused(*plain, "--arms", "words")
    assert "open_clip_config.json is missing" in refused(*plain, "--agreement", f"clip:local-dir:{tmp_path}")
    result = succeeds(*plain, "--arms", "base,resampled", "--agreement", f"clip:{place}")
    assert [arm["arm"] for arm in result["arms"]] == ["base", "resampled"]
    assert not (tmp_path / "run" / "target-mix").exists()
    assert "CLIP-T" in (tmp_path / "run" / "report.md").read_text()
    model, transform = open_clip.create_model_from_pretrained(place)
    images = Pool(tmp_path / "run" / "base" / "images").read(range(8)).permute(0, 2, 3, 1).numpy()
    with torch.no_grad():
        shown = model.encode_image(torch.stack([transform(Image.fromarray(x)) for x in images]), normalize=True)
        said = model.encode_text(open_clip.get_tokenizer(place)(["a photo of a nurse"]), normalize=True)
    wanted = float((shown @ said.T).mean())
    assert result["arms"][0]["agreement"] == {"neutral": pytest.approx(wanted, abs=2e-3)}
    assert "--arms changes nothing without --prompts" in refused(
        "compare", "--model", "digits-8", "--attr", "parity", "--target", 0.5, "--out", tmp_path / "x", "--arms", "base"
    )
