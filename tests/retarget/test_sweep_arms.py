"""Every arm of a sweep of quality alone: which model a point is, what it was trained on and for how long, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support import succeeds

from fairsims.audit.features import open_extractor
from fairsims.data import open_dataset
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.models import EDMDenoiser, ModelSpec, merge, open_checkpoint, open_model, save_checkpoint
from fairsims.models.autoguidance import AutoGuidance
from fairsims.models.guidance import half_of
from fairsims.models.sampling import SamplerConfig
from fairsims.pools import Pool
from fairsims.report.sweep_table import sweep_text
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import ARMS, SweepConfig
from fairsims.retarget.sweep import sweep
from fairsims.retarget.sweep_arms import going_on, longer_kimg
from fairsims.training import TrainConfig, train

TRAIN = {"lr": 2e-3, "lr_final": 0.1, "batch_size": 32, "ema_halflife_kimg": 3.0, "P_mean": -0.7, "P_std": 1.1}


def network(seed: int, channels: int = 8) -> EDMDenoiser:
    torch.manual_seed(seed)
    made = EDMDenoiser(
        img_resolution=8,
        img_channels=1,
        sigma_data=0.75,
        model_channels=channels,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
        patch_size=2,
    )
    # Its last layer begins at nearly nothing.
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.02 * torch.randn_like(p))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    place = tmp_path_factory.mktemp("models")
    save_checkpoint(place / "base", network(0), recipe={"data": "digits-skewed", "train": TRAIN})
    save_checkpoint(place / "small", network(1, channels=4), recipe={})
    run = RetargetConfig(
        model=str(place / "base"),
        attr="parity",
        target="uniform",
        reference="digits",
        pool=200,
        solver="euler",
        steps=3,
        batch_size=16,
    )
    return SweepConfig(
        run=run,
        steer=False,
        budgets=(0.048, 0.096),
        omegas=(1.0,),
        sizes=(96,),
        modes=ARMS,
        blocks=((1.0, 0.0),),
        guides=(str(place / "small"),),
        features=("classifier", "random"),
        images=64,
        confirm=50,
    )


@pytest.fixture(scope="module")
def swept(grid: SweepConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweep") / "out"
    return folder, sweep(grid, folder)


def test_every_arm_has_its_points_on_both_feature_spaces(grid: SweepConfig, swept: tuple[Path, dict[str, Any]]) -> None:
    folder, result = swept
    table = pd.read_parquet(folder / "sweep.parquet")
    assert list(table["point"]) == [p.name for p in grid.points()]
    assert table["mode"].value_counts().to_dict() == {
        **dict.fromkeys(("auxiliary", "merged", "guided", "blocks", "decayed", "longer"), 2),
        "base": 1,
        "autoguided": 1,
    }
    for column in ("fd_reference", "random.fd_reference", "kid", "random.kid"):
        # Every point is another model.
        assert table[column].nunique() == len(table)
    for column in ("recall", "coverage", "random.recall"):
        assert table[column].between(0, 1).all()
    # Repeats are looked for in the training data, not in what quality is held against.
    assert result["quality"]["training"] == "digits-skewed"
    assert result["quality"]["reference"]["name"] == "digits"
    assert (table["train_nearest_median"] >= table["nearest_median"]).all()
    assert dict(zip(table["mode"], table["nfe"], strict=True)) | {
        "merged": 3,
        "blocks": 3,
        "longer": 3,
        "guided": 6,
        "decayed": 6,
        "autoguided": 6,
    } == dict(zip(table["mode"], table["nfe"], strict=True))
    assert set(result["best"]) == {"quality", *ARMS}
    assert set(result["confirmed"]) == {"base", *(row["point"] for row in result["best"].values())}
    assert "longer: the base trained on" in sweep_text(table, result)
    again = sweep(grid, folder)
    assert again["confirmed"] == result["confirmed"]


def test_the_command_asks_for_the_same_sweep(grid: SweepConfig, swept: tuple[Path, dict[str, Any]]) -> None:
    """On the folder of the function: settings that differed would be refused, points that differed made."""
    folder, result = swept
    asked = {
        "model": grid.run.model,
        "attr": "parity",
        "target": "base",
        "reference": "digits",
        "modes": ",".join(ARMS),
        "budgets": "0.048,0.096",
        "omegas": 1,
        "sizes": 96,
        "blocks": "1:0",
        "guides": grid.guides[0],
        "features": "classifier,random",
        "images": 64,
        "confirm": 50,
        "pool": 200,
        "solver": "euler",
        "steps": 3,
        "batch-size": 16,
        "precision": "float32",
        "out": folder,
    }
    made = sorted((folder / "points").iterdir())
    said = succeeds("sweep", *(part for name, value in asked.items() for part in (f"--{name}", value)))
    assert sorted((folder / "points").iterdir()) == made
    same = ("grid", "best", "confirmed")
    assert {k: said[k] for k in same} == {k: result[k] for k in same}
    assert (folder / "quality.png").is_file()


def test_the_control_costs_what_the_auxiliary_did(grid: SweepConfig, swept: tuple[Path, dict[str, Any]]) -> None:
    """96 images of 3 forwards each are 96 steps of training on an image; it goes on as the base was trained in."""
    folder, _ = swept
    trained = {name: read_json(folder / name / "training.json") for name in ("longer-96", "decayed", "auxiliary-96")}
    assert longer_kimg(0.096, 96, 3) == pytest.approx(0.192)
    assert trained["longer-96"]["train"]["kimg"] == pytest.approx(0.192)
    assert trained["longer-96"]["snapshots"] == pytest.approx([0.144, 0.192])
    own = trained["longer-96"]["train"]
    assert (own["lr"], own["lr_final"], own["ema_halflife_kimg"], own["P_std"]) == (pytest.approx(2e-4), 1.0, 3.0, 1.1)
    real = open_dataset("digits-skewed").digest
    assert trained["longer-96"]["data_digest"] == trained["decayed"]["data_digest"] == real
    assert trained["decayed"]["train"]["weight_decay"] == grid.weight_decay
    assert "weight_decay" not in trained["auxiliary-96"]["train"]
    assert going_on(TrainConfig(kimg=1), {}).lr == TrainConfig(kimg=1).lr


def test_points_are_the_models_they_say(grid: SweepConfig, swept: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = swept
    aux, decayed = (open_checkpoint(folder / n / "kimg-00000.096") for n in ("auxiliary-96", "decayed"))
    base = open_model(ModelSpec(base=grid.run.model, sampler=SamplerConfig(solver="euler", steps=3)))
    seeds = [range(4_000_000, 4_000_064)]
    by_hand = {
        "blocks-96-00000.096-w1-b1:0": merge(base.base.network, aux.network, 1.0, blocks=(1.0, 0.0)),
        "decayed-all-00000.096-w1": base.retargeted(folder / "decayed" / "kimg-00000.096", 1.0, "guided").denoiser,
        "autoguided-guide0-w1": AutoGuidance(base.base.network, open_checkpoint(grid.guides[0]).network, 2.0),
    }
    assert decayed.digest != aux.digest
    for name, denoiser in by_hand.items():
        base.denoiser = denoiser
        (images,) = base.images(seeds)
        assert (images == Pool(folder / "points" / name).read(range(64))).all(), name


def test_a_strength_for_each_half_of_the_network() -> None:
    base, aux = network(0), network(1)
    whole, same = merge(base, aux, 1.5), merge(base, aux, 1.5, blocks=(1.0, 1.0))
    encoder = merge(base, aux, 1.5, blocks=(1.0, 0.0))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), same.parameters(), strict=True))
    named, plain = dict(whole.named_parameters()), dict(base.named_parameters())
    halves = {name: half_of(name) for name in named}
    assert set(halves.values()) == {0, 1, None}
    for name, p in encoder.named_parameters():
        assert torch.equal(p, (plain if halves[name] == 1 else named)[name]), name
    with pytest.raises(ValueError, match="only with merged"):
        ModelSpec(base="x", auxiliary="y", mode="guided", blocks=(1.0, 0.0))


def test_weight_decay_shrinks_the_weights_and_nothing_else() -> None:
    """A step with decay differs from one without by lr * decay * weights."""
    data, found = open_dataset("digits"), []
    for decay in (0.0, 3.0):
        trained = network(0)
        config = TrainConfig(
            kimg=0.016, batch_size=16, lr=1e-2, lr_final=1.0, weight_decay=decay, ema_halflife_kimg=0.0
        )
        assert ("weight_decay" in config.as_dict()) == (decay > 0)
        list(train(trained, data, config))
        found.append(trained)
    for p, plain, decayed in zip(network(0).parameters(), *(n.parameters() for n in found), strict=True):
        assert torch.allclose(plain - decayed, 1e-2 * 3.0 * p, atol=1e-6)


def test_random_features_follow_the_image_alone() -> None:
    extractor, images = open_extractor("random"), open_dataset("digits").read(range(6))
    found = extractor.features(images)
    assert found.shape == (6, 64)
    assert torch.allclose(found[2:3], extractor.features(images[2:3]), atol=1e-5)
    assert torch.allclose(found, extractor.features(images.expand(-1, 3, -1, -1)), atol=1e-5)
    assert open_extractor("random").digest == extractor.digest
    assert torch.pdist(found).min() > 0.01
    large = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8)
    assert extractor.features(large).shape == (2, 64)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steer": True, "modes": ("longer",), "guides": ()}, "modes is 'longer'; expected some of merged, guided"),
        ({"guides": ()}, "expected checkpoints for autoguided"),
        ({"modes": ("merged",)}, "expected checkpoints for autoguided"),
        ({"blocks": ((1.0, -1.0),)}, "factors of 0 or more"),
        ({"blocks": ()}, "blocks is"),
        ({"weight_decay": 0.0}, "weight_decay is 0.0"),
        ({"features": ("random", "random")}, "features is"),
    ],
)
def test_refusals(grid: SweepConfig, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(grid, **changes)


def test_what_an_arm_needs_is_asked_for_first(grid: SweepConfig, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "nameless", network(0), recipe={})
    run = replace(grid.run, model=str(tmp_path / "nameless"))
    with pytest.raises(InputError, match="does not say what data it was trained on"):
        sweep(replace(grid, run=run, modes=("longer",), guides=()), tmp_path / "out")
    other = EDMDenoiser(img_resolution=16, img_channels=1, model_channels=4, channel_mult=[1], num_blocks=1)
    save_checkpoint(tmp_path / "other", other, recipe={})
    with pytest.raises(InputError, match="give a guide of the same"):
        sweep(replace(grid, modes=("autoguided",), guides=(str(tmp_path / "other"),)), tmp_path / "out")
    with pytest.raises(InputError, match="found no feature extractor 'randon'"):
        sweep(replace(grid, features=("randon",)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
