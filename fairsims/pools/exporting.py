"""Pools as other tools take them: an EDM data set zip, a folder of PNG files."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairsims.data.marks import mark_chunk, marked
from fairsims.errors import InputError
from fairsims.files import atomic
from fairsims.pools.credentials import Credentials
from fairsims.pools.reading import Pool
from fairsims.run import refuse_foreign


def export_edm_zip(
    pool: Pool,
    path: Path,
    *,
    labels: tuple[str, Sequence[str]] | None = None,
    mark: bool = True,
    credentials: Credentials | None = None,
) -> None:
    """The pool as an EDM dataset zip; `labels` = (label table, classes in order) writes class indices.

    `mark` and `credentials` as in `export_folder`.
    """
    names = [f"{i // 1000:05d}/img{i:08d}.png" for i in range(len(pool))]
    meta: dict[str, Any] = {"labels": None}
    if labels is not None:
        table = pool.labels(labels[0])
        winners = table.drop(columns="seed").to_numpy().argmax(axis=1)
        meta = {"labels": [[n, int(k)] for n, k in zip(names, winners, strict=True)], "classes": list(labels[1])}
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as z:
        for name, png in zip(names, _exported(pool, names, mark, credentials), strict=True):
            z.writestr(zipfile.ZipInfo(name), png)
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
    """Whether a file is what `export_edm_zip` writes."""
    try:
        with zipfile.ZipFile(path) as z:
            # A real data set has the same description, but its members have the times at which EDM's tool wrote them.
            timeless = all(member.date_time == zipfile.ZipInfo().date_time for member in z.infolist())
            meta = json.loads(z.read("dataset.json"))
            return timeless and (meta == {"labels": None} or set(meta) == {"labels", "classes"})
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error):
        return False


def export_folder(pool: Pool, folder: Path, *, mark: bool = True, credentials: Credentials | None = None) -> None:
    """The pool as PNG files and `metadata.csv` (file name, seed, every label column).

    Files are those of the pool, copied, so that their marks stay; with `mark` those of older pools, which have none,
    get theirs. `credentials` sign them.
    """
    table = pd.DataFrame({"file_name": [f"{s:06d}.png" for s in pool.seeds], "seed": pool.seeds})
    for name in pool.label_names:
        for column, values in pool.labels(name).drop(columns="seed").items():
            table[str(column)] = values.to_numpy()
    names = table["file_name"].tolist()
    for name, png in zip(names, _exported(pool, names, mark, credentials), strict=True):
        with atomic(folder / name) as temporary:
            temporary.write_bytes(png)
    with atomic(folder / "metadata.csv") as temporary:
        table.to_csv(temporary, index=False)


def _exported(pool: Pool, names: Sequence[str], mark: bool, credentials: Credentials | None) -> Iterator[bytes]:
    """The pool's PNGs in order, as they are exported."""
    digest = str(pool.meta.get("made_by", {}).get("digest", ""))
    chunk = mark_chunk(digest)
    for i, name in enumerate(names):
        png = marked(pool.encoded(i), chunk) if mark else pool.encoded(i)
        yield png if credentials is None else credentials.sign(png, name, digest)
