"""Images beside each other in one PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from fairsims.data.marks import marked
from fairsims.errors import InputError
from fairsims.files import atomic

if TYPE_CHECKING:
    from torch import Tensor

GAP = 1
"""Width of the white separators in image pixels, before scaling."""


def image_grid(images: np.ndarray | Tensor, columns: int, path: Path, scale: int = 2, mark: bytes = b"") -> None:
    """Write uint8 `images` `(N, C, H, W)`, C 1 or 3, row by row into a PNG; the same images give the same bytes.

    Pixels are repeated `scale` times, never interpolated, so that what is seen is what was generated. Raises
    InputError when the images are of another shape or type. `mark` is a chunk of `fairsims.data.marks`.
    """
    x = np.asarray(images)
    if x.ndim != 4 or x.dtype != np.uint8 or x.shape[1] not in (1, 3) or len(x) == 0:
        raise InputError(f"a grid got {x.dtype} images of shape {x.shape}; expected uint8 (N, 1 or 3, H, W) with N > 0")
    if columns < 1 or scale < 1:
        raise InputError(f"a grid got columns={columns}, scale={scale}; expected 1 or more of each")
    n, c, h, w = x.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    padded = np.full((rows * columns, c, h + GAP, w + GAP), 255, dtype=np.uint8)
    padded[:n, :, :h, :w] = x
    grid = padded.reshape(rows, columns, c, h + GAP, w + GAP).transpose(0, 3, 1, 4, 2)
    grid = grid.reshape(rows * (h + GAP), columns * (w + GAP), c)[:-GAP, :-GAP]
    grid = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    picture = Image.fromarray(grid[..., 0] if c == 1 else grid)
    with atomic(path) as temporary:
        picture.save(temporary, format="PNG")
        if mark:
            temporary.write_bytes(marked(temporary.read_bytes(), mark))
