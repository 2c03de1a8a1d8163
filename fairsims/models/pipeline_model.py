"""A model of prompts: a local text-to-image pipeline, sampled by its own scheduler and guidance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairsims.errors import FairsimsError, InputError
from fairsims.files import sha256_json
from fairsims.models.adapter_training import AdapterConfig, AdapterTraining
from fairsims.models.adapters import AdapterFolder, Guided, Merged, Unconditional, baked, read_adapter, scaled
from fairsims.models.codec import refuse_infinite
from fairsims.models.conditions import Conditions
from fairsims.models.lora_files import write_files
from fairsims.models.model import Model, ModelSpec, open_model
from fairsims.models.pipelines import OpenedPipeline, Settings, library, quiet
from fairsims.models.prompting import Prompting
from fairsims.seeds import numpy_generator

LARGEST_SEED = 2**32 - 1
"""torch's generator sees 32 bits of a seed: beyond them two images would be one."""


@dataclass(kw_only=True)
class Opened:
    """What models of the same pipeline share: the pipeline itself and the adapters read last."""

    pipeline: OpenedPipeline
    adapters: dict[str, AdapterFolder] = field(default_factory=dict)

    def adapter(self, folder: str) -> AdapterFolder:
        """The adapter in a folder, kept for the next strength. Raises InputError as `read_adapter`."""
        if folder not in self.adapters:
            found = read_adapter(folder)
            if found.config["base_digest"] != self.pipeline.digest:
                raise InputError(f"{folder} is an adapter of another pipeline than {self.pipeline.name}; give its own")
            self.adapters[folder] = found
        return self.adapters[folder]


