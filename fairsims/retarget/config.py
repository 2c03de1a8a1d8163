"""Settings of one retargeting, checked before anything is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from fairsims.denoisers.precondition import PRECISIONS

MODES = ("merged", "guided")
MIN_POOL = 200
SEEDS_PER_RUN = 10_000_000
CALIBRATION_OFFSET, AUDIT_OFFSET = 4_000_000, 6_000_000


@dataclass(frozen=True, kw_only=True)
class RetargetConfig:
    """Everything that decides the outcome; written to the run's `config.json`."""

    model: str
    """Checkpoint folder, or the name of an embedded model."""
    attr: str
    target: str
    """`0.5`, `uniform` or `woman=0.3,man=0.7`."""
    mode: str = "merged"
    """merged: one network, (1+w) base - w auxiliary in weights. guided: two networks, SIMS."""
    classifier: str | None = None
    """Folder or name of an attribute classifier; the embedded one for the attribute when None."""
    reference: str | None = None
    """Real data set of the audit; the base's training data when None."""
    pool: int = 3072
    """Images of the base that are generated, labelled and drawn from."""
    budget: float = 9.6
    """Fine-tuning of the auxiliary, in thousands of images (kimg)."""
    batch_size: int = 64
    lr: float = 3e-4
    omega: float | None = None
    """Planned omega of the complement rule; 1, or the least feasible, when None."""
    cap: float = 2.0
    """Largest strength: quality falls fast beyond about 2."""
    floor: float = 0.9
    """Least class probability of an image in the complement set."""
    complement_size: int | None = None
    """Images in the complement set; as many as the pool gives without replacement when None."""
    pilots: tuple[int, ...] = (512, 1024, 3072)
    """Calibration images per pilot."""
    audit: int = 2048
    """Audit images, before and after each."""
    tolerance: float = 0.03
    steps: int = 12
    """Noise levels of the sampler; 2 * steps - 1 network evaluations."""
    sample_batch: int = 128
    precision: str = "float32"
    """Type of the network's matrix products when sampling and fine-tuning."""
    seed: int = 0
    """Chooses the ranges of seeds for pool, calibration and audit, and the fine-tune's randomness."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"mode is {self.mode!r}; expected one of {', '.join(MODES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; expected one of {', '.join(PRECISIONS)}")
        if self.omega is not None and not (self.omega > 0 and math.isfinite(self.omega)):
            raise ValueError(f"omega is {self.omega}; expected a positive number")
        for name in ("budget", "lr", "cap", "tolerance"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        if self.omega is not None and self.omega > self.cap:
            raise ValueError(f"omega is {self.omega}; expected at most the cap of {self.cap}")
        if not 0.5 <= self.floor < 1:
            raise ValueError(f"floor is {self.floor}; expected a probability in [0.5, 1)")
        if not MIN_POOL <= self.pool < CALIBRATION_OFFSET:
            raise ValueError(f"pool is {self.pool}; expected {MIN_POOL} images or more to plan shares from")
        if self.audit < 50 or self.audit * 4 >= SEEDS_PER_RUN - AUDIT_OFFSET:
            raise ValueError(f"audit is {self.audit}; expected 50 images or more")
        if not self.pilots or min(self.pilots) < 50 or max(self.pilots) >= AUDIT_OFFSET - CALIBRATION_OFFSET:
            raise ValueError(f"pilots is {self.pilots}; expected sizes of 50 images or more")
        if self.complement_size is not None and self.complement_size < 1:
            raise ValueError(f"complement_size is {self.complement_size}; expected 1 image or more")
        for name in ("batch_size", "sample_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; expected 2 or more")
        if not 0 <= self.seed < 400:
            raise ValueError(f"seed is {self.seed}; expected 0 to 399 (each owns {SEEDS_PER_RUN:,} image seeds)")

    def seeds(self, use: str, n: int) -> range:
        """The first n image seeds for `pool`, `calibration` or `audit`; the three never overlap."""
        offset = {"pool": 0, "calibration": CALIBRATION_OFFSET, "audit": AUDIT_OFFSET}[use]
        start = self.seed * SEEDS_PER_RUN + offset
        return range(start, start + n)

    @property
    def label(self) -> str:
        """The run folder's name after its number."""
        safe = "".join(ch if ch.isalnum() or ch in ".-=" else "-" for ch in self.target)
        return f"{self.attr}-{safe}"[:60]

    def as_dict(self) -> dict[str, Any]:
        """For `config.json`."""
        return {f.name: getattr(self, f.name) for f in fields(self)}
