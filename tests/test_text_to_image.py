"""Text-to-image through the command line, on tiny pipelines of random weights."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support import refused, run, succeeds
from tiny_pipelines import SHADE_PROMPTS, install_shades, make_tiny, two_shades

from fairsims.dashboard.runs_index import read_run
from fairsims.models.lora_files import read_facts
from fairsims.pools import Pool, pool_latents
from fairsims.recipes.prompts import OverPrompts
from fairsims.report.prompt_parts import feasibility_table
from fairsims.retarget import prompt_run
from fairsims.retarget.prompt_config import PromptConfig

pytest.importorskip("diffusers")
RUN = (
    *("--attr", "shade", "--target", "light=0.8,dark=0.2", "--classifier", "shade=shade", "--pool", 24, "--audit", 16),
    *("--calibration", 32, "--budget", 0.4, "--batch-size", 16, "--lr", 0.04, "--rank", 4, "--omega", 0.6),
    *("--classifier", "side=side", "--agreement", "job"),
    *("--guidance-scale", 2, "--size", "32,32", "--precision", "float32", "--sample-batch", 40, "--steps", 4),
)
PROMPTS = 'neutral = "a photo of a {occupation}"\nunrelated = "a tree"\n[lists]\noccupation = ["nurse", "pilot"]\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("sd", tmp_path_factory.mktemp("tiny") / "sd")


def test_generate_asks_for_the_prompts_of_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(PROMPTS)
    asked = ("generate", "--model", folder, "--prompts", tmp_path / "p.toml", "--seeds", "0-6", "--steps", 2)
    found = succeeds(*asked, "--guidance-scale", 2, "--size", "32,32", "--latents", "--out", tmp_path / "pool")
    assert found["evaluations_per_image"] == 4
    pool = Pool(tmp_path / "pool")
    assert pool.conditions == ("a photo of a nurse", "a photo of a pilot", "a tree")
    assert (len(pool), pool.shape, len(pool_latents(pool))) == (7, (3, 32, 32), 7)
    assert pool.meta["sampler"]["guidance"] == 2.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--prompts", "winobias", "--solver", "euler"), "--solver changes nothing with --prompts"),
        (("--guidance-scale", 3), "--guidance-scale changes nothing without --prompts"),
        (("--prompts", "nothing.toml"), "no prompt file 'nothing.toml'"),
        (("--prompts", "winobias", "--guidance-scale", -1), "--guidance-scale is -1.0; expected 0 or more"),
        (("--prompts", "winobias", "--size", "32"), "--size is (32,); expected a height and a width"),
        ((), "is a diffusers pipeline; give --prompts if it is text-to-image"),
    ],
)
def test_generate_refuses_in_one_line(options: tuple[object, ...], message: str, folder: Path, tmp_path: Path) -> None:
    assert message in refused("generate", "--model", folder, "--out", tmp_path / "pool", *options)
    assert not (tmp_path / "pool").exists()


@pytest.fixture(scope="module")
def shades(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A pipeline of two shades, and an installed package with a classifier of them."""
    place = tmp_path_factory.mktemp("site")
    install_shades(place)
    sys.path.insert(0, str(place))
    yield two_shades(tmp_path_factory.mktemp("tiny") / "shades")
    sys.path.remove(str(place))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "set.toml"
    path.write_text(SHADE_PROMPTS)
    return path


