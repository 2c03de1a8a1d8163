"""Labelled image datasets: the embedded ones by name, others by path.

`open_dataset` is the one way in; what it returns reads uint8 images by index and has a table with a row for each.
"""

from __future__ import annotations

import os
from pathlib import Path

from fairsims.data.attributes import Attribute
from fairsims.data.base import ImageDataset, to_float, to_uint8
from fairsims.data.embedded import EMBEDDED
from fairsims.data.policy import ImagePolicy
from fairsims.data.readers import read_path
from fairsims.errors import InputError, closest

__all__ = ["Attribute", "ImageDataset", "ImagePolicy", "open_dataset", "to_float", "to_uint8"]


def open_dataset(
    spec: str,
    *,
    resolution: int | None = None,
    policy: ImagePolicy = ImagePolicy(),
    class_folders: str | None = None,
) -> ImageDataset:
    """The embedded dataset of that name, or the one at that path.

    Names: those of `EMBEDDED`, such as "emoji-people" (a folder so named is "./emoji-people").
    Paths: a folder or zip of images with dataset.json, metadata.csv, .jsonl or .parquet, or without labels; a Parquet
    file or a folder of shards. `resolution` asks for a smaller size, by a whole factor; `policy` says how images of
    other sizes and modes become alike; `class_folders` names the attribute whose classes the images' folders are.
    Raises InputError for an unknown name, a missing or unusable path and a resolution that cannot be made.

    >>> people = open_dataset("emoji-people", resolution=32)
    >>> people
    ImageDataset('emoji-people', 1994 images of 3x32x32, attributes ['gender', 'skin_tone', 'vendor'])
    >>> people.read([0, 1]).shape, people.read([0, 1]).dtype
    (torch.Size([2, 3, 32, 32]), torch.uint8)
    """
    if spec in EMBEDDED:
        return EMBEDDED[spec](resolution=policy.resize if resolution is None else resolution)
    if not spec or not os.path.exists(spec):
        raise InputError(f"found no dataset or path {spec!r}{closest(spec, EMBEDDED)}")
    return read_path(Path(spec), resolution=resolution, policy=policy, class_folders=class_folders)
