"""The classifier `faces`: perceived gender, age group and skin tone of the largest face in a picture.

`faces` is whichever of the three is asked for (`gender` where nothing is said), `faces#age` names one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.classifiers.faces import AGES, Face, face_reader
from fairsims.classifiers.skin import LIMITS, TONES, monk_of, tone_of
from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.errors import InputError
from fairsims.files import sha256_json

NAME = "faces"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One of the attributes that a face is asked for."""

    classes: tuple[str, ...]
    limits: str
    """What its calls must not be taken for."""


_FOUND = (
    "A frontal face is looked for that is a tenth of the picture's longer side or larger; pictures with none, or with "
    "faces in profile, covered, or tilted by more than some 30 degrees are undetermined, and a pattern may be taken "
    "for a face."
)
ASKED = {
    "gender": Asked(
        classes=("man", "woman"),
        limits="Perceived gender presentation in two classes; it says nothing of anybody's identity. The makers "
        "name 97.3% right on LFW, portraits of public figures, most of them men. Errors on other pictures, and "
        "for whom they are larger, are unknown until people's labels of these pictures measure them; the "
        f"portrait of an older woman in uniform that matplotlib ships is called a man's with 97%. {_FOUND}",
    ),
    "age": Asked(
        classes=tuple(AGES),
        limits="Apparent age, in groups; nobody's age. A network of 81 years, whose probabilities are summed within a "
        "group; its errors are unknown, and its makers name none. Calls near the border of two groups are near "
        f"chance. {_FOUND}",
    ),
    "skin_tone": Asked(
        classes=TONES,
        limits="The colour that the picture has on both cheeks (individual typology angle), not a person's skin: "
        "light, camera, white balance, filters, make-up and a beard change it, and the light of a generated picture "
        "is invented, so compare only pictures of the same making. It is no measure of ethnicity. Colourless and "
        f"bluish pictures are undetermined. {_FOUND}",
    ),
}


class FaceClassifier(AttributeClassifier):
    """One attribute of the largest face; `undetermined` where no face is found, or its colour is no skin's.

    Probabilities of gender and age group are the networks' own, not calibrated; a skin tone is called with 1.
    """

    def __init__(self, attribute: str, card: Card | None = None) -> None:
        self.asked = ASKED[attribute]
        self.reader = face_reader()
        found = Attribute(name=attribute, classes=(*self.asked.classes, UNDETERMINED))
        digest = sha256_json([self.reader.digest, attribute, list(found.classes), *LIMITS])
        self.kept = card
        card = card or Card(name=f"{NAME}-{attribute}", kind=NAME, attribute=found)
        weights = sha256_json(self.reader.weights)
        super().__init__(replace(card, attribute=found, digest=digest, weights_digest=weights))
        self.preprocessing = self.reader.facts()

    def __reduce__(self) -> tuple[type[FaceClassifier], tuple[str, Card | None]]:
        return FaceClassifier, (self.attribute.name, self.kept)

    @property
    def has_features(self) -> bool:
        return False

    def probabilities(self, images: Tensor) -> Tensor:
        if images.ndim != 4 or images.shape[1] not in (1, 3) or images.dtype != torch.uint8:
            raise InputError(
                f"{self.name} got images {tuple(images.shape)} of {images.dtype}; expected uint8 (B, 1 or 3, H, W)"
            )
        return torch.tensor([self.row(face) for face in self.faces(images)], dtype=torch.float32)

    def features(self, images: Tensor) -> Tensor:
        raise InputError(f"{self.name} has no features; choose another extractor")

    def faces(self, images: Tensor) -> list[Face | None]:
        """The largest face of each of uint8 `(B, 1 or 3, H, W)`."""
        pictures = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return [self.reader.face(picture) for picture in pictures]

    def facts(self) -> dict[str, Any]:
        monk = {"monk_scale": monk_of()} if self.attribute.name == "skin_tone" else {}
        return super().facts() | {"limits": self.asked.limits, "weights": self.reader.weights} | monk

    def keep(self, folder: Path) -> dict[str, Any]:
        return {}

    def row(self, face: Face | None) -> list[float]:
        """Probabilities of the classes `(K,)` of one picture, whose largest face this is."""
        nothing = [0.0] * len(self.asked.classes)
        if face is None:
            return [*nothing, 1.0]
        if self.attribute.name == "gender":
            return [1 - face.woman, face.woman, 0.0]
        if self.attribute.name == "age":
            return [*face.ages, 0.0]
        if face.angle is None:
            return [*nothing, 1.0]
        return [*(float(t == tone_of(face.angle)) for t in TONES), 0.0]


def named(spec: str, attribute: str = "") -> FaceClassifier | None:
    """The classifier that `faces` or `faces#ATTRIBUTE` names; of `faces` alone the `attribute` asked for.

    Raises InputError for an attribute that faces are not asked for, and without the extra.
    """
    place, _, own = spec.partition("#")
    if place != NAME:
        return None
    if own and own not in ASKED:
        raise InputError(f"the classifier {NAME!r} labels {', '.join(ASKED)}; got {own!r}; choose one of them")
    return FaceClassifier(own or (attribute if attribute in ASKED else next(iter(ASKED))))


def open_measured(folder: Path, config: Mapping[str, Any], card: Card, load: object) -> FaceClassifier:
    """The classifier with the errors that were measured here. Raises InputError when weights or rules are others."""
    found = FaceClassifier(config["attribute"], card)
    if found.digest != config["digest"]:
        raise InputError(f"the classifier {NAME!r} has changed since {folder} was measured; measure it again")
    return found
