"""The page Faces: photographs are looked through, abstentions shown, broken files and a missing extra said."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from dashboard_pages import rerun, shown, texts
from PIL import Image

from fairsims.classifiers.faces import face_reader
from fairsims.dashboard.photographs import read_photograph
from fairsims.dashboard.widgets import plain
from fairsims.errors import InputError

ASTRONAUT = Path(__file__).parents[1] / "fixtures" / "faces" / "astronaut.jpg"


def encoded(image, form="PNG", **settings):
    buffer = io.BytesIO()
    image.save(buffer, format=form, **settings)
    return buffer.getvalue()


@pytest.fixture
def portrait():
    with Image.open(ASTRONAUT) as image:
        return image.convert("RGB").resize((128, 128))


def test_a_folder_is_looked_through(root, portrait):
    app = shown("faces")
    assert "Perceived gender presentation in two classes" in texts(app)
    assert not app.metric
    files = [
        ("a.png", encoded(portrait), "image/png"),
        ("b.png", encoded(Image.new("RGB", (64, 80), "teal")), "image/png"),
        ("c.jpg", b"no picture", "image/jpeg"),
    ]
    app = rerun(app.file_uploader(key="photographs").set_value(files))
    assert {m.label: m.value for m in app.metric} == {
        "Photographs": "2",
        "Without a face": "50.0%",
        "Undetermined": "50.0%",
    }
    said = texts(app)
    assert plain("a.png: woman") in said
    assert plain("b.png: no face found") in said
    assert plain("c.jpg is found unreadable (not an image)") in said
    assert plain("Its errors here are unknown.") in said
    app = rerun(app.segmented_control(key="face-attribute").set_value("skin_tone"))
    assert plain("a.png: very light 60°") in texts(app)
    assert "compare only pictures of the same making" in texts(app).replace("\\", "")


def test_without_the_extra_the_page_says_what_to_install(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    face_reader.cache_clear()
    app = shown("faces")
    assert plain("pip install 'fairsims[faces]'") in app.error[0].value


def test_photographs_are_turned_as_exif_says(portrait):
    exif = Image.Exif()
    exif[274] = 6
    lying = encoded(portrait.rotate(90), "JPEG", exif=exif, quality=95)
    assert read_photograph(lying, "lying.jpg").face is not None
    grey = encoded(portrait.convert("L"))
    face = read_photograph(grey, "grey.png").face
    assert face is not None
    assert face.angle is None
    with pytest.raises(InputError, match=r"^cut.png is found unreadable"):
        read_photograph(grey[:400], "cut.png")
