"""Writing pools: a shard is a task, a pure function of the model's spec and its seeds."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fairsims import __version__, engine
from fairsims.data.marks import mark_chunk, marked
from fairsims.errors import InputError
from fairsims.files import atomic, place, read_json, write_json
from fairsims.models.conditions import Conditions
from fairsims.models.folders import tensor_bytes
from fairsims.models.model import DenoiserModel, Model, ModelSpec
from fairsims.models.pipeline_model import PipelineModel, open_spec
from fairsims.pools.reading import FORMAT, Pool, latents_file, shard_number
from fairsims.run import settle_settings

SHARD_SIZE = 512
ENCODERS = 4
"""Threads that make PNGs beside the sampling."""
LOOK = 1.0
"""Seconds between two looks at what other processes have made."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """One Parquet shard of a pool."""

    path: Path
    spec: ModelSpec
    """What makes the images."""
    seeds: tuple[int, ...]
    digest: str
    """Of the model that the spec opens: one of that name elsewhere may be another."""
    latents: Path | None = None
    """Where the latents that the images were decoded from are kept, too."""

    @property
    def number(self) -> int:
        """Of the shard."""
        return shard_number(self.path)

    @property
    def what(self) -> str:
        """What it makes, in words."""
        return f"the images of {seeds_text(self.seeds)}"


class Opened:
    """A model that is open in this process; where it is sent to, its spec is opened."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self) -> Model:
        return self.model

    def __reduce__(self) -> tuple[Any, ...]:
        return partial, (open_spec, self.model.spec)


def make_shard(model: Model, task: ShardTask) -> Iterator[int]:
    """Sample and write one shard; yields the number of its images that are sampled."""
    if model.digest != task.digest:
        raise InputError(
            f"{task.spec.base} is another model here (digest {model.digest[:12]}) than where the pool was begun "
            f"({task.digest[:12]}); put the same one on every machine"
        )
    size = task.spec.batch_size
    # Batches end where shards do, so that a shard is the same whoever makes it.
    cut = [task.seeds[start : start + size] for start in range(0, len(task.seeds), size)]
    mark = mark_chunk(model.digest) if task.spec.mark else b""
    rows: list[Future[bytes]] = []
    held: list[Tensor] = []
    with ThreadPoolExecutor(ENCODERS) as encoders:
        for images in model.images(cut) if task.latents is None else _and_latents(model, cut, held):
            # PNGs of this batch are made while the next one is sampled.
            rows += [encoders.submit(encode_png, image, mark) for image in images]
            yield len(rows)
        if task.latents is not None:
            # First, so that a shard's latents are there where the shard is.
            write_latents(task.latents, torch.cat(held))
        write_shard(task.path, task.seeds, [row.result() for row in rows], model.conditions)


def _and_latents(model: Model, cut: Sequence[Sequence[int]], held: list[Tensor]) -> Iterator[Tensor]:
    """The model's images; their latents go into `held`."""
    assert isinstance(model, PipelineModel | DenoiserModel)
    for images, latents in model.images_with_latents(cut):
        held.append(latents)
        yield images


def write_latents(path: Path, latents: Tensor) -> None:
    """Latents of a shard's images, in their order, as they were sampled."""
    with atomic(path, shared=True) as temporary:
        temporary.write_bytes(tensor_bytes({"latents": latents}))


def write_pool(
    folder: str | Path,
    model: Model,
    seeds: Sequence[int],
    *,
    facts: Mapping[str, Any] | None = None,
    latents: bool = False,
) -> Iterator[int]:
    """Generate one image per seed into `folder`, yielding the number of images finished so far.

    What made them is part of the pool's identity; `facts` join the model's own in `made_by`. With `latents` those of a
    text-to-image model are kept beside the images, in `latents/`; those of a denoiser of latents always are. Finished
    shards are left as they are, so the same call resumes; ChangedSettings is raised when the folder holds another pool.
    Every process of the engine has to call it; all shards are there after the last number, unless this process is one
    of an array of jobs.
    """
    folder, seeds = place(folder), [int(s) for s in seeds]
    if len(seeds) == 0 or len(set(seeds)) != len(seeds):
        raise InputError(f"got {len(seeds)} seeds, {len(set(seeds))} of them different; expected distinct seeds")
    versions = {"fairsims": __version__, "torch": torch.__version__}
    with engine.main_first():
        known = model.facts()
        known["made_by"] |= dict(facts or {})
        known |= {"marked": True} if model.spec.mark else {}
        settings = {"format": FORMAT, **known, "seeds": compact_seeds(seeds), "versions": versions}
        settle_settings(folder / "pool.json", settings)
    latents = latents or (isinstance(model, DenoiserModel) and model.latent)
    parts = [tuple(seeds[start : start + SHARD_SIZE]) for start in range(0, len(seeds), SHARD_SIZE)]
    tasks = [
        ShardTask(
            path=folder / f"shard-{k:05d}.parquet",
            spec=model.spec,
            seeds=part,
            digest=model.digest,
            latents=latents_file(folder, k) if latents else None,
        )
        for k, part in enumerate(parts)
    ]
    done, looked = _finished(folder, tasks), time.monotonic()
    if done:
        yield done
    for step in engine.current().map(Opened(model), make_shard, tasks):
        if step.finished:
            done += len(step.task.seeds)
            if time.monotonic() > looked + LOOK:
                done, looked = max(done, _finished(folder, tasks)), time.monotonic()
        yield done if step.finished else done + step.rows
    if (there := _finished(folder, tasks)) > done:
        yield there