class PipelineModel:
    """A text-to-image pipeline: images of prompts as its users make them, and LoRA adapters that retarget it.

    The image of a seed is the one that the pipeline itself makes of its prompt with
    `generator=torch.Generator().manual_seed(seed)`, up to the rounding of kernels, which differs with the size of a
    batch. Safety checkers are left out.
    """

    def __init__(self, spec: ModelSpec, opened: Opened | None = None) -> None:
        """Raises InputError, naming the folder, for what is missing, corrupt or does not fit."""
        self.spec, self.prompting = spec, spec.prompting or Prompting()
        asked = {
            "an interval": spec.interval is not None,
            "a compiled network": spec.compiled,
            "a strength for groups of blocks": spec.blocks is not None,
        }
        for what in (name for name, wanted in asked.items() if wanted):
            raise InputError(f"{spec.base} is a text-to-image pipeline; {what} is for models of pixels; leave it out")
        self.opened = opened or Opened(pipeline=OpenedPipeline(spec.base, spec.precision, self.prompting))
        self.settings: Settings = self.pipeline.resolved(self.prompting)
        self.conditions = Conditions(self.prompting.prompts)
        self.recipe: dict[str, Any] = {"kind": "base"}
        self.worn = self._worn()

    @property
    def pipeline(self) -> OpenedPipeline:
        return self.opened.pipeline

    def _worn(self) -> Merged | None:
        """What the network wears while this model samples; nothing at strength 0."""
        if self.spec.auxiliary is None or self.spec.strength == 0:
            return None
        negative, positive, w = self.parts[0].tensors, self.parts[1:], self.spec.strength
        if self.spec.mode == "towards":
            return Merged(scaled(negative, w))
        if self.spec.mode == "unconditional":
            if not self.pipeline.guided_by_two(self.settings):
                raise InputError(
                    f"{self.spec.base} is sampled without an unconditional branch; expected a guidance scale above 1 "
                    "of a pipeline that has one"
                )
            return Unconditional(scaled(negative, w))
        if self.spec.mode == "merged":
            return Merged(baked(negative, w, positive[0].tensors if positive else None))
        weighted = {"negative": (negative, -w)} | ({"positive": (positive[0].tensors, w)} if positive else {})
        return Guided(weighted)

    @cached_property
    def parts(self) -> list[AdapterFolder]:
        """The adapters: of the auxiliary and, where there is one, the positive part."""
        names = [name for name in (self.spec.auxiliary, self.spec.positive) if name is not None]
        return [self.opened.adapter(name) for name in names]

    @cached_property
    def lora(self) -> dict[str, Tensor]:
        """The adapter that a merged model is, for strength 1.0. Raises InputError for a model of another kind."""
        if not isinstance(self.worn, Merged) or isinstance(self.worn, Guided | Unconditional):
            raise InputError(
                f"a model in mode {self.spec.mode} at strength {self.spec.strength:g} is no LoRA file; "
                "expected merged, at a strength above 0"
            )
        return self.worn.lora

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return 3, self.settings.height, self.settings.width

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of an image's latents, as the network sees them."""
        return self.pipeline.latent_shape(self.settings)

    @property
    def evaluations_per_image(self) -> int:
        each = 1 + len(self.worn.parts) if isinstance(self.worn, Guided) else 1
        return each * self.pipeline.evaluations(self.settings)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the pipeline's files, the adapters and the strength."""
        if self.spec.auxiliary is None:
            return self.pipeline.digest
        return sha256_json([self.pipeline.digest, *(p.digest for p in self.parts), self.spec.strength, self.spec.mode])

    def images(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Images of each batch of seeds, `(B, 3, H, W)` uint8 on the CPU. Image k depends on seed k alone."""
        for images, _ in self.images_with_latents(batches):
            yield images

    def images_with_latents(self, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of each batch of seeds and the latents that they were decoded from, on the CPU."""
        for batch in batches:
            seeds = [int(seed) for seed in batch]
            if max(seeds) > LARGEST_SEED or min(seeds) < 0:
                raise InputError(f"seed {max(seeds)} is too large; expected at most {LARGEST_SEED} with a pipeline")
            self.pipeline.wear(self.worn)
            with torch.no_grad():
                found, latents = self.pipeline.sample(self.settings, [self.prompt(s) for s in seeds], seeds)
            refuse_infinite(latents, seeds, "sampling")
            refuse_infinite(found, seeds, "decoding")
            yield torch.from_numpy(_pixels(found)), latents.cpu()

    def prompt(self, seed: int) -> str:
        """What the pipeline is asked for the image of a seed: its condition, or the variant of it that it draws."""
        name = self.conditions.of(seed)
        variants = self.prompting.variants.get(name)
        if not variants:
            return name
        return str(numpy_generator("variant", seed).choice(list(variants), p=list(variants.values())))

    def facts(self) -> dict[str, Any]:
        """What identifies images of this model, for `pool.json`; libraries too, whose schedulers decide the images."""
        scheduler = self.pipeline.pipe.scheduler
        facts: dict[str, Any] = {
            "made_by": self.made_by(),
            "sampler": {
                "pipeline": self.pipeline.row.pipeline,
                "scheduler": type(scheduler).__name__,
                "steps": self.settings.steps,
                "guidance": self.settings.guidance,
                "unconditional": self.pipeline.unconditional,
                "libraries": {name: library(name).__version__ for name in ("diffusers", "transformers", "peft")},
            },
            "evaluations_per_image": self.evaluations_per_image,
            "precision": self.spec.precision,
            "batch_size": self.spec.batch_size,
            "shape": list(self.image_shape),
            "conditions": self.conditions.for_pool(),
        }
        for name, left_out in {"offload": "none", "slicing": False, "variants": {}}.items():
            if (value := getattr(self.prompting, name)) != left_out:
                facts["sampler"][name] = value
        return facts

    def made_by(self) -> dict[str, Any]:
        """Which pipeline and which adapters: `kind` is the mode."""
        if self.spec.auxiliary is None:
            return {"kind": "base", "digest": self.digest}
        named = dict(zip(("aux", "positive"), (p.digest for p in self.parts), strict=False))
        facts = {"kind": self.spec.mode, "base": self.pipeline.digest, **named, "strength": self.spec.strength}
        return facts | {"digest": self.digest}

    def retargeted(
        self,
        auxiliary: str | Path,
        strength: float,
        mode: str,
        interval: tuple[float, float] | None = None,
        *,
        positive: str | Path | None = None,
    ) -> PipelineModel:
        """This base with an adapter at a strength, and with a positive part at the same strength where one is given.

        Strength 0 is the base. Raises InputError for an adapter of another pipeline, ValueError as `ModelSpec`.
        """
        spec = replace(
            self.spec,
            auxiliary=str(auxiliary),
            positive=None if positive is None else str(positive),
            strength=float(strength),
            mode=mode,
            interval=interval,
        )
        return PipelineModel(spec, self.opened)

    def asking(self, **changes: Any) -> PipelineModel:
        """The same model asked and sampled otherwise: other prompts, another guidance scale (fields of `Prompting`)."""
        return PipelineModel(replace(self.spec, prompting=replace(self.prompting, **changes)), self.opened)

    def trainable(self, adapter: AdapterConfig | None = None) -> AdapterTraining:
        """A fresh adapter on the base's network, of these prompts; call its `detach` when it is trained."""
        return AdapterTraining(self.pipeline, self.settings, self.conditions.names, adapter or AdapterConfig())

    def export(self, folder: Path, *, recipe: Mapping[str, Any] | None = None, name: str = "fairsims") -> None:
        """Write the merged model as LoRA files for strength 1.0, with a card, and check them as their users load them.

        `recipe` joins what the files say of themselves. Raises InputError for a base or a guided model, which are no
        files, and when `folder` holds other things; FairsimsError where a file gives other images than this model.
        """
        facts = self.provenance() | dict(recipe or {})
        self.check(write_files(folder, name, self.lora, facts, self.pipeline.row))

    def check(self, files: Sequence[Path], seeds: Sequence[int] = (0, 1, 2, 3)) -> float:
        """Load each LoRA file into a fresh pipeline; the largest difference to this model's images, in grey levels.

        In float32 it is that of a pixel, below it the mean of all: there another kernel's rounding, which a process may
        take, moves single pixels by ten levels and their mean by less than one. Raises FairsimsError for more.
        """
        with torch.no_grad():
            # Beside the layers, as the file is used: their sum is rounded otherwise below float32.
            self.pipeline.wear(Merged(self.lora, beside=True))
            own = [self.pipeline.sample(self.settings, [self.conditions.of(s)], [s])[0] for s in seeds]
        wanted = torch.from_numpy(_pixels(torch.cat(own))).int()
        self.pipeline.wear(None)
        exact, largest = self.spec.precision == "float32", 0.0
        most = 1 if exact else 2
        fresh = OpenedPipeline(self.spec.base, self.spec.precision, self.prompting)
        for path in files:
            with quiet(), torch.no_grad():
                fresh.pipe.load_lora_weights(str(path.parent), weight_name=path.name)
                found = torch.cat([fresh.sample(self.settings, [self.conditions.of(s)], [s])[0] for s in seeds])
                fresh.pipe.unload_lora_weights()
            off = (torch.from_numpy(_pixels(found)).int() - wanted).abs().float()
            difference = float(off.max() if exact else off.mean())
            if difference > most:
                raise FairsimsError(
                    f"{path} loaded into a fresh pipeline gives images that are off the model's by {difference:.3g} "
                    f"grey levels; expected at most {most}; try another version of diffusers and peft"
                )
            largest = max(largest, difference)
        return largest

    def provenance(self) -> dict[str, Any]:
        """What a file says of itself: base, adapters, prompts, guidance, sampler, precision."""
        facts = self.facts()
        return {k: facts[k] for k in ("made_by", "sampler", "precision", "shape", "conditions")}


def _pixels(images: Tensor) -> np.ndarray:
    """Images in [0, 1] as uint8, in the way that diffusers makes pictures of them."""
    return np.round(images.float().cpu().numpy() * 255).astype(np.uint8)


def open_spec(spec: ModelSpec) -> Model:
    """What a spec names, opened: a pipeline where it says what is asked for, else a model of pixels.

    Raises InputError, naming the file, for what is missing, corrupt or does not fit.
    """
    return open_model(spec) if spec.prompting is None else PipelineModel(spec)
