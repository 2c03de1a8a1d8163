"""Training that fails: how it is noticed and what is kept. States on the way. float16."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.data import ImageDataset
from fairsims.errors import ChangedSettings, Diverged
from fairsims.models import open_checkpoint
from fairsims.training import TrainConfig, finetune_config, train, train_folder
from fairsims.training.folder import snapshot_folder
from fairsims.training.loop import LEAST, MOST_SKIPS, LossWatch

# 6 steps of 8 images, a tick each, a state every 2.
SMALL = finetune_config(0.048, batch_size=8, tick_kimg=0.008, state_kimg=0.016, ema_halflife_kimg=0.01, seed=3)
INF = torch.tensor(math.inf)


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def run(network: Any, data: ImageDataset, folder: Path, config: TrainConfig = SMALL, **options: Any) -> Any:
    return train_folder(network, data, config, folder, recipe={"kind": "test"}, **options)


def see(watch: LossWatch, losses: list[float], norm: float = 1.0, first: int = 0) -> list[float]:
    for k, loss in enumerate(losses):
        watch.add(first + k, torch.tensor(loss), torch.tensor(norm))
    return watch.check()


def test_good_losses_pass() -> None:
    watch = LossWatch()
    assert see(watch, [3.0, 2.0, 1.0]) == [3.0, 2.0, 1.0]
    assert watch.check() == []
    see(watch, [0.5 + 0.4 * (k % 3) for k in range(200)])
    see(watch, [20.0])


@pytest.mark.parametrize(
    ("loss", "norm", "message"),
    [
        (math.nan, 1.0, "the loss became nan at step 41; lower --lr or use --precision float32"),
        (math.inf, 1.0, "the loss became inf at step 41"),
        (0.4, math.nan, "the gradient became nan at step 41"),
        (0.4, math.inf, "the gradient became inf at step 41"),
        (90.0, 1.0, "the loss rose to 90 at step 41, its running median being 0.4; lower --lr"),
    ],
)
def test_bad_steps_are_named(loss: float, norm: float, message: str) -> None:
    watch = LossWatch()
    see(watch, [0.4] * 41)
    watch.add(41, torch.tensor(loss), torch.tensor(norm))
    watch.add(42, torch.tensor(0.4), torch.tensor(1.0))
    with pytest.raises(Diverged, match=message):
        watch.check()


def test_the_first_losses_may_do_as_they_like() -> None:
    see(LossWatch(), [0.01] * (LEAST - 1) + [50.0])
    with pytest.raises(Diverged):
        see(LossWatch(), [0.01] * LEAST + [50.0])


def test_float16_steps_may_overflow_but_not_for_ever() -> None:
    watch = LossWatch(skips=True)
    for _ in range(2):
        see(watch, [0.4] * MOST_SKIPS, norm=math.inf)
        see(watch, [0.4])
    with pytest.raises(Diverged, match="the gradient became inf"):
        see(watch, [0.4] * (MOST_SKIPS + 1), norm=math.inf)


def test_a_resumed_watch_judges_alike() -> None:
    watch, resumed = LossWatch(), LossWatch()
    see(watch, [0.4] * 30)
    resumed.load_state_dict(copy.deepcopy(watch.state_dict()))
    with pytest.raises(Diverged, match="running median being 0.4"):
        see(resumed, [90.0])


def test_what_was_good_is_kept(tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset) -> None:
    # A rate that makes nonsense of the weights within a few steps.
    config = replace(SMALL, kimg=0.8, lr=1e15)
    with pytest.raises(Diverged) as caught:
        list(run(make_network(), digits, tmp_path / "a", replace(config, state_kimg=100)))
    assert "no state was saved before; train again into another folder" in str(caught.value)
    assert not (tmp_path / "a" / "last-good").exists()

    messages = []
    for _ in range(2):  # the same command again finds the same
        with pytest.raises(Diverged) as caught:
            list(run(make_network(), digits, tmp_path / "b", replace(config, state_kimg=0.008)))
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    kept = tmp_path / "b" / "last-good"
    step = open_checkpoint(kept).recipe["step"]
    assert (
        f"the weights of step {step} are kept in {kept}: go on from them with --init into another folder" in messages[0]
    )
    assert f"at step {step}; lower --lr" in messages[0]
    assert torch.isfinite(weights(open_checkpoint(kept).network)).all()
    assert not (tmp_path / "b" / "config.json").exists()


def test_states_on_the_way_equal_shorter_budgets(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset
) -> None:
    list(run(make_network(), digits, tmp_path / "long", snapshots=(0.01, 0.024, 0.048)))
    for kimg in (0.01, 0.024, 0.048):
        list(run(make_network(), digits, tmp_path / "short" / str(kimg), replace(SMALL, kimg=kimg)))
        folder = snapshot_folder(tmp_path / "long", kimg)
        assert open_checkpoint(folder).digest == open_checkpoint(tmp_path / "short" / str(kimg)).digest
        assert open_checkpoint(folder).recipe["snapshot_kimg"] == kimg
    assert snapshot_folder(tmp_path / "long", 0.01).name == "kimg-00000.010"
    assert (
        open_checkpoint(tmp_path / "long").digest == open_checkpoint(snapshot_folder(tmp_path / "long", 0.048)).digest
    )


@pytest.mark.parametrize("stop", [2, 4])
def test_states_on_the_way_survive_a_kill(
    tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset, stop: int
) -> None:
    marks = (0.016, 0.032)
    for name in ("whole", "killed"):
        if name == "killed":
            ticks = run(make_network(), digits, tmp_path / name, snapshots=marks)
            list(islice(ticks, stop))
            ticks.close()
        list(run(make_network(), digits, tmp_path / name, snapshots=marks))
    for kimg in marks:
        whole, killed = (snapshot_folder(tmp_path / name, kimg) for name in ("whole", "killed"))
        assert {p.name: p.read_bytes() for p in whole.iterdir()} == {p.name: p.read_bytes() for p in killed.iterdir()}


def test_states_on_the_way_are_settings(tmp_path: Path, make_network: MakeNetwork, digits: ImageDataset) -> None:
    for bad in ((0.024, 0.01), (0.0,), (0.049,), (0.01, 0.01)):
        with pytest.raises(ValueError, match="snapshots is .*; expected ascending budgets up to 0.048 kimg"):
            next(run(make_network(), digits, tmp_path, snapshots=bad))
    list(run(make_network(), digits, tmp_path, snapshots=(0.01,)))
    with pytest.raises(ChangedSettings, match="snapshots"):
        next(run(make_network(), digits, tmp_path, snapshots=(0.016,)))


@pytest.mark.parametrize(
    "changes",
    [{"micro_batch": 3}, {"augment": 0.5}, {"precision": "float16"}],
    ids=["micro-batch", "augment", "float16"],
)
def test_a_resumed_run_equals_the_uninterrupted_one(
    make_network: MakeNetwork, digits: ImageDataset, changes: dict[str, Any]
) -> None:
    config, dim = replace(SMALL, **changes), 9 if "augment" in changes else 0
    whole, cut, resumed = (make_network(s, augment_dim=dim) for s in (0, 0, 99))
    *_, last = train(whole, digits, config)
    *_, tick = islice(train(cut, digits, config), 3)
    *_, end = train(resumed, digits, config, state=copy.deepcopy(tick.state))
    assert torch.equal(weights(resumed), weights(whole))
    assert torch.equal(weights(end.ema), weights(last.ema))
    assert end.state["scaler"] == last.state["scaler"]
    assert (end.loss, end.grad_norm) == (last.loss, last.grad_norm)


def test_float16_scales_its_loss(make_network: MakeNetwork, digits: ImageDataset) -> None:
    networks = [make_network(dropout=0.0) for _ in range(2)]
    plain, scaled = (
        list(train(n, digits, replace(SMALL, precision=p)))[-1]
        for n, p in zip(networks, ("float32", "float16"), strict=True)
    )
    assert plain.state["scaler"] == {}
    assert scaled.state["scaler"]["scale"] <= 65536
    # The gradient that is clipped and reported is that of the unscaled loss.
    assert scaled.grad_norm == pytest.approx(plain.grad_norm, rel=0.1)
    assert torch.allclose(weights(networks[0]), weights(networks[1]), atol=5e-3)
