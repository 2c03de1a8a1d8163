"""Generated images on disk: write, resume, label, read, export.

A pool is a folder of `pool.json`, Parquet shards (`seed: int64`, `image: struct<bytes, path>`) and
`labels/<classifier>.parquet`. Hugging Face `load_dataset("parquet", ...)` opens the shards as they are.
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from fairsims import __version__, engine
from fairsims.data import open_dataset
from fairsims.data.ahead import READERS, read_ahead
from fairsims.data.base import HeldSource, ImageDataset, to_uint8
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.files import atomic, read_json, sha256_file, sha256_json, write_json
from fairsims.models.base import Denoiser, compile_networks
from fairsims.models.checkpoints import checkpoint_digest, load_checkpoint
from fairsims.models.sampling import SamplerConfig, generate_batches
from fairsims.run import refuse_foreign, settle_settings

SHARD_SIZE = 512
ENCODERS = 4
"""Threads that make PNGs beside the sampling."""
HELD_BYTES = 2**26
"""PNGs of the latest shards that a pool holds in memory."""
FORMAT = "fairsims-pool/1"


class Pool:
    """A finished or growing folder of generated images, addressed by position; `seeds[i]` is image i's identity.

    Images are uint8 `(C, H, W)`. Raises InputError when the folder is no pool or a shard is broken.

    >>> sampler = SamplerConfig(solver="euler", steps=2)
    >>> made = generate_pool("digits-8", Path("pool"), range(8), sampler=sampler, batch_size=4, precision="float32")
    >>> list(made)[-1]
    8
    >>> pool = Pool("pool")
    >>> len(pool), pool.seeds[:2].tolist(), pool.read([0, 1]).shape
    (8, [0, 1], torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = read_json(self.folder / "pool.json")
        if self.meta.get("format") != FORMAT:
            raise InputError(f"{self.folder}/pool.json has format {self.meta.get('format')!r}; expected {FORMAT!r}")

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("shard-*.parquet"))

    @property
    def name(self) -> str:
        """Name of the folder and of the one above it: runs call all their pools alike."""
        return "/".join(self.folder.resolve().parts[-2:])

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.meta["shape"]
        return channels, height, width

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the shards: stands for the images."""
        return sha256_json([sha256_file(s) for s in self.shards])

    @cached_property
    def seeds(self) -> np.ndarray:
        """Seeds in order of position, `(N,)` int64."""
        return np.concatenate([np.asarray(self._column(g, "seed"), dtype=np.int64) for g in self._groups])

    @property
    def ids(self) -> np.ndarray:
        """What identifies the images: their seeds."""
        return self.seeds

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Images at these positions, `(n, C, H, W)` uint8. Raises InputError naming the seed of a broken one."""
        places = [range(len(self))[int(i)] for i in indices]
        found = np.empty((len(places), *self.shape), dtype=np.uint8)
        for row, (i, group) in enumerate(zip(places, np.searchsorted(self._ends, places, side="right"), strict=True)):
            found[row] = self._pixels(i, int(group))
        return torch.from_numpy(found)

    def _pixels(self, i: int, group: int) -> np.ndarray:
        try:
            pixels = decode_png(self._pngs(group)[int(i - self._ends[group])].as_py())
        except (OSError, SyntaxError, TypeError) as e:
            why = f"unreadable ({e}); delete its shard and generate it again"
        else:
            if pixels.shape == self.shape and pixels.dtype == np.uint8:
                return pixels
            why = f"{pixels.dtype} {pixels.shape}; expected uint8 {self.shape} as pool.json says; restore it"
        raise InputError(f"image of seed {self.seeds[i]} in {self.folder} is {why}")

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        """All images in order, `(<=size, C, H, W)` uint8 at a time, decoded while the caller works on earlier ones."""
        _ = self._ends  # the first reader would make the others wait for it
        return read_ahead(self.read, len(self), size)

    @cached_property
    def _groups(self) -> list[tuple[Path, int, int, int]]:
        """Of each Parquet row group, in order: shard, number in it, rows, bytes."""
        if not self.shards:
            raise InputError(f"{self.folder} has no finished shard; generate images into it first")
        found = []
        for shard in self.shards:
            with self._opened(shard) as file:
                groups = [file.metadata.row_group(k) for k in range(file.metadata.num_row_groups)]
                found += [(shard, k, g.num_rows, g.total_byte_size) for k, g in enumerate(groups)]
        return found

    @cached_property
    def _ends(self) -> np.ndarray:
        """Position after the last of each row group, `(groups,)`."""
        return np.cumsum([rows for _, _, rows, _ in self._groups])

    @cached_property
    def _pngs(self) -> Callable[[int], Any]:
        """PNGs of a row group by its number, an Arrow array. The latest are held only: memory does not grow with N."""
        held = int(np.clip(HELD_BYTES // max(size for _, _, _, size in self._groups), READERS, 64))
        # Without the paths beside them: an image struct of two columns takes four times as long.
        return lru_cache(maxsize=held)(lambda g: self._column(self._groups[g], "image.bytes").field("bytes"))

    def _column(self, group: tuple[Path, int, int, int], name: str) -> Any:
        with self._opened(group[0]) as file:
            return file.read_row_group(group[1], columns=[name])[name.split(".")[0]].combine_chunks()

    @contextmanager
    def _opened(self, shard: Path) -> Iterator[Any]:
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(shard) as file:
                yield file
        except (OSError, ValueError, KeyError) as e:
            raise InputError(f"a shard of {self.folder} is broken ({e}); delete it and generate again") from None

    @property
    def label_names(self) -> list[str]:
        return sorted(p.stem for p in (self.folder / "labels").glob("*.parquet"))

    def labels(self, name: str) -> pd.DataFrame:
        """One label table: `seed` and a probability column per class (`gender.woman`), rows in pool order.

        Raises InputError when it is missing or its seeds are not the pool's.
        """
        path = self.folder / "labels" / f"{name}.parquet"
        if not path.exists():
            raise InputError(f"{self.folder} has no labels by {name!r}; run `fairsims label {self.folder}` first")
        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as e:
            raise InputError(f"{path} is broken ({e}); delete it and label the pool again") from None
        if not np.array_equal(table["seed"].to_numpy(), self.seeds):
            raise InputError(f"the seeds of {path} are not those of the pool; label it again")
        return table

    def write_labels(self, name: str, attribute: str, classes: Sequence[str], probabilities: np.ndarray) -> None:
        """Store class probabilities `(N, K)` for all images. Raises InputError when they are not finite."""
        if probabilities.shape != (len(self), len(classes)) or not np.isfinite(probabilities).all():
            raise InputError(
                f"the labels of {self.folder} have shape {probabilities.shape} or are not finite; "
                f"expected ({len(self)}, {len(classes)}) probabilities"
            )
        columns = {f"{attribute}.{c}": probabilities[:, k].astype(np.float32) for k, c in enumerate(classes)}
        with atomic(self.folder / "labels" / f"{name}.parquet") as temporary:
            pd.DataFrame({"seed": self.seeds, **columns}).to_parquet(temporary, index=False)


def open_source(path: str | Path) -> ImageSource:
    """The pool in a folder; else whatever `open_dataset` opens: image folder, EDM zip, Parquet, embedded name.

    Raises InputError when nothing is there, it is empty, or its images are unreadable or not alike.

    >>> source = open_source("digits")
    >>> len(source), source.shape, source.read([0]).shape
    (1797, (1, 8, 8), torch.Size([1, 1, 8, 8]))
    """
    if not (Path(path) / "pool.json").is_file():
        return open_dataset(str(path))
    pool = Pool(path)
    pool.read([0])  # finds a pool without shards, and one that holds other images than pool.json says
    return pool


def write_pool(
    folder: str | Path,
    denoiser: Denoiser,
    seeds: Sequence[int],
    *,
    made_by: dict[str, Any],
    sampler: SamplerConfig | None = None,
    batch_size: int = 128,
) -> Iterator[int]:
    """Generate one image per seed into `folder`, yielding the number of images finished so far.

    `made_by` says what generates (checkpoint digests, omega, ...) and is part of the pool's identity. Finished shards
    are skipped, so the same call resumes; ChangedSettings is raised when the folder holds another pool. Under torchrun
    the processes take turns at the shards, which come out the same, and all of them are there after the last number.
    """
    folder, sampler = Path(folder), sampler or SamplerConfig()
    seeds = [int(s) for s in seeds]
    if len(seeds) == 0 or len(set(seeds)) != len(seeds):
        raise InputError(f"got {len(seeds)} seeds, {len(set(seeds))} of them different; expected distinct seeds")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    settings = {
        "format": FORMAT,
        "made_by": made_by,
        "sampler": sampler.facts() | {"sigmas": [float(f"{s:.6g}") for s in sampler.sigmas(denoiser)[[0, -2]]]},
        "evaluations_per_image": sampler.evaluations(denoiser),
        "precision": denoiser.precision,
        "batch_size": batch_size,
        "shape": list(denoiser.shape),
        "seeds": compact_seeds(seeds),
        "versions": {"fairsims": __version__, "torch": torch.__version__},
    }
    with engine.main_first():
        settle_settings(folder / "pool.json", settings)
    chunks = [seeds[start : start + SHARD_SIZE] for start in range(0, len(seeds), SHARD_SIZE)]
    paths = [folder / f"shard-{number:05d}.parquet" for number in range(len(chunks))]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    engine.barrier()  # nobody adds a shard before all have looked
    mine = missing[engine.rank() :: engine.world()]
    # Batches end where shards do, so that a shard is the same whoever makes it.
    cut = [chunks[k][start : start + batch_size] for k in mine for start in range(0, len(chunks[k]), batch_size)]
    sampled = generate_batches(denoiser, cut, sampler=sampler)

    def finished() -> int:
        return sum(len(chunk) for chunk, path in zip(chunks, paths, strict=True) if path.exists())

    done = finished()
    if done:
        yield done
    with ThreadPoolExecutor(ENCODERS) as encoders:
        for number in mine:
            chunk, before = chunks[number], finished()
            rows: list[Future[bytes]] = []
            while len(rows) < len(chunk):
                # PNGs of this batch are made while the next one is sampled.
                rows += [encoders.submit(encode_png, image) for image in to_uint8(next(sampled).images).cpu()]
                yield before + len(rows)
            write_shard(paths[number], chunk, [row.result() for row in rows])
            done = finished()
            yield done
    engine.barrier()
    if done < len(seeds):
        yield len(seeds)


def grow_pool(folder: Path, n: int) -> None:
    """Let the pool of consecutive seeds in `folder` go on to `n` of them; `write_pool` then makes the rest.

    A last shard that is not full and the labels, which are of the old end, go first: a kill in between costs no more.
    """
    meta = read_json(folder / "pool.json")
    [[first, last]] = meta["seeds"]
    number, part = divmod(last - first + 1, SHARD_SIZE)
    if part:
        (folder / f"shard-{number:05d}.parquet").unlink(missing_ok=True)
    shutil.rmtree(folder / "labels", ignore_errors=True)
    write_json(folder / "pool.json", meta | {"seeds": [[first, first + n - 1]]})


def select_pool(source: Pool, positions: np.ndarray, folder: Path, *, made_by: dict[str, Any]) -> None:
    """Write the images of `source` at these positions as a pool of their own (seeds kept)."""
    seeds = [int(s) for s in source.seeds[positions]]
    kept = {k: v for k, v in source.meta.items() if k not in ("made_by", "seeds")}
    settle_settings(folder / "pool.json", kept | {"made_by": made_by, "seeds": compact_seeds(seeds)})
    for number, start in enumerate(range(0, len(seeds), SHARD_SIZE)):
        part = positions[start : start + SHARD_SIZE]
        pngs = [encode_png(image) for image in source.read(part)]
        write_shard(folder / f"shard-{number:05d}.parquet", seeds[start : start + SHARD_SIZE], pngs)


class PoolImages:
    """A pool as the image source of an `ImageDataset`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.pool.read(indices).numpy()


def pool_dataset(pool: Pool) -> ImageDataset:
    """A pool's images as a data set to train on, held in memory after the first read; its table has the seeds."""
    channels, resolution, _ = pool.meta["shape"]
    return ImageDataset(
        name=pool.folder.name,
        digest=pool.digest,
        resolution=resolution,
        channels=channels,
        source=HeldSource(PoolImages(pool), len(pool)),
        table=pd.DataFrame({"seed": pool.seeds.astype(str)}),
        attributes={},
        ids=pool.seeds,
    )


def write_shard(path: Path, seeds: Sequence[int], pngs: Sequence[bytes]) -> None:
    """One Parquet shard in the pool format."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    image = [{"bytes": png, "path": f"{seed:06d}.png"} for seed, png in zip(seeds, pngs, strict=True)]
    schema = pa.schema(
        [("seed", pa.int64()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))],
        metadata={"huggingface": '{"info": {"features": {"seed": {"dtype": "int64", "_type": "Value"}, '
                  '"image": {"_type": "Image"}}}}'},
    )  # fmt: skip
    with atomic(path) as temporary:
        pq.write_table(pa.table({"seed": list(seeds), "image": image}, schema=schema), temporary)


def compact_seeds(seeds: Sequence[int]) -> list[list[int]] | list[int]:
    """Consecutive seeds as [[first, last]], others as they are."""
    if list(seeds) == list(range(seeds[0], seeds[0] + len(seeds))):
        return [[seeds[0], seeds[-1]]]
    return list(seeds)


def encode_png(image: Tensor) -> bytes:
    """`(C, H, W)` uint8, one or three channels, as PNG bytes."""
    array = image.permute(1, 2, 0).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def decode_png(png: bytes) -> np.ndarray:
    """PNG bytes as `(C, H, W)`, uint8 where the file is of 8 bits."""
    array = np.asarray(Image.open(io.BytesIO(png)))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def export_edm_zip(pool: Pool, path: Path, *, labels: tuple[str, Sequence[str]] | None = None) -> None:
    """The pool as an EDM dataset zip; `labels` = (label table, classes in order) writes class indices."""
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(pool))]
    meta: dict[str, Any] = {"labels": None}
    if labels is not None:
        table = pool.labels(labels[0])
        winners = table.drop(columns="seed").to_numpy().argmax(axis=1)
        meta = {"labels": [[n, int(k)] for n, k in zip(names, winners, strict=True)], "classes": list(labels[1])}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as z:
        for i, name in enumerate(names):
            z.writestr(zipfile.ZipInfo(name), encode_png(pool.read([i])[0]))
        z.writestr(zipfile.ZipInfo("dataset.json"), json.dumps(meta))


def check_exports(seeds: Sequence[int], zip_file: Path | None, folder: Path | None) -> None:
    """Raises InputError where the images of these seeds cannot be exported to: before they are sampled."""
    if zip_file is not None and zip_file.is_dir():
        raise InputError(f"--export-zip {zip_file} is a folder; expected the name of a file")
    if zip_file is not None and zip_file.exists() and not _is_export(zip_file):
        raise InputError(f"--export-zip {zip_file} is no earlier export; it is not written over, give a new name")
    if folder is not None:
        if folder.is_file():
            raise InputError(f"--export-folder {folder} is a file; expected the name of a folder")
        refuse_foreign(folder, ("metadata.csv", *(f"{int(s):06d}.png" for s in seeds)))


def _is_export(path: Path) -> bool:
    """Whether a file is what `export_edm_zip` writes of a pool without labels."""
    try:
        with zipfile.ZipFile(path) as z:
            # A real data set has the same description, but its members have the times at which EDM's tool wrote them.
            timeless = all(member.date_time == zipfile.ZipInfo().date_time for member in z.infolist())
            return timeless and json.loads(z.read("dataset.json")) == {"labels": None}
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def export_folder(pool: Pool, folder: Path) -> None:
    """The pool as PNG files and `metadata.csv` (file name, seed, every label column)."""
    table = pd.DataFrame({"file_name": [f"{s:06d}.png" for s in pool.seeds], "seed": pool.seeds})
    for name in pool.label_names:
        for column, values in pool.labels(name).drop(columns="seed").items():
            table[str(column)] = values.to_numpy()
    for i, name in enumerate(table["file_name"]):
        with atomic(folder / name) as temporary:
            temporary.write_bytes(encode_png(pool.read([i])[0]))
    with atomic(folder / "metadata.csv") as temporary:
        table.to_csv(temporary, index=False)


def generate_pool(
    model: str,
    out: Path,
    seeds: range,
    *,
    sampler: SamplerConfig,
    batch_size: int,
    precision: str,
    compiled: bool = False,
) -> Iterator[int]:
    """Sample a checkpoint's images into a pool; yields the number finished."""
    with engine.main_first():
        denoiser = load_checkpoint(model).to(engine.device())
    denoiser.precision = precision
    made_by: dict[str, Any] = {"kind": "checkpoint", "digest": checkpoint_digest(model)}
    if compiled:
        compile_networks(denoiser)
        made_by["compiled"] = True  # rounds differently
    yield from write_pool(out, denoiser, seeds, made_by=made_by, sampler=sampler, batch_size=batch_size)
