"""Pools: write, resume, label, select, export; whatever else is a source of images."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from support import GREY, MakeNetwork, MakePool, in_memory, label, png, run

import fairsims.pools.writing
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset, open_dataset, to_uint8
from fairsims.errors import ChangedSettings, InputError
from fairsims.files import read_json, write_json
from fairsims.models import DenoiserModel, EDMDenoiser, ModelSpec, open_model
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.pools import (
    Pool,
    ShardTask,
    compact_seeds,
    decode_png,
    encode_png,
    export_edm_zip,
    export_folder,
    grow_pool,
    make_shard,
    open_source,
    pool_dataset,
    select_pool,
    write_pool,
)
from fairsims.pools.writing import Opened
from fairsims.seeds import noise_for

SAMPLER = SamplerConfig(solver="heun", steps=2)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 8 images, so that 20 images make two whole ones and a rest."""
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", 8)


def write(folder: Path, denoiser: EDMDenoiser, seeds: range = range(20), **changes: object) -> list[int]:
    return list(write_pool(folder, model(denoiser, **changes), seeds))


def model(denoiser: EDMDenoiser, **changes: object) -> DenoiserModel:
    settings: dict[str, Any] = {"sampler": SAMPLER, "batch_size": 3} | changes
    return in_memory(denoiser, **settings)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_pool_holds_the_images_of_its_seeds(tmp_path: Path, network: EDMDenoiser) -> None:
    done = write(tmp_path, network, range(100, 120))
    assert done[-1] == 20
    assert done == sorted(done)
    pool = Pool(tmp_path)
    assert pool.seeds.tolist() == list(range(100, 120))
    assert len(pool) == 20
    with torch.inference_mode():
        expected = to_uint8(solve(network, noise_for(range(100, 120), network.shape), SAMPLER))
    assert (pool.read(range(20)).int() - expected.int()).abs().max() <= 1
    assert torch.equal(pool.read([7, 2]), pool.read(range(20))[[7, 2]])
    assert [len(b) for b in pool.batches(6)] == [6, 6, 6, 2]
    assert torch.equal(torch.cat(list(pool.batches(6))), pool.read(range(20)))


