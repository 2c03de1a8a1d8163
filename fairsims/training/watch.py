"""Whether a training still makes sense: losses and gradients that are finite, and losses that stay in their range."""

from __future__ import annotations

import math
import statistics
from typing import Any

from torch import Tensor

from fairsims.errors import Diverged

WINDOW = 64
"""Losses that the running median is taken over."""
LEAST = 16
"""Losses before which nothing is called an explosion."""
EXPLOSION = 50.0
"""An explosion is a loss this many times the running median. Batches differ by noise level, but never so much."""
MOST_SKIPS = 24
"""float16: overflowing steps in a row. Each halves the loss scale from 65536, so after 24 it is not to blame."""
ADVICE = "lower --lr or use --precision float32"


class LossWatch:
    """Sees every step; `check()` raises Diverged for the first bad one since the last check.

    With `skips` (float16) a step with an infinite gradient is passed over by the optimiser: only many in a row are bad.
    """

    def __init__(self, *, skips: bool = False) -> None:
        self.skips = skips
        self.recent: list[float] = []
        self.skipped = 0
        self._pending: list[tuple[int, Tensor, Tensor]] = []

    def add(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Note a step's loss and gradient norm, scalars that may still be under way on the device."""
        self._pending.append((step, loss.detach(), norm.detach()))

    def check(self) -> list[float]:
        """Losses of the steps noted since the last check, all of them good."""
        found = []
        for step, loss, norm in self._pending:
            found.append(float(loss))
            self._judge(step, found[-1], float(norm))
        self._pending = []
        return found

    def _judge(self, step: int, loss: float, norm: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"the loss became {loss} at step {step}; {ADVICE}")
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        if self.skipped > (MOST_SKIPS if self.skips else 0):
            raise Diverged(f"the gradient became {norm} at step {step}; {ADVICE}")
        median = statistics.median(self.recent) if len(self.recent) >= LEAST else math.inf
        if loss > EXPLOSION * median:
            raise Diverged(
                f"the loss rose to {loss:.4g} at step {step}, its running median being {median:.4g}; {ADVICE}"
            )
        self.recent = [*self.recent[1 - WINDOW :], loss]

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to judge as the uninterrupted one would."""
        return {"recent": list(self.recent), "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.recent, self.skipped = list(state["recent"]), int(state["skipped"])
