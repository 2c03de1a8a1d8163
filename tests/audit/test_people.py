"""Labels by people: matched to their images, kept from other images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import MakePool

from fairsims.audit.people import PeopleLabels, check_owner, read_people_labels
from fairsims.data import Attribute
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.pools import export_edm_zip, export_folder, open_source

PARITY = Attribute(name="parity", classes=("even", "odd"))
ROUND = Attribute(name="round", classes=("no", "yes"))


def sheet(path: Path, **columns: object) -> str:
    table = pd.DataFrame(columns)
    (table.to_parquet if path.suffix == ".parquet" else table.to_csv)(path, index=False)
    return str(path)


def read(
    specs: list[str], sources: dict[str, ImageSource], *attributes: Attribute
) -> dict[str, dict[str, PeopleLabels]]:
    return read_people_labels(specs, sources, attributes or (PARITY,))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_labels_find_their_images_by_seed_or_by_name(tmp_path: Path, digits_pool: MakePool, suffix: str) -> None:
    pool = digits_pool(4, 4)
    export_folder(pool, tmp_path / "folder")
    export_edm_zip(pool, tmp_path / "e.zip")
    named, folder, zipped = (
        [f"{s:06d}.png" for s in (6, 2)],
        open_source(tmp_path / "folder"),
        open_source(tmp_path / "e.zip"),
    )
    by_seed = sheet(tmp_path / f"seed{suffix}", seed=[6, 2, 1], parity=["odd", "even", None])
    by_name = sheet(tmp_path / f"name{suffix}", file_name=named, parity=["odd", "even"])
    by_path = sheet(
        tmp_path / f"path{suffix}", file_name=[f"./00000/img{k:08d}.png" for k in (6, 2)], parity=["odd", "even"]
    )
    for path, source in ((by_seed, pool), (by_name, pool), (by_name, folder), (by_seed, folder), (by_path, zipped)):
        found = read([path], {"before": source})["parity"]["before"]
        assert found.positions.tolist() == [2, 6]
        assert found.classes.tolist() == [0, 1]


def test_one_file_for_several_attributes(tmp_path: Path, digits_pool: MakePool) -> None:
    path = sheet(tmp_path / "l.csv", seed=[0, 1, 2], parity=["odd", "even", ""], round=["", "", "yes"])
    found = read([path], {"before": digits_pool(2, 2)}, PARITY, ROUND, Attribute(name="other", classes=("a", "b")))
    assert found["parity"]["before"].positions.tolist() == [0, 1]
    assert found["round"]["before"].positions.tolist() == [2]
    assert found["other"] == {}


def test_whose_labels_they_are_has_to_be_clear(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(4, 4, "b"), digits_pool(6, 3, "a")
    both: dict[str, ImageSource] = {"before": before, "after": after}
    shared = sheet(tmp_path / "shared.csv", seed=[1, 2], parity=["even", "odd"])
    with pytest.raises(InputError, match="names the images of both before and after; say whose labels"):
        read([shared], both)
    assert list(read([f"after={shared}"], both)["parity"]) == ["after"]
    # Seed 8 is in one of them only.
    only = sheet(tmp_path / "only.csv", seed=[1, 8], parity=["even", "odd"])
    assert list(read([only], both)["parity"]) == ["after"]
    with pytest.raises(InputError, match="names seed '8', which is not in .*/b"):
        read([f"before={only}"], both)
    with pytest.raises(InputError, match="is given for before and after; images of one seed differ"):
        read([f"before={shared}", f"after={shared}"], both)
    with pytest.raises(InputError, match="both label parity of after"):
        read([f"after={shared}", f"after={only}"], both)
    with pytest.raises(InputError, match="is for after, which is not given"):
        read([f"after={shared}"], {"before": before})


def test_a_file_may_say_which_images_were_looked_at(tmp_path: Path, digits_pool: MakePool) -> None:
    before, after = digits_pool(4, 4, "b"), digits_pool(6, 3, "a")
    both: dict[str, ImageSource] = {"before": before, "after": after}
    digests = [before.digest[:12], before.digest[:12], after.digest[:12]]
    path = sheet(tmp_path / "both.csv", seed=[1, 2, 1], parity=["even", "odd", "odd"], source=digests)
    found = read([path], both)["parity"]
    assert found["before"].positions.tolist() == [1, 2]
    assert (found["after"].positions.tolist(), found["after"].classes.tolist()) == ([1], [1])
    mine = sheet(tmp_path / "mine.csv", seed=[1], parity=["even"], source=digests[:1])
    # Labels of the before pool are never used on the after pool.
    with pytest.raises(InputError, match=f"labels the images of source '{digests[0]}'; .* it was given for after"):
        read([f"after={mine}"], both)
    with pytest.raises(InputError, match="labels the images of source .*; before is"):
        read([mine], {"before": after})
    vague = sheet(tmp_path / "vague.csv", seed=[1], parity=["even"], source=[before.digest[:3]])
    with pytest.raises(InputError, match="give the labels of these very images"):
        read([vague], both)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"seed": [0, 99], "parity": ["even", "odd"]}, r"names seed '99', which is not in .* \(1 of 2 are not\)"),
        ({"seed": [0, 1], "parity": ["even", "od"]}, "has parity 'od'; did you mean 'odd'"),
        ({"seed": [0, 0], "parity": ["even", "odd"]}, "labels seed 0 twice"),
        ({"seed": [0, 1], "pairity": ["even", "odd"]}, "has no labels for 'parity'; did you mean 'pairity'"),
        ({"image": [0, 1], "parity": ["even", "odd"]}, "expected file_name or seed to tell the images"),
    ],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, digits_pool: MakePool, columns: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read([sheet(tmp_path / "l.csv", **columns)], {"before": digits_pool(2, 2)})


def test_no_table_is_refused(tmp_path: Path, digits_pool: MakePool) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "empty.csv").write_bytes(b"")
    for name in ("broken.parquet", "empty.csv", "missing.csv"):
        with pytest.raises(InputError, match=f"{name}( is no|; expected a) table of labels"):
            read([str(tmp_path / name)], {"before": digits_pool(2, 2)})


@pytest.mark.parametrize("seed", range(3))
def test_labels_of_the_other_pool_are_recognised(tmp_path: Path, digits_pool: MakePool, seed: int) -> None:
    """Of the same seeds, 30 in 100 images have another class after; people agree with 95 in 100 right calls."""
    generator = np.random.default_rng(seed)
    sources: dict[str, ImageSource] = {"before": digits_pool(400, 0, "b"), "after": digits_pool(400, 0, "a")}
    true = {"before": generator.integers(0, 2, 400)}
    true["after"] = np.where(generator.random(400) < 0.3, 1 - true["before"], true["before"])
    predicted = {w: np.where(generator.random(400) < 0.05, 1 - t, t) for w, t in true.items()}
    positions = np.sort(generator.choice(400, 150, replace=False))
    for side, other in (("before", "after"), ("after", "before")):
        labels = PeopleLabels(path=Path("l.csv"), digest="", positions=positions, classes=true[side][positions])
        check_owner(labels, predicted, sources, side)
        with pytest.raises(InputError, match=f"l.csv is given for {other}, .* look like labels of {side}"):
            check_owner(labels, predicted, sources, other)
        check_owner(labels, predicted, {side: sources[side]}, side)
