"""The prophylactic threshold: the largest synthetic share at which a loop does not drift, by bisection.

Each share that is tried is a whole loop, on the same random numbers as the others. The drift at a share is the level of
the last generations minus what it is allowed, a number per repeat; the threshold is where its mean over repeats crosses
0, and its interval is where the ends of the mean's 95% interval do.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import bisect

from fairsims.collapse.config import Cell
from fairsims.collapse.loop import Loop, column, run_cell
from fairsims.collapse.measures import FloatArray, Interval
from fairsims.run import Progress

TOLERANCE = 0.1
"""A generation within this part of the first one's mean drift counts as having stayed at its level."""
TAIL = 10
"""The last level is the mean over the last tenth of the generations, where that is more than one."""
HIGHEST = 0.9
"""Largest synthetic share tried: nine synthetic points per real one."""
PRECISION = 0.008
"""Of a threshold: seven halvings."""
PUBLISHED = 0.25
"""Of SIMS's 2-D Gaussian (arXiv 2408.16333, section 4.2)."""


def find_thresholds(loop: Loop, folder: Path, progress: Progress) -> dict[str, Any]:
    """Thresholds of every method, and the loops that were run for them: `{"found": [...], "tried": [...]}`.

    `against` is own: generation 1 of the same method, with `TOLERANCE`; or standard: generation 1 of standard training.
    """
    tried: dict[tuple[str, float], tuple[FloatArray, FloatArray]] = {}

    def ends(method: str, share: float) -> tuple[FloatArray, FloatArray]:
        """The headline in the first generation and over the last ones, `(R,)` each."""
        if (method, share) not in tried:
            cell = Cell(method=method, level=round(share / (1 - share), 6))
            rows = [column(of, loop.headline) for of in run_cell(loop, cell, folder / cell.name, progress)]
            tried[method, share] = rows[0], np.mean(rows[-max(1, len(rows) // TAIL) :], axis=0)
        return tried[method, share]

    @cache
    def standard() -> FloatArray:
        return column(loop.generation(1, Cell(method="standard", level=1.0), {})[1], loop.headline)

    def own(method: str) -> Callable[[float], FloatArray]:
        return lambda share: ends(method, share)[1] - (1 + TOLERANCE) * ends(method, share)[0]

    methods = loop.config.methods
    found = [{"method": method, "against": "own"} | _threshold(own(method)) for method in methods]
    if "sims" in methods:
        against = _threshold(lambda share: ends("sims", share)[1] - standard())
        found.append({"method": "sims", "against": "standard"} | against)
    points = [
        {"method": method, "share": share, "first": float(first.mean())}
        | {f"last_{k}": v for k, v in Interval.over(last).as_dict().items()}
        for (method, share), (first, last) in sorted(tried.items())
    ]
    return {"tolerance": TOLERANCE, "published_gaussian": PUBLISHED, "found": found, "tried": points}


def _threshold(drift: Callable[[float], FloatArray]) -> dict[str, float | None]:
    """A share with its interval, and the same as synthetic points per real one; None beyond what was tried."""

    def end(name: str) -> Callable[[float], float]:
        """The mean drift, or an end of its interval where it has one."""

        def value(share: float) -> float:
            interval = Interval.over(drift(share))
            found = getattr(interval, name)
            return float(interval.mean if found is None else found)

        return value

    # Where even the upper end is below 0 there is surely no drift: that crossing is the threshold's lower end.
    shares = {"share": crossing(end("mean")), "low": crossing(end("high")), "high": crossing(end("low"))}
    names = {"share": "ratio", "low": "ratio_low", "high": "ratio_high"}
    return shares | {names[k]: None if s is None else s / (1 - s) for k, s in shares.items()}


def crossing(function: Callable[[float], float], *, highest: float = HIGHEST) -> float | None:
    """Where an increasing function on [0, highest] becomes positive; 0 if it starts so, None if it never does."""
    if function(highest) <= 0:
        return None
    return 0.0 if function(0.0) > 0 else float(bisect(function, 0.0, highest, xtol=PRECISION, rtol=1e-12))
