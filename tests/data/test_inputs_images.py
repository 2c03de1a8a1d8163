"""Images that people really have, taken from bug reports of neighbouring tools: each is read right or named."""

from __future__ import annotations

import os
import re
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from input_files import BLUE, BOTH, RED, animation, halves, passed, place, png, refusal
from PIL import Image, PngImagePlugin

from fairsims.data import ImagePolicy, open_dataset
from fairsims.data.names import litter

# --- orientation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (7, 7)), (6, (7, 0)), (8, (0, 7))])
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int], form: str) -> None:
    image = Image.new("RGB", (8, 8), BLUE)
    image.putpixel((0, 0), RED)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if form == "WEBP" else {}
    path = place(tmp_path, "folder", {f"a.{form.lower()}": png(image, form, exif=exif, **options)})
    x, y = corner
    assert tuple(open_dataset(str(path)).read([0])[0, :, y, x].tolist()) == RED


def test_orientation_of_a_jpeg_turns_its_size_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = place(tmp_path, "folder", {"a.jpg": png(halves(16, 32), "JPEG", exif=exif)})
    found = open_dataset(str(path), policy=ImagePolicy(resize=16))
    assert found.found is not None and found.found.sizes == {"32x16": 1}
    top, bottom = found.read([0])[0, 0, 2, 8], found.read([0])[0, 0, 13, 8]
    assert top > 150 and bottom < 60  # the left half is on top once it is upright


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_says_nothing_of_the_pixels(tmp_path: Path) -> None:
    path = place(tmp_path, "folder", {"a.jpg": png(halves(8, 8), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")})
    assert open_dataset(str(path)).read([0])[0, 0, 4, 1] > 150


# --- what is passed over ---------------------------------------------------------------------------------------------


@BOTH
def test_other_formats_are_read_and_the_rest_is_counted(tmp_path: Path, kind: str) -> None:
    image = halves(8, 8)
    forms = {"b.gif": "GIF", "c.tif": "TIFF", "d.bmp": "BMP", "e.ppm": "PPM", "f.PNG": "PNG", "g.apng": "PNG"}
    files = {name: png(image, form) for name, form in forms.items()}
    files |= {"h.jfif": png(image, "JPEG", quality=95), "i.webp": png(image, "WEBP", lossless=True)}
    files |= {
        "j.avif": png(image, "AVIF"),
        "k.jp2": png(image, "JPEG2000"),
        "l.mpo": png(image, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=95),
        **{f"p{i}.png": png(image) for i in range(9)},
    }
    found = open_dataset(str(place(tmp_path, kind, {**files, "z.heic": b"?", "notes.txt": b"x", ".hidden.png": b"x"})))
    assert len(found) == len(files)
    assert passed(found) == {
        "hidden files": 1,
        "images of a format that is not read": 1,
        "no image by its name": 1,
    }
    pixels = found.read(range(len(found))).float()
    assert (pixels[:, 0, :, :3].mean(dim=(1, 2)) > 170).all() and (pixels[:, 0, :, 5:].mean(dim=(1, 2)) < 50).all()


@pytest.mark.parametrize(("form", "name"), [("WEBP", "z.webp"), ("PNG", "z.png"), ("GIF", "z.gif"), ("TIFF", "z.tif")])
@BOTH
def test_an_animation_is_no_image(tmp_path: Path, kind: str, form: str, name: str) -> None:
    stills = {f"{i:02d}.png": png() for i in range(19)}
    rows = "".join(f"{n},a\n" for n in [*stills, name])
    sheet = {"metadata.csv": f"file_name,x\n{rows}".encode()}
    found = open_dataset(str(place(tmp_path, kind, {**stills, name: animation(form), **sheet})))
    assert len(found) == 19 == len(found.table) and passed(found) == {"animations": 1}


def test_too_many_that_are_not_read_are_refused(tmp_path: Path) -> None:
    files = {"a.png": png(), "b.gif": animation("GIF"), "c.heic": b"?"}
    assert "2 of 3 images" in refusal(place(tmp_path, "folder", files))


def test_links_are_followed_once_and_dead_ones_counted(tmp_path: Path) -> None:
    path = place(tmp_path, "folder", {"a.png": png(), "in/b.png": png()})
    place(tmp_path / "elsewhere", "folder", {"c.png": png()})
    (path / "linked").symlink_to(tmp_path / "elsewhere" / "data")
    (path / "loop").symlink_to(path)
    (path / "again").symlink_to(path / "in")
    (path / "dead.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(path / "pipe.png")
    found = open_dataset(str(path))
    assert len(found) == 3
    assert passed(found) == {"dead links": 1, "folders reached twice through links": 2, "no regular files": 1}


# --- odd but sound, and bombs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_a_long_text_in_a_png_does_not_matter(tmp_path: Path, packed: bool) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 1_200_000, zip=packed)
    path = place(tmp_path, "folder", {"a.png": png(halves(8, 8), pnginfo=text)})
    assert tuple(open_dataset(str(path)).read([0])[0, :, 0, 0].tolist()) == RED


def test_a_large_colour_profile_does_not_matter(tmp_path: Path) -> None:
    path = place(tmp_path, "folder", {"a.png": png(halves(8, 8), icc_profile=bytes(3_000_000))})
    assert tuple(open_dataset(str(path)).read([0])[0, :, 0, 0].tolist()) == RED


@pytest.mark.parametrize("side", [9_000, 12_000, 20_000, 2**31 - 1])
def test_a_bomb_is_one_line(tmp_path: Path, side: int) -> None:
    body = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    path = place(tmp_path, "folder", {"a.png": b"\x89PNG\r\n\x1a\n" + chunk + png()[33:]})
    assert "a.png" in refusal(path) and "67,108,864 pixels at most" in refusal(path)


# --- litter ----------------------------------------------------------------------------------------------------------

LITTER = (
    "__MACOSX/._a.png",
    "._a.png",
    "Thumbs.db",
    "sub/.thumbnails/t.png",
    "desktop.ini",
    "@eaDir/a.png",
    ".DS_Store",
)


@BOTH
def test_litter_is_ignored_alike(tmp_path: Path, kind: str) -> None:
    found = open_dataset(str(place(tmp_path, kind, {"a.png": png(), **dict.fromkeys(LITTER, b"junk")})))
    assert len(found) == 1 and sum(passed(found).values()) == len(LITTER)
    assert all(litter(name) for name in LITTER) and litter("a/b.png") is None


def test_a_name_twice_in_a_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", png())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.png", png())
    assert "a.png twice" in refusal(tmp_path / "a.zip")


# --- sizes and modes -------------------------------------------------------------------------------------------------


def test_lossless_modes_are_taken(tmp_path: Path) -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    rgb = halves(8, 8)
    deep = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040)
    images = {"1": grey.convert("1"), "L": grey, "LA": grey.convert("LA"), "P": rgb.quantize(4), "RGB": rgb}
    images |= {"RGBA": rgb.convert("RGBA"), "deep": deep}
    path = place(tmp_path, "folder", {f"{name}.png": png(image) for name, image in images.items()})
    found = open_dataset(str(path))
    pixels = dict(zip([n.removesuffix(".png") for n in found.ids], found.read(range(7)).numpy(), strict=True))
    for name in ("P", "RGB", "RGBA"):
        assert np.array_equal(pixels[name], np.asarray(rgb).transpose(2, 0, 1)), name
    for name in ("L", "LA"):
        assert all(np.array_equal(plane, np.asarray(grey)) for plane in pixels[name])
    assert set(np.unique(pixels["1"])) == {0, 255}
    assert np.array_equal(pixels["deep"][0], np.asarray(deep) // 256) and pixels["deep"].max() == 255
    assert found.found is not None and sum(found.found.modes.values()) == 7
    only = place(tmp_path / "grey", "folder", {"a.png": png(grey), "b.png": png(deep), "c.png": png(grey.convert("1"))})
    assert open_dataset(str(only)).channels == 1


def test_transparent_pixels_need_a_background(tmp_path: Path) -> None:
    half = halves(8, 8).convert("RGBA")
    half.putalpha(Image.fromarray(np.repeat(np.array([[255] * 4 + [0] * 4], dtype=np.uint8), 8, axis=0)))
    palette = halves(8, 8).quantize(4)
    keyed = png(palette, transparency=int(np.asarray(palette)[0, 7]))
    colour = png(halves(8, 8), transparency=BLUE)
    path = place(tmp_path, "folder", {"a.png": png(half), "b.png": keyed, "c.png": colour})
    assert "a.png" in refusal(path) and "--background" in refusal(path)
    found = open_dataset(str(path), policy=ImagePolicy(background="white")).read([0, 1, 2])
    assert (found[:, :, :, :4].permute(0, 2, 3, 1).reshape(-1, 3).numpy() == RED).all()
    assert (found[:, :, :, 4:] == 255).all()
    other = open_dataset(str(path), policy=ImagePolicy(background="#00ff00"))
    assert tuple(other.read([0])[0, :, 0, 7].tolist()) == (0, 255, 0)
    assert other.digest != open_dataset(str(path), policy=ImagePolicy(background="white")).digest


def test_grey_on_a_coloured_background_has_colours(tmp_path: Path) -> None:
    image = Image.new("LA", (8, 8), (100, 0))
    path = place(tmp_path, "folder", {"a.png": png(image)})
    found = open_dataset(str(path), policy=ImagePolicy(background="#ff0000"))
    assert found.channels == 3 and tuple(found.read([0])[0, :, 0, 0].tolist()) == (255, 0, 0)
    assert open_dataset(str(path), policy=ImagePolicy(background="white")).channels == 1


def test_cmyk_is_converted_and_counted(tmp_path: Path) -> None:
    path = place(tmp_path, "folder", {"a.jpg": png(halves(8, 8).convert("CMYK"), "JPEG", quality=100)})
    found = open_dataset(str(path))
    assert abs(found.read([0])[0, 0, 4, 1].item() - RED[0]) < 12
    assert found.found is not None and found.found.modes == {"CMYK": 1}
    assert found.found.policy["cmyk"] == "to RGB without a colour profile"


def test_a_mode_without_a_way_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(np.full((8, 8), np.nan, dtype=np.float32))
    assert "mode F" in refusal(place(tmp_path, "folder", {"a.tif": png(image, "TIFF")}))


@BOTH
@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_mixed_sizes_become_one_by_a_stated_rule(tmp_path: Path, kind: str, fit: str) -> None:
    files = {f"w{i}.png": png(halves(96, 64)) for i in range(2)} | {f"s{i}.png": png(halves(64, 64)) for i in range(3)}
    path = place(tmp_path, kind, files)
    assert "3 of 64x64" in refusal(path) and "2 of 96x64" in refusal(path) and "--resize" in refusal(path)
    found = open_dataset(
        str(path), policy=ImagePolicy(resize=32, fit=fit, background="white" if fit == "pad" else None)
    )
    assert found.shape == (3, 32, 32) and found.found is not None
    assert found.found.sizes == {"64x64": 3, "96x64": 2}
    assert found.found.policy["resize"] == 32 and found.found.policy["fit"] == fit
    square, wide = found.read([0])[0], found.read([4])[0]
    assert np.array_equal(square, np.asarray(halves(64, 64).reduce(2)).transpose(2, 0, 1))
    middle = wide[:, 16]
    assert tuple(middle[:, 2].tolist()) == RED and tuple(middle[:, 29].tolist()) == BLUE
    assert tuple(wide[:, 1, 2].tolist()) == (RED if fit == "crop" else (255, 255, 255))


def test_odd_squares_are_refused_without_a_rule_and_policies_are_checked(tmp_path: Path) -> None:
    path = place(tmp_path, "folder", {"a.png": png(halves(96, 64))})
    assert "1 of 96x64" in refusal(path)
    for wrong in ({"resize": 0}, {"fit": "pad"}, {"fit": "stretch", "resize": 8}, {"background": "no colour"}):
        with pytest.raises(ValueError, match="; expected "):
            ImagePolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["png", "zip", "parquet"])
@pytest.mark.parametrize(
    ("data", "said"),
    [(b"", "empty|not a zip|0 bytes"), (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull")],
)
def test_what_was_never_fetched_is_said(tmp_path: Path, suffix: str, data: bytes, said: str) -> None:
    path = place(tmp_path, "folder", {f"a.{suffix}": data})
    assert re.search(said, refusal(path if suffix == "png" else path / f"a.{suffix}"))


def test_names_that_windows_wrote_into_a_zip(tmp_path: Path) -> None:
    files = {"man\\a.png": png(), "man\\b.png": png(), "woman/a.png": png(), "woman\\b.png": png(), "woman\\": b""}
    path = place(tmp_path, "zip", {**files, "__MACOSX\\man\\._a.png": b"x"})
    found = open_dataset(str(path), class_folders="gender")
    assert list(found.ids) == ["man/a.png", "man/b.png", "woman/a.png", "woman/b.png"]
    assert found.class_indices("gender").tolist() == [0, 0, 1, 1]
    assert passed(found) == {"left by an operating system": 1} and found.read(range(4)).shape == (4, 3, 8, 8)
    assert "found a/b.png twice" in refusal(place(tmp_path, "zip", {"a\\b.png": png(), "a/b.png": png()}))


def test_an_encrypted_zip_is_no_damaged_one(tmp_path: Path) -> None:
    path = place(tmp_path, "zip", {"a.png": png()})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    assert "encrypted; expected a zip without a password" in refusal(path)


def test_every_row_of_the_table_in_the_documentation_names_a_test_that_exists() -> None:
    tests = Path(__file__).parents[1]
    text = (tests.parent / "docs" / "inputs.md").read_text(encoding="utf-8").partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 27
    for row in rows:
        named = re.findall(r"`([\w/.]+?\.py|images|tables|parquet)(?:::(test_\w+))?`", row.rsplit("|", 2)[1])
        assert named, row
        for file, name in named:
            path = tests / (file if file.endswith(".py") else f"data/test_inputs_{file}.py")
            assert not name or f"def {name}(" in path.read_text(encoding="utf-8"), row