def _finished(folder: Path, tasks: Sequence[ShardTask]) -> int:
    """Images whose shards are there, whoever made them."""
    there = {path.name for path in folder.glob("shard-*.parquet")}
    return sum(len(task.seeds) for task in tasks if task.path.name in there)


def grow_pool(folder: Path, n: int) -> None:
    """Let the pool of consecutive seeds in `folder` go on to `n` of them; `write_pool` then makes the rest.

    A last shard that is not full goes first, and its labels before it: a kill in between costs no more.
    """
    meta = read_json(folder / "pool.json")
    [[first, last]] = meta["seeds"]
    number, part = divmod(last - first + 1, SHARD_SIZE)
    if part:
        last_shard = f"shard-{number:05d}.parquet"
        for labels in (folder / "labels").glob("*"):
            # One file of labels is of all shards.
            (labels / last_shard if labels.is_dir() else labels).unlink(missing_ok=True)
        (folder / last_shard).unlink(missing_ok=True)
    write_json(folder / "pool.json", meta | {"seeds": [[first, first + n - 1]]})


def select_pool(source: Pool, positions: np.ndarray, folder: Path, *, made_by: dict[str, Any]) -> None:
    """Write the images of `source` at these positions as a pool of their own (seeds kept)."""
    join_pools([(source, positions)], folder, made_by=made_by)


def join_pools(parts: Sequence[tuple[Pool, np.ndarray]], folder: Path, *, made_by: dict[str, Any]) -> None:
    """Write the images of several pools of one model, at these positions of each, as a pool in order of their seeds."""
    places = [(int(pool.seeds[i]), pool, int(i)) for pool, positions in parts for i in positions]
    places = places if len(parts) == 1 else sorted(places, key=lambda place: place[0])
    first, seeds = parts[0][0], [seed for seed, _, _ in places]
    kept = {k: v for k, v in first.meta.items() if k not in ("made_by", "seeds")}
    settle_settings(folder / "pool.json", kept | {"made_by": made_by, "seeds": compact_seeds(seeds)})
    for number, start in enumerate(range(0, len(seeds), SHARD_SIZE)):
        pngs = [pool.encoded(i) for _, pool, i in places[start : start + SHARD_SIZE]]
        write_shard(folder / f"shard-{number:05d}.parquet", seeds[start : start + SHARD_SIZE], pngs, first.asked)


def write_shard(
    path: Path,
    seeds: Sequence[int],
    pngs: Sequence[bytes],
    conditions: Conditions = Conditions(),  # noqa: B008
) -> None:
    """One Parquet shard in the pool format; with a column `condition` where images were asked for by one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"seed": list(seeds)}
    fields = [("seed", pa.int64())]
    features: dict[str, Any] = {"seed": {"dtype": "int64", "_type": "Value"}}
    if not conditions.unconditional:
        columns["condition"] = [conditions.of(s) for s in seeds]
        fields.append(("condition", pa.string()))
        features["condition"] = {"dtype": "string", "_type": "Value"}
    columns["image"] = [{"bytes": png, "path": f"{seed:06d}.png"} for seed, png in zip(seeds, pngs, strict=True)]
    fields.append(("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])))
    features["image"] = {"_type": "Image"}
    schema = pa.schema(fields, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    with atomic(path, shared=True) as temporary:
        pq.write_table(pa.table(columns, schema=schema), temporary)


def compact_seeds(seeds: Sequence[int]) -> list[list[int]] | list[int]:
    """Consecutive seeds as [[first, last]], others as they are."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return [[seeds[0], seeds[-1]]]
    return list(seeds)


def seeds_text(seeds: Sequence[int]) -> str:
    """`seeds 512-1023`: the first and the last."""
    return f"seeds {seeds[0]}-{seeds[-1]}"


def encode_png(image: Tensor, mark: bytes = b"") -> bytes:
    """`(C, H, W)` uint8, one or three channels, as PNG bytes, with the chunk that marks it."""
    array = image.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, format="PNG", compress_level=1)
    return marked(buffer.getvalue(), mark) if mark else buffer.getvalue()
