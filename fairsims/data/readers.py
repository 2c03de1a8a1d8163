"""Readers of datasets on disk: EDM zips and folders, image folders with metadata.csv, Parquet with an image column.

Nothing is decoded at opening beyond the header of each image: size, channels and bit depth are checked then, so that
a folder that cannot be used is refused before work starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from fairsims.data.attributes import Attribute, sorted_classes
from fairsims.data.base import ImageDataset
from fairsims.data.files import DESCRIPTION, METADATA, Files, FolderFiles, ParquetFiles, ZipFiles, open_image
from fairsims.data.tables import image_name, read_table
from fairsims.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

    from fairsims.data.base import IntArray, Pixels

    Columns = Mapping[str, Sequence[str | None]]

CHANNELS = {"L": 1, "RGB": 3}
MAX_CLASSES = 100
"""A label column with more distinct values (captions, seeds, scores) stays in the table but is no attribute."""


class DecodedSource:
    """Images decoded when read and reduced by a whole factor.

    Reduction is the mean over `factor` x `factor` boxes, rounded to nearest with halves up (`PIL.Image.reduce`).
    """

    def __init__(self, files: Files, *, side: int, channels: int, factor: int) -> None:
        self.files = files
        self.side = side
        self.channels = channels
        self.factor = factor

    def images(self, indices: IntArray) -> Pixels:
        side = self.side // self.factor
        out = np.empty((len(indices), self.channels, side, side), dtype=np.uint8)
        for row, i in enumerate(indices):
            name = self.files.names[i]
            with _opened(self.files, name, self.files.data(name)) as image:
                try:
                    pixels = np.asarray(image.reduce(self.factor))
                except (OSError, SyntaxError) as error:
                    raise _unreadable(self.files, name, error) from None
            out[row] = pixels if self.channels == 1 else pixels.transpose(2, 0, 1)
        return out


def read_path(path: Path, *, resolution: int | None = None) -> ImageDataset:
    """The dataset at `path`, its kind told by the suffix of a file or by what a folder holds."""
    if path.is_file():
        readers = {".zip": read_edm, ".parquet": read_parquet}
        if path.suffix.lower() not in readers:
            raise InputError(f"found file {path}; expected a .zip, a .parquet or a folder of images; convert it")
        return readers[path.suffix.lower()](path, resolution=resolution)
    edm, sheet = (path / DESCRIPTION).is_file(), (path / METADATA).is_file()
    if edm and sheet:
        raise InputError(f"found both {DESCRIPTION} and {METADATA} in {path}; expected one of them; remove the other")
    if edm:
        return read_edm(path, resolution=resolution)
    # Images come first: their own metadata may lie beside them as Parquet.
    if not sheet and not FolderFiles(path).names and any(path.rglob("*.parquet")):
        return read_parquet(path, resolution=resolution)
    return read_image_folder(path, resolution=resolution)


def read_edm(path: Path, *, resolution: int | None = None) -> ImageDataset:
    """An EDM zip or folder: images, and dataset.json with `labels` (whole numbers or one-hot vectors) or none.

    EDM ignores other keys of dataset.json; here they name things when present: `attribute` (name of the label, else
    "label"), `classes` (its class names, else the numbers), `columns` ({name: values in the order of `labels`}) and
    `attributes` ({column: ordered classes}).
    """
    files = FolderFiles(path) if path.is_dir() else ZipFiles(path)
    text = files.data(DESCRIPTION) if files.has(DESCRIPTION) else b"{}"
    where = f"{DESCRIPTION} of {path}"
    try:
        description = json.loads(text)
    except ValueError as error:
        raise InputError(f"found {where} unreadable ({error}); expected JSON; write it again") from None
    if not isinstance(description, dict):
        raise InputError(f"found a {type(description).__name__} in {where}; expected an object with 'labels'; mend it")
    columns: dict[str, list[str | None]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    if description.get("labels") is not None:
        listed, numbers = _edm_labels(description["labels"], where)
        order = _row_order(listed, files, where)
        attribute = description.get("attribute", "label")
        names = tuple(map(str, description.get("classes", range(max(numbers, default=0) + 1))))
        if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
            raise InputError(
                f"found labels {min(numbers)} to {max(numbers)} in {where}; expected 0 to {len(names) - 1}; mend it"
            )
        given = {**description.get("columns", {}), attribute: [names[n] for n in numbers]}
        for column, values in given.items():
            if not isinstance(values, list) or len(values) != len(order):
                raise InputError(
                    f"found column {column!r} of {where} not to be {len(order)} values; expected one per label; mend it"
                )
            columns[column] = [None if values[k] is None else str(values[k]) for k in order]
        ordered = description.get("attributes", {})
        classes = {**{c: tuple(v) for c, v in ordered.items() if c in columns}, attribute: names}
    return _dataset(files, columns, classes, resolution)


def read_image_folder(path: Path, *, resolution: int | None = None) -> ImageDataset:
    """A folder of images, nested or not, and metadata.csv: `file_name` and a column per label; no file, no labels.

    An empty cell is a missing label. Classes are sorted.
    """
    files = FolderFiles(path)
    if not files.has(METADATA):
        return _dataset(files, {}, {}, resolution)
    where = f"{path / METADATA}"
    sheet = read_table(path / METADATA)
    if "file_name" not in sheet:
        raise InputError(f"found columns {list(sheet)} in {where}; expected 'file_name' among them; add it")
    order = _row_order([image_name(n) for n in sheet["file_name"]], files, where)
    labels = sheet.drop(columns="file_name").iloc[order]
    columns = {str(c): [v if isinstance(v, str) else None for v in labels[c]] for c in labels}
    return _dataset(files, columns, {}, resolution)


def read_parquet(path: Path, *, resolution: int | None = None) -> ImageDataset:
    """A Parquet file, or a folder of shards in order of name, with the Hugging Face `image` struct of bytes and path.

    Text, whole-number and boolean columns are labels; a ClassLabel in the Hugging Face schema gives its names.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    # A pool keeps label tables in a folder below its shards, so what lies on top goes first.
    shards = (sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet"))) if path.is_dir() else [path]
    tables: list[pa.Table] = []
    for shard in shards:
        try:
            tables.append(pq.read_table(shard, partitioning=None))
        except (pa.ArrowException, OSError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"found {shard} unreadable ({reason}); expected Parquet; write it again") from None
        schema = tables[-1].schema
        kind = schema.field("image").type if "image" in schema.names else None
        if kind is None or not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
            raise InputError(
                f"found columns {schema.names} in {shard}; expected 'image', a struct of bytes and path; "
                "write it with the image feature of Hugging Face datasets"
            )
        if not schema.equals(tables[0].schema):
            raise InputError(f"found other columns or types in {shard} than in {shards[0]}; expected the same; mend it")
    table = pa.concat_tables(tables)
    columns, classes = _parquet_labels(table)
    payload = pc.struct_field(table["image"], "bytes")
    return _dataset(ParquetFiles(path, shards, payload), columns, classes, resolution, ids=_parquet_ids(table))


def _parquet_ids(table: pa.Table) -> np.ndarray | None:
    """What identifies the rows: whole numbers in `seed`, else the images' paths; None when neither tells all apart."""
    import pyarrow.types as pt

    found = [table["seed"]] if "seed" in table.schema.names and pt.is_integer(table.schema.field("seed").type) else []
    if table.schema.field("image").type.get_field_index("path") >= 0:
        found.append(table["image"].combine_chunks().field("path"))
    for values in found:
        if values.null_count == 0 and len(set(ids := values.to_pylist())) == len(table):
            return np.array(ids)
    return None


def _parquet_labels(table: pa.Table) -> tuple[dict[str, list[str | None]], dict[str, tuple[str, ...]]]:
    """Label columns as text, and the class names of ClassLabel columns."""
    import pyarrow.types as pt

    metadata = table.schema.metadata or {}
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    columns: dict[str, list[str | None]] = {}
    classes: dict[str, tuple[str, ...]] = {}
    for field in table.schema:
        kind = field.type.value_type if pt.is_dictionary(field.type) else field.type
        if not (pt.is_string(kind) or pt.is_large_string(kind) or pt.is_integer(kind) or pt.is_boolean(kind)):
            continue
        values = table[field.name].to_pylist()
        names = features.get(field.name, {}).get("names") if isinstance(features.get(field.name), dict) else None
        if names:
            # datasets writes -1 for an unlabelled row.
            values = [names[v] if v is not None and 0 <= v < len(names) else None for v in values]
            classes[field.name] = tuple(names)
        columns[field.name] = [None if v is None else str(v) for v in values]
    return columns, classes


def _edm_labels(labels: object, where: str) -> tuple[list[str], list[int]]:
    """The names and the class numbers of `[[name, label], ...]`."""
    names: list[str] = []
    numbers: list[int] = []
    for entry in labels if isinstance(labels, list) else [labels]:
        name, label = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
        if isinstance(label, list) and label.count(1) == 1 and label.count(0) == len(label) - 1:
            label = label.index(1)
        if not isinstance(name, str) or not isinstance(label, int):
            raise InputError(
                f"found label {json.dumps(entry)} in {where}; expected [file name, whole number or one-hot vector]; "
                "mend it, or give several attributes as metadata.csv"
            )
        names.append(name)
        numbers.append(label)
    return names, numbers


def _row_order(names: Sequence[str], files: Files, where: str) -> list[int]:
    """For each image the place of its name in `names`; every image has one row and every row its image."""
    place = {name: i for i, name in enumerate(names)}
    if len(place) != len(names):
        twice = next(name for i, name in enumerate(names) if place[name] != i)
        raise InputError(f"found {twice} twice in {where}; expected each image once; remove a row")
    there = set(files.names)
    missing = next((name for name in names if name not in there), None)
    if missing is not None:
        raise InputError(f"found no image {missing} in {files.path}; expected it as {where} lists it; add or unlist it")
    unlisted = next((name for name in files.names if name not in place), None)
    if unlisted is not None:
        raise InputError(f"found no row for {unlisted} in {where}; expected one for each image; add it")
    return [place[name] for name in files.names]


def _dataset(
    files: Files,
    columns: Columns,
    classes: Mapping[str, tuple[str, ...]],
    resolution: int | None,
    *,
    ids: np.ndarray | None = None,
) -> ImageDataset:
    """The dataset over checked `files`; a column without given classes is an attribute when its values are few."""
    import pandas as pd

    side, channels = _shape(files)
    wanted = side if resolution is None else resolution
    if wanted < 1 or side % wanted:
        possible = ", ".join(str(side // k) for k in range(1, side + 1) if side % k == 0 and side // k >= 4)
        raise InputError(
            f"found images of {side}x{side} in {files.path} for resolution {wanted}; expected one of {possible}; "
            "choose one, or resize the files"
        )
    source = DecodedSource(files, side=side, channels=channels, factor=side // wanted)
    table = pd.DataFrame(
        {c: [np.nan if v is None else v for v in values] for c, values in columns.items()},
        index=range(len(files.names)),
        dtype=object,
    )
    attributes = {}
    for column in columns:
        known = classes.get(column) or sorted_classes(table[column].dropna())
        if column in classes or 0 < len(known) <= MAX_CLASSES:
            attributes[column] = Attribute(name=column, classes=known)
    return ImageDataset(
        name=files.path.stem,
        digest=files.digest(),
        resolution=wanted,
        channels=channels,
        source=source,
        table=table,
        attributes=attributes,
        ids=np.array(files.names) if ids is None else ids,
    )


def _shape(files: Files) -> tuple[int, int]:
    """Side and channels that all images share, from their headers."""
    if not files.names:
        raise InputError(f"found no images in {files.path}; expected PNG or JPEG files; check the path")
    shape: tuple[int, int] | None = None
    for name in files.names:
        data = files.data(name)
        with _opened(files, name, data) as image:
            (width, height), mode = image.size, image.mode
        found = f"{name} in {files.path}"
        depth = _bit_depth(data)
        if mode not in CHANNELS or depth != 8:
            raise InputError(f"found {found} to be {depth}-bit {mode}; expected 8-bit grey (L) or RGB; convert it")
        if width != height:
            raise InputError(f"found {found} to be {width}x{height}; expected square images; crop it")
        if shape is None:
            shape = (width, CHANNELS[mode])
        if (width, CHANNELS[mode]) != shape:
            raise InputError(
                f"found {found} to be {width}x{height} with {CHANNELS[mode]} channels; "
                f"expected {shape[0]}x{shape[0]} with {shape[1]} like {files.names[0]}; make all images alike"
            )
    assert shape is not None
    return shape


def _bit_depth(data: bytes) -> int:
    """Bits per sample; Pillow reads 16-bit RGB as if it were 8-bit, so PNG's own header is asked (IHDR, byte 24)."""
    return data[24] if data.startswith(b"\x89PNG") else 8


def _opened(files: Files, name: str, data: bytes) -> Image.Image:
    try:
        return open_image(data)
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise _unreadable(files, name, error) from None


def _unreadable(files: Files, name: str, error: Exception) -> InputError:
    reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
    return InputError(f"found {name} in {files.path} unreadable ({reason}); expected a whole image; replace it")
