"""Attribute classifiers: images to class probabilities, with their errors measured on held-out images."""

from fairsims.classifiers.base import AttributeClassifier, Confusion, features_of, label_batches
from fairsims.classifiers.checkpoints import classifier_for, load_classifier

__all__ = [
    "AttributeClassifier",
    "Confusion",
    "classifier_for",
    "features_of",
    "label_batches",
    "load_classifier",
]
