"""Readers of datasets on disk: EDM zips and folders, images with metadata or class folders, Parquet.

Nothing is decoded at opening beyond the header of each image: size, mode and frames are checked then, so that a folder
that cannot be used is refused before work starts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fairsims.data.attributes import Attribute, sorted_classes
from fairsims.data.base import ImageDataset
from fairsims.data.files import ANIMATION, DESCRIPTION, SHEETS, Files, FolderFiles, Passed, ZipFiles, sort_out
from fairsims.data.names import Names, alike, class_name, image_name
from fairsims.data.opening import decoded
from fairsims.data.parquet import ParquetFiles, shards_of
from fairsims.data.policy import ImagePolicy, Unusable
from fairsims.data.survey import Survey, found, refused, survey
from fairsims.data.tables import as_text, key_column, read_table
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.data.base import IntArray, Pixels

    Columns = Mapping[str, Sequence[str | None]]

MAX_CLASSES = 100
"""A label column with more distinct values (captions, seeds, scores) stays in the table but is no attribute."""


class DecodedSource:
    """Images decoded when read, brought to one shape by a policy and then reduced by a whole factor.

    Reduction is the mean over `factor` x `factor` boxes, rounded to nearest with halves up (`PIL.Image.reduce`).
    """

    def __init__(self, files: Files, policy: ImagePolicy, *, shape: tuple[int, int, int], factor: int = 1) -> None:
        self.files = files
        self.policy = policy
        self.shape = shape
        self.factor = factor

    def images(self, indices: IntArray) -> Pixels:
        channels, side, _ = self.shape
        out = np.empty((len(indices), channels, side // self.factor, side // self.factor), dtype=np.uint8)
        for row, i in enumerate(indices):
            out[row] = self._decoded(self.files.names[i])
        return out

    def encoded(self, i: int) -> bytes:
        """The file of an image as it is."""
        return self.files.data(self.files.names[i])

    def _decoded(self, name: str) -> Pixels:
        try:
            pixels = self.policy.apply(decoded(self.files.data(name)), self.shape[0])
        except Unusable as flaw:
            raise refused(self.files, name, flaw) from None
        if self.factor == 1:
            return pixels
        planes = [np.asarray(Image.fromarray(plane).reduce(self.factor)) for plane in pixels]
        return np.stack(planes)


def read_path(
    path: Path,
    *,
    resolution: int | None = None,
    policy: ImagePolicy = ImagePolicy(),
    class_folders: str | None = None,
) -> ImageDataset:
    """The dataset at `path`, its kind told by the suffix of a file or by what a folder holds.

    `class_folders` names an attribute whose classes are the names of the folders that the images lie in.
    """
    if path.is_file():
        kinds = {".zip": ZipFiles, ".parquet": None}
        if path.suffix.lower() not in kinds:
            raise InputError(f"found file {path}; expected a .zip, a .parquet or a folder of images; convert it")
        if kinds[path.suffix.lower()] is None:
            return read_parquet(path, resolution=resolution, policy=policy)
        files: Files = ZipFiles(path)
    else:
        files = FolderFiles(path)
        others = [n for names in files.passed.values() for n in names if n.lower().endswith(".parquet")]
        # Images come first: their own metadata may lie beside them as Parquet.
        if not files.names and (others or any(n.endswith(".parquet") for n in files.labels)):
            return read_parquet(path, resolution=resolution, policy=policy)
    described = [n for n in files.labels if n.rpartition("/")[2] == DESCRIPTION]
    sheets = [n for n in files.labels if n.rpartition("/")[2] in SHEETS]
    if described and sheets:
        raise InputError(f"found both {described[0]} and {sheets[0]} in {path}; expected one of them; remove the other")
    if class_folders is not None and files.labels:
        raise InputError(
            f"found {files.labels[0]} in {path}, and class folders were asked for; expected one of them; "
            "leave out --class-folders or move the file"
        )
    known = survey(files, policy)
    notes: list[str] = []
    if described:
        columns, classes = _edm_columns(files, described)
    elif sheets:
        columns, classes = _sheet_columns(files, sheets), {}
    elif class_folders is not None:
        columns, classes = {class_folders: _folder_classes(files)}, {}
    else:
        columns, classes = {}, {}
        notes += _folder_hint(files)
    return _dataset(files, known, columns, classes, resolution=resolution, policy=policy, notes=notes)


def read_edm(path: Path, *, resolution: int | None = None) -> ImageDataset:
    """An EDM zip or folder, as `read_path`.

    EDM reads `labels` of dataset.json (whole numbers or one-hot vectors) and ignores other keys; here they name things
    when present: `attribute` (name of the label, else "label"), `classes` (its class names, else the numbers),
    `columns` ({name: values in the order of `labels`}) and `attributes` ({column: ordered classes}).
    """
    return read_path(path, resolution=resolution)


def read_parquet(path: Path, *, resolution: int | None = None, policy: ImagePolicy = ImagePolicy()) -> ImageDataset:
    """A Parquet file, or a folder of shards in order of name, with the Hugging Face `image` struct of bytes and path.

    Text, whole-number and boolean columns are labels; a ClassLabel in the Hugging Face schema gives its names.
    """
    passed: Passed = {}
    members: list[str] = []
    if path.is_dir():
        folder = FolderFiles(path)
        everything = [*folder.labels, *(n for names in folder.passed.values() for n in names)]
        members = [n for n in everything if n.lower().endswith(".parquet") and not sort_out([n], {})[0]]
        passed = {r: [n for n in names if n not in set(members)] for r, names in folder.passed.items()}
        passed = {r: names for r, names in passed.items() if names}
    files = ParquetFiles(path, shards_of(path, members), passed)
    known = survey(files, policy)
    columns, classes = files.table
    ids = files.ids
    kept = np.array([int(n.removeprefix("row ")) for n in files.names]) if ANIMATION in files.passed else None
    if kept is not None:
        columns = {c: [values[i] for i in kept] for c, values in columns.items()}
        ids = None if ids is None else ids[kept]
    return _dataset(files, known, columns, classes, resolution=resolution, policy=policy, ids=ids)


def _edm_columns(files: Files, described: Sequence[str]) -> tuple[Columns, dict[str, tuple[str, ...]]]:
    """Labels of dataset.json, in the order of the images."""
    where = f"{described[0]} of {files.path}"
    if len(described) > 1:
        raise InputError(f"found {described[0]} and {described[1]} in {files.path}; expected one; remove the other")
    try:
        description = json.loads(files.data(described[0]))
    except (ValueError, RecursionError) as error:
        raise InputError(f"found {where} unreadable ({error}); expected JSON; write it again") from None
    if not isinstance(description, dict):
        raise InputError(f"found a {type(description).__name__} in {where}; expected an object with 'labels'; mend it")
    if description.get("labels") is None:
        return {}, {}
    listed, numbers = _edm_labels(description["labels"], where)
    start = described[0].removesuffix(DESCRIPTION)
    order = _row_order([(start, name) for name in listed], files, where)
    attribute = str(description.get("attribute", "label"))
    given_classes = description.get("classes", list(range(max(numbers, default=0) + 1)))
    if not isinstance(given_classes, list):
        raise InputError(f"found 'classes' of {where} to be no list; expected the names of the classes; mend it")
    names = tuple(map(class_name, given_classes))
    if numbers and not 0 <= min(numbers) <= max(numbers) < len(names):
        raise InputError(
            f"found labels {min(numbers)} to {max(numbers)} in {where}; expected 0 to {len(names) - 1}; mend it"
        )
    columns: dict[str, list[str | None]] = {}
    beside, ordered = description.get("columns", {}), description.get("attributes", {})
    if not isinstance(beside, dict) or not isinstance(ordered, dict):
        raise InputError(f"found 'columns' or 'attributes' of {where} to be no object; expected names; mend it")
    for column, values in {**beside, attribute: [names[n] for n in numbers]}.items():
        if not isinstance(values, list) or len(values) != len(listed):
            raise InputError(
                f"found column {column!r} of {where} not to be {len(listed)} values; expected one per label; mend it"
            )
        columns[column] = [None if values[k] is None else class_name(values[k]) for k in order]
    classes = {c: tuple(map(class_name, v)) for c, v in ordered.items() if c in columns and isinstance(v, list)}
    return columns, {**classes, attribute: names}


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
                f"found label {json.dumps(entry)[:200]} in {where}; expected [file name, whole number or one-hot "
                "vector]; mend it, or give several attributes as metadata.csv"
            )
        names.append(name)
        numbers.append(label)
    return names, numbers


def _sheet_columns(files: Files, sheets: Sequence[str]) -> Columns:
    """Labels of metadata.csv, .jsonl or .parquet, one in a folder, in the order of the images.

    Names are relative to the folder that the table lies in. An empty cell is a missing label.
    """
    rows: list[tuple[str, str]] = []
    columns: dict[str, list[str | None]] = {}
    starts = [name.rpartition("/")[0] for name in sheets]
    for name, start in zip(sheets, starts, strict=True):
        where = f"{files.path / name}"
        if starts.count(start) > 1:
            both = [n for n, s in zip(sheets, starts, strict=True) if s == start]
            raise InputError(f"found {both[0]} and {both[1]} in {files.path}; expected one of them; remove the other")
        sheet = read_table(files.path / name, files.data(name))
        key = key_column(sheet, where, ("file_name",))
        done, n = len(rows), len(sheet)
        rows += [(f"{start}/" if start else "", str(v)) for v in sheet[key]]
        for column in (str(c) for c in sheet if c != key):
            values = [None if (v := as_text(value)) is None else class_name(v) for value in sheet[column]]
            columns[column] = columns.get(column, [None] * done) + values
        columns = {c: values + [None] * (done + n - len(values)) for c, values in columns.items()}
    order = _row_order(rows, files, str(files.path / sheets[0]))
    return {c: [values[k] for k in order] for c, values in columns.items()}


def _folder_classes(files: Files) -> list[str | None]:
    """The folder that each image lies in, by name."""
    loose = next((n for n in files.names if "/" not in n), None)
    if loose is not None:
        raise InputError(f"found {loose} in no folder of {files.path}; expected each image in its class's; move it")
    return [class_name(n.rsplit("/", 2)[-2]) for n in files.names]


def _folder_hint(files: Files) -> list[str]:
    """Whether the folders look like classes."""
    if not all("/" in n for n in files.names):
        return []
    names = sorted({n.rsplit("/", 2)[-2] for n in files.names})
    if not 2 <= len(names) <= min(MAX_CLASSES, len(files.names) // 2) or all(n.isdecimal() for n in names):
        return []
    return [f"the folders {', '.join(names[:4])} look like classes; --class-folders ATTR reads them as labels"]


def _row_order(rows: Sequence[tuple[str, str]], files: Files, where: str) -> list[int]:
    """For each image the place of its row (folder, name); every image has one row and every row its image.

    Rows of files that were passed over by a rule are passed over with them.
    """
    known = Names(files.names)
    if known.twice is not None:
        raise InputError(
            f"found two images named {known.twice} in {files.path}; expected names that differ; rename one"
        )
    gone = Names([n for names in files.passed.values() for n in names])
    place: dict[int, int] = {}
    for k, (start, name) in enumerate(rows):
        i = known.find(start + image_name(name)) if not image_name(name).startswith("/") else None
        i = known.find(name) if i is None else i
        if i is None:
            if gone.find(start + name) is not None or gone.find(name) is not None:
                continue
            raise InputError(
                f"found no image {name} in {files.path}; expected it as {where} lists it{known.hint(name)}"
            )
        if i in place:
            raise InputError(f"found {name} twice in {where}; expected each image once; remove a row")
        place[i] = k
    unlisted = next((files.names[i] for i in range(len(files.names)) if i not in place), None)
    if unlisted is not None:
        raise InputError(f"found no row for {unlisted} in {where}; expected one for each image; add it")
    return [place[i] for i in range(len(files.names))]


def _dataset(
    files: Files,
    known: Survey,
    columns: Columns,
    classes: Mapping[str, tuple[str, ...]],
    *,
    resolution: int | None,
    policy: ImagePolicy,
    ids: np.ndarray | None = None,
    notes: Sequence[str] = (),
) -> ImageDataset:
    """The dataset over checked `files`; a column without given classes is an attribute when its values are few."""
    import pandas as pd

    channels, side, _ = known.shape
    wanted = side if resolution is None else resolution
    if wanted < 1 or side % wanted:
        possible = ", ".join(str(side // k) for k in range(1, side + 1) if side % k == 0 and side // k >= 4)
        raise InputError(
            f"found images of {side}x{side} in {files.path} for resolution {wanted}; expected one of {possible}; "
            "choose one, or resize the files"
        )
    table = pd.DataFrame(
        {c: [np.nan if v is None else v for v in values] for c, values in columns.items()},
        index=range(len(files.names)),
        dtype=object,
    )
    attributes, said = {}, list(notes)
    for column in columns:
        names = classes.get(column) or sorted_classes(table[column].dropna())
        if column in classes or 0 < len(names) <= MAX_CLASSES:
            attributes[column] = Attribute(name=column, classes=names)
            if (same := alike(names)) is not None:
                said.append(f"the classes {' and '.join(map(repr, same))} of {column} differ by case or spaces only")
    return ImageDataset(
        name=files.path.stem,
        digest=known.digest,
        resolution=wanted,
        channels=channels,
        source=DecodedSource(files, policy, shape=known.shape, factor=side // wanted),
        table=table,
        attributes=attributes,
        ids=np.array(files.names) if ids is None else ids,
        found=found(files, known, policy, said),
    )
