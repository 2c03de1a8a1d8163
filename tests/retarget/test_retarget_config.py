"""Settings are checked before anything is computed, and image seeds never overlap."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairsims.retarget.config import MIN_POOL, RetargetConfig


def config(**changes: Any) -> RetargetConfig:
    return RetargetConfig(**({"model": "digits-8", "attr": "parity", "target": "0.5"} | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"mode": "blended"},
        {"precision": "int8"},
        {"omega": 0.0},
        {"omega": -1.0},
        {"omega": float("nan")},
        {"omega": float("inf")},
        {"omega": 2.5},
        {"budget": 0.0},
        {"budget": float("nan")},
        {"lr": -1e-4},
        {"cap": 0.0},
        {"cap": float("inf")},
        {"tolerance": 0.0},
        {"floor": 0.4},
        {"floor": 1.0},
        {"pool": 10},
        {"pool": MIN_POOL - 1},
        {"pool": 5_000_000},
        {"audit": 49},
        {"audit": 2_000_000},
        {"calibration": 49},
        {"calibration": 2_000_000},
        {"complement_size": 0},
        {"batch_size": 0},
        {"sample_batch": 0},
        {"steps": 1},
        {"seed": -1},
        {"seed": 400},
        {"solver": "rk4"},
        {"rounds": 0},
        {"drift": 0.0},
        {"interval": (5.0, 0.2), "mode": "guided"},
        {"interval": (-1.0, 2.0), "mode": "guided"},
        {"interval": (0.2, 5.0), "mode": "merged"},
        {"interval": (0.2, float("nan")), "mode": "guided"},
        {"interval": (0.2, float("inf")), "mode": "guided"},
        {"cap": float("nan")},
        {"floor": float("nan")},
        {"pool": 4_000_000},
        {"audit": 1_000_000},
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any]) -> None:
    name, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=f"^{name} is .*; expected") as caught:
        config(**changes)
    assert str(value) in str(caught.value)


def test_settings_are_frozen_and_named() -> None:
    with pytest.raises(FrozenInstanceError):
        config().pool = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        RetargetConfig("digits-8", "parity", "0.5")  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": 4_000_000}, "expected 200 to 3,999,999 images"),
        ({"audit": 1_000_000}, "expected 50 to 999,999 images"),
        ({"calibration": 2_000_000}, "expected 50 to 1,999,999 images"),
    ],
)
def test_the_largest_sizes_are_named_and_taken(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes)
    assert config(pool=3_999_999, audit=999_999, calibration=1_999_999).audit == 999_999


@pytest.mark.parametrize(("given", "made"), [(1, True), (0.0, False), (True, True), (False, False)])
def test_settings_of_the_fine_tune_get_their_own_types(given: float, made: bool) -> None:
    found = config(finetune={"xflip": given, "micro_batch": 16.0, "augment": 0}).fine_tuning(1.0)
    assert (found.xflip, found.micro_batch, found.augment) == (made, 16, 0.0)
    assert [type(v) for v in (found.xflip, found.micro_batch, found.augment)] == [bool, int, float]


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"P_mean": float("nan")}, "finetune is P_mean=nan; expected a finite number"),
        ({"augment": True}, "finetune is augment=True; expected a number"),
        ({"augment": 2.0}, "finetune is augment=2.0; expected a probability"),
        ({"micro_batch": 1.5}, "finetune is micro_batch=1.5; expected a whole number"),
        ({"micro_batch": float("inf")}, "finetune is micro_batch=inf; expected a whole number"),
        ({"micro_batch": 0.0}, "finetune is micro_batch=0; expected 1 or more"),
        ({"xflip": 0.3}, "finetune is xflip=0.3; expected 0, 1, true or false"),
        ({"xflip": float("nan")}, "finetune is xflip=nan; expected 0, 1, true or false"),
        ({"turbo": 1.0}, "finetune is turbo=1.0; expected one of"),
    ],
)
def test_settings_that_no_fine_tune_has_are_refused(finetune: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        config(finetune=finetune)


uses = st.sampled_from(["pool", "calibration", "audit"])


@given(st.integers(0, 399), st.integers(0, 399), uses, uses)
def test_seeds_of_different_uses_and_runs_never_overlap(a: int, b: int, use: str, other: str) -> None:
    largest = {"pool": 3_999_999, "calibration": 1_999_999, "audit": 3_999_996}
    first, second = config(seed=a).seeds(use, largest[use]), config(seed=b).seeds(other, largest[other])
    same = (a, use) == (b, other)
    assert (max(first[0], second[0]) <= min(first[-1], second[-1])) == same
    # Within 32 bits: the noise is that of torch's own generator.
    assert 0 <= first[0] <= first[-1] < 2**32


def test_label_is_safe_in_a_path() -> None:
    assert config(target="0.5").label == "parity-0.5"
    assert config(target="even=0.3,odd=0.7").label == "parity-even=0.3-odd=0.7"
    assert "/" not in config(target="../../x y").label
    assert len(config(target="0." + "1" * 300).label) <= 60


several: dict[str, Any] = {"attr": ("parity", "half"), "target": ("0.5", "uniform"), "hold": ("ink",)}


@pytest.mark.parametrize(
    "changes",
    [{}, several, several | {"classifier": ("half=a", "ink=b")}, {"mode": "guided", "interval": (0.3, 5.0)}],
)
def test_settings_go_through_json(changes: dict[str, Any]) -> None:
    found = json.loads(json.dumps(config(**changes).as_dict()))
    assert found["calibration"] == 4096
    assert RetargetConfig(**found) == config(**changes)


def test_one_attribute_is_written_as_itself() -> None:
    alone = config(attr=("parity",), target=("0.5",), classifier=())
    assert alone.as_dict() == config().as_dict()
    assert alone.as_dict()["attr"] == "parity"
    assert alone.label == "parity-0.5"


def test_several_attributes_are_paired_in_order() -> None:
    found = config(**several)
    assert found.attrs == ("parity", "half")
    assert found.targets == ("0.5", "uniform")
    assert found.names == ("parity", "half", "ink")
    assert found.label == "parity-0.5-half-uniform-hold-ink"
    for changes in ({"target": "0.5"}, {"target": ("0.5", "0.5", "0.5")}, {"attr": (), "target": ()}):
        with pytest.raises(ValueError, match="expected one for each attribute"):
            config(**(several | changes))
    for changes in ({"hold": ("half",)}, {"attr": ("parity", "parity")}):
        with pytest.raises(ValueError, match="twice, among those targeted and held"):
            config(**(several | changes))


def test_classifiers_belong_to_attributes(tmp_path: Path) -> None:
    assert config().classifiers == {}
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert config(classifier=str(folder)).classifiers == {"parity": str(folder)}, "a path may hold the sign"
    assert config(classifier="ink=b/c").classifiers == {"ink": "b/c"}, "of an attribute that is only watched"
    with pytest.raises(ValueError, match="classifier is one of ink; expected none of other attributes without others"):
        config(classifier="ink=b/c", others=False, mode="merged")
    assert config(classifier="ink=b/c", others=False).classifiers, "a paired contrast is alike in it"
    assert config(classifier="parity=a").classifiers == {"parity": "a"}
    assert config(**several, classifier=("half=a=b", "ink=c")).classifiers == {"half": "a=b", "ink": "c"}
    with pytest.raises(ValueError, match="classifier is 'a'; expected ATTR=PATH, ATTR one of parity, half, ink"):
        config(**several, classifier="a")


@given(st.floats(0, 3), st.floats(0.1, 50))
def test_an_interval_is_for_guiding(low: float, width: float) -> None:
    assert config(mode="guided", interval=(low, low + width)).interval == (low, low + width)
    with pytest.raises(ValueError, match="only guided has one"):
        config(interval=(low, low + width))
