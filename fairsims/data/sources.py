"""Anything that holds images of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor


class ImageSource(Protocol):
    """Images of one shape, addressed by position: a pool or a data set, made by fairsims or not."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """SHA-256 that stands for the content."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        ...

    @property
    def ids(self) -> np.ndarray:
        """What identifies each image, `(N,)`: int64 seeds of a pool, names of files, else row numbers."""
        ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | np.ndarray) -> Tensor:
        """Images at these positions, uint8 `(n, C, H, W)`."""
        ...

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        """All images in order, uint8 `(<=size, C, H, W)` at a time, decoded while the caller works on earlier ones."""
        ...
