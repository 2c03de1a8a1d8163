"""A target for each class asked for: the rule holds in each, the class is known without errors, rare classes shrink."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import refused, succeeds

from fairsims.audit.joint import Cells
from fairsims.audit.result import load_audit
from fairsims.audit.targets import parse_target
from fairsims.classifiers.base import Confusion
from fairsims.data.attributes import Attribute
from fairsims.errors import InfeasibleTarget
from fairsims.files import read_json
from fairsims.models import EDMDenoiser, open_checkpoint, save_checkpoint
from fairsims.models.conditions import Conditions
from fairsims.pools import Pool
from fairsims.retarget.complement import complement_shares, least_strength, plan_complement
from fairsims.retarget.each import GoalOfEach, asked_attribute, joined, set_goal_of_each, split
from fairsims.retarget.shrinkage import shrunk

PARITY = Attribute(name="parity", classes=("even", "odd"))
ASKED = asked_attribute(Conditions(("ones", "twos", "threes")))
CELLS = Cells(attributes=(PARITY, ASKED))
ERRORS = [Confusion(counts=((980, 20), (30, 970)), split="s", description="d"), Confusion.without_errors(3)]
SHARES = (0.2, 0.4, 0.75)


def goal(shares: tuple[float, ...] = SHARES, n: int = 4000, target: str = "0.5") -> GoalOfEach:
    """Calls by a classifier that errs as it is known to."""
    rng = np.random.default_rng(1)
    of = np.repeat(np.arange(3), n)
    odd = rng.random(3 * n) < np.array(shares)[of]
    called = np.where(odd, rng.random(3 * n) < 0.97, rng.random(3 * n) < 0.02).astype(np.int64)
    return set_goal_of_each(CELLS, [called, of], ERRORS, (parse_target(target, PARITY),), tolerance=0.03, drift=0.03)


def test_the_goal_has_the_target_in_each_class_and_keeps_their_numbers() -> None:
    found = goal()
    assert split(found.base, 3)[:, 1] * 3 == pytest.approx(SHARES, abs=0.02)
    assert split(found.target, 3) == pytest.approx(np.full((3, 2), 1 / 6))
    assert joined(split(found.base, 3)) == pytest.approx(found.base)
    # What has to grow differs by class.
    assert [name for name, grows in zip(CELLS.names, found.focus, strict=True) if grows] == [
        "even & threes",
        "odd & ones",
        "odd & twos",
    ]
    assert found.wanted[0] == pytest.approx(np.full((3, 2), 0.5))
    assert found.overall[0] == pytest.approx([0.5, 0.5])
    assert found.error(found.target) == pytest.approx(0, abs=1e-9)
    # Parity over all classes together hides what each lacks.
    hidden = joined(np.array([[0.8, 0.2], [0.5, 0.5], [0.2, 0.8]]) / 3)
    assert CELLS.marginal(hidden, 0) == pytest.approx([0.5, 0.5])
    assert found.error(hidden) == pytest.approx(0.3 / 0.03)
    assert found.mended(hidden) == pytest.approx(found.target)
    assert found.as_json()["parity"]["target"] == pytest.approx({"even": 0.5, "odd": 0.5})


def test_noise_is_of_each_class_and_many_classes_ask_for_more() -> None:
    found = goal()
    predicted = CELLS.place([np.tile([0, 1], 300), np.repeat([0, 1, 2], 200)])
    (noise,) = found.noise(predicted)
    assert noise.shape == (3, 2)
    assert noise == pytest.approx(np.full((3, 2), 0.5 / np.sqrt(200) / 0.95), rel=0.02)
    assert 2.3 < found.errors_off < 2.5
    off = joined(np.array([[0.5, 0.5], [0.5, 0.5], [0.57, 0.43]]) / 3)
    assert not found.clearly_off(off, [noise])
    assert found.clearly_off(off, [noise / 2])


def test_the_complement_rule_holds_in_each_class() -> None:
    found = goal()
    plan = plan_complement(found.base, found.target, CELLS.names, conditions=3)
    rows, base = split(np.array(plan.complement), 3) * 3, split(found.base, 3) * 3
    half = np.array([0.5, 0.5])
    assert plan.strength == pytest.approx(max(least_strength(row, half) for row in base))
    for row, pi in zip(rows, base, strict=True):
        assert row == pytest.approx(complement_shares(pi, half, plan.strength), abs=1e-9)
    capped = plan_complement(found.base, found.target, CELLS.names, conditions=3, cap=0.5)
    assert split(np.array(capped.complement), 3).sum(axis=1) == pytest.approx(np.full(3, 1 / 3))
    assert "no odd & ones, even & threes in the complement" in capped.reason


def test_few_images_are_drawn_towards_what_classes_have_in_common() -> None:
    rng = np.random.default_rng(0)
    true = np.full(40, 0.3)
    measured = rng.binomial(12, true) / 12
    found = shrunk(np.stack([1 - measured, measured], axis=1), 12)[:, 1]
    assert np.abs(found - 0.3).max() < 0.6 * np.abs(measured - 0.3).max()
    assert found.min() > 0
    # Classes that truly differ stay as they are, and the more images, the less one moves.
    rows = np.array([[0.9, 0.1], [0.1, 0.9], [0.5, 0.5], [0.0, 0.0]])
    moved = shrunk(rows, np.array([1000, 1000, 10, 0]))
    assert moved[:2] == pytest.approx(rows[:2], abs=0.01)
    assert moved[3] == pytest.approx([0.5, 0.5], abs=0.02)
    assert shrunk(np.array([[1.0, 0.0]]), 9) == pytest.approx(np.array([[0.95, 0.05]]))


def test_a_class_that_never_shows_what_is_wanted_is_refused() -> None:
    with pytest.raises(InfeasibleTarget, match="no odd of ones .none of 4000 images.*--target-for overall"):
        goal_of_calls(np.concatenate([np.zeros(4000, int), np.tile([0, 1], 4000)]))
    mixed = np.concatenate([np.zeros(60, int), np.tile([0, 1], 4000), np.tile([0, 1], 2000)])
    of = np.concatenate([np.zeros(60, int), np.ones(8000, int), np.full(4000, 2)])
    few = set_goal_of_each(CELLS, [mixed, of], ERRORS, (parse_target("0.5", PARITY),), tolerance=0.03, drift=0.03)
    assert split(few.base, 3)[0, 1] > 0


def goal_of_calls(called: np.ndarray) -> GoalOfEach:
    of = np.repeat(np.arange(3), 4000)
    return set_goal_of_each(CELLS, [called, of], ERRORS, (parse_target("0.5", PARITY),), tolerance=0.03, drift=0.03)


TINY = [
    "--pool",
    "300",
    "--calibration",
    "200",
    "--audit",
    "100",
    "--steps",
    "4",
    "--solver",
    "dpmpp2m",
    "--rounds",
    "1",
]
TINY += ["--budget", "0.96", "--batch-size", "24", "--lr", "1e-3", "--tolerance", "0.05", "--precision", "float32"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The embedded network of digits, told one of two classes that hardly matter."""
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    known = open_checkpoint("digits-8").denoiser
    assert isinstance(known, EDMDenoiser)
    torch.manual_seed(0)
    network = EDMDenoiser(**known.config | {"label_dim": 2})
    network.load_state_dict(known.state_dict(), strict=False)
    with torch.no_grad():
        for name, p in network.named_parameters():
            if "map_label" in name:
                p.mul_(0.05)
    save_checkpoint(tmp_path / "model", network, recipe={"classes": ["left", "right"]})
    return tmp_path / "model"


