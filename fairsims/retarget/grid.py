"""The grid of a sweep: which points it has, and what they share."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from fairsims.options import from_mapping
from fairsims.retarget.config import AUDIT_OFFSET, CALIBRATION_OFFSET, SEEDS_PER_RUN, SIMS, RetargetConfig

Interval = tuple[float, float]
LEARNT = ("merged", "guided", "blocks")
"""Modes that move away from an auxiliary fine-tuned on a synthetic set."""
REAL = ("decayed", "longer")
"""Modes that train on the data that the base was trained on."""
ARMS = (*LEARNT, *REAL, "autoguided")
"""What a sweep of quality alone compares; one that steers has `merged` and `guided`."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One row of a sweep."""

    mode: str
    """One of `ARMS`; base: the model as it was; auxiliary: the fine-tuned network by itself."""
    size: int | None = None
    """Synthetic set size |S| asked for; None: all that the pool gives."""
    budget: float = 0.0
    """Fine-tuning of the auxiliary, kimg."""
    omega: float = 0.0
    """Strength: 0 is the base, -1 the auxiliary."""
    interval: Interval | None = None
    """Noise levels at which the auxiliary is called; None: all of them."""
    blocks: Interval | None = None
    """blocks: factors of the strength in the encoder and in the decoder."""
    guide: int | None = None
    """autoguided: which of the guides, the first is 0."""

    @property
    def name(self) -> str:
        """What tells it from the others; its folder's name."""
        if self.mode == "base":
            return "base"
        parts = [self.mode, size_name(self.size), f"{self.budget:09.3f}"]
        if self.guide is not None:
            parts = [self.mode, f"guide{self.guide}"]
        parts += [f"w{self.omega:g}"] if self.omega > 0 else []
        parts += [f"b{interval_name(self.blocks)}"] if self.blocks else []
        return "-".join(parts + ([f"s{interval_name(self.interval)}"] if self.interval else []))


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A grid of budgets, strengths, sizes, modes and guidance intervals around one retargeting."""

    run: RetargetConfig
    """What all points share. Its mode, interval, budget and complement size are the grid's; nothing is calibrated or
    audited."""
    steer: bool = True
    """False: the auxiliary learns the pool as it is, for quality alone (plain SIMS); `run.target` is not used."""
    budgets: tuple[float, ...] = (4.8, 9.6, 19.2)
    """Fine-tuning of the auxiliary in kimg, the smallest first: states of one fine-tune for each size."""
    omegas: tuple[float, ...] = (0.5, 1, 1.5, 2)
    """Strengths above 0; the base is there without being asked for."""
    sizes: tuple[int | None, ...] = (None,)
    """Images in the synthetic set; all: as many as the pool gives without repeating one."""
    modes: tuple[str, ...] = ("merged",)
    """merged, guided or both. Without a target also other ways to a better model, each to be compared with them.

    blocks: merged with another strength in the encoder than in the decoder. decayed: guided by an auxiliary that went
    on with the base's own training data under a stronger weight decay. longer: the base trained on for what the
    auxiliary cost, the control. autoguided: guided by a smaller or less trained network."""
    blocks: tuple[Interval, ...] = ((1.0, 0.0), (0.0, 1.0))
    """blocks only: factors of the strength in the encoder and in the decoder."""
    weight_decay: float = 5.0
    """decayed only: weight decay of that auxiliary."""
    guides: tuple[str, ...] = ()
    """autoguided only: checkpoints of the smaller or less trained networks."""
    features: tuple[str, ...] = ("classifier",)
    """Feature extractors that quality is measured on. Of several the best points are the best on the worst of them.

    A claim of quality needs two: `random`, a network that was never trained, is always at hand."""
    intervals: tuple[Interval | None, ...] = (None,)
    """Guided only: noise levels (lowest, highest) at which the auxiliary is called; none: all of them."""
    images: int = 512
    """Images of each point, from the same calibration seeds.

    The audit seeds are left for an audit of what is chosen."""
    auxiliary: bool = True
    """Measure each auxiliary by itself, too: how far its training took it."""
    confirm: int = 0
    """Audit images to measure the base and the best points again on: the best of many is partly luck."""

    def __post_init__(self) -> None:
        for name in ("budgets", "omegas", "sizes", "modes", "intervals"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} is {values}; expected at least one, and each once")
        for name in ("budgets", "omegas"):
            if not all(v > 0 and math.isfinite(v) for v in getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}; expected positive numbers")
        if list(self.budgets) != sorted(self.budgets):
            raise ValueError(f"budgets is {self.budgets}; expected the smallest first")
        if not 50 <= self.images < AUDIT_OFFSET - CALIBRATION_OFFSET:
            raise ValueError(f"images is {self.images}; expected 50 or more")
        if self.confirm and not 50 <= self.confirm < SEEDS_PER_RUN - AUDIT_OFFSET:
            raise ValueError(f"confirm is {self.confirm}; expected 0, or 50 images or more")
        if len(self.run.names) != 1:
            raise ValueError(f"attr is {', '.join(self.run.names)}; expected one attribute in a sweep")
        if "guided" not in self.modes and self.intervals != (None,):
            raise ValueError(f"intervals is {self.intervals}; expected none without guided among the modes")
        known = SIMS if self.steer else ARMS
        unknown = [m for m in self.modes if m not in known]
        if unknown:
            raise ValueError(f"modes is {unknown[0]!r}; expected some of {', '.join(known)}")
        self._check_arms()
        # Refuses what no run can be made of.
        for point in self.points():
            self.of(point)

    def _check_arms(self) -> None:
        """Raises ValueError for settings that the modes do not use, or lack."""
        for name in ("features", "guides", "blocks"):
            values = getattr(self, name)
            if len(set(values)) != len(values) or (not values and name != "guides"):
                raise ValueError(f"{name} is {values}; expected at least one, and each once")
        if not all(0 <= f < math.inf for pair in self.blocks for f in pair):
            raise ValueError(f"blocks is {self.blocks}; expected factors of 0 or more")
        if not 0 < self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; expected a positive number")
        if ("autoguided" in self.modes) != bool(self.guides):
            raise ValueError(f"guides is {self.guides}; expected checkpoints for autoguided among the modes, else none")
        if self.guides and self.run.guide is not None:
            raise ValueError(
                f"guide is {self.run.guide}; expected none where autoguided points have guides of their own"
            )

    @classmethod
    def read(cls, grid: Mapping[str, Any], *, run: RetargetConfig, steer: bool) -> Self:
        """A sweep with the grid that a recipe's table gives: sizes may be "all", intervals "none".

        Raises InputError for what no grid has, ValueError as the constructor.
        """
        words = {"sizes": "all", "intervals": "none"}
        values = {k: [None if v == words[k] else v for v in grid[k]] if k in words else grid[k] for k in grid}
        return from_mapping(cls, values | {"run": run, "steer": steer})

    def points(self) -> Iterator[Point]:
        """Every point, those of one fine-tune together."""
        yield Point(mode="base")
        for size in self.sizes:
            for budget in self.budgets:
                if self.auxiliary and set(LEARNT) & set(self.modes):
                    yield Point(mode="auxiliary", size=size, budget=budget, omega=-1.0)
                for mode in (m for m in self.modes if m in LEARNT):
                    for interval in self.intervals if mode == "guided" else (None,):
                        for blocks in self.blocks if mode == "blocks" else (None,):
                            for omega in self.omegas:
                                yield Point(
                                    mode=mode, size=size, budget=budget, omega=omega, interval=interval, blocks=blocks
                                )
                if "longer" in self.modes:
                    yield Point(mode="longer", size=size, budget=budget)
        for budget in self.budgets if "decayed" in self.modes else ():
            for omega in self.omegas:
                yield Point(mode="decayed", budget=budget, omega=omega)
        for guide in range(len(self.guides)):
            for omega in self.omegas:
                yield Point(mode="autoguided", omega=omega, guide=guide)

    def of(self, point: Point) -> RetargetConfig:
        """The retargeting that a point belongs to. Raises ValueError as `RetargetConfig`."""
        mode = point.mode if point.mode in SIMS else "merged"
        budget = point.budget or self.budgets[-1]
        return replace(self.run, mode=mode, budget=budget, complement_size=point.size, interval=point.interval)

    def as_dict(self) -> dict[str, Any]:
        """The grid, for `sweep.json`."""
        return {
            "budgets": list(self.budgets),
            "omegas": list(self.omegas),
            "sizes": [size_name(s) for s in self.sizes],
            "modes": list(self.modes),
            "intervals": [interval_name(i) for i in self.intervals],
            "images": self.images,
            "confirm": self.confirm,
            **({"features": list(self.features)} if self.features != SweepConfig.features else {}),
            **({"blocks": [interval_name(b) for b in self.blocks]} if "blocks" in self.modes else {}),
            **({"weight_decay": self.weight_decay} if "decayed" in self.modes else {}),
            **({"guides": list(self.guides)} if self.guides else {}),
        }


def size_name(size: int | None) -> str:
    """`all` or the number."""
    return "all" if size is None else str(size)


def interval_name(interval: Interval | None) -> str:
    """`none` or `0.3:5`."""
    return "none" if interval is None else f"{interval[0]:g}:{interval[1]:g}"
