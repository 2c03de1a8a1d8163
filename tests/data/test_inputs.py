"""Kinds of input that people really have, taken from bug reports of neighbouring tools: each is read right or named."""

from __future__ import annotations

import io
import os
import struct
import unicodedata
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from fairsims.data import ImageDataset, ImagePolicy, open_dataset
from fairsims.data.names import Names, alike, identity, image_name, litter
from fairsims.data.parquet import BLOCK
from fairsims.data.tables import read_table
from fairsims.errors import InputError

RNG = np.random.default_rng(3)
RED, BLUE = (200, 10, 10), (10, 10, 200)


def png(image: Image.Image | None = None, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8))).save(buffer, format=form, **options)
    return buffer.getvalue()


def place(root: Path, kind: str, files: dict[str, bytes]) -> Path:
    """The same files as a folder or a zip."""
    if kind == "zip":
        with zipfile.ZipFile(root / "data.zip", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root / "data.zip"
    for name, data in files.items():
        (root / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "data" / name).write_bytes(data)
    return root / "data"


def passed(found: ImageDataset) -> dict[str, int]:
    assert found.found is not None
    return {rule: p.n for rule, p in found.found.passed.items()}


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as error:
        open_dataset(str(path), **options).read([0])
    assert "\n" not in str(error.value) and "; expected " in str(error.value)
    return str(error.value)


BOTH = pytest.mark.parametrize("kind", ["folder", "zip"])


def halves(width: int, height: int) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", (width, height), RED)
    image.paste(BLUE, (width // 2, 0, width, height))
    return image


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


# --- labels beside images --------------------------------------------------------------------------------------------

PEOPLE = {"a.png": png(), "sub/b.png": png()}


def metadata(kind: str) -> dict[str, bytes]:
    if kind == "csv":
        return {"metadata.csv": b"file_name,gender\na.png,man\nsub/b.png,woman\n"}
    if kind == "jsonl":
        text = '{"file_name": "a.png", "gender": "man"}\n{"file_name": "sub/b.png", "gender": "woman", "n": 2.0}\n'
        return {"metadata.jsonl": text.encode()}
    buffer = io.BytesIO()
    pq.write_table(pa.table({"file_name": ["a.png", "sub/b.png"], "gender": ["man", "woman"]}), buffer)
    return {"metadata.parquet": buffer.getvalue()}


@BOTH
@pytest.mark.parametrize("sheet", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("start", ["", "train/"])
def test_metadata_is_read_alike_in_folder_and_zip(tmp_path: Path, kind: str, sheet: str, start: str) -> None:
    files = {f"{start}{name}": data for name, data in {**PEOPLE, **metadata(sheet)}.items()}
    found = open_dataset(str(place(tmp_path, kind, files)))
    assert found.attributes["gender"].classes == ("man", "woman")
    assert found.class_indices("gender").tolist() == [0, 1]


@BOTH
def test_each_folder_may_have_its_own_metadata(tmp_path: Path, kind: str) -> None:
    files = {"x/a.png": png(), "x/metadata.csv": b"file_name,tone\na.png,light\n", "y/a.png": png()}
    files["y/metadata.csv"] = b"file_name,tone,age\na.png,dark,3\n"
    found = open_dataset(str(place(tmp_path, kind, files)))
    assert found.table["tone"].tolist() == ["light", "dark"]
    assert found.table["age"].isna().tolist() == [True, False]


@BOTH
def test_class_folders_are_labels_where_they_are_asked_for(tmp_path: Path, kind: str) -> None:
    files = {"man/a.png": png(), "man/b.png": png(), "woman/a.png": png(), "woman/b.png": png()}
    path = place(tmp_path, kind, files)
    plain = open_dataset(str(path))
    assert not plain.attributes and plain.found is not None
    assert "man, woman look like classes" in plain.found.notes[0]
    found = open_dataset(str(path), class_folders="gender")
    assert found.class_indices("gender").tolist() == [0, 0, 1, 1]
    assert found.found is not None and not found.found.notes
    (tmp_path / "more").mkdir()
    loose = place(tmp_path / "more", kind, {**files, "c.png": png()})
    assert "c.png in no folder" in refusal(loose, class_folders="gender")


def test_two_tables_in_one_folder_are_refused(tmp_path: Path) -> None:
    assert "metadata.jsonl" in refusal(place(tmp_path, "folder", {**PEOPLE, **metadata("csv"), **metadata("jsonl")}))


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


def animation(form: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), (k * 60, 0, 0)) for k in range(3)]
    return png(frames[0], form, save_all=True, append_images=frames[1:])


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


def test_an_animation_in_parquet_is_left_out_with_its_row(tmp_path: Path) -> None:
    images = [png() for _ in range(10)] + [animation("GIF")] + [png()]
    write_rows(tmp_path / "a.parquet", images, x=[str(i) for i in range(12)])
    found = open_dataset(str(tmp_path / "a.parquet"))
    assert found.table["x"].tolist() == [str(i) for i in range(12) if i != 10] and passed(found) == {"animations": 1}
    assert found.ids[-1] == "row 11"


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


# --- Parquet ---------------------------------------------------------------------------------------------------------


def write_rows(path: Path, images: list[bytes], rows: int = 1024, **columns: Any) -> None:
    struct_ = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": b, "path": None} for b in images], struct_), **columns})
    pq.write_table(table, path, row_group_size=rows)


@pytest.mark.parametrize("rows", [7, 100, 5000])
def test_parquet_rows_are_found_in_any_order(tmp_path: Path, rows: int) -> None:
    n = 3 * BLOCK + 5
    values = [png(Image.new("L", (4, 4), i % 256)) for i in range(n)]
    write_rows(tmp_path / "a.parquet", values, rows)
    found = open_dataset(str(tmp_path / "a.parquet"))
    order = np.random.default_rng(0).permutation(n)[:60]
    assert found.read(order)[:, 0, 0, 0].tolist() == [int(i) % 256 for i in order]
    assert [int(b[0, 0, 0, 0]) for b in found.batches(100)] == [k * 100 % 256 for k in range(8)]


def test_a_plain_binary_column_and_another_name_are_images(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(), png()], "x": ["a", "b"]}), tmp_path / "plain.parquet")
    assert len(open_dataset(str(tmp_path / "plain.parquet"))) == 2
    images = pa.array(
        [{"bytes": png(), "path": "p.png"}], pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])
    )
    pq.write_table(pa.table({"picture": images}), tmp_path / "other.parquet")
    assert open_dataset(str(tmp_path / "other.parquet")).ids.tolist() == ["p.png"]


