"""Settings of one retargeting, checked before anything is computed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from fairsims.audit.command import AuditConfig
from fairsims.models.model import ModelSpec
from fairsims.models.sampling import SamplerConfig
from fairsims.options import check_choices, check_fields, choice, to_json
from fairsims.training.config import FINETUNE_LR, TrainConfig, finetune_config

SIMS = ("merged", "guided")
"""As published: one auxiliary, and the base in the place of a second."""
MODES = ("paired", *SIMS, "paired-guided")
SINCE = ("guide", "guidance", "guide_interval", "vae", "classes", "labels", "mark")
"""Settings of the model that earlier runs did not have."""
MIN_POOL, MIN_CALIBRATION = 200, 50
SEEDS_PER_RUN = 10_000_000
REPLACED = {"pilots": "calibration"}
"""Settings of earlier versions, and what is in their place now."""
CALIBRATION_OFFSET, AUDIT_OFFSET = 4_000_000, 6_000_000
# What the seeds of each use suffice for; an audit that resamples generates several images a kept one.
MAX_POOL, MAX_CALIBRATION = CALIBRATION_OFFSET - 1, AUDIT_OFFSET - CALIBRATION_OFFSET - 1
MAX_AUDIT = (SEEDS_PER_RUN - AUDIT_OFFSET) // 4 - 1


@dataclass(frozen=True, kw_only=True)
class RetargetConfig:
    """Everything that decides the outcome; written to the run's `config.json`. Raises ValueError for what cannot be.

    >>> config = RetargetConfig(model="digits-8", attr="parity", target="0.5", audit=500)
    >>> config.seeds("pool", 2), config.seeds("audit", 2)
    (range(0, 2), range(6000000, 6000002))
    """

    model: str = "emoji-people-32"
    """Checkpoint folder or embedded model."""
    attr: str | tuple[str, ...]
    """Attribute to retarget, e.g. gender; of several the joint cells are planned together."""
    target: str | tuple[str, ...]
    """`0.5`, `uniform` or `woman=0.3,man=0.7`; one for each attribute, in their order."""
    target_for: str = choice("each", "overall")
    """Models with classes: whether the target holds for the images of each class, or for all of them together."""
    hold: tuple[str, ...] = ()
    """Attribute whose shares must stay as the base has them."""
    drift: float = AuditConfig.drift
    others: bool = True
    """Audit every other attribute that a classifier is at hand for, too, and name those that move by more than drift.

    At hand are embedded ones for the attributes of the real data, and those given as ATTR=PATH."""
    mode: str = choice(*MODES)
    """merged: one network, (1+w) base - w auxiliary in weights. guided: two networks (SIMS).

    paired: base + w (positive - auxiliary) in weights, from two auxiliaries trained alike on sets that differ in the
    targeted attribute alone; other known attributes move less. paired-guided: the same with three networks."""
    replaced: float = 0.5
    """Paired only: part of the entries replaced, of those that can be."""
    classifier: str | tuple[str, ...] | None = None
    """Classifier folder or embedded name, of several attributes ATTR=PATH; the one that fits by default."""
    reference: str | None = None
    """Real data to measure quality against; the base's training data by default."""
    pool: int = 3072
    """Images of the base to label and draw from."""
    budget: float = 9.6
    """Fine-tuning, in thousands of images (kimg); two auxiliaries have half each."""
    batch_size: int = TrainConfig.batch_size
    """Images per fine-tuning step."""
    lr: float = FINETUNE_LR
    """Learning rate of the fine-tune."""
    rank: int | None = None
    """Fine-tune a change of this rank of every weight (LoRA); the whole network by default, with --prompts 16."""
    finetune: Mapping[str, float | bool] = field(default_factory=dict)
    """Another setting of the fine-tune by its name in `TrainConfig`, e.g. augment=0.15 or P_mean=-1."""
    omega: float | None = None
    """Planned strength of the complement rule; the least feasible by default."""
    cap: float = 2.0
    """Largest strength: quality falls fast beyond about 2."""
    floor: float = 0.9
    """Least class probability of an image in the complement set."""
    complement_size: int | None = None
    """Images in the complement set; by default as many as the pool gives without repeating one."""
    rounds: int = 2
    """Fine-tunes of the auxiliary at most: a further one where one strength cannot serve all shares."""
    calibration: int = 4096
    """Images at most to find the strength with; fewer are made where they suffice."""
    audit: int | None = None
    """Audit images of each side; by default as many as the power needs, 8192 at most."""
    power: float = 0.9
    """Wanted probability that a target counts as reached when the true share is off by no more than a third of the
    tolerance."""
    tolerance: float = AuditConfig.tolerance
    steps: int = SamplerConfig.steps
    solver: str = SamplerConfig.solver
    schedule: str = SamplerConfig.schedule
    interval: tuple[float, float] | None = None
    """Guided only: noise levels (lowest, highest) at which the auxiliary is called; all of them by default."""
    guide: str | None = ModelSpec.guide
    guidance: float = ModelSpec.guidance
    guide_interval: tuple[float, float] | None = ModelSpec.guide_interval
    vae: str | None = ModelSpec.vae
    classes: str | None = ModelSpec.classes
    labels: str = ModelSpec.labels
    mark: bool = ModelSpec.mark
    sample_batch: int = 128
    """Images sampled at once."""
    precision: str = TrainConfig.precision
    """Type of the network's matrix products."""
    seed: int = 0
    """Chooses the image seeds of pool, calibration and audit, and the fine-tune's randomness."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, list):
                # As JSON and TOML have it.
                object.__setattr__(self, f.name, tuple(value))
        check_choices(self)
        if not self.attrs or len(self.attrs) != len(self.targets):
            raise ValueError(f"target is {self.target!r}; expected one for each attribute ({', '.join(self.attrs)})")
        twice = [a for a in self.names if self.names.count(a) > 1]
        if twice:
            raise ValueError(f"attr is {twice[0]!r} twice, among those targeted and held; expected different ones")
        idle = [name for name in self.classifiers if name not in self.names]
        if idle and not self.others and not self.paired:
            raise ValueError(f"classifier is one of {idle[0]}; expected none of other attributes without others")
        for name in ("budget", "lr", "tolerance", "drift"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        check_complement(omega=self.omega, cap=self.cap, floor=self.floor, size=self.complement_size)
        if not MIN_POOL <= self.pool <= MAX_POOL:
            raise ValueError(f"pool is {self.pool}; expected {MIN_POOL} to {MAX_POOL:,} images to plan shares from")
        if not 0 < self.power < 1:
            raise ValueError(f"power is {self.power}; expected a probability between 0 and 1")
        if self.audit is not None and not 50 <= self.audit <= MAX_AUDIT:
            raise ValueError(f"audit is {self.audit}; expected 50 to {MAX_AUDIT:,} images")
        if not MIN_CALIBRATION <= self.calibration <= MAX_CALIBRATION:
            raise ValueError(
                f"calibration is {self.calibration}; expected {MIN_CALIBRATION} to {MAX_CALIBRATION:,} images"
            )
        if not 0 < self.replaced <= 1:
            raise ValueError(f"replaced is {self.replaced}; expected a part above 0, 1 at most")
        check_fields(self, "1 or more", lambda v: v >= 1, "batch_size", "sample_batch", "rounds", "rank")
        # Refuse what no sampler and no training can be made of.
        self.spec()
        self.fine_tuning(self.kimg)
        if self.interval is not None:
            if self.combined != "guided":
                raise ValueError(f"interval is {self.interval}; expected none with {self.mode}, only guided has one")
            if not (len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1] < math.inf):
                raise ValueError(f"interval is {self.interval}; expected two finite noise levels, the lower first")
        if not 0 <= self.seed < 400:
            raise ValueError(f"seed is {self.seed}; expected 0 to 399 (each owns {SEEDS_PER_RUN:,} image seeds)")

    def spec(self) -> ModelSpec:
        """The base, and how every pool of the run is sampled."""
        same = ("precision", *SINCE)
        return ModelSpec(
            base=self.model,
            sampler=SamplerConfig(solver=self.solver, steps=self.steps, schedule=self.schedule),
            batch_size=self.sample_batch,
            **{name: getattr(self, name) for name in same},
        )

    @property
    def paired(self) -> bool:
        """Whether the base is moved from one auxiliary to another, not away from one."""
        return self.mode.startswith("paired")

    @property
    def combined(self) -> str:
        """How the networks act together: `merged` or `guided`."""
        return "guided" if self.mode.endswith("guided") else "merged"

    @property
    def kimg(self) -> float:
        """Thousands of images that each auxiliary is fine-tuned for."""
        return self.budget / 2 if self.paired else self.budget

    def fine_tuning(self, kimg: float, **changes: Any) -> TrainConfig:
        """Settings of an auxiliary's fine-tune of `kimg` thousand images; those of `finetune` go before all others.

        Raises ValueError for a name in `finetune` that is no setting of a training, or one that has a field of its own,
        and for a value that the setting cannot have.
        """
        own = {"batch_size": self.batch_size, "lr": self.lr, "precision": self.precision, "seed": self.seed}
        taken = {"kimg", "lr_final", "tick_kimg", "state_kimg", "decay", "ema_stds", "averages_kimg", *own}
        free = [f.name for f in fields(TrainConfig) if f.name not in taken]
        for name, value in self.finetune.items():
            if name not in free:
                raise ValueError(f"finetune is {name}={value}; expected one of {', '.join(free)}")
        asked = {name: _finetune_value(name, value) for name, value in self.finetune.items()}
        try:
            return finetune_config(kimg, **own | changes | asked)
        except ValueError as e:
            name, _, rest = str(e).partition(" is ")
            if name not in asked:
                raise
            # Under the option that it was given by.
            raise ValueError(f"finetune is {name}={rest}") from None

    def seeds(self, use: str, n: int) -> range:
        """The first n image seeds for `pool`, `calibration` or `audit`; the three never overlap."""
        offset = {"pool": 0, "calibration": CALIBRATION_OFFSET, "audit": AUDIT_OFFSET}[use]
        start = self.seed * SEEDS_PER_RUN + offset
        return range(start, start + n)

    @property
    def attrs(self) -> tuple[str, ...]:
        """The attributes with a target, in order."""
        return (self.attr,) if isinstance(self.attr, str) else tuple(self.attr)

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, in the order of `attrs`."""
        return (self.target,) if isinstance(self.target, str) else tuple(self.target)

    @property
    def names(self) -> tuple[str, ...]:
        """All attributes whose shares are controlled: those with a target, then those held."""
        return (*self.attrs, *self.hold)

    @property
    def classifiers(self) -> dict[str, str]:
        """Attribute to the classifier asked for, also of attributes that are only watched.

        Raises ValueError for one that says no attribute where there are several, and for a second one of an attribute.
        """
        given = (self.classifier,) if isinstance(self.classifier, str) else tuple(self.classifier or ())
        found: dict[str, str] = {}
        for text in given:
            name, _, spec = text.partition("=")
            # A path that is there may hold the sign, too.
            if not (spec and (name in self.names or (re.fullmatch(r"\w[\w-]*", name) and not Path(text).exists()))):
                if len(self.names) > 1:
                    raise ValueError(f"classifier is {text!r}; expected ATTR=PATH, ATTR one of {', '.join(self.names)}")
                name, spec = self.names[0], text
            if name in found:
                raise ValueError(f"classifier is {text!r}, another one for {name}; expected one for each attribute")
            found[name] = spec
        return found

    @property
    def label(self) -> str:
        """The run folder's name after its number."""
        parts = [f"{a}-{t}" for a, t in zip(self.attrs, self.targets, strict=True)] + [f"hold-{a}" for a in self.hold]
        return "".join(ch if ch.isalnum() or ch in ".-=_" else "-" for ch in "-".join(parts))[:60]

    def as_dict(self) -> dict[str, Any]:
        """For `config.json`: one attribute, target or classifier as itself, several as a list.

        What earlier versions did not have, or had for several attributes only, is left out where it has its default, so
        that their runs can be gone on with.
        """
        found: dict[str, Any] = to_json(self)
        found["classifier"] = found["classifier"] or None
        for name, default in (
            ("target_for", RetargetConfig.target_for),
            ("rank", None),
            ("hold", []),
            ("drift", RetargetConfig.drift),
            ("others", True),
            ("rounds", RetargetConfig.rounds),
            ("replaced", RetargetConfig.replaced),
            ("power", RetargetConfig.power),
            ("schedule", RetargetConfig.schedule),
            *((name, getattr(RetargetConfig, name)) for name in SINCE),
        ):
            if found[name] == default:
                del found[name]
        return found | {k: found[k][0] for k in ("attr", "target", "classifier") if _is_single(found[k])}


def check_complement(*, omega: float | None, cap: float, floor: float, size: int | None) -> None:
    """Raises ValueError where no complement can be planned and drawn by these settings."""
    for name, value in {"omega": omega, "cap": cap}.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} is {value}; expected a positive number")
    if omega is not None and omega > cap:
        raise ValueError(f"omega is {omega}; expected at most the cap of {cap}")
    if not 0.5 <= floor < 1:
        raise ValueError(f"floor is {floor}; expected a probability in [0.5, 1)")
    if size is not None and size < 1:
        raise ValueError(f"complement_size is {size}; expected 1 image or more")


def _finetune_value(name: str, value: float) -> Any:
    """A setting of the fine-tune in its own type: from the command line every number is a float."""
    if name == "xflip":
        expected, fits = "0, 1, true or false", value in (0, 1)
    elif name == "micro_batch":
        expected, fits = "a whole number", not isinstance(value, bool) and float(value).is_integer()
    else:
        expected, fits = "a number", not isinstance(value, bool)
    if not fits:
        raise ValueError(f"finetune is {name}={value}; expected {expected}")
    return {"xflip": bool, "micro_batch": int}.get(name, float)(value)


def _is_single(value: object) -> bool:
    return isinstance(value, tuple | list) and len(value) == 1
