"""How a text-to-image pipeline is asked and sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from fairsims.options import check_choices, choice

MOST_PROMPTS = 2000
"""Prompts of one model at most: shares of each need images of each."""


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """What a text-to-image pipeline is asked for, and how its users sample it: with its own scheduler and guidance.

    Raises ValueError for a setting that is not possible.

    >>> Prompting(prompts=("a photo of a nurse", ""), guidance_scale=5.0).guidance_scale
    5.0
    """

    prompts: tuple[str, ...] = ("",)
    """What is asked for: the prompt of a seed is prompts[seed mod their number].

    The empty one is the unconditional branch of guidance by itself."""
    variants: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What is asked for in the place of a prompt: texts with their probabilities, of which each seed draws one."""
    steps: int | None = None
    """Steps of the pipeline's scheduler; the pipeline's own default when None."""
    guidance_scale: float | None = None
    """Guidance scale g; the pipeline's own default when None. Up to 1 the prompt's branch acts alone."""
    size: tuple[int, int] | None = None
    """Height and width of the images in pixels; the pipeline's own when None."""
    offload: str = choice("none", "model", "sequential")
    """What waits in the machine's memory while the GPU does not need it: nothing, whole networks, single layers."""
    slicing: bool = False
    """Compute attention and images in slices: slower, with less memory."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= len(self.prompts) <= MOST_PROMPTS:
            raise ValueError(f"prompts is a list of {len(self.prompts)}; expected 1 to {MOST_PROMPTS:,} prompts")
        if twice := [p for p in self.prompts if self.prompts.count(p) > 1]:
            raise ValueError(f"prompts is {twice[0]!r} twice; expected different ones")
        for name, said in self.variants.items():
            if name not in self.prompts or min(said.values(), default=0) < 0 or abs(sum(said.values()) - 1) > 1e-9:
                raise ValueError(f"variants is {dict(said)} for {name!r}; expected shares that sum to 1, of a prompt")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ValueError(f"steps is {self.steps}; expected 1 to 1000")
        if self.guidance_scale is not None and not (math.isfinite(self.guidance_scale) and self.guidance_scale >= 0):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; expected 0 or more")
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 8):
            raise ValueError(f"size is {self.size}; expected a height and a width of 8 pixels or more")
