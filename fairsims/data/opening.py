"""Encoded images opened safely: what nobody needs to see the picture is left out, and a bomb is never decoded."""

from __future__ import annotations

import io
import warnings
from functools import cache
from pathlib import Path

from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from fairsims.data.png import Plain, pixels_only, plain
from fairsims.data.policy import Unusable

MOST_PIXELS = 2**26
"""Of an image that is read: 8192 x 8192."""
MOST_BYTES = 2**28
"""Of an encoded image, or of a file of labels in a zip."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats of Pillow that hold one picture of pixels and start no other program."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

POINTER, FETCH = b"version https://git-lfs", "a pointer of Git LFS; git lfs pull gets the file"
"""How a file begins that Git LFS has not fetched, and what to do then."""

# What Pillow warns of is refused below, or says nothing of the pixels.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", message="Corrupt EXIF data")


class Animation(Exception):
    """A file of several pictures: no single one of them is the image."""


def open_image(data: bytes) -> Image.Image:
    """An encoded image, its pixels not read yet. Reading them raises OSError or SyntaxError where it is cut short.

    Raises Unusable for what is no image, or too large. Pillow lets a whole process read half images once any library
    asks for it, and weasyprint does.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    if not data:
        raise unreadable("it is empty")
    if data.startswith(POINTER):
        raise unreadable(FETCH)
    try:
        image = Image.open(io.BytesIO(pixels_only(data)), formats=_formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large("of very many pixels") from None
    except UnidentifiedImageError:
        raise unreadable("not an image") from None
    except Exception as error:  # a broken file makes Pillow's readers raise anything
        raise unreadable(error) from None
    if image.width * image.height > MOST_PIXELS:
        raise _too_large(f"of {image.width}x{image.height} pixels")
    return image


def usual(data: bytes) -> Plain | None:
    """What a PNG of the usual kind and of an allowed size holds; None of any other file."""
    found = plain(data)
    return found if found is not None and found.size[0] * found.size[1] <= MOST_PIXELS else None


def decoded(data: bytes) -> Image.Image:
    """An encoded image, whole and upright. Raises Unusable where it is broken, no image, or too large."""
    known = usual(data)
    image = None if known is None else known.decoded()
    if image is None:
        with open_image(data) as opened:
            image = upright(opened)
    return image


def upright(image: Image.Image) -> Image.Image:
    """An opened image with all its pixels read, turned as EXIF says. Raises Unusable where it is broken."""
    try:
        image.load()
    except Exception as error:  # as above
        raise unreadable(error) from None
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an opened image once it is upright; nothing is decoded."""
    width, height = image.size
    return (height, width) if _orientation(image) >= 5 else (width, height)


def reason(path: Path, error: object) -> object:
    """Why a container of images cannot be read: the error, or that Git LFS has not fetched it."""
    try:
        with path.open("rb") as file:
            return FETCH if file.read(len(POINTER)) == POINTER else error
    except OSError:
        return error


def check_single(image: Image.Image) -> None:
    """Raises Animation for an opened image of several frames; the further pictures of a camera's MPO are no frames."""
    try:
        frames = 1 if image.format == "MPO" else int(getattr(image, "n_frames", 1))
    except Exception as error:  # frames are counted by reading on
        raise unreadable(error) from None
    if frames > 1:
        raise Animation


def unreadable(error: object) -> Unusable:
    """A broken image."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return Unusable(f"unreadable ({reason})", "a whole image", "replace it")


def _too_large(what: str) -> Unusable:
    return Unusable(f"to be {what}", f"{MOST_PIXELS:,} pixels at most", "make it smaller or leave it out")


def _orientation(image: Image.Image) -> int:
    if image.format != "TIFF" and "exif" not in image.info:
        return 1  # Pillow would read a PNG's pixels in search of it
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:  # broken EXIF says nothing of the pixels
        return 1


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)
