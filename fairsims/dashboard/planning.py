"""A retargeting before it is made: what it promises, what it costs beside plain resampling, and its command."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fairsims.audit.targets import resampling_cost
from fairsims.retarget.complement import ComplementPlan
from fairsims.retarget.config import RetargetConfig

TRAINING_FORWARDS = 3
"""A training step costs about three forwards: one forward, and a backward of twice its work."""
ASKED = ("attr", "target", "hold", "drift", "mode", "interval", "omega", "finetune", "complement_size", "rounds")
"""Settings that belong to one plan; the next command keeps all others of an earlier run."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to images in the target mix, in network evaluations."""

    name: str
    once: float
    """Before the first image."""
    each: float
    """For each image that is kept; infinite where it can never be."""

    def total(self, images: int) -> float:
        return self.once + images * self.each

    def pays_from(self, other: Way) -> float:
        """Images from which this way needs no more evaluations than the other; infinite when that never is."""
        saved = other.each - self.each
        return max(0.0, (self.once - other.once) / saved) if saved > 0 else math.inf


def ways(
    base: np.ndarray,
    target: np.ndarray,
    plan: ComplementPlan,
    *,
    evaluations: float,
    pool: int,
    budget: float,
    calibration: int,
) -> tuple[Way, Way, Way]:
    """Resampling the base, one network and the guided pair; shares `(K,)`, `evaluations` an image of the base.

    What strength cannot reach under the cap is resampled from what it does reach.
    """
    left = resampling_cost(np.array(plan.reachable), target)
    left = 1.0 if left < 1.005 else left
    trained = pool * evaluations + budget * 1000 * TRAINING_FORWARDS
    return (
        Way(name="resampling the base", once=0.0, each=resampling_cost(base, target) * evaluations),
        Way(name="paired or merged", once=trained + calibration * evaluations, each=left * evaluations),
        Way(name="guided", once=trained + 2 * calibration * evaluations, each=left * 2 * evaluations),
    )


def command(attribute: str, target: Mapping[str, float], *, mode: str, settings: Mapping[str, Any]) -> str:
    """The `fairsims retarget` command for a POSIX shell; what `settings` (a run's) has beyond the defaults is kept."""
    defaults = {f.name: f.default for f in fields(RetargetConfig)}
    shares = ",".join(f"{c}={round(s, 6):g}" for c, s in target.items())
    parts = ["fairsims", "retarget", "--attr", attribute, "--target", shares, "--mode", mode]
    for name in defaults:
        value = None if name in ASKED else settings.get(name)
        value = tuple(value) if isinstance(value, list) else value
        # A run records the precision that "auto", the command's default, came to on its machine.
        if value is None or (value == defaults[name] and name != "precision"):
            continue
        for v in value if isinstance(value, tuple) else (value,):
            parts += [f"--{name.replace('_', '-')}", str(v)]
    return shlex.join(parts)