def test_parquet_paths_are_read_without_joining_the_images(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({"image": pa.array([{"bytes": png(), "path": f"{i}.png"} for i in range(9)], kind)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert open_dataset(str(tmp_path / "a.parquet")).ids.tolist() == [f"{i}.png" for i in range(9)]


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


# --- tables ----------------------------------------------------------------------------------------------------------

TABLE = "file_name,gender\na.png,man\nsub/b.png,woman\n"


@pytest.mark.parametrize(
    "data",
    [
        TABLE.replace(",", ";").encode(),
        TABLE.replace(",", "\t").encode(),
        TABLE.replace(",", "|").encode(),
        TABLE.replace(",", ", ").encode(),
        TABLE.replace(",", " , ").replace("\n", " \n").encode(),
        b"sep=;\n" + TABLE.replace(",", ";").encode(),
        b"\xef\xbb\xbf" + TABLE.encode(),
        TABLE.encode("utf-16"),
        TABLE.encode("utf-32"),
        TABLE.replace("\n", "\r").encode(),
        TABLE.replace("\n", "\r\n").encode(),
        TABLE.replace("\n", "\n\n").encode(),
        b'"file_name","gender"\n"a.png","man"\n"sub/b.png","woman"',
        TABLE.replace("\n", ",\n").encode(),
    ],
)
@BOTH
def test_a_table_however_it_was_saved(tmp_path: Path, kind: str, data: bytes) -> None:
    found = open_dataset(str(place(tmp_path, kind, {**PEOPLE, "metadata.csv": data})))
    assert found.class_indices("gender").tolist() == [0, 1] and list(found.table) == ["gender"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (TABLE.replace("man", "señor").encode("cp1252"), "line 2 is not UTF-8, it looks like cp1252"),
        (TABLE.encode("utf-16-le"), "UTF-16 without its mark"),
        (b"file_name,gender\n", "a header and no row"),
        (b"filename,gender\na.png,man\n", "is 'filename' meant?"),
        (b"File_Name,gender\na.png,man\n", "is 'File_Name' meant?"),
        (b"file_name,gender,gender\na.png,man,man\n", "two columns are named 'gender'"),
        (b"file_name,gender\na.png,man,x\n", "row 1 has 3 cells, the header 2"),
        (b"", "it is empty"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(tmp_path: Path, data: bytes, said: str) -> None:
    message = refusal(place(tmp_path, "folder", {**PEOPLE, "metadata.csv": data}))
    assert "metadata.csv" in message and said in message


def test_json_lines_that_are_none(tmp_path: Path) -> None:
    for k, data in enumerate((b"{", b"[1]\n", b"\n", b'{"name": "a.png"}\n')):
        (tmp_path / str(k)).mkdir()
        assert "metadata.jsonl" in refusal(place(tmp_path / str(k), "folder", {**PEOPLE, "metadata.jsonl": data}))


def test_a_table_keeps_values_as_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"file_name": "a", "n": 2.0, "t": true, "box": [1, 2], "x": null}\n{"file_name": " b "}\n'
    )
    found = read_table(tmp_path / "a.jsonl")
    assert found["n"].tolist()[0] == "2" and found["t"].tolist()[0] == "True" and found["box"].tolist()[0] == "[1, 2]"
    assert found["file_name"].tolist() == ["a", "b"] and found["n"].isna().tolist() == [False, True]


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    ["./a.png", ".\\a.png", "C:\\imgs\\a.png", "/home/me/imgs/a.png", "//a.png", " a.png ", "C:/imgs/./a.png"],
)
def test_a_name_however_it_is_written(tmp_path: Path, written: str) -> None:
    sheet = f"file_name,gender\n{written},man\nsub\\b.png,woman\n".encode()
    found = open_dataset(str(place(tmp_path, "folder", {**PEOPLE, "metadata.csv": sheet})))
    assert found.class_indices("gender").tolist() == [0, 1]


@BOTH
def test_composed_and_decomposed_letters_are_one(tmp_path: Path, kind: str) -> None:
    name = "José.png"
    sheet = f"file_name,who\n{unicodedata.normalize('NFC', name)},Jos\u00e9\n".encode()
    files = {unicodedata.normalize("NFD", name): png(), "metadata.csv": sheet}
    assert open_dataset(str(place(tmp_path, kind, files))).table["who"].tolist() == ["José"]


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD")]
    files = {**dict.fromkeys(names, png()), "metadata.csv": "file_name,x\né.png,a\n".encode()}
    assert "two images named é.png" in refusal(place(tmp_path, "zip", files))


def test_a_near_name_is_suggested(tmp_path: Path) -> None:
    sheet = b"file_name,gender\na.PNG,man\nsub/b.png,woman\n"
    assert "did you mean 'a.png'?" in refusal(place(tmp_path, "folder", {**PEOPLE, "metadata.csv": sheet}))


def test_spaces_around_a_class_are_none_and_other_spellings_are_named(tmp_path: Path) -> None:
    files = {f"{i}.png": png() for i in range(3)}
    same = open_dataset(
        str(place(tmp_path, "folder", {**files, "metadata.csv": b"file_name,g\n0.png,man \n1.png, man\n2.png,woman\n"}))
    )
    assert same.attributes["g"].classes == ("man", "woman")
    (tmp_path / "b").mkdir()
    other = open_dataset(
        str(
            place(
                tmp_path / "b", "folder", {**files, "metadata.csv": b"file_name,g\n0.png,Man\n1.png,man\n2.png,woman\n"}
            )
        )
    )
    assert other.found is not None and "'Man' and 'man' of g" in other.found.notes[0]
    with pytest.raises(InputError, match="'Man' and 'man'"):
        other.class_indices("g")
    assert alike(["a", "A"]) is None and alike(["light skin", "light  skin"]) == ["light skin", "light  skin"]


def test_names_and_identities() -> None:
    assert [identity(v) for v in (7, "07", "7.0", " 7 ", "a//b.png", "-3")] == ["7", "7", "7", "7", "a/b.png", "-3"]
    assert image_name(image_name("C:\\a\\.\\b.png")) == "C:/a/b.png"
    names = Names(["x/a.png", "a.png", "b.png"])
    assert [names.find(n) for n in ("/data/x/a.png", "D:\\y\\a.png", "/q/b.png", "c.png", "q/b.png")] == [
        0,
        1,
        2,
        None,
        None,
    ]
    assert "'b.png'" in names.hint("imgs/b.png") and "'b.png'" in names.hint("b.jpg")
