"""What the command line writes over: nothing but its own, and nothing by half."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support import MakePool, refused, run, small_disk, succeeds

from fairsims.models.checkpoints import find_checkpoint

RETARGET = ["retarget", "--model", "digits-8", "--attr", "parity"]


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, digits_pool: MakePool, place: str) -> None:
    # A file where a folder has to be; permissions would not stop root, who runs many a container.
    (tmp_path / "file").write_text("precious")
    out, pool, model = tmp_path / place, digits_pool(30, 10).folder, find_checkpoint("digits-8")
    for command in (
        [*RETARGET, "--target", "0.5"],
        ["train", "--preset", "digits-8"],
        ["generate", "--model", "digits-8", "--seeds", "0-3"],
        ["finetune", "--model", "digits-8", "--pool", pool],
        ["merge", "--model", "digits-8", "--aux", model, "--strength", "1"],
        ["audit", "--before", pool, "--attr", "parity", "--target", "0.5"],
    ):
        line = refused(*command, "--out", out)
        assert "cannot read or write" in line, command
        assert "file" in line
    line = refused("complement", pool, "--attr", "parity", "--target", "0.5", "--out", out)
    assert ("cannot read or write" if place == "file/run" else "it is not written over") in line
    assert (tmp_path / "file").read_text() == "precious"


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path: Path, digits_pool: MakePool) -> None:
    pool, model = digits_pool(200, 200).folder, find_checkpoint("digits-8")
    succeeds("label", pool, "--attr", "parity")
    for name, command in {
        "generate": ["--model", "digits-8", "--seeds", "0-99", "--steps", "2", "--batch-size", "100"],
        "merge": ["--model", "digits-8", "--aux", model, "--strength", "1"],
        "complement": [pool, "--attr", "parity", "--target", "0.5"],
        "finetune": ["--model", "digits-8", "--pool", pool, "--budget", "0.2"],
        "audit": ["--before", pool, "--attr", "parity", "--target", "0.6"],
    }.items():
        out = tmp_path / name
        with small_disk(1500):
            line = refused(name, *command, "--out", out)
        assert "cannot read or write" in line, name
        assert "free space" in line
        assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]
        assert not list(out.rglob("shard*")) + list(out.rglob("*.safetensors")) + list(out.rglob("report.html"))
        assert not out.is_file()


@pytest.mark.parametrize("strength", ["-0.5", "nan", "inf"])
def test_merge_refuses_a_bad_strength(tmp_path: Path, strength: str) -> None:
    line = refused(
        "merge",
        "--model",
        "digits-8",
        "--aux",
        find_checkpoint("digits-8"),
        "--strength",
        strength,
        "--out",
        tmp_path / "out",
    )
    assert f"strength is {strength}; expected 0 or more" in line
    assert not (tmp_path / "out").exists()


def test_merge_writes_over_nothing(tmp_path: Path) -> None:
    aux, out = tmp_path / "aux", tmp_path / "out"
    shutil.copytree(find_checkpoint("digits-8"), aux)
    before = {p.name: p.read_bytes() for p in aux.iterdir()}
    options = ["merge", "--model", "digits-8", "--aux", str(aux), "--strength", "1"]
    for mode in ("guided", "merged"):
        assert "holds other files (" in refused(*options, "--mode", mode, "--out", aux)
    assert {p.name: p.read_bytes() for p in aux.iterdir()} == before
    first, again = (run(*options, "--out", str(out), "--json") for _ in range(2))
    assert (first.exit_code, again.exit_code, first.stdout) == (0, 0, again.stdout)
    assert "holds other files (" in refused(*options[:-1], "2", "--out", out)


def test_an_export_that_would_mix_images_is_refused_before_sampling(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    options = ["generate", "--model", "digits-8", "--steps", "2", "--export-folder", str(folder)]
    for _ in range(2):
        assert run(*options, "--seeds", "0-3", "--out", str(tmp_path / "a")).exit_code == 0
    message = refused(*options, "--seeds", "10-13", "--out", tmp_path / "b")
    assert "holds other files (000000.png, 000001.png, 000002.png and 1 more)" in message
    assert not (tmp_path / "b").exists()
    zipped = ["--export-zip", tmp_path]
    assert "is a folder; expected the name of a file" in refused(
        *options[:-2], "--seeds", "0-3", "--out", tmp_path / "b", *zipped
    )
    (tmp_path / "file").touch()
    assert "is a file; expected the name of a folder" in refused(
        *options[:-1], tmp_path / "file", "--seeds", "0-3", "--out", tmp_path / "b"
    )


def test_a_complement_writes_over_nothing_but_a_complement(tmp_path: Path, digits_pool: MakePool) -> None:
    pool, out = digits_pool(200, 100).folder, tmp_path / "c.parquet"
    command = ["complement", pool, "--attr", "parity", "--target", "0.5", "--out"]
    first, again = (succeeds(*command, out) for _ in range(2))
    assert first == again
    assert succeeds(*command, out, "--seed", "1")["table"] == str(out)
    pd.DataFrame({"seed": [1], "half": ["top"], "probability": [0.9]}).to_parquet(tmp_path / "other", index=False)
    pd.DataFrame({"seed": [1]}).to_parquet(tmp_path / "seeds", index=False)
    (tmp_path / "precious.md").write_text("precious")
    (tmp_path / "empty").touch()
    for name in ("other", "seeds", "precious.md", "empty"):
        before = (tmp_path / name).read_bytes()
        line = refused(*command, tmp_path / name)
        assert f"{name} is no earlier complement of parity; it is not written over, give a new name" in line
        assert (tmp_path / name).read_bytes() == before
    assert "is no earlier complement" in refused(*command, pool)


def test_a_zip_is_written_over_nothing_but_an_export(tmp_path: Path) -> None:
    options = ["generate", "--model", "digits-8", "--steps", "2", "--seeds", "0-3", "--export-zip"]
    for _ in range(2):
        succeeds(*options, tmp_path / "own.zip", "--out", tmp_path / "a")
    with zipfile.ZipFile(tmp_path / "own.zip") as z:
        png = z.read("00000/img00000000.png")

    def archive(name: str, description: str | None, time: tuple[int, int, int, int, int, int]) -> None:
        with zipfile.ZipFile(tmp_path / name, "w") as z:
            z.writestr(zipfile.ZipInfo("00000/img00000000.png", time), png)
            if description is not None:
                z.writestr(zipfile.ZipInfo("dataset.json", time), description)

    none = (1980, 1, 1, 0, 0, 0)
    archive("photographs.zip", None, none)
    archive("labelled.zip", '{"labels": [["00000/img00000000.png", 1]]}', none)
    archive("broken.zip", "{", none)
    archive("edm.zip", '{"labels": null}', (2022, 7, 1, 12, 0, 0))
    (tmp_path / "precious.zip").write_text("precious")
    (tmp_path / "cut.zip").write_bytes((tmp_path / "own.zip").read_bytes()[:-30])
    for name in ("photographs.zip", "labelled.zip", "broken.zip", "edm.zip", "precious.zip", "cut.zip"):
        before = (tmp_path / name).read_bytes()
        line = refused(*options, tmp_path / name, "--out", tmp_path / "b")
        assert f"{name} is no earlier export; it is not written over, give a new name" in line
        assert (tmp_path / name).read_bytes() == before
        assert not (tmp_path / "b").exists(), "refused before sampling"


def test_a_refused_fine_tune_leaves_nothing(tmp_path: Path) -> None:
    assert (
        run("generate", "--model", "digits-8", "--steps", "2", "--seeds", "0-3", "--out", str(tmp_path / "p")).exit_code
        == 0
    )
    command = ["finetune", "--model", "digits-8", "--pool", str(tmp_path / "p"), "--budget", "0.064"]
    assert "augment labels" in refused(*command, "--augment", "0.2", "--out", tmp_path / "aux")
    assert not (tmp_path / "aux").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["retarget", "--model", "digits-8", "--attr", "parity", "--target", "0.5"],
        ["compare", "--model", "digits-8", "--attr", "parity", "--target", "0.5"],
        ["sweep", "--model", "digits-8", "--attr", "parity", "--target", "0.5"],
        ["generate", "--model", "digits-8", "--seeds", "0-3"],
        ["train", "--data", "digits", "--kimg", "0.1"],
        ["collapse", "--setting", "gaussian"],
        ["merge", "--model", "digits-8", "--aux", "digits-8", "--strength", "1"],
        ["classifier", "train", "--data", "digits", "--attr", "parity", "--kimg", "0.1", "--folds", "2"],
        ["audit", "--attr", "parity"],
    ],
)
def test_nothing_is_written_into_the_folder_of_something_else(tmp_path: Path, command: list[str]) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter-1.tex").write_text("It was a dark and stormy night")
    if command[0] == "audit":
        pool = str(tmp_path / "pool")
        run("generate", "--model", "digits-8", "--steps", "2", "--seeds", "0-31", "--out", pool)
        command = [*command, "--before", pool]
    message = refused(*command, "--out", thesis)
    assert message == f"error: {thesis} holds other files (chapter-1.tex); give a new folder"
    assert [p.name for p in thesis.iterdir()] == ["chapter-1.tex"]


def test_a_classifier_is_not_trained_over_a_model(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(find_checkpoint("digits-8"), model)
    before = {p.name: p.read_bytes() for p in model.iterdir()}
    command = ["classifier", "train", "--data", "digits", "--attr", "parity", "--kimg", "0.1", "--folds", "2"]
    assert "holds other files" in refused(*command, "--out", model)
    assert {p.name: p.read_bytes() for p in model.iterdir()} == before
