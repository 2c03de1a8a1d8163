"""Settings of a retargeting of a text-to-image pipeline over prompts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.prompting import Prompting
from fairsims.options import check_choices, choice, to_json
from fairsims.retarget.config import SEEDS_PER_RUN, SIMS, check_complement
from fairsims.training.adapters import ADAPTER_LR
from fairsims.training.config import TrainConfig

OFFSETS = {"pool": 0, "explicit": 2_000_000, "calibration": 4_000_000, "audit": 6_000_000}
"""Where the image seeds of each use begin among those of a run."""
ROOM = 2_000_000
"""Image seeds of each use at most."""


@dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """Everything that decides the outcome; numbers of images are those of each prompt.

    Raises ValueError for what cannot be.

    >>> PromptConfig(model="sd15", prompts="winobias", attr="gender", target="0.5").pool
    128
    """

    model: str
    """Local folder of a text-to-image pipeline."""
    prompts: str
    """Prompt file, or the name of a ready set."""
    attr: str
    """Attribute to retarget."""
    target: str
    """`0.5`, `uniform` or `woman=0.3,man=0.7`, for each prompt that has none of its own."""
    hold: tuple[str, ...] = ()
    """Attribute that the complement of each prompt is balanced for."""
    mode: str = choice(*SIMS)
    """merged: a LoRA file. guided: the network once more for each adapter, the reference that merged approximates."""
    classifier: str | tuple[str, ...] | None = None
    """Classifier folder or embedded name, of several attributes ATTR=PATH; the one that fits by default.

    Those of attributes without target and hold are audited only."""
    agreement: str | None = None
    """Classifier of what prompts name, or clip:local-dir:PATH of open_clip: whether images show it is audited.

    A classifier gives the share of images that show it, clip:MODEL:PRETRAINED, clip:local-dir:PATH and clip:hf-hub:NAME
    CLIP-T, the mean cosine of image and prompt."""
    positive: str = choice("auto", "never", "always")
    """Whether images of explicit prompts, trained under the neutral ones, join: where the complement cannot reach."""
    pool: int = 128
    """Images of each prompt to label and draw from."""
    budget: float = 9.6
    """Training of each adapter, in thousands of images (kimg)."""
    batch_size: int = 16
    """Images per training step."""
    micro_batch: int | None = None
    """Most images at once in a training step; the whole batch by default."""
    lr: float = ADAPTER_LR
    """Learning rate of the adapters: a faster one learns one direction for all prompts."""
    omega: float | None = None
    """Planned strength of the complement rule; what the hardest prompt under the cap needs by default."""
    cap: float = 2.0
    """Largest strength."""
    floor: float = 0.9
    """Least class probability of an image in the complement set."""
    empty_share: float = 0.125
    """Part of the training images that are of the empty prompt, which guidance subtracts."""
    calibration: int = 128
    """Images of each prompt at most to find the strength with; fewer are made where they suffice."""
    rounds: int = 3
    """Adapters are trained at most so often: again from what the prompts answered, where these are
    expected to be off by more than the tolerance."""
    audit: int = 64
    """Images of each prompt in the audit, before and after each."""
    tolerance: float = 0.05
    """How far a share may be off its target."""
    steps: int | None = None
    """Steps of the pipeline's scheduler; the pipeline's own default when None."""
    guidance_scale: float | None = None
    """Guidance scale that the pipeline is used at; its own default when None."""
    size: tuple[int, int] | None = None
    """Height and width of the images in pixels; the pipeline's own when None."""
    offload: str = Prompting.offload
    slicing: bool = Prompting.slicing
    rank: int = AdapterConfig.rank
    layers: str = AdapterConfig.layers
    timesteps: str = AdapterConfig.timesteps
    min_snr: float | None = AdapterConfig.min_snr
    checkpointing: bool = AdapterConfig.checkpointing
    sample_batch: int = 8
    """Images sampled at once."""
    precision: str = TrainConfig.precision
    """Type of the network's matrix products."""
    seed: int = 0
    """Chooses the image seeds of pool, calibration and audit, and the adapters' randomness."""

    def __post_init__(self) -> None:
        for name in ("hold", "size"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        check_choices(self)
        check_complement(omega=self.omega, cap=self.cap, floor=self.floor, size=None)
        for name in ("pool", "calibration", "audit"):
            if getattr(self, name) < 8:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 8 images of each prompt or more")
        if self.rounds < 1:
            raise ValueError(f"rounds is {self.rounds}; expected 1 or more")
        if not 0 <= self.empty_share <= 0.5:
            raise ValueError(f"empty_share is {self.empty_share}; expected a share up to 0.5")
        for name in ("budget", "lr", "tolerance"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        if self.attr in self.hold:
            raise ValueError(f"hold is {self.attr!r}, which has the target; expected another attribute")
        if not 0 <= self.seed < 400:
            raise ValueError(f"seed is {self.seed}; expected 0 to 399 (each owns {SEEDS_PER_RUN:,} image seeds)")
        # Refuse what no sampler and no adapter can be made of.
        self.prompting(("",))
        self.adapter()

    def prompting(self, prompts: tuple[str, ...]) -> Prompting:
        """How the pipeline is asked for these prompts."""
        return Prompting(
            prompts=prompts,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            size=self.size,
            offload=self.offload,
            slicing=self.slicing,
        )

    def adapter(self) -> AdapterConfig:
        """What is trained."""
        return AdapterConfig(
            rank=self.rank,
            layers=self.layers,
            timesteps=self.timesteps,
            min_snr=self.min_snr,
            checkpointing=self.checkpointing,
            seed=self.seed,
        )

    def seeds(self, use: str, each: int, prompts: int) -> range:
        """Image seeds of a use, `each` of every prompt. Raises ValueError where there are not so many."""
        if each * prompts > ROOM - prompts:
            raise ValueError(f"{use} is {each} images of {prompts} prompts; expected at most {ROOM:,} images")
        first = self.seed * SEEDS_PER_RUN + OFFSETS[use]
        # The first seed is of the first prompt.
        first += -first % prompts
        return range(first, first + each * prompts)

    @property
    def label(self) -> str:
        """The run folder's name after its number."""
        text = f"{self.attr}-{self.target}-prompts"
        return "".join(ch if ch.isalnum() or ch in ".-=_" else "-" for ch in text)[:60]

    def as_dict(self) -> dict[str, Any]:
        """For `config.json`."""
        found: dict[str, Any] = to_json(self)
        return found