def test_pool_json_says_what_made_it(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    meta = Pool(tmp_path).meta
    assert meta["made_by"] == {"kind": "base", "digest": "abc"}
    assert meta["seeds"] == [[0, 19]]
    assert meta["evaluations_per_image"] == 3
    assert meta["sampler"] == {"solver": "heun", "steps": 2, "rho": 7.0, "sigmas": [80.0, 0.002]}
    assert meta["shape"] == [1, 8, 8]


def test_shards_carry_the_hugging_face_image_feature(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    shards = Pool(tmp_path).shards
    assert [p.name for p in shards] == ["shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]
    table = pq.read_table(shards[1])
    assert table.schema.names == ["seed", "image"]
    assert str(table.schema.field("seed").type) == "int64"
    assert str(table.schema.field("image").type) == "struct<bytes: binary, path: string>"
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features == {"seed": {"dtype": "int64", "_type": "Value"}, "image": {"_type": "Image"}}
    row = table.to_pylist()[0]
    assert row["image"]["path"] == "000008.png"
    assert row["image"]["bytes"].startswith(b"\x89PNG")


def test_shards_open_as_a_dataset(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    for _ in range(2):
        data = open_dataset(str(tmp_path))
        assert (len(data), data.channels, data.resolution) == (20, 1, 8)
        assert torch.equal(data.read(range(20)), Pool(tmp_path).read(range(20)))
        # A label table below the shards changes nothing.
        label(Pool(tmp_path), "x", "parity", ("even", "odd"), np.full((20, 2), 0.5))


def test_batch_sizes_differ_by_a_grey_level_at_most(
    tmp_path: Path, network: EDMDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fairsims.pools.writing, "SHARD_SIZE", 512)
    found = []
    for size in (1, 7, 256):
        write(tmp_path / str(size), network, range(30), batch_size=size)
        found.append(Pool(tmp_path / str(size)).read(range(30)).int())
    assert (found[0] - found[1]).abs().max() <= 1
    assert (found[0] - found[2]).abs().max() <= 1


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_a_killed_pool_resumes_to_the_same_bytes(tmp_path: Path, network: EDMDenoiser, stop: int) -> None:
    write(tmp_path / "whole", network)
    ticks = write_pool(tmp_path / "killed", model(network), range(20))
    list(islice(ticks, stop))
    ticks.close()
    finished = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "killed").glob("shard-*")}
    assert len(finished) == (stop > 3) + (stop > 7)
    assert write(tmp_path / "killed", network)[-1] == 20
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    for name, time in finished.items():
        assert (tmp_path / "killed" / name).stat().st_mtime_ns == time, "a finished shard was written again"


@pytest.mark.parametrize("had", [16, 20])
def test_a_pool_grows_to_the_same_bytes(tmp_path: Path, network: EDMDenoiser, had: int) -> None:
    write(tmp_path / "whole", network, range(27))
    write(tmp_path / "grown", network, range(had))
    label(Pool(tmp_path / "grown"), "l", "a", ("x", "y"), np.full((had, 2), 0.5))
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "grown").glob("shard-0000[01]*")}
    grow_pool(tmp_path / "grown", 27)
    assert write(tmp_path / "grown", network, range(27))[-1] == 27
    found = contents(tmp_path / "grown")
    labels = {name for name in found if name.startswith("labels/")}
    assert {n: b for n, b in found.items() if n not in labels} == contents(tmp_path / "whole")
    assert labels == {f"labels/l/{name}" for name in kept}, "labels of whole shards are kept, others are not"
    assert Pool(tmp_path / "grown").label_names == []
    for name, time in kept.items():
        assert (tmp_path / "grown" / name).stat().st_mtime_ns == time, "a whole shard was written again"


def test_a_shard_is_made_by_its_task_alone(tmp_path: Path) -> None:
    spec = ModelSpec(base="digits-8", sampler=SAMPLER, batch_size=3)
    model = open_model(spec)
    list(write_pool(tmp_path / "pool", model, range(20)))
    path = tmp_path / "shard-00001.parquet"
    task = ShardTask(path=path, spec=spec, digest=model.digest, seeds=tuple(range(8, 16)))
    assert task.what == "the images of seeds 8-15"
    sent = pickle.loads(pickle.dumps(task))
    assert sent == task
    assert list(make_shard(open_model(sent.spec), sent)) == [3, 6, 8]
    assert task.path.read_bytes() == (tmp_path / "pool" / task.path.name).read_bytes()


def test_a_model_opened_elsewhere_makes_the_same_bytes(tmp_path: Path) -> None:
    spec = ModelSpec(base="digits-8", sampler=SAMPLER, batch_size=3)
    opened = Opened(open_model(spec))
    task = ShardTask(path=tmp_path / "here.parquet", spec=spec, digest=opened.model.digest, seeds=tuple(range(5)))
    sent = pickle.loads(pickle.dumps(opened))
    assert len(pickle.dumps(opened)) < 2000, "the spec is sent, not the networks"
    assert sent() is not opened()
    for made_by, path in ((opened, task.path), (sent, tmp_path / "there.parquet")):
        assert list(make_shard(made_by(), replace(task, path=path))) == [3, 5]
    assert task.path.read_bytes() == (tmp_path / "there.parquet").read_bytes()
    with pytest.raises(InputError, match="digits-8 is another model here .* than where the pool was begun"):
        next(make_shard(opened(), replace(task, digest="0" * 64)))


def test_a_class_conditional_pool_says_what_each_image_was_asked_for(tmp_path: Path, make_network: MakeNetwork) -> None:
    write(tmp_path, make_network(label_dim=3), range(7, 20))
    pool = Pool(tmp_path)
    assert pool.conditions == ("0", "1", "2")
    table = pq.read_table(pool.shards[1])
    assert table.schema.names == ["seed", "condition", "image"]
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["condition"] == {
        "dtype": "string",
        "_type": "Value",
    }
    conditions = pd.concat([pd.read_parquet(p, columns=["seed", "condition"]) for p in pool.shards])
    assert conditions["seed"].tolist() == list(range(7, 20))
    assert conditions["condition"].tolist() == [str(s % 3) for s in range(7, 20)]


