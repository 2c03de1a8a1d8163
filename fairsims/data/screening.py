"""Pictures that are no independent samples: of one colour, copies of others, nearly so, far smaller or larger."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from fairsims.data.base import ImageDataset
from fairsims.data.sources import ImageSource
from fairsims.data.survey import SHOWN, Found, Passed
from fairsims.files import give_back

Pixels = npt.NDArray[np.uint8]
Looks = npt.NDArray[np.void]
Tally = Callable[[int, int], None]

NEAR_BITS, NEAR_LEVELS = 6, 3.0
"""Two pictures are nearly one when their 64-bit difference hashes (ImageHash's dhash) differ by no more bits, and their
8 x 8 thumbnails by no more levels of 255, root mean square."""
MOST_AT_ONCE = 2**22
"""Pixels of the images that are hashed together."""
BANDS, WINDOW = 4, 32
"""Hashes are compared where one of their quarters is the same, with so many next to them in order."""
ODD_SIZE = 4
"""Times that the shorter side is below, or the longer one above, that of the median picture."""
RULE = (
    f"nearly: dhash within {NEAR_BITS} of 64 bits and 8x8 thumbnails within {NEAR_LEVELS:g} of 255 levels; tiny and "
    f"huge: sides {ODD_SIZE} times below or above the median"
)


@dataclass(frozen=True, kw_only=True)
class Screening:
    """How many pictures of a source are no further samples of what was to be measured. Nothing is left out for it."""

    n: int
    constant: Passed
    """Of one colour: what a safety filter or a broken decoder gives."""
    copies: Passed
    """Equal to an earlier one, pixel by pixel."""
    near: Passed
    """Nearly equal to an earlier one, by `rule`."""
    tiny: Passed
    huge: Passed
    worth: float
    """Independent pictures that these are worth: n^2 / sum n_g^2 over groups of (nearly) equal ones (Kish)."""
    rule: str = RULE

    @property
    def different(self) -> int:
        """Pictures without their copies."""
        return self.n - self.copies.n - self.near.n


def looked_at(batch: torch.Tensor) -> Looks:
    """What screening needs to know of images, uint8 `(B, C, H, W)`: a row each."""
    pixels: Pixels = batch.numpy()
    rows: Looks = np.empty(len(pixels), dtype=_kind(pixels.shape[1]))
    flat = pixels.reshape(*pixels.shape[:2], -1)
    rows["constant"] = (flat == flat[:, :, :1]).all(axis=(1, 2))
    small = torch.nn.functional.adaptive_avg_pool2d(batch.float(), 8).round().byte()
    rows["thumbnail"] = small.reshape(len(batch), -1)
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in pixels)
    rows["digest"] = np.frombuffer(digests, dtype="V16")
    step = max(1, MOST_AT_ONCE // (pixels.shape[2] * pixels.shape[3]))
    for start in range(0, len(pixels), step):
        rows["hash"][start : start + step] = difference_hashes(pixels[start : start + step])
    return rows


def difference_hashes(pixels: Pixels) -> npt.NDArray[np.uint64]:
    """ImageHash's dhash of each image, uint8 `(B, C, H, W)`: 64 bits.

    Of squares it comes to the same bits by scaling all at once: Pillow scales them in width, then in height, so first
    they are stacked, then put side by side.
    """
    n, channels, height, width = pixels.shape
    if height == width:
        planes = [Image.fromarray(pixels[:, c].reshape(n * height, width)) for c in range(channels)]
        grey = planes[0] if channels == 1 else Image.merge("RGB", planes).convert("L")
        narrow = np.asarray(grey.resize((9, n * height), Image.Resampling.LANCZOS)).reshape(n, height, 9)
        beside = Image.fromarray(np.ascontiguousarray(narrow.transpose(1, 0, 2)).reshape(height, n * 9))
        small = np.asarray(beside.resize((n * 9, 8), Image.Resampling.LANCZOS)).reshape(8, n, 9).transpose(1, 0, 2)
        found = (small[:, :, 1:] > small[:, :, :-1]).reshape(n, 64)
    else:
        import imagehash

        pictures = [p[0] if channels == 1 else np.ascontiguousarray(p.transpose(1, 2, 0)) for p in pixels]
        found = np.stack([imagehash.dhash(Image.fromarray(picture)).hash.ravel() for picture in pictures])
    return np.packbits(found, axis=1).view(">u8").ravel().astype(np.uint64)


def _kind(channels: int) -> np.dtype[np.void]:
    thumbnail = ("thumbnail", np.uint8, (channels * 64,))
    return np.dtype([("digest", "V16"), ("hash", np.uint64), ("constant", np.bool_), thumbnail])


class Screener:
    """Takes what was seen of every image of a source, in order.

    Rows lie in a temporary file, in memory some 100 bytes an image: few thumbnails are looked at again.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source, self.done = source, 0
        n, kind = len(source), _kind(source.shape[0])
        self._rows: Looks = np.empty(n, dtype=kind)
        if n:
            with tempfile.TemporaryFile() as file:
                self._rows = np.memmap(file, dtype=kind, mode="w+", shape=(n,))

    def add(self, batch: torch.Tensor) -> None:
        """The next images, uint8 `(B, C, H, W)`."""
        self.take(looked_at(batch))

    def take(self, rows: Looks) -> None:
        """What was seen of the next images."""
        self._rows[self.done : self.done + len(rows)] = rows
        self.done += len(rows)
        give_back(self._rows)

    def result(self) -> Screening:
        """What was found, once every image was added."""
        n, rows = self.done, self._rows[: self.done]
        constant, digests = rows["constant"].copy(), rows["digest"].copy()
        give_back(rows)
        _, first, group = np.unique(digests, return_index=True, return_inverse=True)
        copy = np.ones(n, dtype=bool)
        copy[first] = False
        alone = np.sort(first[~constant[first]])
        pairs = alone[near_pairs(rows["hash"][alone], rows["thumbnail"], alone)]
        near = np.zeros(n, dtype=bool)
        near[pairs[:, 1]] = True
        tiny, huge = _odd_sizes(self.source.found if isinstance(self.source, ImageDataset) else None)
        named = _Named(self.source.ids)
        return Screening(
            n=n,
            constant=named(constant),
            copies=named(copy),
            near=named(near),
            tiny=tiny,
            huge=huge,
            worth=float(n**2 / (_groups(group.ravel(), first, pairs) ** 2).sum()) if n else 0.0,
        )


def screen(source: ImageSource, progress: Tally = lambda *_: None) -> Screening:
    """What a `Screener` finds. Raises InputError naming an image that cannot be decoded."""
    screener = Screener(source)
    for batch in source.batches():
        screener.add(batch)
        progress(screener.done, len(source))
    return screener.result()


def near_pairs(
    hashes: npt.NDArray[np.uint64], thumbnails: Pixels, rows: npt.NDArray[np.int64] | None = None
) -> npt.NDArray[np.int64]:
    """Pairs of places `(P, 2)` of pictures that are nearly one; `rows` of the thumbnails are theirs, by default all."""
    rows = np.arange(len(hashes)) if rows is None else rows
    thumbnails = np.asarray(thumbnails)  # of a file: its rows are taken faster so
    found = [np.empty((0, 2), dtype=np.int64)]
    width = 64 // BANDS
    for band in range(BANDS):
        key = (hashes >> np.uint64(band * width)) & np.uint64(2**width - 1)
        order = np.lexsort((hashes, key))
        for step in range(1, min(WINDOW, len(order) - 1) + 1):
            one, other = order[:-step], order[step:]
            same = key[one] == key[other]
            if not same.any():
                break
            one, other = one[same], other[same]
            close = np.bitwise_count(hashes[one] ^ hashes[other]) <= NEAR_BITS
            one, other = one[close], other[close]
            close = _alike(thumbnails, rows[one], rows[other])
            found.append(np.sort(np.stack([one[close], other[close]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _alike(thumbnails: Pixels, one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether the thumbnails of pairs are within `NEAR_LEVELS`, root mean square."""
    found = np.empty(len(one), dtype=np.bool_)
    most = NEAR_LEVELS**2 * thumbnails.shape[1]
    for start in range(0, len(one), 4096):
        part = slice(start, start + 4096)
        difference = np.subtract(thumbnails[one[part]], thumbnails[other[part]], dtype=np.int16).astype(np.float32)
        give_back(thumbnails)
        found[part] = np.einsum("ij,ij->i", difference, difference) <= most  # whole numbers: exact in float32
    return found


def _groups(group: npt.NDArray[np.int64], first: npt.NDArray[np.int64], pairs: npt.NDArray[np.int64]) -> Any:
    """Images in each group of equal or nearly equal ones."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    one, other = group[pairs[:, 0]], group[pairs[:, 1]]
    links = coo_array((np.ones(len(pairs)), (one, other)), shape=(len(first), len(first)))
    _, joined = connected_components(links, directed=False)
    return np.bincount(joined[group])


class _Named:
    """Counts with the first names."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __call__(self, chosen: npt.NDArray[np.bool_]) -> Passed:
        places = np.flatnonzero(chosen)
        return Passed(n=len(places), names=tuple(str(self.ids[i]) for i in places[:SHOWN]))


def _odd_sizes(found: Found | None) -> tuple[Passed, Passed]:
    """Pictures far from the median's size, by their sizes before the policy."""
    listed = [] if found is None else [(size.split("x"), n) for size, n in found.sizes.items()]
    if not listed:
        return _of([]), _of([])
    sizes = [(int(w), int(h), n) for (w, h), n in listed]
    least, most = _median([(min(w, h), n) for w, h, n in sizes]), _median([(max(w, h), n) for w, h, n in sizes])
    tiny = [(f"{w}x{h}", n) for w, h, n in sizes if min(w, h) * ODD_SIZE < least]
    huge = [(f"{w}x{h}", n) for w, h, n in sizes if max(w, h) > most * ODD_SIZE]
    return _of(tiny), _of(huge)


def _of(sizes: Sequence[tuple[str, int]]) -> Passed:
    return Passed(n=sum(n for _, n in sizes), names=tuple(size for size, _ in sizes[:SHOWN]))


def _median(values: Sequence[tuple[int, int]]) -> float:
    return float(np.median(np.repeat([v for v, _ in values], [n for _, n in values])))
