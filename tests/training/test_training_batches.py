"""Batches cut in parts: between processes, into micro-batches; and classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import MakeNetwork, MakePool
from torch import Tensor

from fairsims import engine
from fairsims.data import ImageDataset, open_dataset
from fairsims.data.readers import DecodedSource
from fairsims.errors import InputError
from fairsims.models import Conditions
from fairsims.models.objective import Batch
from fairsims.pools import export_folder, pool_dataset
from fairsims.training import TrainConfig, train
from fairsims.training.batches import batches, class_labels

SMALL = TrainConfig(kimg=0.048, batch_size=12, lr=1e-3, tick_kimg=0.012, xflip=True, seed=3)


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten().double() for p in network.parameters()])


def tensors(batch: Batch) -> list[Tensor]:
    return [t for t in (batch.images, batch.sigma, batch.noise, batch.labels, batch.augment_labels) if t is not None]


@pytest.mark.parametrize("world", [2, 5])
def test_the_parts_of_all_processes_make_the_batch(
    make_network: MakeNetwork, digits: ImageDataset, world: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = make_network(augment_dim=9, label_dim=2)
    config = replace(SMALL, augment=0.3)
    whole = list(batches(digits, network, config, first=1, rows=range(12)))
    parts = []
    for rank in range(world):
        monkeypatch.setattr(engine, "_rank", rank)
        monkeypatch.setattr(engine, "_world", world)
        rows = engine.share(12)
        assert len(rows) in (12 // world, 12 // world + 1)
        parts.append(list(batches(digits, network, config, first=1, rows=rows)))
    assert len(whole) == 3
    for k, batch in enumerate(whole):
        for whole_tensor, *part_tensors in zip(tensors(batch), *(tensors(p[k]) for p in parts), strict=True):
            assert torch.equal(whole_tensor, torch.cat(part_tensors))


@pytest.mark.parametrize("size", [1, 5, 12, 100])
def test_micro_batches_train_like_the_whole_batch(make_network: MakeNetwork, digits: ImageDataset, size: int) -> None:
    ends = []
    for micro in (None, size):
        network = make_network(dropout=0.0)
        *_, last = train(network, digits, replace(SMALL, micro_batch=micro))
        ends.append((weights(network), weights(last.ema), last.loss, last.grad_norm))
    assert torch.allclose(ends[0][0], ends[1][0], atol=2e-5)
    assert torch.allclose(ends[0][1], ends[1][1], atol=2e-5)
    assert ends[0][2:] == pytest.approx(ends[1][2:], rel=1e-4)
    if size >= 12:
        assert torch.equal(ends[0][0], ends[1][0])


def test_images_of_files_are_decoded_once(
    tmp_path: Path, make_network: MakeNetwork, digits_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_folder(digits_pool(10, 10), tmp_path / "images")
    data, read = open_dataset(str(tmp_path / "images")), []
    decode = DecodedSource.images

    def counted(self: DecodedSource, indices: np.ndarray) -> np.ndarray:
        read.extend(indices.tolist())
        return decode(self, indices)

    monkeypatch.setattr(DecodedSource, "images", counted)
    found = list(batches(data, make_network(), SMALL, first=0, rows=range(12)))
    assert sorted(read) == list(range(20))
    monkeypatch.setattr("fairsims.training.batches.HELD_BYTES", 0)
    again = list(batches(data, make_network(), SMALL, first=0, rows=range(12)))
    assert len(read) == 20 + 48
    assert all(torch.equal(a.images, b.images) for a, b in zip(found, again, strict=True))


def test_classes_come_from_seeds_or_from_the_attribute(digits_pool: MakePool, digits: ImageDataset) -> None:
    data = pool_dataset(digits_pool(5, 5))
    assert class_labels(data, 0) is None
    assert torch.equal(class_labels(data.subset([3, 7]), 4), Conditions.numbered(4).one_hot([3, 7]))
    parity = class_labels(digits, 2)
    assert parity.argmax(dim=1).tolist() == digits.class_indices("parity").tolist()
    with pytest.raises(InputError, match="digits has 0 attributes of 7 classes"):
        class_labels(digits, 7)


def test_a_conditional_network_learns_its_classes(make_network: MakeNetwork, digits: ImageDataset) -> None:
    network = make_network(label_dim=2)
    before = network.model.map_label.weight.clone()
    next(train(network, digits, SMALL))
    assert (network.model.map_label.weight != before).all()


def test_a_batch_smaller_than_the_processes_is_refused(
    make_network: MakeNetwork, digits: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_world", 16)
    with pytest.raises(InputError, match="batch_size is 12 for 16 processes; expected at least an image each"):
        next(train(make_network(), digits, SMALL))
