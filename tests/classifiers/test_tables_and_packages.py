"""Labels that others made, classifiers that others wrote, and the commands that measure any of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from fairsims.audit.command import AuditConfig, open_audit
from fairsims.classifiers import load_classifier
from fairsims.classifiers.checkpoints import embedded_classifiers
from fairsims.classifiers.labelled import labelled
from fairsims.cli import main
from fairsims.data import ImageDataset, open_dataset
from fairsims.errors import InputError


def write(path: Path, columns: dict[str, list[object]]) -> Path:
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def run(*command: object) -> dict[str, object]:
    result = CliRunner().invoke(main, ["classifier", *map(str, command), "--json"])
    assert result.exit_code == 0, result.stderr or result.exception
    return dict(json.loads(result.stdout))


def refused(*command: object) -> str:
    result = CliRunner().invoke(main, ["classifier", *map(str, command)])
    assert result.exit_code == 2, result.exception or result.stdout
    assert result.stderr.count("\n") == 1
    return result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 digits as PNG files with metadata.csv."""
    digits, place = open_dataset("digits"), tmp_path / "digits-files"
    place.mkdir()
    for i, image in enumerate(digits.read(range(120))):
        Image.fromarray(image[0].numpy()).save(place / f"{i:03d}.png")
    names = [f"{i:03d}.png" for i in range(120)]
    write(place / "metadata.csv", {"file_name": names, "parity": list(digits.table["parity"][:120])})
    return place


def images(*ids: object) -> ImageDataset:
    """As many digits as there are `ids`, called so."""
    found = open_dataset("digits").subset(range(len(ids)))
    found.ids = np.array(ids)
    return found


