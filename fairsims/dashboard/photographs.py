"""Photographs that a viewer hands to the dashboard, and the face that is found in each."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from fairsims.audit.estimates import ShareEstimate
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.face_attributes import FaceClassifier
from fairsims.classifiers.faces import Face, face_reader
from fairsims.data.opening import check_single, open_image, upright
from fairsims.data.policy import ImagePolicy, Unusable
from fairsims.errors import InputError

SHOWN = 240
"""Pixels of the longer side of what is shown of a photograph."""
BOX = "#D9792B"


@dataclass(frozen=True, kw_only=True)
class Photograph:
    """One picture, small, with its largest face framed."""

    name: str
    png: bytes
    face: Face | None


def read_photograph(data: bytes, name: str) -> Photograph:
    """An encoded image, upright, looked through for faces in its own size. Raises InputError naming a broken one."""
    policy = ImagePolicy(background="white")
    try:
        image = open_image(data)
        check_single(image)
        pixels = policy.apply(upright(image), policy.channels(image.mode, clear="transparency" in image.info))
    except Unusable as e:
        raise InputError(f"{name} is found {e}") from None
    picture = np.ascontiguousarray(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0))
    face = face_reader().face(picture)
    return Photograph(name=name, png=_framed(picture, face), face=face)


def shares_among(photographs: Sequence[Photograph], classifier: FaceClassifier) -> ShareEstimate:
    """Shares of the classes as they are called; errors are unknown."""
    calls = np.argmax([classifier.row(p.face) for p in photographs], axis=1)
    return corrected_shares(
        classifier.attribute.classes, np.bincount(calls, minlength=len(classifier.attribute.classes)), None
    )


def called(photograph: Photograph, classifier: FaceClassifier) -> str:
    """What one photograph is called, and how surely."""
    face = photograph.face
    if face is None:
        return "no face found"
    row = classifier.row(face)
    best = int(np.argmax(row))
    sure = f"{100 * row[best]:.0f}%"
    if classifier.attribute.name == "skin_tone":
        sure = "no skin's colour" if face.angle is None else f"{face.angle:.0f}°"
    several = f", the largest of {face.faces} faces" if face.faces > 1 else ""
    return f"{classifier.attribute.classes[best]} {sure}{several}"


def _framed(picture: np.ndarray, face: Face | None) -> bytes:
    image = Image.fromarray(picture)
    factor = SHOWN / max(image.size)
    image = image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))))
    if face is not None:
        left, top, right, bottom = (v * factor for v in face.box)
        ImageDraw.Draw(image).rectangle((left, top, right, bottom), outline=BOX, width=3)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
