"""A labelled image dataset: uint8 images read by index and a table with a row for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from fairsims.data.ahead import read_ahead, readers
from fairsims.data.attributes import Attribute
from fairsims.data.names import alike
from fairsims.errors import InputError, closest

if TYPE_CHECKING:
    import pandas as pd

    from fairsims.data.survey import Found

    Indices = Sequence[int] | np.ndarray[tuple[int, ...], np.dtype[np.integer]]
    Pixels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    IntArray = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


class PixelSource(Protocol):
    """Where the pixels come from."""

    def images(self, indices: IntArray) -> Pixels:
        """The images at `indices`, uint8 `(n, C, H, W)`."""
        ...


class ArraySource:
    """Images held in memory, uint8 `(N, C, H, W)`."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels

    def images(self, indices: IntArray) -> Pixels:
        return self.pixels[indices]


class HeldSource:
    """Another source's first `length` images, read once, at the first use, and held in memory."""

    def __init__(self, source: PixelSource, length: int) -> None:
        self.source = source
        self.length = length
        self.pixels: Pixels | None = None

    def images(self, indices: IntArray) -> Pixels:
        if self.pixels is None:
            self.pixels = self.source.images(np.arange(self.length))
        return self.pixels[indices]


class SubsetSource:
    """Some images of another source, in the given order."""

    def __init__(self, source: PixelSource, chosen: IntArray) -> None:
        self.source = source
        self.chosen = chosen

    def images(self, indices: IntArray) -> Pixels:
        return self.source.images(self.chosen[indices])

    def encoded(self, i: int) -> bytes | None:
        """The file of an image as it is; None where images have none."""
        found = getattr(self.source, "encoded", None)
        return None if found is None else found(int(self.chosen[i]))


class ImageDataset:
    """Square images of one size, each with a row of text labels.

    `name` is for people, `digest` (SHA-256 hex) stands for the content; `table` has one row per image and text
    columns, NaN where a label is missing; `attributes` says which of the columns are attributes and orders their
    classes; `ids` names the images `(N,)`, by row when left out; `found` says what was read of a path and what was not.
    Raises InputError when a column holds a value outside its attribute's classes.
    """

    def __init__(
        self,
        *,
        name: str,
        digest: str,
        resolution: int,
        channels: int,
        source: PixelSource,
        table: pd.DataFrame,
        attributes: Mapping[str, Attribute],
        ids: np.ndarray | None = None,
        found: Found | None = None,
    ) -> None:
        self.name = name
        self.digest = digest
        self.resolution = resolution
        self.channels = channels
        self.table = table
        self.ids = np.arange(len(table)) if ids is None else ids
        self.attributes = dict(attributes)
        self.source = source
        self.found = found
        for attribute in self.attributes.values():
            unknown = set(table[attribute.name].dropna()) - set(attribute.classes)
            if unknown:
                raise InputError(
                    f"found {attribute.name} {min(unknown)!r} in {name}; expected one of {list(attribute.classes)}; "
                    "mend the label or add the class"
                )

    def __len__(self) -> int:
        return len(self.table)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        return self.channels, self.resolution, self.resolution

    def __repr__(self) -> str:
        shape = f"{self.channels}x{self.resolution}x{self.resolution}"
        return f"ImageDataset({self.name!r}, {len(self)} images of {shape}, attributes {list(self.attributes)})"

    def read(self, indices: Indices) -> torch.Tensor:
        """Images at `indices`, uint8 `(n, C, H, W)`. Raises InputError naming the file that cannot be decoded."""
        return torch.from_numpy(np.ascontiguousarray(self.source.images(self._checked(indices))))

    def batches(self, size: int = 256) -> Iterator[torch.Tensor]:
        """All images in order, uint8 `(<=size, C, H, W)` at a time, decoded while the caller works on earlier ones."""
        if not len(self):
            return iter(())
        self.read([0])  # what reads everything at its first use does so once, not in every thread
        return read_ahead(self.read, len(self), size, readers=readers(self.encoded(0)))

    def encoded(self, i: int) -> bytes | None:
        """The file of an image as it is; None where images have none."""
        found = getattr(self.source, "encoded", None)
        return None if found is None else found(i)

    def subset(self, indices: Indices, name: str | None = None) -> ImageDataset:
        """The images at `indices` in that order; its digest follows from this digest and the indices."""
        chosen = self._checked(indices)
        return ImageDataset(
            name=name or f"{self.name} ({len(chosen)} of {len(self)})",
            digest=hashlib.sha256(self.digest.encode() + chosen.astype("<i8").tobytes()).hexdigest(),
            resolution=self.resolution,
            channels=self.channels,
            source=SubsetSource(self.source, chosen),
            table=self.table.iloc[chosen].reset_index(drop=True),
            attributes=self.attributes,
            ids=self.ids[chosen],
        )

    def class_indices(self, attribute: str) -> IntArray:
        """Each image's place in the attribute's classes, int64 `(N,)`; -1 where there is no label.

        Raises InputError for an attribute the dataset does not have.
        """
        if attribute not in self.attributes:
            hint = closest(attribute, self.attributes) or "; label the images first"
            raise InputError(f"found no attribute {attribute!r} in {self.name}{hint}")
        if (same := alike(self.attributes[attribute].classes)) is not None:
            raise InputError(
                f"found classes {' and '.join(map(repr, same))} of {attribute} in {self.name}, which differ by case or "
                "spaces only; expected one spelling; mend the labels"
            )
        place = {c: i for i, c in enumerate(self.attributes[attribute].classes)}
        return np.array([place.get(value, -1) for value in self.table[attribute]], dtype=np.int64)

    def _checked(self, indices: Indices) -> IntArray:
        array = np.asarray(indices, dtype=np.int64)
        if array.ndim != 1 or (array.size and (array.min() < 0 or array.max() >= len(self))):
            raise IndexError(f"indices must be one-dimensional and in 0..{len(self) - 1}")
        return array


def to_float(images: torch.Tensor) -> torch.Tensor:
    """uint8 to float32 in [-1, 1], `x / 127.5 - 1`, as EDM trains."""
    return images.to(torch.float32) / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """[-1, 1] to uint8, `x * 127.5 + 128` clipped and truncated, as EDM saves; inverts `to_float` exactly."""
    return (images.to(torch.float32) * 127.5 + 128).clip(0, 255).to(torch.uint8)