def test_generate_exports_the_labels_of_an_attribute(tmp_path: Path) -> None:
    done = run(
        *("generate", "--model", "digits-8", "--seeds", "0-11", "--steps", "4", "--out", tmp_path / "pool"),
        *("--export-zip", tmp_path / "images.zip", "--export-labels", "parity"),
    )
    assert done.exit_code == 0, done.output
    pool, zipped = Pool(tmp_path / "pool"), open_dataset(str(tmp_path / "images.zip"))
    assert torch.equal(zipped.read(range(12)), pool.read(range(12)))
    (attribute,) = zipped.attributes.values()
    assert attribute.classes == ("even", "odd")
    called = label_source(pool, load_classifier("digits-parity")).argmax(axis=1)
    assert set(called) == {0, 1}
    assert zipped.class_indices(attribute.name).tolist() == called.tolist()


def test_a_finished_pool_is_not_sampled_again(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    with torch.no_grad():
        next(network.parameters()).fill_(float("nan"))
    assert write(tmp_path, network) == [20]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "other"}, r'made_by\.digest = "abc", now made_by\.digest = "other"'),
        ({"sampler": SamplerConfig(solver="heun", steps=3)}, r"sampler\.steps = 2, now sampler\.steps = 3"),
        ({"batch_size": 4}, "batch_size = 3, now batch_size = 4"),
        ({"seeds": range(21)}, r"seeds = \[\[0, 19\]\], now seeds = \[\[0, 20\]\]"),
    ],
)
def test_changed_settings_are_refused_by_name(
    tmp_path: Path, network: EDMDenoiser, changes: dict[str, object], message: str
) -> None:
    write(tmp_path, network)
    before = contents(tmp_path)
    with pytest.raises(ChangedSettings, match=message):
        write(tmp_path, network, **changes)  # type: ignore[arg-type]
    assert contents(tmp_path) == before


def test_precision_is_part_of_a_pool(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    network.precision = "bfloat16"
    with pytest.raises(ChangedSettings, match="precision"):
        write(tmp_path, network)


@pytest.mark.parametrize("seeds", [[], [1, 2, 1]])
def test_seeds_have_to_be_distinct(tmp_path: Path, network: EDMDenoiser, seeds: list[int]) -> None:
    with pytest.raises(InputError, match="expected distinct seeds"):
        next(write_pool(tmp_path, model(network), seeds))
    assert contents(tmp_path) == {}


def test_an_empty_batch_is_refused(tmp_path: Path, network: EDMDenoiser) -> None:
    with pytest.raises(ValueError, match="batch_size is 0; expected"):
        write(tmp_path, network, batch_size=0)


def test_no_pool_is_named(tmp_path: Path, network: EDMDenoiser) -> None:
    with pytest.raises(InputError, match=r"pool\.json is missing"):
        Pool(tmp_path)
    (tmp_path / "pool.json").write_text('{"format": "something/1"}')
    with pytest.raises(InputError, match="has format 'something/1'; expected 'fairsims-pool/1'"):
        Pool(tmp_path)
    (tmp_path / "pool.json").write_text('{"format": "fairsims-pool/1"}')
    with pytest.raises(InputError, match="no finished shard"):
        len(Pool(tmp_path))


@pytest.mark.parametrize("keep", [0, 5, 200, -4])
def test_a_broken_shard_is_named(tmp_path: Path, network: EDMDenoiser, keep: int) -> None:
    write(tmp_path, network)
    shard = tmp_path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:keep])
    with pytest.raises(InputError, match=f"a shard of {tmp_path} is broken"):
        Pool(tmp_path).read([0])