@pytest.mark.parametrize("mode", ["paired", pytest.param("guided", marks=pytest.mark.slow)])
def test_a_model_with_classes_is_retargeted_in_each(tmp_path: Path, model: Path, mode: str) -> None:
    asked = ["retarget", "--model", model, "--attr", "parity", "--target", "0.5", "--mode", mode, *TINY]
    out = tmp_path / "run"
    succeeds(*asked, "--out", out)
    found, plan = load_audit(out), read_json(out / "plan.json")["plan"]
    assert (plan["target_for"], plan["conditions"]) == ("each", ["left", "right"])
    assert found.method is not None and found.method.target_for == "each"
    assert set(found.method.complement) == {"even & left", "even & right", "odd & left", "odd & right"}
    of = found.main.by_condition
    assert of is not None and [r.condition for r in of.rows] == ["left", "right"]
    drawn, pool = pd.read_parquet(out / "complement.parquet"), Pool(out / "pool")
    place = dict(zip(pool.seeds.tolist(), pool.positions.tolist(), strict=True))
    assert [("left", "right")[place[s]] for s in drawn["seed"]] == drawn["condition"].tolist()
    assert abs((drawn["condition"] == "left").mean() - 0.5) < 0.1
    if mode == "paired":
        other = pd.read_parquet(out / "positive.parquet")
        # What gives way does so to an image of its own class.
        assert (other["condition"] == drawn["condition"]).mean() > 0.95
    assert succeeds(*asked, "--out", out)["run"] == str(out)


def test_what_cannot_be_is_refused(tmp_path: Path, model: Path) -> None:
    asked = ["retarget", "--attr", "parity", *TINY, "--out", tmp_path / "run"]
    assert "only 0.5 can be meant for each" in refused(*asked, "--model", model, "--target", "0.4")
    said = refused(*asked, "--model", "digits-8", "--target", "0.5", "--target-for", "each")
    assert "--target-for changes nothing with digits-8, which has no classes" in said
    many = EDMDenoiser(**open_checkpoint("digits-8").network.config | {"label_dim": 60})
    save_checkpoint(tmp_path / "many", many)
    said = refused(*asked, "--model", tmp_path / "many", "--target", "0.5")
    assert "120 joint cells; expected 100 at most: give --target-for overall" in said
    assert not (tmp_path / "run").exists()
