"""Labels beside images, tables and names, however they were written: each is read right or named."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from input_files import BOTH, PEOPLE, metadata, place, png, refusal

from fairsims.data import open_dataset
from fairsims.data.names import Names, alike, identity, image_name
from fairsims.data.tables import read_table
from fairsims.errors import InputError


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
        b",file_name,gender\n0,a.png,man\n1,sub/b.png,woman\n",
        b'file_name,gender\n"a.png",man\n"sub/b.png","woman\n"',
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
        (b"FILE_NAME,GENDER\na.png,man\n", "is 'FILE_NAME' meant? name it file_name"),
        (b",file_name,gender\n7,a.png,man\n9,sub/b.png,woman\n", "column 1 has no name"),
        (b"file_name,gender\na.png,man\nsub/b.png,woman\n" + bytes(4096), "line 4 has a zero byte"),
        (b"file_name,gender\na.png,man\n,woman\n", "found no file_name in row 2"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "git lfs pull"),
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