def test_labels_come_back_in_pool_order(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    pool = Pool(tmp_path)
    assert pool.label_names == []
    probabilities = np.random.default_rng(0).dirichlet([1, 1], 20)
    label(pool, "parity-1", "parity", ("even", "odd"), probabilities)
    table = Pool(tmp_path).labels("parity-1")
    assert list(table) == ["seed", "parity.even", "parity.odd"]
    assert table["seed"].tolist() == list(range(20))
    assert np.allclose(table[["parity.even", "parity.odd"]], probabilities, atol=1e-6)
    assert Pool(tmp_path).label_names == ["parity-1"]


def test_broken_labels_are_refused(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    pool = Pool(tmp_path)
    assert pool.label_names == []
    with pytest.raises(InputError, match="has no labels by 'x'; run `fairsims label"):
        pool.labels("x")
    label(pool, "x", "parity", ("even", "odd"), np.full((20, 2), 0.5))
    path = tmp_path / "labels" / "x" / "shard-00000.parquet"
    pd.read_parquet(path).assign(seed=range(1, 9)).to_parquet(path)
    with pytest.raises(InputError, match="not those of the pool; label it again"):
        pool.labels("x")
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(InputError, match="is broken .*; delete it and label"):
        pool.labels("x")
    path.unlink()
    assert pool.label_names == []
    with pytest.raises(InputError, match="has no labels by 'x' for 1 of 3 shards; run `fairsims label"):
        pool.labels("x")


def test_a_label_table_of_an_earlier_version_is_read(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path, network)
    pool = Pool(tmp_path)
    label(pool, "x", "parity", ("even", "odd"), np.random.default_rng(0).dirichlet([1, 1], 20))
    table = pool.labels("x")
    shutil.rmtree(tmp_path / "labels" / "x")
    table.to_parquet(tmp_path / "labels" / "x.parquet", index=False)
    assert pool.label_names == ["x"]
    pd.testing.assert_frame_equal(pool.labels("x"), table)


def test_selected_images_keep_seed_and_pixels(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path / "all", network)
    source, chosen = Pool(tmp_path / "all"), np.array([1, 2, 3, 5, 8, 9, 11, 12, 17, 19])
    for _ in range(2):
        select_pool(source, chosen, tmp_path / "kept", made_by={"kind": "selected"})
    kept = Pool(tmp_path / "kept")
    assert kept.seeds.tolist() == chosen.tolist()
    assert torch.equal(kept.read(range(10)), source.read(chosen))
    assert len(kept.shards) == 2
    assert kept.meta["made_by"] == {"kind": "selected"}
    assert kept.meta["seeds"] == chosen.tolist()
    assert kept.meta["shape"] == source.meta["shape"]


def test_a_pool_is_a_data_set(tmp_path: Path, network: EDMDenoiser, make_network: MakeNetwork) -> None:
    write(tmp_path / "a", network)
    write(tmp_path / "b", make_network(1))
    a, b = (pool_dataset(Pool(tmp_path / n)) for n in "ab")
    assert (len(a), a.channels, a.resolution, a.name) == (20, 1, 8, "a")
    assert torch.equal(a.read([3, 1]), Pool(tmp_path / "a").read([3, 1]))
    assert a.digest != b.digest
    assert a.table["seed"].tolist() == [str(s) for s in range(20)]


def test_the_edm_zip_reads_back(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path / "pool", network)
    pool = Pool(tmp_path / "pool")
    export_edm_zip(pool, tmp_path / "plain.zip")
    plain = open_dataset(str(tmp_path / "plain.zip"))
    assert torch.equal(plain.read(range(20)), pool.read(range(20)))
    assert plain.attributes == {}

    winners = np.arange(20) % 2
    label(pool, "x", "parity", ("even", "odd"), np.eye(2)[winners])
    export_edm_zip(pool, tmp_path / "labelled.zip", labels=("x", ("even", "odd")))
    labelled = open_dataset(str(tmp_path / "labelled.zip"))
    (attribute,) = labelled.attributes
    assert labelled.attributes[attribute].classes == ("even", "odd")
    assert labelled.class_indices(attribute).tolist() == winners.tolist()
    first = (tmp_path / "labelled.zip").read_bytes()
    export_edm_zip(pool, tmp_path / "labelled.zip", labels=("x", ("even", "odd")))
    assert (tmp_path / "labelled.zip").read_bytes() == first, "an export has no clock in it"


def test_the_folder_reads_back(tmp_path: Path, network: EDMDenoiser) -> None:
    write(tmp_path / "pool", network, range(5, 17))
    pool = Pool(tmp_path / "pool")
    label(pool, "x", "parity", ("even", "odd"), np.full((12, 2), 0.5))
    export_folder(pool, tmp_path / "folder")
    sheet = pd.read_csv(tmp_path / "folder" / "metadata.csv")
    assert list(sheet) == ["file_name", "seed", "parity.even", "parity.odd"]
    assert sheet["seed"].tolist() == list(range(5, 17))
    data = open_dataset(str(tmp_path / "folder"))
    assert torch.equal(data.read(range(12)), pool.read(range(12)))
    assert data.table["seed"].tolist() == [str(s) for s in range(5, 17)]


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_lossless(channels: int) -> None:
    image = torch.randint(0, 256, (channels, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert np.array_equal(decode_png(encode_png(image)), image)


def test_seeds_are_written_compactly() -> None:
    assert compact_seeds([4, 5, 6]) == [[4, 6]]
    assert compact_seeds([4]) == [[4, 4]]
    assert compact_seeds([4, 6, 5]) == [4, 6, 5]


def test_a_pool_of_real_digits_reads_like_a_generated_one(digits_pool: MakePool) -> None:
    pool = digits_pool(30, 10)
    assert len(pool) == 40
    assert torch.equal(pool.read([0, 39]), torch.cat([pool.read([0]), pool.read([39])]))


def test_an_embedded_data_set_is_a_source(digits: ImageDataset) -> None:
    source = open_source("digits")
    assert (len(source), source.shape, source.digest) == (1797, (1, 8, 8), digits.digest)
    assert torch.equal(torch.cat(list(source.batches(500))), digits.read(range(1797)))
    part = open_dataset("emoji-people").subset([5, 3])
    assert part.ids.tolist() == open_dataset("emoji-people").ids[[5, 3]].tolist()


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (png(np.zeros((8, 8, 4), dtype=np.uint8)), "transparent pixels; expected opaque"),
        (png(np.zeros((9, 9), dtype=np.uint8)), "1 of 9x9 .*; expected squares of one size"),
        (png(np.zeros((8, 9), dtype=np.uint8)), "1 of 9x8 .*; expected squares of one size"),
        (b"no image", "not an image"),
    ],
    ids=["clear", "larger", "oblong", "text"],
)
def test_a_folder_with_one_odd_image_is_refused(tmp_path: Path, second: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(png(GREY))
    (tmp_path / "b.png").write_bytes(second)
    with pytest.raises(InputError, match=message) as e:
        open_source(tmp_path)
    assert "b.png" in str(e.value)


def test_an_empty_source_is_refused(tmp_path: Path, digits_pool: MakePool) -> None:
    pool = digits_pool(2, 2)
    pool.shards[0].unlink()
    with pytest.raises(InputError, match="has no finished shard"):
        open_source(pool.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="found no images in"):
        open_source(tmp_path / "empty")
    with pytest.raises(InputError, match="found no dataset or path"):
        open_source(tmp_path / "nowhere")


def test_a_pool_that_is_not_what_it_says_is_refused_when_opened(digits_pool: MakePool) -> None:
    pool = digits_pool(2, 2)
    write_json(pool.folder / "pool.json", read_json(pool.folder / "pool.json") | {"shape": [3, 8, 8]})
    with pytest.raises(InputError, match=r"is uint8 \(1, 8, 8\); expected uint8 \(3, 8, 8\)"):
        open_source(pool.folder)
