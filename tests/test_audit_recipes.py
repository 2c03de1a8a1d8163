"""Recipes of audits: repeating them and saying what differs, and those of published models.

These run at small sizes on digits in the same file formats: an EDM zip and an EDM snapshot.

The recipes are the ones in `audits/`; `small.toml` beside each changes sizes alone.
"""

from __future__ import annotations

import io
import json
import runpy
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from edm2_snapshots import tiny2, write_snapshot2
from edm_snapshots import write_snapshot
from PIL import Image
from support import script
from tiny_pipelines import install_shades, two_shades
from torch.utils.flop_counter import FlopCounterMode

from fairsims.classifiers.checkpoints import find_classifier
from fairsims.data import ImageDataset
from fairsims.files import read_json
from fairsims.models import EDMDenoiser, open_checkpoint
from fairsims.models.edm2 import EDM2Denoiser
from fairsims.pools import Pool, pool_latents

AUDITS = Path(__file__).parent.parent / "audits"
NETWORKS = {
    "ffhq64-gender": {"img_resolution": 64, "channel_mult": [1, 2, 2, 2], "dropout": 0.05},
    "cifar10-sims": {"img_resolution": 32, "channel_mult": [2, 2, 2], "dropout": 0.13},
}
"""EDM's published networks, as far as they differ."""
LATER = ("imagenet64-sims", "imagenet512-sims")
"""Recipes of EDM2's."""


@pytest.fixture(scope="module")
def paper() -> ModuleType:
    return script("audits/paper.py")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded digits model in EDM's pickle, with augment labels as the published ones have."""
    digits = open_checkpoint("digits-8").network
    model = EDMDenoiser(**digits.config | {"augment_dim": 9, "dropout": 0.05})
    state = digits.state_dict() | {"model.map_augment.weight": torch.zeros_like(model.model.map_augment.weight)}
    model.load_state_dict(state, strict=True)
    return write_snapshot(tmp_path_factory.mktemp("model") / "edm-digits-uncond-vp.pkl", model)


def edm_zip(path: Path, digits: ImageDataset, *, labels: bool) -> Path:
    """As EDM's dataset tool writes it: stored, not compressed; class numbers or null."""
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(digits))]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as z:
        for name, image in zip(names, digits.read(range(len(digits))).numpy(), strict=True):
            png = io.BytesIO()
            Image.fromarray(image[0]).save(png, format="png", compress_level=0, optimize=False)
            z.writestr(name, png.getvalue())
        numbers = [[n, int(d)] for n, d in zip(names, digits.table["digit"], strict=True)] if labels else None
        z.writestr("dataset.json", json.dumps({"labels": numbers}))
    return path


def options(name: str, out: Path, files: dict[str, object]) -> list[str]:
    small = AUDITS / name / "small.toml"
    return [name, "--changes", str(small), "--out", str(out), *(f"--{k}={v}" for k, v in files.items())]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))


