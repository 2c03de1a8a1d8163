"""When a classifier says `undetermined`: a threshold on its confidence, chosen on images it has not seen.

Selective classification (El-Yaniv and Wiener 2010): calls are made where the largest class probability is at least
theta, and theta trades the share of images that get a call (coverage) against the errors among the calls.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fairsims.classifiers.base import IntArray
from fairsims.errors import InputError

RULES = ("error", "coverage", "balanced")


@dataclass(frozen=True, kw_only=True)
class Abstention:
    """What the threshold is chosen for."""

    rule: str
    """`error`: the most calls with at most this share of them wrong. `coverage`: calls on at least this share of the
    images that have a class. `balanced`: the best mean recall, that of images labelled `undetermined` included."""
    value: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise ValueError(f"abstain is {self.rule!r}; expected error=0.02, coverage=0.9 or balanced")
        if self.rule != "balanced" and not 0 < self.value < 1:
            raise ValueError(f"abstain is {self.rule}={self.value}; expected a share between 0 and 1")

    @classmethod
    def parse(cls, text: str) -> Abstention:
        """`error=0.02`, `coverage=0.9` or `balanced`. Raises ValueError for anything else."""
        rule, _, value = text.partition("=")
        try:
            return cls(rule=rule, value=float(value) if value else 0.0)
        except ValueError as e:
            if "; expected" in str(e):
                raise
            raise ValueError(f"abstain is {text!r}; expected error=0.02, coverage=0.9 or balanced") from None

    def __str__(self) -> str:
        return self.rule if self.rule == "balanced" else f"{self.rule}={self.value:g}"


def with_undetermined(probabilities: Tensor, threshold: float) -> Tensor:
    """`(B, K)` to `(B, K + 1)`: theta appended to each row, all divided by 1 + theta; theta 0 changes nothing.

    The argmax is the last column exactly where no class reaches theta.
    """
    if threshold == 0:
        return probabilities
    last = torch.full_like(probabilities[:, :1], threshold)
    return torch.cat([probabilities, last], dim=1) / (1 + threshold)


def fit_threshold(probabilities: np.ndarray, labels: IntArray, wanted: Abstention) -> float:
    """theta for class probabilities `(N, K)` of unseen images; label K stands for `undetermined`.

    `balanced` needs images of every label. Raises InputError when no threshold does what is wanted.
    """
    classes = probabilities.shape[1]
    confidence = probabilities.max(axis=1).astype(np.float64)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, sorted_labels = confidence[order], labels[order]
    right = probabilities.argmax(axis=1)[order] == sorted_labels
    # A threshold separates the m most confident images from the rest, so ties stay together.
    m = np.append(np.flatnonzero(np.diff(sorted_confidence) < 0) + 1, len(labels))
    called = _counts(np.ones(len(labels), dtype=bool), m)
    if wanted.rule == "coverage":
        determined = sorted_labels < classes
        enough = np.flatnonzero(_counts(determined, m) >= wanted.value * determined.sum() - 1e-9)
        best = int(m[enough[0]])
    elif wanted.rule == "error":
        good = np.flatnonzero(1 - _counts(right, m) / called <= wanted.value)
        if len(good) == 0:
            raise InputError(
                f"no threshold brings the errors to {wanted.value:g}: of the {int(m[0])} most confident calls "
                f"{1 - right[: m[0]].mean():.1%} are wrong; allow more errors or train a better classifier"
            )
        best = int(m[good[-1]])
    else:
        recalls = [_counts(right & (sorted_labels == k), m) / (labels == k).sum() for k in range(classes)]
        refused = 1 - _counts(sorted_labels == classes, m) / (labels == classes).sum()
        best = int(m[np.mean([*recalls, refused], axis=0).argmax()])
    lower = sorted_confidence[best] if best < len(labels) else 0.0
    return float((sorted_confidence[best - 1] + lower) / 2)


def _counts(chosen: np.ndarray, m: IntArray) -> np.ndarray:
    """How many of the first m are chosen, for each m."""
    return np.asarray(np.cumsum(chosen)[m - 1], dtype=np.float64)
