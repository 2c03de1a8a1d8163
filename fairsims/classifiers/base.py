"""What an attribute classifier is, how often it errs, and how to run one over many images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fairsims.data.attributes import UNDETERMINED, Attribute
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError

FloatArray = npt.NDArray[np.float64]
FloatRows = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Tally = Callable[[int, int], None]
"""Told how much is done, and of how much."""

BATCH_BYTES = 2**26
"""A batch is at most this large: 256 images up to 290 pixels wide."""


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
    def table(self) -> FloatArray:
        """The counts, `(K, K)`."""
        return np.asarray(self.counts, dtype=np.float64)

    @property
    def totals(self) -> FloatArray:
        """Held-out images per true class, `(K,)`."""
        return np.asarray(self.table.sum(axis=1))

    @property
    def accuracy(self) -> float:
        """Share of held-out images classified right."""
        return float(np.trace(self.table) / self.table.sum())

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
        return np.asarray((self.table / np.maximum(self.totals, 1)[:, None]).T)

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
    def without_errors(cls, size: int) -> Confusion:
        """Of what is known of every image, and called by no classifier."""
        counts = tuple(tuple(10**12 if i == j else 0 for j in range(size)) for i in range(size))
        return cls(counts=counts, split="known", description="known of every image")

    @classmethod
    def of(
        cls, true: Sequence[int] | np.ndarray, predicted: Sequence[int] | np.ndarray, *, size: int, **text: str
    ) -> Confusion:
        """Counted from class indices `(N,)`; `text` = split and description."""
        table = np.zeros((size, size), dtype=np.int64)
        np.add.at(table, (np.asarray(true), np.asarray(predicted)), 1)
        return cls(counts=tuple(tuple(int(v) for v in row) for row in table), **text)


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known about a classifier beside what decides its probabilities.

    Raises InputError when it contradicts itself: classes, confusions, default split, threshold.
    """

    name: str
    kind: str
    attribute: Attribute
    """Its classes end in `undetermined` where the classifier abstains."""
    digest: str = ""
    """SHA-256 over what decides the probabilities: weights and configuration."""
    temperature: float = 1.0
    threshold: float = 0.0
    """theta; 0: it never abstains."""
    confusions: Mapping[str, Confusion] = field(default_factory=dict)
    """Measured errors by name of the held-out split; empty when nobody measured them."""
    default_split: str = ""
    """The split whose errors correct shares; "" when there is none."""
    weights_digest: str = ""
    """SHA-256 of the file with the weights, or with the labels."""
    folder: Path | None = None
    """Where its config.json is; None of what is named otherwise."""

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name:
            raise InputError(f"a classifier is named {self.name!r}; expected a name without slashes; rename it")
        classes = self.attribute.classes
        sizes = {len(c.counts) for c in self.confusions.values()} | {len(classes)}
        splits = set(self.confusions) or {""}
        if len(sizes) != 1 or len(classes) < 2 or self.default_split not in splits:
            raise InputError(f"{self.name} contradicts itself (classes, confusions, default split); restore it")
        if UNDETERMINED in classes[:-1] or not self.temperature > 0 or not self.threshold >= 0:
            raise InputError(f"{self.name} contradicts itself (undetermined, temperature, threshold); restore it")

    def to_json(self) -> dict[str, Any]:
        """What `config.json` says of it beside digests."""
        return {
            "kind": self.kind,
            "name": self.name,
            "attribute": self.attribute.name,
            "classes": list(self.attribute.classes),
            "temperature": self.temperature,
            "threshold": self.threshold,
            "default_split": self.default_split,
            "confusions": {split: c.to_json() for split, c in self.confusions.items()},
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any], folder: Path) -> Card:
        """The card in a `config.json`, without digests. Raises KeyError, TypeError or ValueError when it has none."""
        return cls(
            name=str(config["name"]),
            kind=config["kind"],
            attribute=Attribute(name=config["attribute"], classes=tuple(config["classes"])),
            temperature=float(config.get("temperature", 1.0)),
            threshold=float(config.get("threshold", 0.0)),
            confusions={split: Confusion.from_json(split, c) for split, c in config["confusions"].items()},
            default_split=config["default_split"],
            folder=folder,
        )


