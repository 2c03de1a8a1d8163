"""An EDM2 model of latents and a VAE of random weights through train, retarget, audit and report, killed on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from support import Command, assert_same_run, killed_and_gone_on, succeeds

from fairsims.files import read_json
from fairsims.pools import Pool

CHANNELS = {"in_channels": 1, "out_channels": 1, "latent_channels": 4, "block_out_channels": (8, 8)}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
TRAIN = ["train", "--data", "digits", "--vae", "vae", "--arch", "edm2", "--channels", "8", "--channel-mult", "1,2"]
TRAIN += ["--blocks", "1", "--attention", "none", "--kimg", "9.6", "--batch-size", "96", "--lr", "1e-2"]
TRAIN += ["--precision", "float32"]
SAMPLED = ["--vae", "vae", "--steps", "4", "--precision", "float32"]
RETARGET = ["retarget", "--model", "model", *SAMPLED, "--attr", "light", "--classifier", "light", "--target", "0.5"]
RETARGET += ["--pool", "400", "--calibration", "1024", "--audit", "400", "--rounds", "1", "--budget", "4.8"]
RETARGET += ["--batch-size", "48", "--lr", "1e-2", "--floor", "0.6", "--cap", "4"]
RETARGET += ["--reference", "seen", "--out", "run"]
PACKAGE = """
import torch
from fairsims.classifiers.base import Confusion

class Light:
    attribute = ("light", ("dark", "light"))
    digest, name, default_split = "light-1", "light", "test"
    confusions = {"test": Confusion(counts=((1000, 0), (0, 1000)), split="test", description="none")}

    def probabilities(self, images):
        light = torch.sigmoid(4 * (images.float().mean(dim=(1, 2, 3)) - THRESHOLD))
        return torch.stack([1 - light, light], dim=1)

    def features(self, images):
        return images.float().reshape(len(images), 2, 4, 8).mean(dim=(2, 3)) / 255
"""


def install_light(place: Path, threshold: float) -> None:
    """Write an installed package into a folder of the path: a classifier of the mean grey, without errors."""
    info = place / "light-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "light_package.py").write_text(PACKAGE.replace("THRESHOLD", f"{threshold}"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: light\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fairsims.classifiers]\nlight = light_package:Light\n")


def finished(arguments: list[str]) -> None:
    """In a process of its own, as the one that is killed."""
    code, _, errors = Command(arguments).finish()
    assert (code, errors) == (0, "")


@pytest.fixture(scope="module")
def trained(diffusers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a VAE and a model that was trained on its latents without a break."""
    folder = tmp_path_factory.mktemp("latents")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**CHANNELS, **BLOCKS, norm_num_groups=4).save_pretrained(folder / "vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("FAIRSIMS_CACHE", str(folder / "cache"))
        finished([*TRAIN, "--out", "model"])
        finished(["generate", "--model", "model", *SAMPLED, "--seeds", "9000-9199", "--out", "seen"])
        grey = Pool(folder / "seen").read(range(200)).float().mean(dim=(1, 2, 3))
        # About a third of the images are light.
        install_light(folder / "site", float(grey.quantile(0.65)))
    return folder


@pytest.fixture(autouse=True)
def beside(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own with the VAE at the same relative place, and with the classifier installed."""
    (tmp_path / "vae").symlink_to(trained / "vae")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(trained / "site"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(str(trained / "site"))


@pytest.mark.slow
def test_a_killed_training_on_latents_goes_on(trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    killed_and_gone_on([*TRAIN, "--out", "model"], (out / "state.pt").exists, out / "config.json")
    for name in ("model.safetensors", "config.json"):
        assert (out / name).read_bytes() == (trained / "model" / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["merged", "guided"])
def test_a_killed_retargeting_of_latents_goes_on(
    trained: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*RETARGET, "--mode", mode]
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
        for part in ("vae", "model", "seen"):
            (tmp_path / folder / part).symlink_to(trained / part)
    monkeypatch.chdir(tmp_path / "whole")
    finished(asked)
    monkeypatch.chdir(tmp_path / "cut")
    run = tmp_path / "cut" / "run"
    killed_and_gone_on(asked, (run / "auxiliary" / "state.pt").exists, run / "auxiliary" / "config.json")
    assert_same_run(tmp_path / "whole" / "run", run, tmp_path)
    found = read_json(run / "audit" / "audit.json")
    light = found["attributes"]["light"]
    before, after = light["before"]["light"]["share"], light["after"]["light"]["share"]
    assert before < 0.45
    assert abs(after - 0.5) < abs(before - 0.5)
    assert found["cost"]["after"]["evaluations_per_image"] == {"merged": 4, "guided": 8}[mode]
    # The command `audit` finds the same in the same images, and `report` writes the same page of them.
    again = ["audit", "--before", "run/pool", "--after", "run/after", "--attr", "light", "--classifier", "light"]
    measured = succeeds(*again, "--target", "0.5", "--reference", "seen")
    assert measured["attributes"]["light"]["before"]["light"] == light["before"]["light"]
    assert measured["pools"]["after"]["n"] == 400
    page = (run / "report.html").read_bytes()
    succeeds("report", "run", "--form", "html")
    assert (run / "report.html").read_bytes() == page
