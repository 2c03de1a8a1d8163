"""Reading a pool: a folder of `pool.json`, Parquet shards (`seed: int64`, `image: struct<bytes, path>`) and labels.

Labels lie beside the images, shard by shard: `labels/<classifier>/shard-00000.parquet`. Hugging Face
`load_dataset("parquet", ...)` opens the shards as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairsims.data.ahead import READERS, read_ahead, readers
from fairsims.data.base import HeldSource, ImageDataset
from fairsims.data.latents import LatentSet
from fairsims.data.opening import decoded
from fairsims.data.policy import Unusable
from fairsims.errors import InputError
from fairsims.files import place, read_json, readable, sha256_file, sha256_json
from fairsims.models.conditions import Conditions

HELD_BYTES = 2**26
"""PNGs of the latest shards that a pool holds in memory."""
FORMAT = "fairsims-pool/1"


class Pool:
    """A finished or growing folder of generated images, addressed by position; `seeds[i]` is image i's identity.

    Images are uint8 `(C, H, W)`. Raises InputError when the folder is no pool or a shard is broken.

    >>> from fairsims.models import ModelSpec, SamplerConfig, open_model
    >>> from fairsims.pools import write_pool
    >>> model = open_model(ModelSpec(base="digits-8", sampler=SamplerConfig(solver="euler", steps=2)))
    >>> list(write_pool("pool", model, range(8)))[-1]
    8
    >>> pool = Pool("pool")
    >>> len(pool), pool.seeds[:2].tolist(), pool.read([0, 1]).shape
    (8, [0, 1], torch.Size([2, 1, 8, 8]))
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = place(folder)
        if not (self.folder / "pool.json").is_file():
            raise InputError(
                f"found no pool: {self.folder}/pool.json is missing; expected the folder that `fairsims generate` made"
            )
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
    def asked_seeds(self) -> Sequence[int]:
        """The seeds that the pool is to have when it is whole, in order."""
        listed = self.meta["seeds"]
        return range(listed[0][0], listed[0][1] + 1) if isinstance(listed[0], list) else [int(s) for s in listed]

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

    def encoded(self, i: int) -> bytes:
        """The PNG of the image at a position, as it is. Raises InputError naming its seed where there is none."""
        group = int(np.searchsorted(self._ends, i, side="right"))
        png = self._pngs(group)[int(i - self._ends[group])].as_py()
        if not png:
            raise InputError(f"image of seed {self.seeds[i]} in {self.folder} is empty; generate its shard again")
        return bytes(png)

    def _pixels(self, i: int, group: int) -> np.ndarray:
        try:
            pixels = decode_png(self._pngs(group)[int(i - self._ends[group])].as_py())
        except (OSError, SyntaxError, TypeError, Unusable) as e:
            why = f"unreadable ({e}); delete its shard and generate it again"
        else:
            if pixels.shape == self.shape and pixels.dtype == np.uint8:
                return pixels
            why = f"{pixels.dtype} {pixels.shape}; expected uint8 {self.shape} as pool.json says; restore it"
        raise InputError(f"image of seed {self.seeds[i]} in {self.folder} is {why}")

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        """All images in order, `(<=size, C, H, W)` uint8 at a time, decoded while the caller works on earlier ones."""
        return Part(self, range(len(self))).batches(size)

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
            with pq.ParquetFile(readable(shard)) as file:
                yield file
        except (OSError, ValueError, KeyError) as e:
            raise InputError(f"a shard of {self.folder} is broken ({e}); delete it and generate again") from None

    @cached_property
    def parts(self) -> Mapping[Path, range]:
        """Positions of the images of each shard."""
        found: dict[Path, range] = {}
        for (shard, _, rows, _), end in zip(self._groups, self._ends.tolist(), strict=True):
            found[shard] = range(found[shard].start if shard in found else end - rows, end)
        return found

    @property
    def conditions(self) -> tuple[str, ...]:
        """What images were asked for; one empty condition for nothing in particular."""
        return self.asked.names

    @cached_property
    def asked(self) -> Conditions:
        """The conditions, and which of them each seed has."""
        return Conditions.of_pool(self.meta)

    @cached_property
    def positions(self) -> np.ndarray:
        """Which of `conditions` each image was asked for by, `(N,)`."""
        return np.asarray(self.asked.positions(self.seeds.tolist()), dtype=np.int64)

    @property
    def label_names(self) -> list[str]:
        """Of the label tables that are whole."""
        names = {p.name.removesuffix(".parquet") for p in (self.folder / "labels").glob("[!.]*")}
        return sorted(n for n in names if not self._unlabelled(self.label_files(n)))

    def _unlabelled(self, files: Sequence[Path]) -> int:
        """How many files of labels are missing."""
        there = {path for folder in {p.parent for p in files} if folder.is_dir() for path in folder.iterdir()}
        return sum(p not in there for p in files)

    def label_files(self, name: str) -> list[Path]:
        """Where the labels by `name` are: one file a shard, or a single one as earlier versions wrote it."""
        whole = self.folder / "labels" / f"{name}.parquet"
        return [whole] if whole.exists() else [self.label_file(name, shard) for shard in self.shards]

    def label_file(self, name: str, shard: Path) -> Path:
        """Where the labels by `name` of one shard are."""
        return self.folder / "labels" / name / shard.name

    def labels(self, name: str) -> pd.DataFrame:
        """One label table: `seed` and a probability column per class (`gender.woman`), rows in pool order.

        Raises InputError when it is missing or its seeds are not the pool's.
        """
        files = self.label_files(name)
        if missing := self._unlabelled(files):
            found = f" for {missing} of {len(files)} shards" if missing < len(files) else ""
            raise InputError(
                f"{self.folder} has no labels by {name!r}{found}; run `fairsims label {self.folder}` first"
            )
        table = pd.concat([_read_labels(p) for p in files], ignore_index=True)
        if not np.array_equal(table["seed"].to_numpy(), self.seeds):
            raise InputError(f"the seeds of {files[0].parent} by {name!r} are not those of the pool; label it again")
        return table


