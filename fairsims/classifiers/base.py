"""What an attribute classifier is, how often it errs, and how to run one over many images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.data.attributes import Attribute
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often a classifier confuses the classes on held-out images.

    Raises InputError when the counts are no square table of whole numbers >= 0.
    """

    counts: tuple[tuple[int, ...], ...]
    """`counts[true][predicted]`, held-out images."""
    split: str
    """Name of the held-out split, e.g. "variant"."""
    description: str
    """What was held out, in words."""

    def __post_init__(self) -> None:
        size = len(self.counts)
        if size < 2 or any(len(row) != size for row in self.counts):
            raise InputError(
                f"a confusion table has rows of {[len(r) for r in self.counts]} counts; expected K rows of K, K >= 2"
            )
        for row in self.counts:
            for value in row:
                if not (np.isfinite(value) and value >= 0 and int(value) == value):
                    raise InputError(f"a confusion table holds {value!r}; expected whole numbers of images, 0 or more")

    @property
    def totals(self) -> FloatArray:
        """Held-out images per true class, `(K,)`."""
        return np.asarray(np.asarray(self.counts, dtype=np.float64).sum(axis=1))

    @property
    def accuracy(self) -> float:
        """Share of held-out images classified right."""
        table = np.asarray(self.counts, dtype=np.float64)
        return float(np.trace(table) / table.sum())

    def rates(self) -> FloatArray:
        """`C[i, j] = P(predicted i | true j)`, `(K, K)`, columns sum to 1.

        The last class, `undetermined`, may have no held-out image: its column is 0. Raises InputError when another has
        none.
        """
        if (self.totals[:-1] == 0).any() or (self.totals[-1] == 0 and len(self.counts) == 2):
            raise InputError(
                f"the {self.split!r} confusion has no image of class {int(np.argmin(self.totals))}; "
                "measure the classifier on images of every class"
            )
        table = np.asarray(self.counts, dtype=np.float64)
        return (table / np.maximum(self.totals, 1)[:, None]).T

    def to_json(self) -> dict[str, Any]:
        """`{"counts": [[...]], "description": ...}`, as `config.json` and `audit.json` hold it."""
        return {"counts": [list(row) for row in self.counts], "description": self.description}

    @classmethod
    def from_json(cls, split: str, value: Mapping[str, Any]) -> Confusion:
        """The inverse of `to_json`. Raises InputError when a key is missing or the counts are no counts."""
        try:
            counts = tuple(tuple(row) for row in value["counts"])
            return cls(counts=counts, split=split, description=str(value["description"]))
        except (KeyError, TypeError) as e:
            raise InputError(
                f"the confusion {split!r} is not readable ({e}); expected counts and description"
            ) from None

    @classmethod
    def of(
        cls, true: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, *, size: int, **text: str
    ) -> Confusion:
        """Counted from class indices `(N,)`; `text` = split and description."""
        table = np.zeros((size, size), dtype=np.int64)
        np.add.at(table, (np.asarray(true), np.asarray(predicted)), 1)
        return cls(counts=tuple(tuple(int(v) for v in row) for row in table), **text)


@runtime_checkable
class AttributeClassifier(Protocol):
    """Images to class probabilities. Deterministic: the same image gives the same probabilities."""

    name: str
    attribute: Attribute
    digest: str
    """SHA-256 over what decides the probabilities: weights and configuration."""
    confusions: dict[str, Confusion]
    """Measured errors by name of the held-out split; empty when nobody measured them."""
    default_split: str
    """The split whose errors correct shares; "" when there is none."""

    @property
    def input_size(self) -> int:
        """Native resolution in pixels; 0 where images are not looked at."""
        ...

    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, K)`, rows sum to 1; `undetermined`, if a class, is the last column."""
        ...

    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to the penultimate features, float32 `(B, d)`."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a record of its use has to say, as JSON: name, kind, digest, attribute, classes, preprocessing, ..."""
        ...


def label_batches(classifier: AttributeClassifier, batches: Iterable[Tensor]) -> npt.NDArray[np.float32]:
    """Class probabilities of uint8 batches `(B, C, H, W)` in order, `(N, K)` float32."""
    return _collect(classifier.probabilities, batches)


def features_of(classifier: AttributeClassifier, batches: Iterable[Tensor]) -> npt.NDArray[np.float32]:
    """Penultimate features of uint8 batches `(B, C, H, W)` in order, `(N, d)` float32."""
    return _collect(classifier.features, batches)


def _collect(function: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> npt.NDArray[np.float32]:
    with torch.inference_mode():
        rows = [function(batch).cpu().numpy() for batch in batches]
    if not rows:
        raise InputError("there are no images to classify; expected at least one batch")
    return np.concatenate(rows)
