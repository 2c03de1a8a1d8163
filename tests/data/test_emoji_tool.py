"""The tool that builds the emoji asset: its rules, and that the same input gives the same bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image
from support import script

from fairsims.data import open_dataset


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return script("tools/build_emoji_people.py")


def test_rules_agree_with_the_shipped_table(tool: ModuleType) -> None:
    table = open_dataset("emoji-people").table
    untoned = table[table["skin_tone"] == "none"]
    assert [tool.gender_of(u) for u in untoned["unified"]] == untoned["gender"].tolist()
    assert (
        untoned.groupby("concept")["unified"]
        .agg(lambda us: len({tool.CONCEPTS.get(tool.design_of(u)) for u in us}))
        .max()
        == 1
    )


def test_building_twice_gives_the_same_bytes(tool: ModuleType, tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(tool.COLUMNS, "x") | {"gender": g, "skin_tone": "none", "vendor": "noto"} for g in tool.GENDERS
    ]
    images = [Image.new("RGB", (64, 64), c) for c in ("red", "green", "blue")]
    for name in ("a.zip", "b.zip"):
        tool.write_zip(tmp_path / name, images, rows)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert open_dataset(str(tmp_path / "a.zip")).class_indices("gender").tolist() == [0, 1, 2]


def test_a_tarball_of_other_content_is_refused(tool: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "x.tgz").write_bytes(b"other")
    with pytest.raises(SystemExit, match="expected"):
        tool.verified("google", tmp_path / "x.tgz", tmp_path)


def test_the_asset_is_an_edm_zip() -> None:
    path = Path(__file__).parents[2] / "fairsims" / "assets" / "emoji_people" / "emoji-people-64.zip"
    with zipfile.ZipFile(path) as archive:
        infos = [i for i in archive.infolist() if i.filename.endswith(".png")]
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time == (1980, 1, 1, 0, 0, 0) for i in infos)
        assert [i.filename for i in infos] == [f"{k // 1000:05d}/img{k:08d}.png" for k in range(1994)]
        labels = json.loads(archive.read("dataset.json"))["labels"]
    assert [name for name, _ in labels] == [i.filename for i in infos]
    assert {label for _, label in labels} == {0, 1, 2}