def check_report(folder: Path, result: dict[str, Any]) -> None:
    """What the audit found stands in both pages, the pictures in the one that needs nothing else."""
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        for said in (
            "a photo of a judge",
            "Other guidance scales",
            "were the target met",
            "Joint cells of shade and side",
            "naming dark",
        ):
            assert said in text, (name, said)
    assert (folder / "report.html").read_text().count("data:image/png;base64") == 5
    assert [g["guidance_scale"] for g in result["guidance"]] == [1.0, 2.0, 3.0]
    assert result["guidance"][1]["metrics"] == {
        k: pytest.approx(v["value"]) for k, v in result["summary"]["neutral"]["after"]["metrics"].items()
    }
    (side,) = result["others"]
    assert (side["attribute"], side["preserved"], len(side["joint"])) == ("side", False, 4)
    for when in ("before", "after"):
        assert sum(r[when]["share"] for r in side["joint"]) == pytest.approx(1)
        assert sum(r[when] for r in side["classes"]) == pytest.approx(1)
    rows = {r["prompt"]: r for r in result["prompts"]}
    assert rows["a photo of a male nurse"]["names"] == "nurse"
    assert rows["a photo of a nurse"]["agreement"] == {"before": 1.0, "after": 1.0}
    assert "agreement" not in rows["a tree"]
    assert all(0.9 < r["similarity"] <= 1 for r in rows.values())
    assert set(result["kept"]["by_class"]) == {"dark", "light"}


