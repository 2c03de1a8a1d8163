"""The quick ways to an image's pixels come to the same pixels and refusals as Pillow's and zipfile's own readers."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from input_files import mutated, png, refusal
from PIL import Image

from fairsims.data import open_dataset
from fairsims.data.files import ZipFiles
from fairsims.data.opening import decoded, open_image, upright, usual
from fairsims.data.png import plain
from fairsims.data.policy import Unusable
from fairsims.data.screening import difference_hashes


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_pillow(data: bytes) -> np.ndarray | str:
    try:
        return np.asarray(upright(open_image(data)))
    except Unusable as flaw:
        return str(flaw)


def by_us(data: bytes) -> np.ndarray | str:
    try:
        return np.asarray(decoded(data))
    except Unusable as flaw:
        return str(flaw)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (37, 5), (300, 200)])
def test_usual_pngs_are_decoded_as_pillow_does(mode: str, size: tuple[int, int]) -> None:
    data = png(Image.fromarray(noise(0, *size[::-1], 3)).convert(mode))
    found = plain(data)
    assert found is not None and (found.mode, found.size) == (mode, size)
    assert np.array_equal(by_us(data), by_pillow(data))


def test_any_other_png_is_none_of_them() -> None:
    image = Image.fromarray(noise(1, 8, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6
    others = [
        *(png(image.convert(mode)) for mode in ("1", "P", "LA", "RGBA")),
        png(Image.fromarray(noise(2, 8, 8).astype(np.uint16))),
        png(image, transparency=(1, 2, 3)),
        png(image, exif=exif),
        png(image, save_all=True, append_images=[Image.new("RGB", (8, 8))]),
        png(image)[:-12],
        b"",
        png(image, "JPEG"),
    ]
    assert [plain(data) for data in others] == [None] * len(others)


@given(seed=st.integers(0, 2**32), mode=st.sampled_from(["RGB", "L"]), side=st.integers(1, 20))
def test_a_mutated_png_comes_to_the_same_pixels_or_the_same_refusal(seed: int, mode: str, side: int) -> None:
    data = mutated(np.random.default_rng(seed), png(Image.fromarray(noise(seed, side, side, 3)).convert(mode)))
    one, other = by_us(data), by_pillow(data)
    assert type(one) is type(other) and np.array_equal(one, other)


def test_damage_inside_the_pixels_is_found_either_way() -> None:
    data = png(Image.fromarray(noise(3, 10, 10, 3)))
    tried = [data[:k] + bytes([data[k] ^ 85]) + data[k + 1 :] for k in range(len(data))]
    assert sum(plain(t) is not None for t in tried) > 250, "most are told by their pixels alone"
    assert all(np.array_equal(by_us(t), by_pillow(t)) for t in tried)


def test_too_many_pixels_are_refused_though_the_file_is_sound() -> None:
    data = bytearray(png(Image.new("L", (8, 8))))
    data[16:24] = struct.pack(">II", 8200, 8200)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    assert plain(bytes(data)) is not None and usual(bytes(data)) is None
    with pytest.raises(Unusable, match="8200x8200"):
        decoded(bytes(data))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (1, 1), (9, 9), (32, 32), (100, 100), (64, 32), (8, 9), (300, 20), (20, 300)])
def test_hashes_of_a_batch_are_those_of_its_images(channels: int, size: tuple[int, int]) -> None:
    pixels = noise(4, 7, channels, *size)
    pixels[0], pixels[1] = 9, np.linspace(0, 255, size[1]).astype(np.uint8)
    pictures = [Image.fromarray(p[0] if channels == 1 else p.transpose(1, 2, 0)) for p in pixels]
    assert difference_hashes(pixels).tolist() == [int(str(imagehash.dhash(p)), 16) for p in pictures]


def archive(path: Path, compression: int = zipfile.ZIP_STORED, extra: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for k in range(3):
            member = zipfile.ZipInfo(f"Ärger {k}.png")
            member.extra, member.compress_type = extra, compression
            file.writestr(member, png(Image.fromarray(noise(k, 8, 8, 3))))
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("extra", [b"", b"\xfe\xca\x04\0abcd", b"\xfe\xca\xb8\x0b" + bytes(3000)])
def test_members_of_a_zip_are_read_however_they_are_stored(tmp_path: Path, compression: int, extra: bytes) -> None:
    path = archive(tmp_path / "a.zip", compression, extra)
    path.write_bytes(b"#!/bin/sh\n" + path.read_bytes())  # an archive that unpacks itself
    wanted = np.stack([noise(k, 8, 8, 3).transpose(2, 0, 1) for k in range(3)])
    assert np.array_equal(open_dataset(str(path)).read(range(3)).numpy(), wanted)


def test_damage_in_a_stored_member_is_named(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    sound = path.read_bytes()
    place = sound.index(b"IDAT") + 20
    for at, why in ((place, "Bad CRC-32"), (0, "magic number"), (30, "differ")):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        assert why in refusal(path)


def test_a_stored_member_that_says_to_be_longer_than_it_is_is_left_to_zipfile(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02") + 20
    data[place : place + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    files = ZipFiles(path)
    with zipfile.ZipFile(path) as known:
        assert files._stored(known.infolist()[0]) is None
        assert files._stored(known.infolist()[1]) == known.read(known.infolist()[1])
