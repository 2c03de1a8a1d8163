"""The programs beside the package, `tools/` and `bench/`, at tiny sizes: one that no longer fits the library fails."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import script, succeeds

from fairsims.data import open_dataset, to_uint8
from fairsims.files import read_jsonl
from fairsims.models import open_checkpoint
from fairsims.models.sampling import SamplerConfig, solve


def test_a_shipped_model_comes_with_samples_loss_and_measured_shares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    trained = tmp_path / "build" / "tiny"
    succeeds("train", "--preset", "digits-8", "--kimg", 0.128, "--out", trained)
    sizes = ["--attr", "parity", "--images", "64", "--out", str(tmp_path / "models")]
    script("tools/ship_model.py").main([str(trained), "tiny", *sizes])
    folder, said = tmp_path / "models" / "tiny", json.loads(capsys.readouterr().out)
    assert (folder / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    for name, width in (("samples.png", 2 * (16 * 9 - 1)), ("loss.png", 660)):
        with Image.open(folder / name) as picture:
            assert picture.width == width
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert "trained on `digits-skewed` by" in readme
    assert "| even | 0.750 |" in readme
    for name, share in said["shares"].items():
        assert f"| {share:.3f} [" in next(line for line in readme.splitlines() if line.startswith(f"| {name} "))
    assert f"the training set {said['fd_reference']:.2f}" in readme
    assert f"shares {said['fd_target']:.2f}." in readme
    # What it was trained for is told by the steps that were taken.
    assert read_jsonl(folder / "stats.jsonl")[-1]["nimg"] == 128
    assert "for 0.128 thousand images" in readme


def test_embedded_classifiers_are_built_by_name() -> None:
    tool = script("tools/build_classifiers.py")
    with pytest.raises(SystemExit, match="error: .*digits-parit"):
        tool.main(["digits-parit"])


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("calibration", ["--repeats", "1", "--kind", "as planned"], "as planned                       100.0%"),
        ("coverage", ["--repetitions", "2"], "gender x glasses, 100 each"),
        pytest.param(
            "engines",
            ["--images", "8", "--steps", "2", "--pairs", "1"],
            "Ray / two processes",
            marks=pytest.mark.slow,
        ),
        ("forwards", ["--model", "digits-8", "--batches", "8", "--repeats", "1"], "channels_last"),
        ("frechet", ["--width", "16", "--repeats", "1", "--rows", "64", "128"], "peak memory of 64 rows"),
        pytest.param(
            "growth",
            ["--images", "64", "128", "--neighbours", "16"],
            "audit             64 to 128: memory x",
            marks=pytest.mark.slow,
        ),
        ("labelling", ["--images", "64", "--batch", "32", "--pairs", "1"], "ResNet-18, 64 px"),
        (
            "main_job",
            [
                *("--model", "digits-8", "--attr", "parity", "--pool", "256", "--calibration", "64", "--audit", "64"),
                *("--budget", "0.64", "--precision", "float32"),
            ],
            "forward and backward",
        ),
        ("power", ["--repetitions", "2", "--classifier", "digits-parity", "--target", "0.5"], "digits-parity"),
        ("precision", ["--model", "digits-8", "--attr", "parity", "--images", "16"], "time float32 / bfloat16"),
        ("reading", ["--images", "60", "--side", "8", "--pairs", "1", "--kinds", "zip"], "zip      screened "),
        ("sampling", ["--model", "digits-8", "--batch", "8", "--steps", "2", "--repeats", "1"], "merged / generate"),
        (
            "solvers",
            ["--model", "digits-8", "--classifiers", "digits-parity", "--images", "16"],
            "ipndm    12 logsnr      12 evaluations",
        ),
        ("training", ["--model", "digits-8", "--batch", "8", "--steps", "1", "--repeats", "1"], "step / raw"),
    ],
)
def test_benchmarks_run(
    name: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bench = script(f"bench/{name}.py")
    try:
        bench.main(arguments)
    except SystemExit as e:
        # So few repetitions say nothing about a limit.
        assert e.code in (False, True)
    assert said in capsys.readouterr().out


def test_the_ground_truth_benchmark_runs_in_its_parts() -> None:
    """Networks that can tell the classes apart take minutes: calls with known errors stand in for theirs."""
    bench = script("bench/ground_truth.py")
    true, calls, concepts = bench.out_of_fold(("man", "woman"), 0.064)
    assert len(true) == len(calls) == len(concepts) == 1304
    wrong = np.random.default_rng(0).random(len(true)) < 0.1
    found = bench.coverage(true, true ^ wrong, concepts, ("man", "woman"), (0.5, 0.5), "images", 20)
    held = {tier: hits.min() for tier, hits, _ in found}
    assert held["A"] >= 0.8
    assert held["B"] >= 0.8


def test_every_benchmark_is_run() -> None:
    (marker,) = [m for m in test_benchmarks_run.pytestmark if m.name == "parametrize"]  # type: ignore[attr-defined]
    known = {p.stem for p in (Path(__file__).parent.parent / "bench").glob("*.py")}
    rows = [getattr(row, "values", row) for row in marker.args[1]]
    assert {row[0] for row in rows} == known - {
        "timing",
        "ground_truth",
        "gpu",
        "gpu_adapter",
        "gpu_cases",
        "gpu_parts",
        "plain",
    }


def test_the_gpu_script_does_every_part_at_tiny_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a CPU: what is left out is what only a GPU can do, and both files say the same."""
    script("bench/gpu.py").main(["--tiny", "--seconds", "5000", "--out", str(tmp_path / "gpu")])
    found = json.loads((tmp_path / "gpu" / "gpu.json").read_text(encoding="utf-8"))
    rows = {(r["part"], r["case"]): r for r in found["rows"]}
    assert {part for part, _ in rows} == {"peak", "sampling", "training", "labelling", "adapter", "emoji"}
    if found["device"].endswith("threads"):
        left_out = {r["left out"] for (part, _), r in rows.items() if "left out" in r and part != "emoji"}
        assert left_out <= {"needs a GPU", "takes a minute on a CPU"}
    done = [r for r in rows.values() if "left out" not in r]
    assert all(v > 0 for r in done for k, v in r.items() if k.endswith("/s") or k in ("overhead", "merged / base"))
    assert rows["emoji", "train"]["kimg"] == 0.064
    # So little training may move nothing, which is told.
    last = rows["emoji", "retarget to half women, audit"]
    assert last.get("left out") or 0 <= last["women after"] <= 1
    page = (tmp_path / "gpu" / "gpu.md").read_text(encoding="utf-8")
    assert page.count("\n## ") == 6
    assert all(f"| {case} |" in page for _, case in rows)
    assert "fairsims / plain loop" in capsys.readouterr().out


