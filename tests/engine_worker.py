"""What test_engine.py runs in two processes, and alone to compare with."""

from __future__ import annotations

import json
import os
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from support import in_memory

from fairsims import engine, pools
from fairsims.audit.features import classifier_features, pool_features
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source, predicted_counts
from fairsims.data import open_dataset
from fairsims.models import EDMDenoiser
from fairsims.models.sampling import SamplerConfig
from fairsims.training import TrainConfig, train_folder

SHARD_SIZE = 8
# 6 steps of 9 images: 4 and 5 of them for two processes.
CONFIG = TrainConfig(
    kimg=0.054, batch_size=9, micro_batch=3, lr=1e-3, tick_kimg=0.009, state_kimg=0.018, xflip=True, augment=0.3
)


def network(seed: int = 0) -> EDMDenoiser:
    torch.manual_seed(seed)
    return EDMDenoiser(
        img_resolution=8,
        img_channels=1,
        sigma_data=0.75,
        model_channels=8,
        channel_mult=[1, 2],
        num_blocks=1,
        attn_resolutions=[],
        dropout=0.0,
        augment_dim=9,
    )


def pool(folder: Path, seeds: range = range(20)) -> list[int]:
    model = in_memory(network().eval(), sampler=SamplerConfig(solver="heun", steps=2), batch_size=3)
    return list(pools.write_pool(folder, model, seeds))


def label(folder: Path) -> list[int]:
    return [int(n) for n in predicted_counts(label_source(pools.Pool(folder), load_classifier("digits-parity")))]


def features(folder: Path, store: Path) -> list[str]:
    extractor = classifier_features(load_classifier("digits-parity"))
    return [p.name for p in pool_features(pools.Pool(folder), extractor, store, engine.current())]


def fine_tune(folder: Path, stop: int | None = None) -> None:
    """Train into a folder, to the end or to a tick."""
    ticks = train_folder(network(), open_dataset("digits"), CONFIG, folder, recipe={"kind": "test"})
    for _ in islice(ticks, stop):
        pass
    ticks.close()


def main(rank: int, port: int, out: Path) -> None:
    """One of two processes, with what torchrun tells those that it starts."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(place | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
    torch.set_num_threads(1)
    pools.writing.SHARD_SIZE = SHARD_SIZE
    engine.initialise()
    found: dict[str, Any] = {"counts": pool(out / "pool")}
    found["classes"] = label(out / "pool")
    found["features"] = features(out / "pool", out / "features")
    found["shards"] = len(pools.Pool(out / "pool").shards)
    fine_tune(out / "whole")
    found["checkpoint"] = (out / "whole" / "config.json").exists()
    fine_tune(out / "killed", stop=5)
    fine_tune(out / "killed")
    (out / f"rank-{engine.rank()}.json").write_text(json.dumps(found))
    engine.shutdown()
