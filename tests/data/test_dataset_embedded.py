"""The embedded datasets: the counts the documentation states, and that the skewed ones are what they claim."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from fairsims.data import open_dataset
from fairsims.data.embedded import EMBEDDED, spread
from fairsims.errors import InputError


def counts(spec: str, attribute: str) -> list[int]:
    found = open_dataset(spec)
    places = found.class_indices(attribute).tolist()
    return [places.count(i) for i in range(len(found.attributes[attribute].classes))]


def test_emoji_people_has_the_documented_counts() -> None:
    people = open_dataset("emoji-people")
    assert (len(people), people.resolution, people.channels) == (1994, 64, 3)
    assert people.attributes["gender"].classes == ("man", "woman", "person")
    assert counts("emoji-people", "gender") == [640, 664, 690]
    assert counts("emoji-people", "skin_tone") == [344, 330, 330, 330, 330, 330]
    assert counts("emoji-people", "vendor") == [997, 997]
    assert people.table["concept"].nunique() == 62
    assert not people.table.isna().any().any()


@pytest.mark.parametrize(
    ("name", "gender"),
    [
        ("merman", "man"),
        ("mermaid", "woman"),
        ("merperson", "person"),
        ("father christmas", "man"),
        ("mother christmas", "woman"),
        ("mx claus", "person"),
        ("prince", "man"),
        ("princess", "woman"),
        ("person with crown", "person"),
        ("deaf man", "man"),
        ("woman: beard", "woman"),
        ("bearded person", "person"),
        ("man with veil", "man"),
        ("bride with veil", "person"),
        ("woman in tuxedo", "woman"),
        ("pregnant man", "man"),
        ("pregnant person", "person"),
        ("person with headscarf", "woman"),
        ("guardsman", "person"),
        ("man with gua pi mao", "person"),
        ("man feeding baby", "man"),
        ("woman guard", "woman"),
        ("boy", "man"),
        ("girl", "woman"),
        ("child", "person"),
    ],
)
def test_gender_of_names_that_mislead_simple_rules(name: str, gender: str) -> None:
    table = open_dataset("emoji-people").table
    assert set(table.loc[table["name"] == name, "gender"]) == {gender}


@pytest.mark.parametrize("name", ["man in tuxedo", "man with turban"])
def test_old_names_of_lone_code_points_are_not_followed(name: str) -> None:
    table = open_dataset("emoji-people").table
    rows = table[(table["name"] == name)]
    signed = rows["unified"].str.contains("2642")
    assert set(rows.loc[~signed, "gender"]) == {"person"}
    assert set(rows.loc[signed, "gender"]) <= {"man"}


def test_concepts_join_the_genders_of_a_design() -> None:
    table = open_dataset("emoji-people").table
    per_concept = table.groupby("concept")["gender"].agg(lambda g: len(set(g)))
    assert (per_concept == 3).sum() == 55
    alone = {"baby", "baby angel", "ninja", "skullcap", "troll", "breast-feeding", "headscarf"}
    assert set(per_concept.index[per_concept == 1]) == alone
    assert set(table.loc[table["concept"] == "health worker", "gender"]) == {"man", "woman", "person"}


def test_no_picture_carries_two_genders() -> None:
    people = open_dataset("emoji-people")
    images = people.read(range(len(people)))
    genders: dict[bytes, set[str]] = {}
    for image, gender in zip(images, people.table["gender"], strict=True):
        genders.setdefault(image.numpy().tobytes(), set()).add(gender)
    assert all(len(g) == 1 for g in genders.values())
    assert len(genders) == 1993


def test_32_is_the_box_mean_with_halves_up() -> None:
    full = open_dataset("emoji-people").read([0, 700, 1993]).to(torch.int32)
    half = open_dataset("emoji-people", resolution=32)
    boxes = full.reshape(3, 3, 32, 2, 32, 2).sum(dim=(3, 5))
    assert torch.equal(half.read([0, 700, 1993]), ((boxes + 2) // 4).to(torch.uint8))
    assert half.resolution == 32


def test_emoji_corners_are_mostly_white() -> None:
    people = open_dataset("emoji-people", resolution=32)
    assert (people.read(range(len(people)))[:, :, 0, 0] == 255).all(dim=1).float().mean() > 0.9


def test_skewed_emoji_are_three_to_one_without_person() -> None:
    skewed = open_dataset("emoji-people-skewed", resolution=32)
    assert skewed.attributes["gender"].classes == ("man", "woman")
    assert counts("emoji-people-skewed", "gender") == [640, 213]
    assert skewed.name == "emoji-people-skewed"
    # Pinned: released checkpoints and classifiers were trained on this choice.
    assert skewed.digest == "faac5a8fc05b7ec901c2e6f6465b9e30105c0943779bc6473bea003c24f48f01"


def test_skewed_women_are_spread_evenly() -> None:
    table = open_dataset("emoji-people-skewed").table
    women = table[table["gender"] == "woman"]
    assert women["skin_tone"].value_counts().between(35, 37).all()
    assert women["vendor"].value_counts().between(106, 107).all()
    assert women["concept"].value_counts().drop(["genie", "zombie"]).between(3, 4).all()


def test_digits() -> None:
    found = open_dataset("digits")
    assert (len(found), found.resolution, found.channels) == (1797, 8, 1)
    images = found.read(range(len(found)))
    assert (int(images.min()), int(images.max())) == (0, 255)
    assert len(images.unique()) == 17
    assert found.attributes["parity"].classes == ("even", "odd")
    digit, parity = found.class_indices("digit"), found.class_indices("parity")
    assert (digit % 2 == parity).all()


def test_skewed_digits_are_three_to_one() -> None:
    assert counts("digits-skewed", "parity") == [891, 297]
    assert [c for c in counts("digits-skewed", "digit")[1::2] if not 59 <= c <= 60] == []


@pytest.mark.parametrize("spec", sorted(EMBEDDED))
def test_embedded_datasets_are_the_same_each_time(spec: str) -> None:
    first, second = open_dataset(spec), open_dataset(spec)
    assert first.digest == second.digest
    assert first.table.equals(second.table)
    assert torch.equal(first.read([0, 5]), second.read([0, 5]))


@pytest.mark.parametrize(
    ("spec", "resolution"), [("emoji-people", 48), ("emoji-people-skewed", 16), ("digits", 4), ("digits-skewed", 32)]
)
def test_other_resolutions_are_refused(spec: str, resolution: int) -> None:
    with pytest.raises(InputError, match=f"found resolution {resolution}"):
        open_dataset(spec, resolution=resolution)


@pytest.mark.parametrize("spec", ["emoji-peple", "", "no/such/folder"])
def test_unknown_specs_list_what_there_is(spec: str) -> None:
    with pytest.raises(InputError, match="'emoji-people'"):
        open_dataset(spec)


def test_spread_draws_equally_and_only_on_keys() -> None:
    table = pd.DataFrame({"a": ["x", "y"] * 6, "b": ["p", "q", "r"] * 4})
    keys = [f"row {i}" for i in range(12)]
    chosen = spread(table, keys, 6, ["a", "b"])
    assert table.loc[chosen, "a"].value_counts().tolist() == [3, 3]
    assert table.loc[chosen, "b"].value_counts().tolist() == [2, 2, 2]
    back = spread(table[::-1].reset_index(drop=True), keys[::-1], 6, ["a", "b"])
    assert sorted(11 - i for i in back) == chosen