def test_the_gpu_script_leaves_out_what_there_is_no_time_for(tmp_path: Path) -> None:
    script("bench/gpu.py").main(["--tiny", "--seconds", "0.1", "--only", "peak", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["rows"]
    assert [r["case"] for r in rows] == ["float32", "TF32", "bfloat16"]
    assert all("of the part's are left" in r["left out"] for r in rows)


def test_the_papers_loops_are_what_ours_are_held_against() -> None:
    """The same noise gives the images of our Heun; a step of training lowers the loss that ours has."""
    plain, model = script("bench/plain.py"), open_checkpoint("digits-8").network
    torch.manual_seed(3)
    theirs = plain.sample(model, (4, 1, 8, 8), torch.device("cpu"), 4)
    torch.manual_seed(3)
    ours = solve(model, torch.randn(4, 1, 8, 8), SamplerConfig(solver="heun", steps=4))
    assert (theirs.int() - to_uint8(ours.float()).int()).abs().max() <= 1
    images = open_dataset("digits").read(range(64))
    losses = plain.training(model, images, 16, sigma_data=model.sigma_data)
    found = [float(next(losses)) for _ in range(3)]
    # That of a trained network: its own training ended at 0.3.
    assert all(0.05 < loss < 1.5 for loss in found)


def test_the_embedded_pipeline_is_trained_alike_after_a_kill(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("diffusers")
    tool = script("tools/build_emoji_t2i.py")
    monkeypatch.setattr(tool, "KEPT_EVERY", 2)

    def build(name: str) -> bytes:
        tool.main(["--steps", "3", "--work", str(tmp_path / f"{name}-work"), "--out", str(tmp_path / name)])
        return (tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    def killed(*given: object) -> None:
        if given[-1] == 2:
            raise KeyboardInterrupt
        return loss(*given)

    loss = tool.step_loss
    monkeypatch.setattr(tool, "step_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        build("twice")
    monkeypatch.setattr(tool, "step_loss", loss)
    assert build("twice") == build("once")
    with pytest.raises(SystemExit, match="another folder"):
        tool.main(["--steps", "4", "--work", str(tmp_path / "once-work"), "--out", str(tmp_path / "other")])
