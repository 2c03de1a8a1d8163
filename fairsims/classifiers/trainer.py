"""What makes a classifier of labelled images, whatever its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor

from fairsims.classifiers.base import AttributeClassifier, IntArray, Tally
from fairsims.classifiers.labelled import Labelled

Load = Callable[[str], AttributeClassifier]
"""`load_classifier`: a classifier may stand on the features of another."""
WIDE = (0.01, 100.0)
"""Where the temperature of logits is looked for that no training has put on a scale."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Labelled images as a trainer learns from them."""

    rows: Tensor
    """A row per image `(N, ...)`: the images, or their features."""
    model: Mapping[str, Any]
    """The part of config.json that says how to build the classifier again."""
    input_size: int = 0
    """That of the classifier it becomes."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained classifier before it is measured: what gives logits, and what is saved."""

    logits: Callable[[Tensor], Tensor]
    """Rows `(n, ...)` to `(n, K)` float32."""
    tensors: Mapping[str, Tensor]


class Trainer(Protocol):
    """Settings that make a classifier of one kind: a frozen dataclass, its fields the options of that kind."""

    kind: ClassVar[str]
    temperatures: ClassVar[tuple[float, float]]
    """Where the temperature of its logits is looked for."""

    def prepared(self, data: Labelled, load: Load) -> Prepared:
        """What is learned from. Raises InputError when the images cannot be used."""
        ...

    def fit(self, prepared: Prepared, chosen: Tensor, labels: IntArray, fold: int, progress: Tally) -> Fitted:
        """Learn from the rows at positions `chosen` with their classes `labels`; `fold` -1 is the final classifier.

        Raises InputError when a class has no image.
        """
        ...

    def facts(self) -> dict[str, Any]:
        """The part of config.json that says how it was trained, from which the kind's `trainer` is made again."""
        ...
