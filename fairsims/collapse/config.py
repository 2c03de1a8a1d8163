"""Settings of a self-consuming loop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fairsims.models.model import ModelSpec
from fairsims.options import check_choices, check_fields, choice, from_mapping, to_json

METHODS = ("standard", "sims")
EXACT = ("gaussian", "mixture", "kde")
"""Settings whose data distribution is known; any other is a data set of images."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "gaussian": {"generations": 100, "repeats": 100, "n": 1000, "budget": 5.0, "steps": 40, "solver": "euler"},
    "mixture": {"generations": 10, "repeats": 5, "n": 1000, "budget": 64.0, "kimg": 512.0, "steps": 18},
    "kde": {"generations": 20, "repeats": 10, "n": 100_000, "budget": 1.0, "steps": 18},
    "images": {"generations": 5, "repeats": 3, "n": None, "budget": 6.4, "kimg": 40.0, "steps": 12},
}
"""What each kind of setting is run with when nothing else is asked for; `images` for any data set."""
UNUSED = {
    "gaussian": {"auxiliary", "kimg", "width", "h", "samples", "classifier", "mark"},
    "mixture": {"h", "classifier", "mark"},
    "kde": {"auxiliary", "kimg", "width", "budget", "classifier", "mark"},
    "images": {"h"},
}
"""Settings that change nothing in a kind of setting."""
OF_SIMS = {"omega", "budget", "auxiliary_size", "auxiliary"}
"""Settings that change nothing without the method sims."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One loop of a run: a method at a level."""

    method: str
    level: float

    @property
    def name(self) -> str:
        return f"{self.method}-{self.level:g}"


@dataclass(frozen=True, kw_only=True)
class CollapseConfig:
    """A self-consuming loop, its levels and methods, and the sizes of what it trains on."""

    setting: str
    """gaussian, mixture, kde, digits, emoji-people, or a path to images (with --classifier)."""
    loop: str = choice("synthetic", "augmentation", "fresh", default="augmentation")
    """Train on the last generation's samples alone (synthetic), with a fixed real set, or with fresh real data.

    fresh: a share alpha of new real samples, the rest of the last generation's: q = alpha p + (1 - alpha) p_i."""
    levels: tuple[float, ...] = (1.0,)
    """augmentation: synthetic points per real one; fresh: alpha. Not used by synthetic."""
    methods: tuple[str, ...] = METHODS
    omega: float = 1.0
    """Strength of the guidance away from the auxiliary."""
    budget: float
    """Training of the auxiliary on the base's own samples: kimg; gaussian: time constants of its fit.

    Not used by kde, whose models are the points themselves."""
    generations: int
    """Generations to train."""
    repeats: int
    """Independent repeats, for intervals."""
    n: int | None
    """Real points or images of generation 1; of images as many as the data set allows."""
    auxiliary_size: float = 1.0
    """Samples of the base that the auxiliary learns, per point of generation 1."""
    auxiliary: str = choice("copy", "narrow")
    """copy: fine-tuned from the base, as in SIMS. narrow: another network, of half the width, from scratch."""
    kimg: float = 0.0
    """Training of each generation's base, in settings with a network."""
    width: int | None = None
    """Width of the networks.

    64 for the mixture; for images 16 up to 16 pixels, above that the emoji preset's."""
    h: float = 0.6
    """Bandwidth of kde's kernels."""
    steps: int = 18
    """Noise levels of the sampler."""
    solver: str = choice("heun", "euler")
    """Solver of the sampling ODE."""
    classifier: str | None = None
    """Images: classifier folder or embedded name whose shares are measured; the one that fits by default."""
    samples: int = 2000
    """Points or images that each generation is measured on, where that takes samples."""
    mark: bool = ModelSpec.mark
    """Images: mark the generated ones as such (XMP DigitalSourceType) with the digest of their model."""
    seed: int = 0
    """Seed of all randomness."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.methods or set(self.methods) - set(METHODS) or len(set(self.methods)) != len(self.methods):
            raise ValueError(f"methods is {self.methods}; expected standard, sims or both")
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise ValueError(f"levels is {self.levels}; expected at least one, and each once")
        highest = 1.0 if self.loop == "fresh" else 1e4
        if not all(0 <= v <= highest for v in self.levels):
            raise ValueError(f"levels is {self.levels}; expected numbers from 0 to {highest:g}")
        check_fields(self, "1 or more", lambda v: v >= 1, "generations", "repeats")
        check_fields(self, "2 or more", lambda v: v >= 2, "steps", "width")
        check_fields(self, "10 or more", lambda v: v >= 10, "n")
        check_fields(self, "50 or more", lambda v: v >= 50, "samples")
        check_fields(self, "0 or more", lambda v: 0 <= v < math.inf, "omega", "budget", "kimg", "h", "auxiliary_size")

    @classmethod
    def of(cls, setting: str, **given: Any) -> CollapseConfig:
        """The setting's defaults, with what is given (and not None) in their place.

        Raises ValueError for what would change nothing.
        """
        kind = setting if setting in EXACT else "images"
        chosen = {k: v for k, v in given.items() if v is not None}
        idle = [(k, f"the setting {setting}") for k in chosen if k in UNUSED[kind]]
        if "sims" not in chosen.get("methods", METHODS):
            # kde alone samples for the guidance only: its generations are drawn from their kernels.
            of_sims = OF_SIMS | ({"steps", "solver"} if kind == "kde" else set())
            idle += [(k, "the method standard") for k in chosen if k in of_sims]
        for name, where in idle:
            raise ValueError(f"{name} is {chosen[name]!r}; expected none: it changes nothing with {where}")
        if kind == "kde" and "sims" in chosen.get("methods", METHODS):
            # Guided sampling looks at every kernel at every step.
            chosen = {"n": 1000, "repeats": 3, "samples": 1000} | chosen
        if chosen.get("loop") == "synthetic":
            chosen["levels"] = (0.0,)
        return from_mapping(cls, {"setting": setting} | DEFAULTS[kind] | chosen)

    def as_dict(self) -> dict[str, Any]:
        """For `config.json`; what earlier versions did not have is left out where it has its default."""
        found: dict[str, Any] = to_json(self)
        if self.mark:
            del found["mark"]
        return found

    @property
    def cells(self) -> list[Cell]:
        """Every method at every level."""
        return [Cell(method=method, level=level) for method in self.methods for level in self.levels]

    def composition(self, level: float, generation: int, n: int) -> Composition:
        """What a generation trains on when generation 1 has `n` real points."""
        if generation == 1:
            # The first generation's real points are the fixed set of all later ones.
            return Composition(fixed=n)
        if self.loop == "synthetic":
            return Composition(synthetic=n)
        if self.loop == "augmentation":
            return Composition(fixed=n, synthetic=round(level * n))
        return Composition(fresh=round(level * n), synthetic=n - round(level * n))


@dataclass(frozen=True, kw_only=True)
class Composition:
    """Points of each kind in a training set."""

    fixed: int = 0
    fresh: int = 0
    synthetic: int = 0

    @property
    def share(self) -> float:
        """Synthetic share."""
        return self.synthetic / (self.fixed + self.fresh + self.synthetic)
