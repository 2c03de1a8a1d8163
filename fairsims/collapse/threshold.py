"""The prophylactic threshold: the largest synthetic share at which a loop does not drift, by bisection.

Each share that is tried is a whole loop, on the same random numbers as the others. The drift at a share is the level of
the last generations minus what it is allowed, a number per repeat; the threshold is where its mean over repeats crosses
0, and its interval is where the ends of the mean's 95% interval do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.measures import FloatArray, Interval

if TYPE_CHECKING:
    from fairsims.collapse.loops import Loop
    from fairsims.run import Progress

TOLERANCE = 0.1
"""A generation within this part of the first one's mean drift counts as having stayed at its level."""
TAIL = 10
"""The last level is the mean over the last tenth of the generations, where that is more than one."""
HIGHEST = 0.9
"""Largest synthetic share tried: nine synthetic points per real one."""
HALVINGS = 6
PUBLISHED = {"gaussian": 0.25, "cifar10": 0.6, "ffhq64": 0.2}
"""SIMS (arXiv 2408.16333, section 4.2): 25% for its 2-D Gaussian; polluting over real images 60% and 20%."""


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A synthetic share with an interval; None: beyond what was tried."""

    method: str
    against: str
    """own: generation 1 of the same method, with `TOLERANCE`. standard: generation 1 of standard training."""
    share: float | None
    low: float | None
    high: float | None

    def as_dict(self) -> dict[str, Any]:
        def ratio(share: float | None) -> float | None:
            return None if share is None else share / (1 - share)

        shares = {"share": self.share, "low": self.low, "high": self.high}
        ratios = {k.replace("share", "ratio") if k == "share" else f"ratio_{k}": ratio(v) for k, v in shares.items()}
        return {"method": self.method, "against": self.against} | shares | ratios


def find_thresholds(config: CollapseConfig, loop: Loop, folder: Path, progress: Progress) -> dict[str, Any]:
    """Thresholds of every method, and the loops that were run for them: `{"found": [...], "tried": [...]}`."""
    from fairsims.collapse.loops import column, run_cell

    tried: dict[tuple[str, float], tuple[FloatArray, FloatArray]] = {}

    def ends(method: str, share: float) -> tuple[FloatArray, FloatArray]:
        """The headline in the first generation and over the last ones, `(R,)` each."""
        if (method, share) not in tried:
            cell = Cell(method=method, level=round(share / (1 - share), 6))
            rows = run_cell(loop, cell, config, folder / cell.name, progress)
            late = rows[-max(1, len(rows) // TAIL) :]
            last = np.mean([column(of, loop.headline) for of in late], axis=0)
            tried[method, share] = column(rows[0], loop.headline), last
        return tried[method, share]

    def against_own(method: str) -> Callable[[float], FloatArray]:
        def drift(share: float) -> FloatArray:
            first, last = ends(method, share)
            return last - (1 + TOLERANCE) * first

        return drift

    def against_standard(share: float) -> FloatArray:
        standard = column(loop.generation(1, Cell(method="standard", level=1.0), {})[1], loop.headline)
        return ends("sims", share)[1] - standard

    found = [_threshold(method, "own", against_own(method)) for method in config.methods]
    if "sims" in config.methods:
        found.append(_threshold("sims", "standard", against_standard))
    return {
        "tolerance": TOLERANCE, "published_gaussian": PUBLISHED["gaussian"], "found": [t.as_dict() for t in found],
        "tried": [
            {"method": m, "share": s, "first": float(a.mean())}
            | {f"last_{k}": v for k, v in asdict(Interval.over(b)).items()}
            for (m, s), (a, b) in sorted(tried.items())
        ],
    }  # fmt: skip


def _threshold(method: str, against: str, drift: Callable[[float], FloatArray]) -> Threshold:
    def mean(share: float) -> float:
        return Interval.over(drift(share)).mean

    def low(share: float) -> float:
        interval = Interval.over(drift(share))
        return interval.mean if interval.low is None else interval.low

    def high(share: float) -> float:
        interval = Interval.over(drift(share))
        return interval.mean if interval.high is None else interval.high

    # Where even the upper end is below 0 there is surely no drift: that crossing is the threshold's lower end.
    return Threshold(method=method, against=against, share=crossing(mean), low=crossing(high), high=crossing(low))


def crossing(function: Callable[[float], float], *, highest: float = HIGHEST, halvings: int = HALVINGS) -> float | None:
    """Where an increasing function on [0, highest] becomes positive, by bisection; 0 if it starts so, None if never."""
    low, high = 0.0, highest
    if function(high) <= 0:
        return None
    if function(low) > 0:
        return 0.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (low, middle) if function(middle) > 0 else (middle, high)
    return float(np.mean([low, high]))
