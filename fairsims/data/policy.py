"""How an image of any size and mode becomes a square of 8-bit grey or RGB: one policy for all that looks at it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from fairsims.files import sha256_json
from fairsims.options import check_choices, choice

GREY_MODES = {"1", "L", "I;16", "I;16B", "I;16L", "I;16N"}
COLOUR_MODES = {"RGB", "P", "RGBX", "CMYK", "YCbCr"}
ALPHA = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}
BLACK = "#000000"


class Unusable(Exception):
    """An image that the policy cannot take: what was found, what was expected, what to do."""

    def __init__(self, found: str, expected: str, advice: str) -> None:
        super().__init__(f"{found}; expected {expected}; {advice}")
        self.found, self.expected, self.advice = found, expected, advice


@dataclass(frozen=True, kw_only=True)
class ImagePolicy:
    """What is done to images before anything looks at them. Raises ValueError for an impossible size or colour.

    What loses nothing is always done: a palette is looked up, opaque alpha dropped, EXIF's orientation applied. Of 16
    bits the upper 8 are kept, v // 256; CMYK becomes RGB without a colour profile. Anything else takes a field.
    """

    resize: int | None = None
    """Side in pixels that all images are brought to; by default they have to be squares of one size."""
    fit: str = choice("crop", "pad")
    """How a picture that is no square becomes one: its middle is kept, or --background is put beside it."""
    background: str | None = None
    """Colour behind transparent pixels and beside padded ones, as white or #f0f0f0; without it images with transparent
    pixels are refused, and padding is black."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.resize is not None and not 1 <= self.resize <= 4096:
            raise ValueError(f"resize is {self.resize}; expected 1 to 4096 pixels")
        if self.fit != "crop" and self.resize is None:
            raise ValueError(f"fit is {self.fit!r} without --resize; expected a size to fit to")
        if self.background is not None:
            try:
                ImageColor.getrgb(self.background)
            except ValueError:
                raise ValueError(
                    f"background is {self.background!r}; expected a colour such as white or #f0f0f0"
                ) from None

    @property
    def is_default(self) -> bool:
        """Whether pixels are what they are without a policy."""
        return all(getattr(self, f.name) == f.default for f in fields(self))

    def stated(self) -> dict[str, Any]:
        """The whole rule, JSON."""
        return {
            "resize": self.resize,
            "fit": self.fit if self.resize else None,
            "background": self.background,
            "padding": (self.background or BLACK) if self.fit == "pad" else None,
            "resample": "box mean by a whole factor, else Lanczos" if self.resize else None,
            "orientation": "EXIF applied",
            "sixteen_bit": "upper 8 bits, v // 256",
            "alpha": "dropped where opaque, else over the background",
            "cmyk": "to RGB without a colour profile",
            "grey": "repeated in three channels where others have colours",
        }

    def digest(self, content: str) -> str:
        """SHA-256 that stands for images under this policy; by default that of their content."""
        return content if self.is_default else sha256_json([content, [getattr(self, f.name) for f in fields(self)]])

    def channels(self, mode: str, *, clear: bool = False) -> int:
        """1 or 3 for an image of this mode of Pillow, `clear` if a colour of it is transparent.

        Raises Unusable for a mode that has no stated way to 8-bit grey or RGB.
        """
        if mode in GREY_MODES or ALPHA.get(mode) == "L":
            shows = self.fit == "pad" or mode in ALPHA or clear
            return 3 if shows and len(set(self._colour)) > 1 else 1
        if mode in COLOUR_MODES or mode in ALPHA:
            return 3
        raise Unusable(f"to be of mode {mode}", "grey or RGB of 8 or 16 bits, with or without alpha", "convert it")

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """Width and height of an image of this size under the policy."""
        return size if self.resize is None else (self.resize, self.resize)

    def apply(self, image: Image.Image, channels: int) -> np.ndarray:
        """The pixels of a whole and upright image, uint8 `(C, H, W)`. Raises Unusable where the policy has no way."""
        image = self._fitted(self._plain(image))
        array = np.asarray(image)
        if array.ndim == 3:
            return array.transpose(2, 0, 1)
        return np.broadcast_to(array, (channels, *array.shape))

    def _plain(self, image: Image.Image) -> Image.Image:
        """In mode L or RGB."""
        mode = image.mode
        if mode in ("L", "RGB") and "transparency" not in image.info:
            return image
        if mode.startswith("I;16"):
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        if mode == "1":
            return image.convert("L")
        if mode in ("L", "RGB", "P") and "transparency" in image.info:
            return self._opaque(image.convert("LA" if mode == "L" else "RGBA"))
        if mode in ALPHA:
            return self._opaque(image.convert({"La": "LA", "LA": "LA"}.get(mode, "RGBA")))
        return image.convert("RGB")

    def _opaque(self, image: Image.Image) -> Image.Image:
        """An image with alpha without it."""
        alpha, plain = image.getchannel("A"), image.convert(ALPHA[image.mode])
        if alpha.getextrema()[0] == 255:
            return plain
        if self.background is None:
            raise Unusable("to have transparent pixels", "opaque ones", "say what is behind them: --background white")
        ground = self._ground(plain.mode, plain.size)
        ground.paste(plain, mask=alpha)
        return ground

    @property
    def _colour(self) -> tuple[int, ...]:
        return ImageColor.getrgb(self.background or BLACK)[:3]

    def _ground(self, mode: str, size: tuple[int, int]) -> Image.Image:
        """A picture of the background alone: grey under grey pictures unless it is a colour."""
        if mode == "L" and len(set(self._colour)) == 1:
            return Image.new("L", size, self._colour[0])
        return Image.new("RGB", size, self._colour)

    def _fitted(self, image: Image.Image) -> Image.Image:
        """At the policy's size."""
        side, (width, height) = self.resize, image.size
        if side is None or (width, height) == (side, side):
            return image
        if self.fit == "crop":
            least = min(width, height)
            left, top = (width - least) / 2, (height - least) / 2
            return _scaled(image, (side, side), (left, top, left + least, top + least))
        scale = side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        ground = self._ground(image.mode, (side, side))
        ground.paste(_scaled(image, size, (0, 0, width, height)), ((side - size[0]) // 2, (side - size[1]) // 2))
        return ground


def _scaled(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    """A box of an image at another size: by a whole factor the mean of its pixels, else Lanczos."""
    factors = {(box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]}
    factor = factors.pop()
    whole = not factors and factor >= 1 and factor.is_integer() and all(float(v).is_integer() for v in box)
    if whole:
        return image.reduce(int(factor), box=(int(box[0]), int(box[1]), int(box[2]), int(box[3])))
    return image.resize(size, Image.Resampling.LANCZOS, box=box)
