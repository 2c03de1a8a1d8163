"""Shares prompt by prompt: intervals of each, of all at once and of the worst, and peers' metrics beside their floors.

A metric of this kind is not 0 when every target is met: so few images of each prompt scatter. Each is given with what
it would be then, by the same classifier, prompts and numbers of images.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from fairsims.audit.draws import Draws, counted
from fairsims.audit.intervals import left_inverse
from fairsims.audit.joint import FloatArray
from fairsims.classifiers.base import Confusion
from fairsims.seeds import numpy_generator

FLOOR_DRAWS = 2000
METRICS = {
    "off": "mean over prompts of the largest |share - target|",
    "bias": "bias(P): mean over prompts and pairs of classes of |share_i - share_j| (Shen et al. 2024)",
    "parity_gap": "mean over prompts and classes of |share - 1/K| (EquiSteer)",
    "kl": "mean over prompts of the Kullback-Leibler divergence from the target",
    "discrepancy": "mean over prompts of the L2 distance to the target (fairness discrepancy)",
}


def named_class(prompt: str, classes: Sequence[str]) -> int | None:
    """The class that a prompt names word by word, the longest where several do; None where none does.

    >>> named_class("a photo of a police officer", ("officer", "police officer", "cook"))
    1
    """
    said = _words(prompt)
    found = [k for k, name in enumerate(classes) if _words(name) in said]
    return max(found, key=lambda k: len(classes[k])) if found else None


def _words(text: str) -> str:
    return " " + " ".join(re.findall(r"[^\W_]+", text.lower())) + " "


def metrics(shares: FloatArray, target: FloatArray) -> dict[str, float]:
    """`METRICS` of shares `(P, K)`, or the mean of each over draws `(D, P, K)`."""
    p = np.clip(shares, 0, 1)
    classes = p.shape[-1]
    gaps = [np.abs(p[..., i] - p[..., j]) for i, j in combinations(range(classes), 2)]
    ratio = np.log(np.maximum(p, 1e-12) / np.maximum(target, 1e-12))
    found = {
        "off": np.abs(p - target).max(axis=-1),
        "bias": np.mean(gaps, axis=0),
        "parity_gap": np.abs(p - 1 / classes).mean(axis=-1),
        "kl": (p * ratio).sum(axis=-1),
        "discrepancy": np.sqrt(((p - target) ** 2).sum(axis=-1)),
    }
    return {name: float(np.mean(value)) for name, value in found.items()}


def floors(target: FloatArray, n: int, confusion: Confusion) -> dict[str, float]:
    """What `metrics` would be on average were the target `(P, K)` met, with n images of each prompt."""
    rates, generator = confusion.rates(), numpy_generator("prompts", "floor")
    q = target @ rates.T
    q = q / q.sum(axis=1, keepdims=True)
    drawn = np.stack([generator.multinomial(n, row, FLOOR_DRAWS) for row in q], axis=1) / n
    shares = np.clip(drawn @ left_inverse(rates).T, 0, None)
    return metrics(shares / shares.sum(axis=-1, keepdims=True), target)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptShares:
    """One side of an audit over prompts: counts `(P, K)` and what they say of the shares."""

    names: tuple[str, ...]
    counts: FloatArray
    draws: Draws

    @classmethod
    def of(cls, names: Sequence[str], counts: FloatArray, confusion: Confusion) -> PromptShares:
        """From images counted by prompt and predicted class, corrected for the classifier's errors."""
        return cls(names=tuple(names), counts=counts, draws=counted(counts, [confusion], "prompts"))

    def part(self, chosen: Sequence[int]) -> PromptShares:
        """Those of the prompts at these positions."""
        places = list(chosen)
        draws = Draws(point=self.draws.point[places], values=self.draws.values[:, places])
        return PromptShares(names=tuple(self.names[k] for k in places), counts=self.counts[places], draws=draws)

    def rows(self) -> list[dict[str, Any]]:
        """Of each prompt: images, and by class share, its interval, and the one that holds for all at once. JSON."""
        low, high = (np.clip(end, 0, 1) for end in self.draws.interval())
        least, most = (np.clip(end, 0, 1) for end in self.draws.simultaneous())
        columns = {"share": self.draws.point, "low": low, "high": high, "all_low": least, "all_high": most}
        return [
            {"prompt": name, "n": int(self.counts[k].sum())}
            | {column: [float(v) for v in values[k]] for column, values in columns.items()}
            for k, name in enumerate(self.names)
        ]

    def summary(self, target: FloatArray, confusion: Confusion, tolerance: float) -> dict[str, Any]:
        """Metrics with their floors, the worst prompt, how many are met or missed, and all prompts pooled. JSON.

        A target is met where the interval for all prompts at once lies within the tolerance of it, missed where that
        interval has no share within it; of all others these images do not tell.
        """
        least, most = self.draws.simultaneous()
        met = ((least >= target - tolerance) & (most <= target + tolerance)).all(axis=1)
        missed = ((least > target + tolerance) | (most < target - tolerance)).any(axis=1)
        worst = self.draws.worst(target)
        low, high = self.draws.pooled().interval()
        floor = floors(target, int(self.counts.sum(axis=1).min()), confusion)
        found = metrics(self.draws.point, target)
        return {
            "metrics": {name: {"value": found[name], "were_the_target_met": floor[name]} for name in METRICS},
            "prompts": len(self.names),
            "met": int(met.sum()),
            "missed": int(missed.sum()),
            "worst": {"prompt": self.names[worst.condition], "class": worst.cls}
            | {name: float(getattr(worst, name)) for name in ("gap", "low", "high")},
            "pooled": {
                "share": [float(v) for v in self.draws.pooled().point[0]],
                "low": [float(v) for v in np.clip(low[0], 0, 1)],
                "high": [float(v) for v in np.clip(high[0], 0, 1)],
            },
        }