def check_dashboard(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of the run shows one prompt at a time."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "dashboard"))
    pages = importlib.import_module("dashboard_pages")
    monkeypatch.setenv("FAIRSIMS_RUNS", str(root))
    run = read_run(root / "run")
    assert (run.kind, run.state) == ("prompts", "finished")
    app = pages.shown("audit", "run")
    app = pages.rerun(app.selectbox(key="prompt").select("a tree"))
    assert not app.error
    assert "Shares by prompt" in [s.value for s in app.subheader]
    assert "off target from" in pages.texts(pages.shown("runs"))


def check_file_alone(base: Path, run: Path, place: Path) -> None:
    """The lines of the page on the file, where fairsims cannot be imported, give the images that were audited."""
    lines = (
        (Path(__file__).parent.parent / "docs" / "use-the-lora.md").read_text().split("```")[1].removeprefix("python\n")
    )
    after = Pool(run / "after")
    at = 9
    words = {"PIPELINE": base, "LORA_FOLDER": run / "lora", "STEPS": 4, "GUIDANCE": 2.0, "HEIGHT": 32, "WIDTH": 32}
    words |= {"PROMPT": after.conditions[after.positions[at]], "SEED": after.seeds[at]}
    for word, value in words.items():
        lines = lines.replace(word, str(value))
    files = sorted(p.name for p in (run / "lora").glob("*.safetensors"))
    assert files == ["shade-retargeted-webui.safetensors", "shade-retargeted.safetensors"]
    each = [lines.replace("LORA_FILE", name).replace("image.png", str(place / f"{name}.png")) for name in files]
    program = "import sys\nsys.modules['fairsims'] = None\n" + "\n".join(each)
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    wanted = after.read([at])[0].permute(1, 2, 0).numpy().astype(int)
    for name in files:
        found = np.asarray(Image.open(place / f"{name}.png")).astype(int)
        assert np.abs(found - wanted).max() <= 1


def test_retarget_over_prompts_from_the_pool_to_the_file(
    shades: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the second adapter is trained, the same command goes on; the file gives the audited images."""
    asked = (
        "retarget",
        "--model",
        shades,
        "--prompts",
        prompts,
        *RUN,
        *("--positive", "always", "--rounds", 2, "--tolerance", 0.002),
        "--out",
        tmp_path / "run",
    )
    whole = prompt_run.train_adapter

    def killed(*given: object, **named: object) -> Iterator[object]:
        for tick in whole(*given, **named):
            yield tick
            if named["kind"] == "positive":
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prompt_run, "train_adapter", killed)
        stopped = run(*asked)
        assert stopped.exit_code == 2
        assert "What the complement of each prompt can do" in stopped.stderr
        assert "the same command goes on from here" in stopped.stderr
    feasible = json.loads((tmp_path / "run" / "feasibility.json").read_text())
    assert [row["prompt"] for row in feasible["prompts"]] == ["a photo of a nurse", "a photo of a pilot", ""]
    # A file of an earlier version says omega.
    earlier = [{k.replace("strength", "omega"): v for k, v in row.items()} for row in feasible["prompts"]]
    tables = (feasibility_table(feasible["classes"], rows) for rows in (feasible["prompts"], earlier))
    assert next(tables) == next(tables)
    assert not (tmp_path / "run" / "calibration").exists(), "the table comes before any training ends"
    adapter = (tmp_path / "run" / "auxiliary" / "model.safetensors").stat().st_mtime_ns
    result = succeeds(*asked)
    assert (tmp_path / "run" / "auxiliary" / "model.safetensors").stat().st_mtime_ns == adapter
    kinds = [row["kind"] for row in result["prompts"]]
    assert kinds == ["neutral"] * 2 + ["held-out", "unrelated"] + ["explicit"] * 4
    assert [row["says"] for row in result["prompts"]][4:] == ["dark"] * 2 + ["light"] * 2
    assert result["summary"]["neutral"]["before"]["metrics"]["off"]["were_the_target_met"] > 0
    assert result["calibration"][0]["strength"] == 0
    rounds = result["rounds"]
    assert rounds[0]["expected_off"] > 0.002, "so there is a second one"
    assert [r["round"] for r in rounds] == [1, 2]
    seeds = [
        set(chain.from_iterable(Pool(p.parent).seeds.tolist() for p in (tmp_path / "run" / name).rglob("pool.json")))
        for name in ("calibration", "calibration-2", "after")
    ]
    assert all(seeds)
    assert not set.intersection(seeds[0], seeds[1]), "a round is judged on images of its own"
    assert not set.intersection(seeds[2], seeds[0] | seeds[1])
    best = min(rounds, key=lambda r: r["expected_off"])
    assert {name: result[name] for name in best} == best
    assert result["cost"]["trained_kimg"] == pytest.approx(2 * 2 * 0.4)
    before, after = (result["summary"]["neutral"][side]["metrics"]["off"]["value"] for side in ("before", "after"))
    assert after < before - 0.05, "a network that knows both shades makes more of the rarer one"
    assert result["cost"]["evaluations_per_image"] == {"before": 8, "after": 8}
    facts = read_facts(tmp_path / "run" / "lora" / "shade-retargeted.safetensors")
    assert (facts["attribute"], facts["made_by"]["strength"]) == ("shade", result["strength"])
    check_report(tmp_path / "run", result)
    check_dashboard(tmp_path, monkeypatch)
    check_file_alone(shades, tmp_path / "run", tmp_path)
    assert json.loads((tmp_path / "run" / "status.json").read_text())["state"] == "finished"
    assert succeeds(*asked) == result, "a finished run is read"
    assert "was made with rank = 4, now rank = 5" in refused(*asked, "--rank", 5)
    config = PromptConfig(model="shades", prompts="set.toml", attr="shade", target="uniform")
    rows = OverPrompts(folder=tmp_path / "run", config=config).rows()
    assert [(row["run"], row["prompts"]) for row in rows] == [("run", "neutral"), ("run", "held-out")]
    assert (rows[0]["off_before"], rows[0]["off_after"]) == (before, after)
    assert rows[0]["explicit_kept_after"] == result["kept"]["after"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", 0.4), "--target 0.4 is one number; prompts differ"),
        (("--solver", "euler"), "--solver changes nothing with --prompts"),
        (("--pool", 2), "--pool is 2; expected 8 images of each prompt"),
        (("--agreement", "shade"), "no prompt of"),
        (("--hold", "shade"), "--hold is 'shade', which has the target"),
    ],
)
def test_retarget_over_prompts_refuses_in_one_line(
    options: tuple[object, ...], message: str, shades: Path, prompts: Path, tmp_path: Path
) -> None:
    kept = [value for pair in zip(RUN[::2], RUN[1::2], strict=True) if pair[0] != options[0] for value in pair]
    found = refused("retarget", "--model", shades, "--prompts", prompts, *kept, *options, "--out", tmp_path / "run")
    assert message in found
    assert not (tmp_path / "run").exists()


def test_prompt_options_are_for_prompts(tmp_path: Path) -> None:
    asked = ("retarget", "--attr", "parity", "--target", 0.5, "--out", tmp_path / "run")
    assert "--layers changes nothing without --prompts" in refused(*asked, "--model", "digits-8", "--layers", "all")
    assert "--prompts is given without --model" in refused(*asked, "--prompts", "winobias")
