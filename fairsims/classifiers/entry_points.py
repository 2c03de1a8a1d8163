"""Classifiers of other packages, found by the entry point group `fairsims.classifiers`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError, closest

GROUP = "fairsims.classifiers"
PREFIX = "entry-point:"


def installed_classifiers() -> dict[str, EntryPoint]:
    """Name to entry point of what installed packages offer."""
    return {point.name: point for point in entry_points(group=GROUP)}


class ThirdPartyClassifier(AttributeClassifier):
    """Another package's classifier, its results checked.

    The entry point names a class or function that is called without arguments and returns an object with `attribute`
    (a name and a sequence of classes), `digest` (text that changes when its decisions do) and
    `probabilities(images: uint8 (B, C, H, W)) -> (B, K)`; it may have `name`, `input_size`, `features(images)`,
    `facts()` and `confusions`. Raises InputError naming the package when the object or a result is not that.
    """

    def __init__(self, point: EntryPoint, card: Card | None = None) -> None:
        self.point = point.name
        self.origin = f"the classifier {point.name!r} of {point.dist.name if point.dist else point.value}"
        try:
            self.inner = point.load()()
            name, classes = _attribute(self.inner.attribute)
            own = Card(
                name=str(getattr(self.inner, "name", point.name)),
                kind="entry-point",
                attribute=Attribute(name=name, classes=classes),
                digest=str(self.inner.digest),
                confusions=dict(getattr(self.inner, "confusions", {})),
                default_split=str(getattr(self.inner, "default_split", "")),
            )
        except InputError:
            raise
        except Exception as e:  # whatever the other package meets
            raise InputError(f"{self.origin} cannot be loaded ({type(e).__name__}: {e}); ask its authors") from None
        super().__init__(replace(card, attribute=own.attribute, digest=own.digest) if card else own)
        self.input_size = int(getattr(self.inner, "input_size", 0))

    @property
    def has_features(self) -> bool:
        return hasattr(self.inner, "features")

    def probabilities(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            found = self._matrix(self.inner.probabilities(images), len(images), "probabilities")
        sums = found.sum(dim=1, keepdim=True)
        if found.shape[1] != len(self.attribute.classes) or (found < 0).any() or ((sums - 1).abs() > 1e-3).any():
            raise InputError(
                f"{self.origin} gave probabilities {tuple(found.shape)} that are no shares of "
                f"{len(self.attribute.classes)} classes; expected rows of numbers from 0 to 1 that sum to 1"
            )
        return found / sums

    def features(self, images: Tensor) -> Tensor:
        if not self.has_features:
            raise InputError(f"{self.origin} has no features; choose another extractor")
        with torch.inference_mode():
            return self._matrix(self.inner.features(images), len(images), "features")

    def facts(self) -> dict[str, Any]:
        """What a record of its use has to say, as JSON; the package's own facts come first."""
        own = dict(self.inner.facts()) if hasattr(self.inner, "facts") else {}
        known = super().facts()
        return own | known | {"preprocessing": own.get("preprocessing", {}), "from": self.origin}

    def keep(self, folder: Path) -> dict[str, Any]:
        return {"entry_point": self.point}

    def _matrix(self, found: Any, rows: int, what: str) -> Tensor:
        matrix = torch.as_tensor(found).float()
        if matrix.ndim != 2 or len(matrix) != rows or not torch.isfinite(matrix).all():
            raise InputError(
                f"{self.origin} gave {what} of shape {tuple(matrix.shape)} or not finite for {rows} images; "
                f"expected a finite row for each"
            )
        return matrix


def named(spec: str, attribute: str = "") -> ThirdPartyClassifier | None:
    """The classifier that a text names, with or without the prefix, if a package offers it, whatever it labels.

    Raises InputError when none offers one named with the prefix.
    """
    points, point = installed_classifiers(), spec.removeprefix(PREFIX)
    if spec != point and point not in points:
        raise InputError(f"no installed package offers a classifier {point!r}{closest(point, points)}")
    return ThirdPartyClassifier(points[point]) if point in points else None


def open_measured(folder: Path, config: Mapping[str, Any], card: Card, load: object) -> ThirdPartyClassifier:
    """Another package's classifier with the errors that were measured here."""
    points, wanted = installed_classifiers(), config["entry_point"]
    if wanted not in points:
        raise InputError(f"no installed package offers the classifier {wanted!r} of {folder}; install it")
    found = ThirdPartyClassifier(points[wanted], card)
    if found.digest != config["digest"]:
        raise InputError(f"the classifier {wanted!r} has changed since {folder} was measured; measure it again")
    return found


def _attribute(value: Any) -> tuple[str, tuple[str, ...]]:
    """Name and classes of an `Attribute`, a pair or a mapping."""
    if isinstance(value, Mapping):
        value = value["name"], value["classes"]
    name, classes = (value.name, value.classes) if hasattr(value, "classes") else value
    return str(name), tuple(str(c) for c in classes)