def _read_labels(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(readable(path))
    except (OSError, ValueError) as e:
        raise InputError(f"{path} is broken ({e}); delete it and label the pool again") from None


def shard_number(shard: Path) -> int:
    """12 of `shard-00012.parquet`."""
    return int(shard.stem.rpartition("-")[2])


def shard_text(folder: Path, shard: Path) -> str:
    """`shard-00001.parquet of POOL (seeds 512-1023)`."""
    pool = Pool(folder)
    places = pool.parts[shard]
    return f"{shard.name} of {folder} (seeds {pool.seeds[places.start]}-{pool.seeds[places.stop - 1]})"


@dataclass(frozen=True, kw_only=True)
class PartTask:
    """What is made of one shard of a pool, in a file of its own."""

    path: Path
    pool: Path
    shard: Path

    @property
    def number(self) -> int:
        """Of the shard."""
        return shard_number(self.shard)

    @property
    def makes(self) -> str:
        """What the file holds, in words."""
        raise NotImplementedError

    @property
    def what(self) -> str:
        """That, and of which shard and seeds."""
        return f"{self.makes} of {shard_text(self.pool, self.shard)}"


@dataclass(frozen=True)
class Part:
    """The images of one shard of a pool, as something to label."""

    pool: Pool
    positions: range

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.pool.shape

    @property
    def ids(self) -> np.ndarray:
        """Their seeds."""
        return self.pool.seeds[self.positions.start : self.positions.stop]

    def __len__(self) -> int:
        return len(self.positions)

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        """The images in order, uint8 `(<=size, C, H, W)` at a time, decoded while the caller works on earlier ones."""
        if not self.positions:
            return iter(())
        start, first = self.positions.start, self.pool.encoded(self.positions.start)
        read = lambda part: self.pool.read(range(start + part.start, start + part.stop))  # noqa: E731
        return read_ahead(read, len(self), size, readers=readers(first))


def pool_latents(pool: Pool) -> LatentSet:
    """The latents that a pool's images were decoded from, with their conditions. Raises InputError without them."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    found = []
    for number, shard in enumerate(pool.shards):
        path = latents_file(pool.folder, number)
        try:
            latents = load(path.read_bytes())["latents"]
        except (OSError, KeyError, SafetensorError) as e:
            raise InputError(f"{path} is missing or broken ({e}); delete {shard} and generate again") from None
        if len(latents) != len(pool.parts[shard]):
            raise InputError(f"{path} has {len(latents)} rows, {shard} {len(pool.parts[shard])}; delete both")
        found.append(latents)
    digest = sha256_json([pool.digest, [sha256_file(latents_file(pool.folder, k)) for k in range(len(found))]])
    conditions = torch.from_numpy(pool.positions)
    return LatentSet(name=pool.name, digest=digest, latents=torch.cat(found), conditions=conditions)


def latents_file(folder: Path, shard: int) -> Path:
    """Where the latents of a shard are."""
    return folder / "latents" / f"shard-{shard:05d}.safetensors"


class PoolImages:
    """A pool as the image source of an `ImageDataset`."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def images(self, indices: np.ndarray) -> np.ndarray:
        return self.pool.read(indices).numpy()


def pool_dataset(pool: Pool) -> ImageDataset:
    """A pool's images as a data set to train on, held in memory after the first read.

    Its table has the seeds, and of images that were asked for by a condition which one that is, by its place.
    """
    asked = {} if pool.asked.unconditional else {"condition": pool.positions.astype(str)}
    channels, resolution, _ = pool.meta["shape"]
    return ImageDataset(
        name=pool.folder.name,
        digest=pool.digest,
        resolution=resolution,
        channels=channels,
        source=HeldSource(PoolImages(pool), len(pool)),
        table=pd.DataFrame({"seed": pool.seeds.astype(str), **asked}),
        attributes={},
        ids=pool.seeds,
    )


def decode_png(png: bytes) -> np.ndarray:
    """PNG bytes as `(C, H, W)`, uint8 where the file is of 8 bits."""
    array = np.asarray(decoded(png))
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
