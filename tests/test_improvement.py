"""The audit of self-improvement: halves that share nothing, a whole run at tiny sizes, changes with their intervals."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import png, script

from fairsims.data import ImageDataset, open_dataset
from fairsims.files import read_json

SMALL = """
seeds = [0]
added = [0]
[run]
pool = 200
steps = 2
batch_size = 16
[sweep]
budgets = [0.048]
omegas = [1]
sizes = [64]
images = 50
confirm = 50
[classifier]
widths = [16, 32]
kimg = 6
[sets.digits.bases.small]
kimg = 0.512
model_channels = 8
[sets.digits.bases.small.further.budgets]
seeds = [0]
budgets = [0.032]
[sets.digits.bases.small.further.sizes]
seeds = [0]
budgets = [0.016, 0.032]
sizes = [32]
[sets.digits.guide]
kimg = 0.128
model_channels = 4
"""


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return script("audits/self_improvement.py")


def test_the_halves_share_no_image_and_have_the_same_classes(audit: ModuleType, digits: ImageDataset) -> None:
    first, second = (audit.half_of(digits, "digit", k) for k in (0, 1))
    assert sorted([*first, *second]) == list(range(1797))
    classes = digits.class_indices("digit")
    counts = [np.bincount(classes[half], minlength=10) for half in (first, second)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_one_command_from_data_to_table(audit: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.toml").write_text(SMALL, encoding="utf-8")
    out = tmp_path / "out"
    command = ["--changes", str(tmp_path / "small.toml"), "--out", str(out)]
    audit.main(command)
    said = capsys.readouterr().out
    rows = pd.read_csv(out / "results.csv")
    assert list(rows["arm"]) == ["base", "merged", "guided", "blocks", "longer", "decayed", "autoguided"]
    swept = read_json(out / "digits" / "small-0" / "sweep" / "sweep.json")
    # Judged on the half that nobody trained on; repeats are looked for in the other.
    assert (swept["quality"]["reference"]["n"], swept["settings"]["reference"]) == (
        896,
        str(out / "digits/held-out.zip"),
    )
    assert swept["quality"]["training"] == "train"
    assert open_dataset(str(out / "digits" / "train.zip")).attributes["digit"].classes == tuple("0123456789")
    # Seeds that were added to confirm are shown by themselves, too; here they are the only ones.
    assert said.count("\n") == 4 * (2 + 2 + 7) + 3
    table = pd.read_csv(out / "summary.csv")
    assert list(table["against"]) == (["base"] * 7 + ["longer"] * 7) * 2
    # Further sweeps have another budget, and another size with two: merged and guided at each, and no second base.
    points = pd.read_csv(out / "points.csv")
    assert len(points) == 1 + len(swept["grid"]["modes"]) + 2 + 3 * 2
    assert points["arm"].is_unique
    assert set(points.loc[points["mode"] == "merged", "budget_kimg"]) == {0.016, 0.032, 0.048}
    assert set(points.loc[points["mode"] == "guided", "size"]) == {32, 64}
    for name in ("arms-digits-small.png", "sweep-digits-small.png"):
        with Image.open(out / name) as picture:
            assert picture.width > picture.height > 100, "drawn coarsely in tests"
    table = table[(table["against"] == "base") & (table["of"] == "all seeds")].set_index("arm")
    change = rows.set_index("arm")["fd_reference"] - rows.set_index("arm").loc["base", "fd_reference"]
    assert table["fd_reference.change"].to_dict() == pytest.approx(change.to_dict(), abs=1e-2)
    assert np.isinf(table.loc["merged", "fd_reference.low"]) or np.isnan(table.loc["merged", "fd_reference.low"])
    audit.main(command)
    assert capsys.readouterr().out == said


def test_a_change_has_students_interval_over_seeds(audit: ModuleType) -> None:
    """Of -1, -2, -3 the mean is -2 and its interval +- 4.3027 / sqrt(3): the base of the same seed is taken off."""
    common = {"set": "x", "base": "y", "fd_infinity": 0.0}
    rows = [common | {"arm": "base", "seed": k, "fd_infinity": 10.0 * k} for k in range(3)]
    rows += [common | {"arm": "merged", "seed": k, "fd_infinity": 10.0 * k - 1 - k} for k in range(3)]
    found = audit.summary(pd.DataFrame(rows)).set_index("arm").loc["merged"]
    assert found["fd_infinity.change"] == pytest.approx(-2)
    assert found["fd_infinity.low"] == pytest.approx(-2 - 4.30265 / 3**0.5, abs=1e-4)
    assert found["fd_infinity.high"] == pytest.approx(-2 + 4.30265 / 3**0.5, abs=1e-4)
    assert "(-2 [-4.5, +0.48])" in audit.as_text(audit.summary(pd.DataFrame(rows)))
    # An arm of fewer seeds is compared with the base of these alone.
    fewer = audit.summary(pd.DataFrame(rows[:-1])).set_index("arm").loc["merged"]
    assert (fewer["seeds"], fewer["fd_infinity.change"]) == (2, pytest.approx(-1.5))


def test_a_set_that_is_not_there_is_refused(audit: ModuleType, tmp_path: Path) -> None:
    for sets, words in (("emojis", "found no build/emojis-train.zip"), ("emoji", "there is no set 'emoji'")):
        with pytest.raises(SystemExit, match=words):
            audit.main(["--sets", sets, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="digits has no base 'huge'; expected one of small, large"):
        audit.main(["--bases", "huge", "--out", str(tmp_path)])


def test_no_design_of_the_emojis_stands_on_both_sides(tmp_path: Path) -> None:
    tool = script("tools/build_emojis.py")
    names = [
        "CLOCK FACE ONE OCLOCK",
        "CLOCK FACE TWO-THIRTY",
        "BLUE HEART",
        "GREEN HEART",
        "DOG FACE",
        "CAT FACE",
        "PIZZA",
    ]
    names += ["FLAG FOR PERU", "FLAG FOR CHAD", "WOMAN COOK", "MAN COOK", "ROCKET", "BUS", "TAXI"]
    picture = png(np.full((64, 64, 3), 90, np.uint8))
    emoji = [
        {
            "name": n,
            "category": "Symbols",
            "unified": f"{k:04X}",
            "image": f"{k}.png",
            "has_img_google": True,
            "has_img_twitter": k % 2 == 0,
            "skin_variations": {},
        }
        for k, n in enumerate(names)
    ]
    emoji.append(emoji[0] | {"category": "Component"})
    packages = {vendor: (emoji, {e["image"]: picture for e in emoji}) for vendor in tool.VENDORS}
    rows = [row for row, _ in tool.pictures_of(packages)]
    assert len(rows) == 14 + 7
    assert tool.family_of("CLOCK FACE ONE OCLOCK") == tool.family_of("CLOCK FACE TWO-THIRTY") == "clock face"
    assert tool.family_of("FLAG FOR PERU") != tool.family_of("FLAG FOR CHAD")
    sides = {held: {r["family"] for r in rows if tool.is_held_out(r["family"]) == held} for held in (True, False)}
    assert sides[True]
    assert sides[False]
    assert not sides[True] & sides[False]
    tool.write_zip(tmp_path / "a.zip", [tool.reduced(picture, 32)] * len(rows), rows)
    data = open_dataset(str(tmp_path / "a.zip"))
    assert data.shape == (3, 32, 32)
    assert {"category", "vendor"} <= set(data.attributes)
    assert tool.reduced(picture, 32).getpixel((0, 0)) == (90, 90, 90)
    assert isinstance(tool.reduced(picture, 64), Image.Image)
