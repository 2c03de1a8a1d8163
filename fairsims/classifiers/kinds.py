"""The kinds of classifier: to add one, write its file and give it a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairsims.classifiers import entry_points, face_attributes, table
from fairsims.classifiers.base import AttributeClassifier, Card
from fairsims.classifiers.cnn import CNNTrainer, open_cnn
from fairsims.classifiers.linear import open_head
from fairsims.classifiers.probe import ProbeTrainer
from fairsims.classifiers.trainer import Load, Trainer


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How classifiers of one kind are opened, and what makes them."""

    open: Callable[[Path, Mapping[str, Any], Card, Load], AttributeClassifier]
    """From its folder, its config.json, the card in that, and what opens other classifiers."""
    named: Callable[[str, str], AttributeClassifier | None] = lambda spec, attribute: None
    """The classifier that a text names without a folder, and of several that of an attribute; None when it names none
    of this kind."""
    trainer: Callable[..., Trainer] | None = None
    """What learns it from labelled images, from the options of the kind and a seed; None where nothing is learned."""
    trainer_of: Callable[[Mapping[str, Any]], Trainer] | None = None
    """The trainer that made the classifier with this config.json."""


KINDS = {
    "cnn": Kind(open=open_cnn, trainer=CNNTrainer.asked, trainer_of=CNNTrainer.of),
    "probe": Kind(open=open_head, trainer=ProbeTrainer.asked, trainer_of=ProbeTrainer.of),
    "clip": Kind(open=open_head),
    "table": Kind(open=table.open_table, named=table.named),
    "faces": Kind(open=face_attributes.open_measured, named=face_attributes.named),
    "entry-point": Kind(open=entry_points.open_measured, named=entry_points.named),
}