class AttributeClassifier(ABC):
    """Images to class probabilities. Deterministic: the same image gives the same probabilities."""

    by_identity = False
    """Whether it looks images up by what identifies them, and never at their pixels."""
    input_size = 0
    """Native resolution in pixels; 0 where images are not looked at, or of any size."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self.preprocessing: dict[str, Any] = {}
        """What is done to an image before a network sees it, as JSON."""
        self.name = card.name
        self.attribute = card.attribute
        self.digest = card.digest
        self.confusions: dict[str, Confusion] = dict(card.confusions)
        self.default_split = card.default_split
        self.reopen: Callable[[], AttributeClassifier] | None = None
        """Makes it anew in another process, on the device there; None where it has to be sent whole."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        return super().__reduce_ex__(protocol) if self.reopen is None else (self.reopen, ())

    @property
    def has_features(self) -> bool:
        """Whether `features` gives any, which quality numbers can be measured with."""
        return not self.by_identity

    @abstractmethod
    def probabilities(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to float32 `(B, K)`, rows sum to 1; `undetermined`, if a class, is the last column.

        Raises InputError when the images are not of a usable shape, or what it gives is no probability.
        """

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """uint8 `(B, C, H, W)` to the penultimate features, float32 `(B, d)`. Raises InputError as `probabilities`."""

    def label(self, images: ImageSource, progress: Tally = lambda done, total: None) -> FloatRows:
        """Probabilities of all `images`, `(N, K)` float32, in their order; `progress` gets (images done, of how many).

        Raises InputError when the images are not of a usable shape, or one is unknown to a table of labels.
        """

        def watched() -> Iterator[Tensor]:
            done = 0
            for batch in images.batches(batch_size(images)):
                yield batch
                done += len(batch)
                progress(done, len(images))

        return label_batches(self, watched())

    def facts(self) -> dict[str, Any]:
        """What a record of its use has to say, as JSON: name, kind, digest, attribute, classes, preprocessing, ..."""
        return {
            "name": self.card.name,
            "kind": self.card.kind,
            "digest": self.card.digest,
            "attribute": self.card.attribute.name,
            "classes": list(self.card.attribute.classes),
            "weights_digest": self.card.weights_digest,
            "temperature": self.card.temperature,
            "threshold": self.card.threshold,
            "splits": list(self.card.confusions),
            "input_size": self.input_size,
            "preprocessing": self.preprocessing,
        }

    def keep(self, folder: Path) -> dict[str, Any]:
        """Copy into a folder without weights what opens the classifier again; what config.json says of that."""
        raise InputError(f"{self.name} is kept in its own folder; give that")


def batch_size(images: ImageSource) -> int:
    """Images of a batch: 256, fewer of large ones."""
    return int(np.clip(BATCH_BYTES // int(np.prod(images.shape)), 1, 256))


def label_batches(classifier: AttributeClassifier, batches: Iterable[Tensor]) -> FloatRows:
    """Class probabilities of uint8 batches `(B, C, H, W)` in order, `(N, K)` float32."""
    return _collect(classifier.probabilities, batches)


def features_of(classifier: AttributeClassifier, batches: Iterable[Tensor]) -> FloatRows:
    """Penultimate features of uint8 batches `(B, C, H, W)` in order, `(N, d)` float32."""
    return _collect(classifier.features, batches)


def _collect(function: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> FloatRows:
    with torch.inference_mode():
        rows = [function(batch).cpu().numpy() for batch in batches]
    if not rows:
        raise InputError("there are no images to classify; expected at least one batch")
    return np.concatenate(rows)