def test_ffhq64_gender(
    tmp_path: Path,
    digits: ImageDataset,
    snapshot: Path,
    paper: ModuleType,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sweep, retargeting and audit from three files; the zip, like FFHQ's, has no labels."""
    reference = edm_zip(tmp_path / "digits-8x8.zip", digits, labels=False)
    files = {"model": snapshot, "reference": reference, "classifier": find_classifier("digits-parity")}
    out = tmp_path / "out"
    command = options("ffhq64-gender", out, files)
    monkeypatch.setattr(sys, "argv", ["paper.py", *command])
    runpy.run_path(str(AUDITS / "paper.py"), run_name="__main__")
    printed, errors = capsys.readouterr()
    assert errors == ""
    table, swept = pd.read_parquet(out / "sweep" / "sweep.parquet"), read_json(out / "sweep" / "sweep.json")
    assert len(table) == 1 + 2 * 3
    # Every model is another: the auxiliary has learnt something at this size too.
    assert table["fd_target"].nunique() == len(table)
    assert swept["quality"]["reference"]["labels"] == "called by digits-parity"
    trained = read_json(out / "sweep" / "auxiliary-all" / "training.json")["train"]
    wanted = {"augment": 0.15, "P_mean": -1.2, "P_std": 1.2, "xflip": False, "lr_final": 1.0, "clip_norm": 1e9}
    assert trained | wanted == trained
    audit = read_json(out / "retarget" / "audit" / "audit.json")
    assert set(audit["quality"]["after"]) > {"fd_reference", "fd_target", "precision", "recall", "nearest_low"}
    # The auxiliary is the sweep's, not trained a second time.
    assert (out / "retarget" / "auxiliary" / "model.safetensors").exists()
    assert not (out / "retarget" / "auxiliary" / "stats.jsonl").exists()
    assert (out / "retarget" / "report.html").exists()
    assert "published, not reproduced here" in printed
    assert "FID 1.04 at 158 evaluations" in printed
    paper.main(command)
    assert capsys.readouterr().out == printed


def confirms_the_best_of_every_arm(swept: dict[str, Any]) -> None:
    """On audit seeds: base, and one point of each of the recipe's two modes, the best of all among them."""
    assert sorted(point.partition("-")[0] for point in swept["confirmed"]) == ["base", "guided", "merged"]
    assert swept["best"]["quality"]["point"] in swept["confirmed"]


def test_cifar10_sims(
    tmp_path: Path, digits: ImageDataset, snapshot: Path, paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quality alone; the classifier is made from the zip's class numbers."""
    reference = edm_zip(tmp_path / "digits-8x8.zip", digits, labels=True)
    paper.main(options("cifar10-sims", tmp_path / "out", {"model": snapshot, "reference": reference}))
    swept = read_json(tmp_path / "out" / "sweep" / "sweep.json")
    assert swept["settings"]["target"] == "base"
    assert swept["quality"]["metric"] == "FD (cifar10-classes features)"
    confirms_the_best_of_every_arm(swept)
    table = pd.read_parquet(tmp_path / "out" / "sweep" / "sweep.parquet")
    assert {f"share.{d}" for d in range(10)} <= set(table)
    assert not {"share", "linear", "fd_target"} & set(table)
    assert sorted(table["size"].dropna().unique()) == [128, 200]
    assert "confirmed on 50 audit seeds" in capsys.readouterr().out


def test_imagenet64_sims(
    tmp_path: Path, digits: ImageDataset, paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class-conditional EDM2 snapshot of pixels."""
    model = write_snapshot2(tmp_path / "edm2-digits.pkl", tiny2(label_dim=10))
    reference = edm_zip(tmp_path / "digits-8x8.zip", digits, labels=True)
    files = {"model": model, "reference": reference, "classifier": find_classifier("digits-parity")}
    paper.main(options("imagenet64-sims", tmp_path / "out", files))
    swept = read_json(tmp_path / "out" / "sweep" / "sweep.json")
    confirms_the_best_of_every_arm(swept)
    assert Pool(tmp_path / "out" / "sweep" / "pool").conditions == tuple(map(str, range(10)))
    trained = read_json(tmp_path / "out" / "sweep" / "auxiliary-all" / "training.json")["train"]
    assert (trained["beta2"], trained["P_mean"], trained["P_std"]) == (0.99, -0.8, 1.6)
    said = capsys.readouterr().out
    assert "SIMS          FID 0.92 (arXiv 2408.16333; evaluations not stated)" in said


def test_imagenet512_sims(
    tmp_path: Path, diffusers: Any, paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class-conditional EDM2 snapshot of latents with its VAE, which has to be given."""
    model = write_snapshot2(tmp_path / "edm2-people.pkl", tiny2(img_channels=4, label_dim=2))
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
    vae = diffusers.AutoencoderKL(latent_channels=4, block_out_channels=(4, 4, 4), norm_num_groups=4, **blocks)
    vae.save_pretrained(tmp_path / "vae")
    files = {"model": model, "reference": "emoji-people-skewed", "classifier": find_classifier("emoji-gender")}
    with pytest.raises(SystemExit):
        paper.main(options("imagenet512-sims", tmp_path / "out", dict(files)))
    assert "no vae given" in capsys.readouterr().err
    paper.main(options("imagenet512-sims", tmp_path / "out", files | {"vae": tmp_path / "vae"}))
    pool = Pool(tmp_path / "out" / "sweep" / "pool")
    assert (pool.shape, pool_latents(pool).shape) == ((3, 32, 32), (4, 8, 8))
    assert len(pd.read_parquet(tmp_path / "out" / "sweep" / "sweep.parquet")) == 4
    assert "fine-tuned on 1.5 M own images, nothing subtracted  FID 6.07 at 63" in capsys.readouterr().out


def test_files_are_asked_for(
    tmp_path: Path, digits: ImageDataset, snapshot: Path, paper: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        paper.main(options("ffhq64-gender", tmp_path / "out", {}))
    assert stopped.value.code == 2
    assert "no model and no reference given" in capsys.readouterr().err
    files: dict[str, object] = {"model": snapshot, "reference": edm_zip(tmp_path / "bare.zip", digits, labels=False)}
    with pytest.raises(SystemExit, match="this recipe does not make one; give --classifier"):
        paper.main(options("ffhq64-gender", tmp_path / "out", files))
    with pytest.raises(SystemExit, match="bare has no labels for 'label' to train a classifier on"):
        paper.main(options("cifar10-sims", tmp_path / "out", files))


def test_files_may_be_named_by_the_environment(
    tmp_path: Path, paper: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODEL", "REFERENCE", "CLASSIFIER"):
        monkeypatch.setenv(f"FAIRSIMS_{name}", str(tmp_path / f"no-{name.lower()}"))
    with pytest.raises(SystemExit, match="error: no classifier folder .*no-classifier"):
        paper.main(["ffhq64-gender"])


@pytest.mark.parametrize("name", NETWORKS)
def test_recipes_describe_the_published_networks(name: str, paper: ModuleType) -> None:
    """What estimates rest on: parameters and operations, counted."""
    size: dict[str, Any] = paper.read_recipe(name)["size"]
    with torch.device("meta"):
        network = EDMDenoiser(img_channels=3, model_channels=128, num_blocks=4, attn_resolutions=[16], **NETWORKS[name])
        x = torch.zeros(1, *network.shape)
        with FlopCounterMode(display=False) as counter:
            network(x, torch.ones(1))
    assert size["resolution"] == network.img_resolution
    assert size["parameters"] == sum(p.numel() for p in network.parameters())
    assert size["gflop"] == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-3)


@pytest.mark.parametrize("name", LATER)
def test_recipes_describe_edm2s_networks(name: str, paper: ModuleType) -> None:
    size: dict[str, Any] = paper.read_recipe(name)["size"]
    with torch.device("meta"):
        network = EDM2Denoiser(**size["network"])
        x = torch.zeros(1, *network.shape)
        with FlopCounterMode(display=False) as counter:
            network(x, torch.ones(1), torch.zeros(1, network.label_dim))
    assert size["parameters"] == sum(p.numel() for p in network.parameters())
    assert size["gflop"] == pytest.approx(counter.get_total_flops() / 1e9, rel=1e-3)
    # 64 TFLOP/s, as the other recipes take it.
    assert size["rate"] == pytest.approx(64_000 / size["gflop"], rel=0.05)


@pytest.mark.parametrize("name", LATER)
def test_small_edm2_changes_sizes_alone(name: str, paper: ModuleType) -> None:
    recipe, small = paper.read_recipe(name), paper.read_recipe(name, AUDITS / name / "small.toml")
    for key in ("target", "solver", "schedule", "labels"):
        assert recipe["run"].get(key) == small["run"].get(key)
    assert recipe["sweep"]["modes"] == small["sweep"]["modes"]


@pytest.mark.parametrize("name", NETWORKS)
def test_small_changes_sizes_alone(name: str, paper: ModuleType) -> None:
    recipe, small = paper.read_recipe(name), paper.read_recipe(name, AUDITS / name / "small.toml")
    for key in ("target", "cap", "omega"):
        assert recipe["run"].get(key) == small["run"].get(key)
    assert recipe["sweep"]["modes"] == small["sweep"]["modes"]
    for key in ("augment", "P_mean", "P_std", "xflip", "clip_norm", "ema_ramp"):
        assert recipe["run"]["finetune"][key] == small["run"]["finetune"][key]


@pytest.mark.parametrize("name", [*NETWORKS, *LATER])
def test_the_readme_states_the_estimate(name: str, paper: ModuleType) -> None:
    """Time and disk in the README are what the arithmetic gives for this recipe."""
    text, recipe = (AUDITS / name / "README.md").read_text(encoding="utf-8"), paper.read_recipe(name)
    for gpus in (1, 8) if name in NETWORKS else (8,):
        assert paper.estimate(recipe, recipe["size"].get("rate", 1500), gpus) in text
    for row in recipe["published"]:
        assert f"{row['fid']:.2f}" in text
        assert str(row.get("nfe", "")) in text
    assert "published, not reproduced here" in text
    assert "Not run" in text


def test_work_is_counted_by_hand(paper: ModuleType) -> None:
    """FFHQ-64: 79 evaluations; points are 1 base, 8 auxiliaries, 64 merged and 64 guided of 10,000 images."""
    files = {"model": "m", "reference": "r", "classifier": "c"}
    stages = paper.work(paper.sweep_config(paper.read_recipe("ffhq64-gender"), files, "gender"))
    assert stages == {
        "pool": 100_000 * 79,
        "fine-tunes": 2 * 3_000_000 * 3,
        "points": 10_000 * 79 * (1 + 8 + 64 + 2 * 64),
        "calibrate and audit": 79 * (35_000 * 2 + 50_000 * 2 + 64),
    }


@pytest.mark.parametrize("variant", ["", "sdxl", "flux"])
def test_occupations_are_estimated(variant: str, paper: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    changes = ["--changes", str(AUDITS / "sd15-occupations" / f"{variant}.toml")] if variant else []
    paper.main(["sd15-occupations", "--estimate", "--rate", "500", *changes])
    rows = {line[2:34].strip(): line for line in capsys.readouterr().out.splitlines()[1:]}
    # 33 prompts of 128 images; 30 steps of two branches, or 28 of one for 32.
    forwards = 32 * 128 * 28 if variant == "flux" else 33 * 128 * 60
    assert f"{forwards / 1e6:.2f} M forwards" in rows["pool"]
    assert "in all" in rows


def test_occupations_are_carried_out_on_a_tiny_pipeline(
    paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("diffusers")
    install_shades(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    prompts = tmp_path / "prompts.toml"
    prompts.write_text(
        'neutral = "a photo of a {job}"\n[explicit]\nman = "a photo of a male {job}"\n'
        'woman = "a photo of a female {job}"\n[lists]\njob = ["nurse", "pilot"]\n'
    )
    changes = tmp_path / "small.toml"
    small = (AUDITS / "sd15-occupations" / "small.toml").read_text()
    changes.write_text(small + f'prompts = "{prompts}"\ntarget = "man=0.3,woman=0.7"\n')
    files = ["--model", str(two_shades(tmp_path / "shades")), "--classifier", "gender"]
    paper.main(["sd15-occupations", *files, "--changes", str(changes), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "What the complement of each prompt can do" in said
    assert "published, not reproduced here" in said
    assert sorted(p.name for p in (tmp_path / "out" / "lora").iterdir()) == [
        "README.md",
        "gender-retargeted-webui.safetensors",
        "gender-retargeted.safetensors",
    ]
    assert read_json(tmp_path / "out" / "status.json")["state"] == "finished"