def test_a_column_of_classes_by_seed(tmp_path: Path) -> None:
    """An empty cell is undetermined, the last class; order and number format of the ids do not matter."""
    table = load_classifier(write(tmp_path / "people.csv", {"seed": [7, 3, 5], "gender": ["woman", None, "man"]}))
    assert (table.name, table.attribute.name) == ("people", "gender")
    assert table.attribute.classes == ("man", "woman", "undetermined")
    found = table.label(images(5, 3, 7, 5))
    np.testing.assert_array_equal(found, [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    with pytest.raises(InputError, match=r"no row for seed 4 \(nor for 1 more\)"):
        table.label(images(5, 4, 9))
    with pytest.raises(InputError, match="cannot look at images"):
        table.probabilities(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert json.loads(json.dumps(table.facts()))["kind"] == "table"


def test_columns_of_probabilities_by_file_name(tmp_path: Path) -> None:
    """As a pool's label files have them, here in Parquet with two attributes."""
    path = tmp_path / "labels.parquet"
    gender = {"gender.woman": [0.25, 1.0], "gender.man": [0.75, 0.0]}
    pd.DataFrame({"file_name": ["a/1.png", "2.png"], **gender, "age": ["old", "young"]}).to_parquet(path)
    table = load_classifier(f"{path}#gender")
    assert table.attribute.classes == ("woman", "man")
    np.testing.assert_allclose(table.label(images("./2.png", "a\\1.png")), [[1, 0], [0.25, 0.75]])
    assert load_classifier(f"{path}#age").attribute.classes == ("old", "young")
    with pytest.raises(InputError, match=r"label columns \['gender', 'age'\]; expected one attribute"):
        load_classifier(path)
    with pytest.raises(InputError, match="no labels for 'gendre'; did you mean 'gender'"):
        load_classifier(f"{path}#gendre")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": [1], "gender": ["man"]}, "expected 'seed' or 'file_name'"),
        ({"seed": [1, 1], "gender": ["man", "woman"]}, "seed 1 twice"),
        ({"seed": [], "gender": []}, "no row"),
        ({"seed": [1, 2]}, "of no name"),
        ({"seed": [1, 2], "gender": ["man", "man"]}, "expected two or more"),
        ({"seed": [1], "g.a": [0.5], "g.b": [0.6]}, "in row 1; expected numbers"),
        ({"seed": [1, 2], "g.a": [0.5, float("nan")], "g.b": [0.5, 0.5]}, "in row 2"),
        ({"seed": [1], "g.a": ["x"], "g.b": [0.5]}, "no numbers"),
        ({"seed": [1], "g.undetermined": [0.5], "g.b": [0.5]}, "undetermined last"),
    ],
)
def test_careless_tables(tmp_path: Path, columns: dict[str, list[object]], words: str) -> None:
    assert words in refused("info", write(tmp_path / "t.csv", columns))


def test_a_missing_table(tmp_path: Path) -> None:
    assert "t.csv; expected a table of labels; check the path" in refused("info", tmp_path / "t.csv")


def test_a_file_that_is_no_table_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    assert "t.xlsx; expected a folder of a classifier, or a table" in refused("info", tmp_path / "t.xlsx")


def test_a_table_with_other_endings_of_names_hints_at_them(tmp_path: Path, folder: Path) -> None:
    sheet = pd.read_csv(folder / "metadata.csv")
    sheet["file_name"] = sheet["file_name"].str.replace(".png", ".PNG")
    sheet.to_csv(tmp_path / "t.csv")
    with pytest.raises(InputError, match="did you mean '000[.]PNG'"):
        load_classifier(str(tmp_path / "t.csv")).label(open_dataset(str(folder)))


def test_a_table_is_measured_against_the_truth(folder: Path, tmp_path: Path) -> None:
    """Ten calls turned over and five withheld: the confusion has exactly these, and the copy loads with it."""
    sheet = pd.read_csv(folder / "metadata.csv", dtype=str)
    calls = sheet["parity"].to_numpy().copy()
    calls[:10] = np.where(calls[:10] == "even", "odd", "even")
    labels = write(
        tmp_path / "calls.csv", {"file_name": list(sheet["file_name"]), "parity": [*calls[:115], *[None] * 5]}
    )
    result = run("evaluate", labels, "--data", folder, "--out", tmp_path / "measured")
    counts = np.array(result["confusion"])
    assert counts[2].sum() == 0
    assert counts[:, 2].sum() == 5
    assert counts[0, 1] + counts[1, 0] == 10
    kept = load_classifier(tmp_path / "measured")
    assert kept.default_split == "digits-files"
    np.testing.assert_array_equal(kept.confusions["digits-files"].counts, counts)
    np.testing.assert_array_equal(kept.label(images("000.png")), load_classifier(labels).label(images("000.png")))


PACKAGE = '''
import torch

class Brightness:
    """Whether an image is bright."""
    attribute = ("tone", ("dark", "light"))
    digest = "brightness 1"
    input_size = 32

    def probabilities(self, images):
        light = images.float().mean(dim=(1, 2, 3)) / 255
        return torch.stack([1 - light, light], dim=1)

class Measuring(Brightness):
    input_size = 0  # images of any size

    def features(self, images):
        return images.float().mean(dim=(2, 3))

class Broken(Brightness):
    def probabilities(self, images):
        return torch.full((len(images), 2), float("nan"))
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `pip install` leaves of a package with entry points."""
    place = tmp_path / "site"
    info = place / "brightness-1.0.dist-info"
    info.mkdir(parents=True)
    (place / "brightness_package.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brightness\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fairsims.classifiers]\nbrightness = brightness_package:Brightness\n"
        "measuring = brightness_package:Measuring\nbroken = brightness_package:Broken\nabsent = brightness_package:Absent\n"
    )
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "brightness_package", raising=False)
    return place


def test_another_package_offers_a_classifier(package: Path, tmp_path: Path) -> None:
    images = open_dataset("emoji-people", resolution=32).read(range(4))
    for spec in ("brightness", "entry-point:brightness"):
        found = load_classifier(spec)
        assert found.attribute.classes == ("dark", "light")
        np.testing.assert_allclose(
            found.probabilities(images)[:, 1].numpy(), images.float().mean(dim=(1, 2, 3)).numpy() / 255, atol=1e-6
        )
    facts = json.loads(json.dumps(found.facts()))
    assert (facts["kind"], facts["input_size"], facts["digest"]) == ("entry-point", 32, "brightness 1")
    with pytest.raises(InputError, match="of brightness has no features"):
        found.features(images)
    with pytest.raises(InputError, match="the classifier 'broken' of brightness gave probabilities"):
        load_classifier("broken").probabilities(images)
    with pytest.raises(InputError, match="'absent' of brightness cannot be loaded") as caught:
        load_classifier("absent")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="did you mean 'brightness'"):
        load_classifier("entry-point:brightnes")


def test_quality_is_measured_with_the_features_of_a_classifier_of_any_size(package: Path, folder: Path) -> None:
    """One that has none is refused before anything is measured."""
    asked = {"before": folder, "attr": ("tone",), "reference": "digits"}
    opened = open_audit(AuditConfig(**asked, classifier=("measuring",)))
    assert [e.name for e in opened.extractors] == ["measuring"]
    with pytest.raises(InputError, match="features of a classifier were asked for and there is none"):
        open_audit(AuditConfig(**asked, classifier=("brightness",)))


def test_another_packages_classifier_is_measured(package: Path, folder: Path, tmp_path: Path) -> None:
    sheet = pd.read_csv(folder / "metadata.csv")
    sheet["tone"] = np.where(open_dataset("digits").read(range(120)).float().mean(dim=(1, 2, 3)) > 90, "light", "dark")
    sheet.to_csv(folder / "metadata.csv", index=False)
    result = run("evaluate", "brightness", "--data", folder, "--out", tmp_path / "b")
    assert result["how"] == "as it is"
    assert np.array(result["confusion"]).sum() == 120
    kept = load_classifier(tmp_path / "b")
    assert kept.confusions["digits-files"].totals.sum() == 120
    assert kept.digest == "brightness 1"
    (package / "brightness_package.py").write_text(PACKAGE.replace("brightness 1", "brightness no. 2"))
    sys.modules.pop("brightness_package")
    with pytest.raises(InputError, match="has changed since"):
        load_classifier(tmp_path / "b")


def test_training_measuring_again_and_leaks(folder: Path, tmp_path: Path) -> None:
    """On its own data it is fitted again; on others as it is, without what it learned from; never on that alone."""
    made = tmp_path / "probe"
    train = ["--kind", "probe", "--backbone", "classifier:digits-parity", "--attr", "digit", "--classes", "0,1"]
    result = run("train", *train, "--data", "digits", "--folds", "3", "--out", made)
    assert result["metrics"]["image"]["folds"] == 3  # type: ignore[index]
    digest = load_classifier(made).digest
    again = run("evaluate", made, "--data", "digits", "--split", "halves", "--folds", "2", "--default")
    assert (again["how"], again["written"]) == ("fitted again for every fold", str(made))
    classifier = load_classifier(made)
    assert set(classifier.confusions) == {"image", "halves"}
    assert (classifier.default_split, classifier.digest) == ("halves", digest)
    count = sum(labelled(open_dataset("digits-skewed"), "digit", ("0", "1")).counts.values())
    assert f"trained on all {count} images of digits-skewed" in refused("evaluate", made, "--data", "digits-skewed")
    other = run("evaluate", made, "--data", with_new_images(folder))
    assert (other["how"], other["split"]) == ("as it is", "digits-files")
    assert other["left_out_as_trained_on"] == int(open_dataset("digits").table["digit"][:120].isin(["0", "1"]).sum())
    assert other["images"] == {"0": 5, "1": 5}


def with_new_images(folder: Path) -> Path:
    """The digit of each file, and ten further images of 0 and 1 that no classifier has seen."""
    digits, sheet = open_dataset("digits"), pd.read_csv(folder / "metadata.csv")
    sheet["digit"] = digits.table["digit"][:120]
    new = [int(i) for k in "01" for i in np.flatnonzero(digits.table["digit"] == k)[-5:]]
    for i in new:
        Image.fromarray(255 - digits.read([i])[0, 0].numpy()).save(folder / f"new-{i}.png")
    rows = pd.DataFrame({"file_name": [f"new-{i}.png" for i in new], "digit": ["0"] * 5 + ["1"] * 5})
    pd.concat([sheet, rows]).to_csv(folder / "metadata.csv", index=False)
    return folder


def test_shipped_classifiers_are_not_written_to(folder: Path) -> None:
    """digits-parity learned from all digits, so that none of these files is left to measure it on."""
    before = (embedded_classifiers()["digits-parity"] / "config.json").read_text()
    assert "digits-parity was trained on all 120 images of digits-files" in refused(
        "evaluate", "digits-parity", "--data", folder
    )
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            Image.fromarray(255 - np.asarray(image)).save(path)
    result = run("evaluate", "digits-parity", "--data", folder)
    assert str(result["written"]).startswith("nowhere")
    assert (embedded_classifiers()["digits-parity"] / "config.json").read_text() == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("--attr parity", "--data is missing"),
        ("--data digits --attr age", "no column 'age'"),
        ("--data digits --attr parity --augment flop=1", "did you mean 'flip'"),
        ("--data digits --attr parity --augment hue=much", "expected NAME=NUMBER"),
        ("--data digits --attr parity --kimg 0", "--kimg is 0.0; expected"),
        ("--data digits --attr parity --folds 1", "--folds is 1; expected"),
        ("--data digits --attr parity --architecture resnet17", "did you mean"),
        ("--data digits --attr parity --weights DEFAULT", "--weights is for torchvision"),
        ("--data digits --attr parity --abstain often", "--abstain is 'often'; expected"),
        ("--data digits --attr parity --abstain balanced", "no image is labelled undetermined"),
        ("--data digits --attr parity --kind probe", "--backbone is missing"),
    ],
)
def test_careless_training(tmp_path: Path, command: str, words: str) -> None:
    assert words in refused("train", *command.split(), "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()
