"""Training: schedule, average, loss, and a resumed run that equals the uninterrupted one bit for bit."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.data import ImageDataset, to_float
from fairsims.errors import ChangedSettings, Diverged, InputError
from fairsims.files import read_jsonl
from fairsims.models import EDMDenoiser, open_checkpoint
from fairsims.models.objective import Batch
from fairsims.seeds import torch_generator
from fairsims.training import TrainConfig, finetune_config, train, train_folder
from fairsims.training.base import PRESETS, preset
from fairsims.training.batches import batches, draw_images

# 12 steps of 16 images; a tick every 2 steps, a state every 4.
SMALL = TrainConfig(
    kimg=0.192,
    batch_size=16,
    lr=1e-3,
    warmup_kimg=0.064,
    ema_halflife_kimg=0.1,
    tick_kimg=0.032,
    state_kimg=0.064,
    xflip=True,
    seed=3,
)
EVERY_STEP = replace(SMALL, tick_kimg=0.016)


def weights(network: EDMDenoiser) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def numbers(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


def test_warmup_rises_linearly_and_the_cosine_falls_to_its_share() -> None:
    config = TrainConfig(kimg=64, batch_size=64, lr=1e-3, lr_final=0.1, warmup_kimg=6.4)
    assert config.steps == 1000
    rates = [config.lr_at(s) for s in range(1000)]
    assert rates[0] == pytest.approx(1e-3 / 100, rel=1e-3)
    assert rates[49] == pytest.approx(1e-3 / 2, rel=0.01)
    assert all(a < b for a, b in pairwise(rates[:99]))
    assert all(a > b for a, b in pairwise(rates[100:]))
    assert config.lr_at(500) == pytest.approx(1e-3 * 0.55)
    assert config.lr_at(1000) == pytest.approx(1e-4)


def test_a_finetune_has_full_rate_from_its_first_step_to_its_last() -> None:
    config = finetune_config(9.6, batch_size=64, lr=3e-4)
    assert config.warmup_kimg == 0
    assert {config.lr_at(s) for s in range(config.steps)} == {3e-4}
    assert (config.kimg, config.steps) == (9.6, 150)
    assert finetune_config(1.0, xflip=True).xflip


def test_a_budget_makes_at_least_one_step() -> None:
    assert TrainConfig(kimg=0.001, batch_size=64).steps == 1
    assert TrainConfig(kimg=0.065, batch_size=64).steps == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"kimg": 0},
        {"kimg": -1},
        {"kimg": float("nan")},
        {"batch_size": 0},
        {"lr": 0},
        {"lr_final": 0},
        {"lr_final": 1.5},
        {"warmup_kimg": -1},
        {"ema_halflife_kimg": -1},
        {"tick_kimg": 0},
        {"state_kimg": 0},
        {"precision": "int8"},
        {"P_std": 0},
        {"clip_norm": 0},
        {"micro_batch": 0},
        {"augment": -0.1},
        {"augment": 1.5},
        {"ema_ramp": 0},
        {"P_mean": float("inf")},
        {"lr": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    name = next(iter(changes))
    with pytest.raises(ValueError, match=f"{name} is .*; expected"):
        replace(TrainConfig(kimg=1), **changes)


def test_ticks_say_what_the_optimiser_did(network: EDMDenoiser, digits: ImageDataset) -> None:
    start = weights(network)
    ticks = [(t.record, t.state["optimizer"]["param_groups"][0]["lr"]) for t in train(network, digits, SMALL)]
    assert [r["step"] for r, _ in ticks] == [2, 4, 6, 8, 10, 12]
    assert [r["nimg"] for r, _ in ticks] == [32, 64, 96, 128, 160, 192]
    for record, used in ticks:
        assert record["lr"] == pytest.approx(used, abs=1e-8)
        assert used == SMALL.lr_at(int(record["step"]) - 1)
        assert 0 < record["grad_norm"] < 1e4
        assert record["seconds"] > 0
    assert (weights(network) != start).double().mean() > 0.99


def test_training_lowers_the_loss_on_digits(make_network: MakeNetwork, digits: ImageDataset) -> None:
    config = TrainConfig(kimg=8, batch_size=64, lr=2e-3, tick_kimg=1, P_mean=-0.8, ema_halflife_kimg=1)
    losses = [t.loss for t in train(make_network(dropout=0.0), digits, config)]
    assert losses[-1] < 0.7 * losses[0]


def test_the_average_halves_what_is_a_halflife_old(network: EDMDenoiser, digits: ImageDataset) -> None:
    config = replace(EVERY_STEP, ema_halflife_kimg=0.04)
    expected = weights(network)
    for tick in train(network, digits, config):
        # Early on the half-life is a tenth of the images seen.
        halflife = min(40.0, tick.nimg / 10)
        beta = 2.0 ** (-16 / halflife)
        expected = beta * expected + (1 - beta) * weights(network)
        assert torch.allclose(weights(tick.ema), expected, atol=1e-6)
    assert (weights(tick.ema) - weights(network)).abs().max() > 1e-5


def test_halflife_zero_keeps_the_raw_weights(network: EDMDenoiser, digits: ImageDataset) -> None:
    for tick in train(network, digits, replace(SMALL, ema_halflife_kimg=0)):
        assert torch.equal(weights(tick.ema), weights(network))


def test_loss_is_the_weighted_error(network: EDMDenoiser, digits: ImageDataset) -> None:
    config = replace(SMALL, P_mean=-0.5, P_std=0.9, batch_size=6, xflip=False)
    (batch,) = islice(batches(digits, network, config, first=5, rows=range(6)), 1)
    found = network.loss(batch)
    images = to_float(draw_images(digits, config, 5, range(6))[0])
    generator = torch_generator(config.seed, "noise", 5)
    sigma = (torch.randn(6, generator=generator) * 0.9 - 0.5).exp()
    noise = torch.randn(images.shape, generator=generator)
    each = []
    for k in range(6):
        s = sigma[k]
        error = network(images[k : k + 1] + s * noise[k], s) - images[k : k + 1]
        each.append(float((s**2 + 0.75**2) / (s * 0.75) ** 2 * error.square().mean()))
    assert float(found) == pytest.approx(np.mean(each), rel=1e-4)


def test_the_smallest_noise_levels_are_learnt_at_the_lowest_that_a_network_of_levels_has(
    make_network: MakeNetwork, digits: ImageDataset
) -> None:
    network = make_network(preconditioning="iddpm")
    images = to_float(digits.read([0, 1]))
    lowest = torch.tensor(network.sigma_min)
    # Nearer to level 0, where the weight is infinite, than to the lowest.
    losses = [
        network.loss(Batch(images=images, sigma=sigma.expand(2), noise=torch.ones(2, 1, 8, 8)))
        for sigma in (lowest, lowest / 3)
    ]
    assert losses[0].isfinite()
    assert torch.equal(losses[0], losses[1])


def test_a_perfect_denoiser_of_one_image_has_no_loss(network: EDMDenoiser, digits: ImageDataset) -> None:
    image = to_float(digits.read([0]))

    class Knows(EDMDenoiser):
        def forward(self, x: Tensor, sigma: Tensor, labels: Any = None, augment_labels: Any = None) -> Tensor:
            return image.expand_as(x)

    batch = Batch(images=image.repeat(4, 1, 1, 1), sigma=torch.tensor([0.01, 0.1, 1, 10]), noise=torch.ones(4, 1, 8, 8))
    assert float(Knows(**network.config).loss(batch)) == 0


def test_each_epoch_is_a_permutation_of_its_own(digits: ImageDataset) -> None:
    data = digits.subset(range(40))
    pixels = {data.read([i]).numpy().tobytes(): i for i in range(40)}
    assert len(pixels) == 40
    config = replace(SMALL, xflip=False, batch_size=16)
    drawn = [draw_images(data, config, step, range(16)) for step in range(5)]
    seen = [pixels[row.numpy().tobytes()] for images, _ in drawn for row in images]
    assert seen == [i for _, indices in drawn for i in indices]
    assert sorted(seen[:40]) == sorted(seen[40:]) == list(range(40))
    assert seen[:40] != seen[40:]
    assert seen[:40] != list(range(40))


def test_mirroring_flips_about_half_left_to_right(digits: ImageDataset) -> None:
    config = replace(SMALL, batch_size=400)
    plain, mirrored = (draw_images(digits, replace(config, xflip=f), 0, range(400))[0] for f in (False, True))
    flipped = [torch.equal(m, p.flip(2)) for m, p in zip(mirrored, plain, strict=True)]
    kept = [torch.equal(m, p) for m, p in zip(mirrored, plain, strict=True)]
    assert all(f or k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_another_seed_trains_differently(make_network: MakeNetwork, digits: ImageDataset) -> None:
    ends = []
    for seed in (0, 0, 1):
        network = make_network()
        list(train(network, digits, replace(SMALL, seed=seed)))
        ends.append(weights(network))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_training_does_not_depend_on_the_global_generator(make_network: MakeNetwork, digits: ImageDataset) -> None:
    ends = []
    for noise in (0, 17):
        network = make_network()
        for _ in train(network, digits, SMALL):
            torch.randn(noise)
        ends.append(weights(network))
    assert torch.equal(*ends)


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_resuming_from_a_state_equals_the_uninterrupted_run(
    make_network: MakeNetwork, digits: ImageDataset, stop: int
) -> None:
    whole = make_network()
    *_, last = train(whole, digits, SMALL)
    cut = make_network()
    *_, tick = islice(train(cut, digits, SMALL), stop)
    state = copy.deepcopy(tick.state)
    # A fresh process has another network in memory: everything has to come from the state.
    resumed = make_network(99)
    *_, end = train(resumed, digits, SMALL, state=state)
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(weights(end.ema), weights(last.ema))
    assert (end.loss, end.grad_norm, end.step) == (last.loss, last.grad_norm, last.step)


def run_folder(network: EDMDenoiser, data: ImageDataset, folder: Path, config: TrainConfig = SMALL) -> Any:
    return train_folder(network, data, config, folder, recipe={"kind": "test"})


@pytest.mark.parametrize("stops", [[1], [3], [2, 2, 1]])
def test_a_killed_folder_goes_on_to_the_same_bytes(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset, stops: list[int]
) -> None:
    list(run_folder(make_network(), digits, tmp_path / "whole"))
    for stop in stops:
        ticks = run_folder(make_network(), digits, tmp_path / "killed")
        list(islice(ticks, stop))
        ticks.close()
        assert not (tmp_path / "killed" / "config.json").exists()
    list(run_folder(make_network(), digits, tmp_path / "killed"))
    files = {p.name for p in (tmp_path / "whole").iterdir()}
    assert files == {"config.json", "model.safetensors", "stats.jsonl", "training.json"}
    assert {p.name for p in (tmp_path / "killed").iterdir()} == files
    for name in files - {"stats.jsonl"}:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name
    whole, killed = (numbers(read_jsonl(tmp_path / f / "stats.jsonl")) for f in ("whole", "killed"))
    assert whole == killed
    assert [r["step"] for r in whole] == [2, 4, 6, 8, 10, 12]


def test_resuming_skips_what_was_done(tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset) -> None:
    ticks = run_folder(make_network(), digits, tmp_path)
    list(islice(ticks, 4))
    ticks.close()
    # Ticks at 2, 4, 6, 8; states at 4 and, unless killed before it, 8.
    assert [t.step for t in run_folder(make_network(), digits, tmp_path)] in ([10, 12], [6, 8, 10, 12])


def test_a_finished_folder_yields_nothing_and_stays(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset
) -> None:
    list(run_folder(make_network(), digits, tmp_path))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    assert list(run_folder(make_network(), digits, tmp_path)) == []
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_state_left_by_a_kill_after_the_end_goes(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset
) -> None:
    list(run_folder(make_network(), digits, tmp_path))
    (tmp_path / "state.pt").write_bytes(b"left")
    assert list(run_folder(make_network(), digits, tmp_path)) == []
    assert not (tmp_path / "state.pt").exists()


def test_the_checkpoint_is_the_average(tmp_path: Path, network: EDMDenoiser, digits: ImageDataset) -> None:
    *_, last = run_folder(network, digits, tmp_path)
    assert torch.equal(weights(open_checkpoint(tmp_path).network), weights(last.ema))
    assert not torch.equal(weights(last.ema), weights(network))
    recipe = json.loads((tmp_path / "config.json").read_text())["recipe"]
    assert recipe["kind"] == "test"
    assert recipe["train"] == json.loads(json.dumps(SMALL.as_dict()))


def test_changed_settings_are_refused_by_name(tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset) -> None:
    ticks = run_folder(make_network(), digits, tmp_path)
    next(ticks)
    ticks.close()
    with pytest.raises(ChangedSettings, match=r"train\.lr = 0\.001, now train\.lr = 0\.002"):
        next(run_folder(make_network(), digits, tmp_path, replace(SMALL, lr=2e-3)))
    with pytest.raises(ChangedSettings, match="data_digest"):
        next(run_folder(make_network(), digits.subset(range(50)), tmp_path))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut"])
def test_a_corrupt_state_is_named(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset, content: bytes
) -> None:
    ticks = run_folder(make_network(), digits, tmp_path)
    list(islice(ticks, 4))
    ticks.close()
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"state\.pt is corrupt .*; delete it"):
        next(run_folder(make_network(), digits, tmp_path))


def test_data_of_another_shape_are_refused(make_network: MakeNetwork, digits: ImageDataset) -> None:
    for changes, shape in (({"img_channels": 3}, "3x8x8"), ({"img_resolution": 16}, "1x16x16")):
        with pytest.raises(InputError, match=f"digits has 1x8x8 images, the model makes {shape}"):
            next(train(make_network(**changes), digits, SMALL))


def test_a_loss_that_is_not_finite_stops_training(tmp_path: Path, network: EDMDenoiser, digits: ImageDataset) -> None:
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match="the loss became nan at step 0"):
        list(run_folder(network, digits, tmp_path))
    assert not (tmp_path / "config.json").exists()


def test_a_rate_far_too_high_diverges_or_stays_finite(network: EDMDenoiser, digits: ImageDataset) -> None:
    config = replace(SMALL, kimg=0.8, lr=1e18, warmup_kimg=0)
    with pytest.raises(Diverged, match="lower --lr"):
        list(train(network, digits, config))


def test_presets_are_found_by_name() -> None:
    assert preset("digits-8") is PRESETS["digits-8"]
    with pytest.raises(InputError, match="no preset 'digit-8'; did you mean 'digits-8'"):
        preset("digit-8")


@pytest.mark.parametrize(
    ("name", "least", "most"), [("emoji-people-64", 15e6, 30e6), ("cifar10", 55e6, 56e6), ("ffhq64", 61.7e6, 61.9e6)]
)
def test_large_presets_have_the_size_they_claim(name: str, least: float, most: float) -> None:
    recipe = preset(name)
    with torch.device("meta"):
        size = recipe.resolution
        told = {"augment_dim": 9} if recipe.train.augment else {}
        network = EDMDenoiser(img_resolution=size, img_channels=3, **recipe.network, **told)
    assert least <= sum(p.numel() for p in network.parameters()) <= most


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_fit_their_data(name: str) -> None:
    from fairsims.data import open_dataset

    recipe = preset(name)
    if recipe.data is None:
        return
    data = open_dataset(recipe.data, resolution=recipe.resolution)
    network = EDMDenoiser(img_resolution=data.resolution, img_channels=data.channels, **recipe.network)
    assert network.shape == (data.channels, data.resolution, data.resolution)
    # sigma_data is the standard deviation of the data's pixels.
    pixels = to_float(data.read(range(len(data))))
    assert abs(float(pixels.std()) - network.sigma_data) < 0.1
