"""A model: what makes images from seeds. Named by a spec, which is JSON, and opened once."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fairsims import engine
from fairsims.data.ahead import ahead
from fairsims.data.base import to_uint8
from fairsims.errors import InputError
from fairsims.files import read_json
from fairsims.models.autoguidance import AutoGuidance
from fairsims.models.base import Denoiser, NetworkDenoiser, Trainable, compile_networks, fastest_layout
from fairsims.models.checkpoints import open_checkpoint
from fairsims.models.codec import Codec, refuse_infinite
from fairsims.models.conditions import Conditions, read_classes
from fairsims.models.folders import Checkpoint, guided_digest, network_digest, save_checkpoint, save_guided
from fairsims.models.guidance import SIMSGuidance, merge
from fairsims.models.precondition import PRECISIONS
from fairsims.models.prompting import Prompting
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.options import check_choices, choice, from_mapping, to_json
from fairsims.run import refuse_foreign
from fairsims.seeds import noise_for


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What opens a model in any process: where its networks are, how they act together, how they are sampled.

    Raises ValueError for settings that contradict each other.

    >>> spec = ModelSpec(base="digits-8", sampler=SamplerConfig(steps=4))
    >>> ModelSpec.from_json(spec.to_json()) == spec
    True
    """

    base: str
    """Checkpoint folder, EDM snapshot (.pkl), name of an embedded model, or folder of a text-to-image pipeline."""
    auxiliary: str | None = None
    """Checkpoint of the auxiliary, where there is one."""
    positive: str | None = None
    """Checkpoint that the auxiliary is subtracted from; the base when None, as in SIMS."""
    strength: float = 0.0
    """w: base + w (positive - auxiliary), which without a positive one is (1 + w) base - w auxiliary."""
    mode: str = choice("base", "merged", "guided", "towards", "unconditional")
    """base: as it is. merged: one network of extrapolated weights. guided: both networks at every step.

    Text-to-image alone: towards is base + w (auxiliary - base); unconditional is that in the unconditional branch of
    classifier-free guidance and the base in the other (Diffusion-NPO, Wang et al. 2025)."""
    interval: tuple[float, float] | None = None
    """guided: noise levels between which the auxiliary is called; all of them by default."""
    blocks: tuple[float, float] | None = None
    """merged: factors of the strength in the network's encoder and in its decoder; the same everywhere by default."""
    guide: str | None = None
    """Checkpoint of another network that the model, whatever it is made of, is guided away from (autoguidance)."""
    guidance: float = 1.0
    """g of the guide: guide + g (model - guide); 1 is the model without it."""
    guide_interval: tuple[float, float] | None = None
    """Noise levels (lowest, highest) at which the guide is called; all of them by default."""
    vae: str | None = None
    """Of a model of latents: local folder of the diffusers AutoencoderKL that makes images of them."""
    classes: str | None = None
    """Text file with the names of the model's classes, one a line; those of its checkpoint by default, or numbers."""
    labels: str = choice("balanced", "random")
    """Which class a seed has: in turn, every class as often as any other, or drawn at random from the seed."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    """How the denoiser is turned into images."""
    precision: str = choice(*PRECISIONS)
    """Type of the networks' matrix products."""
    batch_size: int = 128
    """Most images at once."""
    mark: bool = True
    """Whether images carry the mark of generated ones (XMP DigitalSourceType) and the model's digest."""
    compiled: bool = False
    """Translate the networks with torch.compile at their first use."""
    prompting: Prompting | None = None
    """Text-to-image: what is asked for and how; `sampler` has no part then."""

    def __post_init__(self) -> None:
        check_choices(self)
        if (self.mode == "base") != (self.auxiliary is None):
            raise ValueError(f"auxiliary is {self.auxiliary!r}; expected one for merged and guided, none for base")
        if self.mode in ("towards", "unconditional") and (self.prompting is None or self.positive is not None):
            raise ValueError(f"mode is {self.mode!r}; expected a text-to-image pipeline with one adapter")
        if self.positive is not None and self.auxiliary is None:
            raise ValueError(f"positive is {self.positive!r}; expected none without an auxiliary")
        if not (np.isfinite(self.strength) and self.strength >= 0):
            raise ValueError(f"strength is {self.strength}; expected 0 or more")
        if self.interval is not None and self.mode != "guided":
            raise ValueError(f"interval is {self.interval}; expected none with {self.mode}")
        if self.blocks is not None and (self.mode != "merged" or not all(0 <= f < np.inf for f in self.blocks)):
            raise ValueError(f"blocks is {self.blocks}; expected two numbers, 0 or more, and only with merged")
        if (self.guide is None) != (self.guidance == 1):
            raise ValueError(
                f"guidance is {self.guidance} with the guide {self.guide}; expected a guide and a number other than 1, "
                "or neither"
            )
        if not (np.isfinite(self.guidance) and self.guidance >= 0):
            raise ValueError(f"guidance is {self.guidance}; expected a finite number, 0 or more")
        if self.guide_interval is not None:
            low, high = self.guide_interval
            if self.guide is None or not 0 <= low < high < np.inf:
                raise ValueError(
                    f"guide_interval is {self.guide_interval}; expected two finite noise levels, the lower first, and "
                    "a guide"
                )
        if self.batch_size < 1:
            raise ValueError(f"batch_size is {self.batch_size}; expected 1 or more")

    def to_json(self) -> dict[str, Any]:
        """As JSON values; of the sampler what is not at its default."""
        given = {f.name: getattr(self.sampler, f.name) for f in fields(self.sampler)}
        changed = {f.name: given[f.name] for f in fields(self.sampler) if given[f.name] != f.default}
        found: dict[str, Any] = to_json(replace(self, sampler=SamplerConfig()))
        return found | {"sampler": changed}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """The spec that `to_json` gave. Raises InputError or ValueError as `from_mapping`."""
        return from_mapping(cls, values)


class Model(Protocol):
    """What makes images: all that is above this room sees."""

    spec: ModelSpec
    conditions: Conditions
    recipe: dict[str, Any]
    """How the base was made, as far as its checkpoint says."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise that an image begins with."""

    @property
    def evaluations_per_image(self) -> int:
        """Network forwards an image costs (NFE), two networks counted as two where both are called."""

    @property
    def digest(self) -> str:
        """SHA-256 over what decides the outputs: the digest of the checkpoint that `export` writes."""

    def images(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Images of each batch of seeds, `(B, C, H, W)` uint8 on the CPU. Image k depends on seed k alone."""

    def facts(self) -> dict[str, Any]:
        """What identifies images of this model, for `pool.json`."""

    def retargeted(
        self,
        auxiliary: str | Path,
        strength: float,
        mode: str,
        interval: tuple[float, float] | None = None,
        *,
        positive: str | Path | None = None,
    ) -> Model:
        """This base with an auxiliary, or a pair of them, at a strength."""

    def export(self, folder: Path, *, recipe: Mapping[str, Any] | None = None) -> None:
        """Write the model as a checkpoint folder of its own."""

    def trainable(self) -> Trainable:
        """What is trained to make an auxiliary, a copy or an adapter; its `loss` is what training goes down."""


class DenoiserModel:
    """A model of pixels: a denoiser D(x; sigma) and our solvers."""

    def __init__(
        self,
        spec: ModelSpec,
        base: Checkpoint,
        auxiliary: Checkpoint | None = None,
        positive: Checkpoint | None = None,
        *,
        guide: Checkpoint | None = None,
    ) -> None:
        """The checkpoints are what the spec names, opened."""
        self.spec, self.base, self.auxiliary, self.positive, self.recipe = spec, base, auxiliary, positive, base.recipe
        device = engine.device()
        if auxiliary is None:
            self.denoiser = base.denoiser.to(device)
        else:
            first, second = base.network.to(device), auxiliary.network.to(device)
            third = None if positive is None else positive.network.to(device)
            if spec.mode == "merged":
                self.denoiser = merge(first, second, spec.strength, third, blocks=spec.blocks)
            else:
                self.denoiser = SIMSGuidance(first, second, spec.strength, interval=spec.interval, positive=third)
        self.own, self.guide = self.denoiser, guide
        if guide is not None:
            interval = spec.guide_interval
            self.denoiser = AutoGuidance(self.own, guide.denoiser.to(device), spec.guidance, interval=interval)
        self.denoiser.precision = spec.precision
        self.denoiser.to(memory_format=fastest_layout(device, spec.precision))
        if spec.compiled:
            compile_networks(self.denoiser)
        self.conditions = conditions_of(self.own, self.recipe, spec)
        if spec.vae is not None and not self.latent:
            raise InputError(f"{spec.base} makes pixels, not latents; leave --vae out")
        self._last: dict[str, Checkpoint] = {}

    @property
    def latent(self) -> bool:
        """Whether it makes latents, of which a codec makes images."""
        return "codec" in self.recipe

    @cached_property
    def codec(self) -> Codec | None:
        """What makes images of a model's latents; None for a model of pixels. Raises InputError where it is missing."""
        if not self.latent:
            return None
        facts = self.recipe["codec"]
        if self.spec.vae is None:
            named = f" ({facts['vae']})" if facts.get("vae") else ""
            raise InputError(
                f"{self.spec.base} makes latents; give --vae, a local folder of its diffusers AutoencoderKL{named}"
            )
        return Codec(self.spec.vae, facts, engine.device())

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.denoiser.shape if self.codec is None else self.codec.image_shape(self.denoiser.shape)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        return self.denoiser.shape

    @property
    def evaluations_per_image(self) -> int:
        return self.spec.sampler.evaluations(self.denoiser)

    @cached_property
    def digest(self) -> str:
        if self.auxiliary is None:
            return self.base.digest
        if isinstance(self.own, NetworkDenoiser):
            return network_digest(self.own)
        third = None if self.positive is None else self.positive.digest
        return guided_digest(self.base.digest, self.auxiliary.digest, self.spec.strength, self.spec.interval, third)

    def images(self, batches: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Images of each batch of seeds, `(B, C, H, W)` uint8 on the CPU. Image k depends on seed k alone.

        Up to the rounding of the network's kernels, which differs with the size of a batch: by one grey level at most.
        Raises InputError, naming seed and stage, where sampling or decoding gives numbers that are not finite.
        """
        for images, _ in self.images_with_latents(batches):
            yield images

    def images_with_latents(self, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Images of each batch of seeds, and what was sampled, `(B, *noise_shape)` float32 in the model's units."""
        denoiser, sampler = self.denoiser, self.spec.sampler
        device, cut = denoiser.device, [[int(s) for s in batch] for batch in batches]
        # The noise of a batch is drawn while the one before is sampled, so that a GPU does not wait for it.
        noises = ahead(partial(noise_for, shape=denoiser.shape), cut, 1)
        for seeds, noise in zip(cut, noises, strict=True):
            labels = self.conditions.one_hot(seeds)
            with torch.inference_mode():
                found = solve(
                    denoiser,
                    noise.to(device),
                    sampler,
                    seeds=seeds,
                    labels=None if labels is None else labels.to(device),
                )
            found = found.float()
            refuse_infinite(found, seeds, "sampling")
            yield (to_uint8(found).cpu() if self.codec is None else self.codec.decode(found, seeds)), found.cpu()

    def facts(self) -> dict[str, Any]:
        """The entries `made_by`, `sampler`, `evaluations_per_image`, `precision`, `batch_size` and `shape`.

        Also `conditions` where there are any. Networks are named by their digests, so that folders can be moved.
        """
        spec, levels = self.spec, self.spec.sampler.sigmas(self.denoiser)[[0, -2]]
        facts: dict[str, Any] = {
            "made_by": self.made_by(),
            "sampler": spec.sampler.facts() | {"sigmas": [float(f"{s:.6g}") for s in levels]},
            "evaluations_per_image": self.evaluations_per_image,
            "precision": spec.precision,
            "batch_size": spec.batch_size,
            "shape": list(self.image_shape),
        }
        if not self.conditions.unconditional:
            facts["conditions"] = self.conditions.for_pool()
        if self.codec is not None:
            facts["codec"] = {"digest": self.codec.digest, "latents": list(self.noise_shape)}
        return facts

    def made_by(self) -> dict[str, Any]:
        """Which networks, and what became of them: `kind` is base, auxiliary, merged or guided."""
        spec, kind = self.spec, self.recipe.get("kind")
        facts: dict[str, Any] = {
            "kind": kind if kind in ("auxiliary", "negative", "positive", "target-mix", "merged", "guided") else "base"
        }
        if self.auxiliary is not None:
            facts = {"kind": spec.mode, "base": self.base.digest, "aux": self.auxiliary.digest}
            facts |= {"positive": self.positive.digest} if self.positive else {}
            facts |= {"strength": spec.strength} | ({"interval": list(spec.interval)} if spec.interval else {})
            facts |= {"blocks": list(spec.blocks)} if spec.blocks else {}
        facts["digest"] = self.digest
        if self.guide is not None:
            facts["guide"] = {"digest": self.guide.digest, "guidance": spec.guidance}
            facts["guide"] |= {"interval": list(spec.guide_interval)} if spec.guide_interval else {}
        return facts | ({"compiled": True} if spec.compiled else {})  # which rounds differently

    def retargeted(
        self,
        auxiliary: str | Path,
        strength: float,
        mode: str,
        interval: tuple[float, float] | None = None,
        *,
        positive: str | Path | None = None,
        blocks: tuple[float, float] | None = None,
    ) -> DenoiserModel:
        """This base with an auxiliary at a strength, `blocks` as in a spec: strength 0 is the base, bit for bit.

        Raises InputError for an auxiliary that is not a fine-tuned copy of the base, ValueError as `ModelSpec`.
        """
        spec = replace(
            self.spec,
            auxiliary=str(auxiliary),
            positive=None if positive is None else str(positive),
            strength=float(strength),
            mode=mode,
            interval=interval,
            blocks=blocks,
        )
        given = [name for name in (spec.auxiliary, spec.positive) if name is not None]
        # The last ones are kept, for the next strength.
        self._last = {name: self._last.get(name) or open_checkpoint(name) for name in given}
        return DenoiserModel(spec, self.base, *(self._last[name] for name in given), guide=self.guide)

    def export(self, folder: Path, *, recipe: Mapping[str, Any] | None = None) -> None:
        """Write the merged network or the guided pair as a checkpoint folder; a base as a copy of its network.

        `recipe` adds to how it was made. A folder that holds the same already is left as it is. Raises InputError when
        it holds anything else.
        """
        facts = self._recipe() | dict(recipe or {})
        if self.auxiliary is not None:
            facts["data"] = self.recipe.get("data")
        config = folder / "config.json"
        if config.is_file() and read_json(config).get("recipe") == facts:
            return
        # Weights without a config are what a kill left of this.
        refuse_foreign(folder, () if config.exists() else ("model.safetensors",))
        if isinstance(self.own, NetworkDenoiser):
            save_checkpoint(folder, self.own, recipe=facts)
            return
        given = Path(self.spec.base)
        base = str(given.resolve()) if given.exists() else self.spec.base
        assert self.spec.auxiliary is not None
        save_guided(
            folder,
            base,
            _place(self.spec.auxiliary, folder),
            self.spec.strength,
            interval=self.spec.interval,
            positive=self.spec.positive and _place(self.spec.positive, folder),
            recipe=facts,
        )

    def trainable(self) -> NetworkDenoiser:
        """A copy of what is trained to make an auxiliary, on this process's device: the whole network.

        Raises InputError for a guided pair, which has no single one.
        """
        return copy.deepcopy(self.base.network)

    def _recipe(self) -> dict[str, Any]:
        if self.auxiliary is None:
            return dict(self.recipe)
        facts = {"kind": self.spec.mode, "strength": self.spec.strength, "base_digest": self.base.digest}
        facts |= {"blocks": list(self.spec.blocks)} if self.spec.blocks else {}
        facts |= {} if self.positive is None else {"positive_digest": self.positive.digest}
        return facts | inherited(self)


def _place(auxiliary: str, folder: Path) -> str:
    """How guidance in `folder` names an auxiliary: beside it relatively, so that both can be moved."""
    given = Path(auxiliary)
    if not given.exists():
        return auxiliary
    beside = given.resolve().parent == folder.resolve().parent
    return os.path.relpath(given.resolve(), folder.resolve()) if beside else str(given.resolve())


def conditions_of(denoiser: Denoiser, recipe: Mapping[str, Any], spec: ModelSpec) -> Conditions:
    """The classes of a class-conditional network: named in the spec's file or the recipe's `classes`, else by number.

    Raises InputError where a spec asks for classes of a network that has none, or names too many or too few.
    """
    if not denoiser.label_dim:
        if spec.classes is not None or spec.labels != "balanced":
            raise InputError(f"{spec.base} has no classes; leave --classes and --labels out")
        return Conditions()
    names = recipe.get("classes")
    if spec.classes is not None:
        found = Conditions(read_classes(spec.classes, denoiser.label_dim))
    elif isinstance(names, list) and len(names) == denoiser.label_dim:
        found = Conditions(tuple(map(str, names)))
    else:
        found = Conditions.numbered(denoiser.label_dim)
    return replace(found, drawn_after=denoiser.shape) if spec.labels == "random" else found


def inherited(model: Model) -> dict[str, Any]:
    """What the recipe of every network made of a model says, too: names of classes, scales of latents."""
    return model.conditions.facts() | {k: model.recipe[k] for k in ("codec",) if k in model.recipe}


def open_model(spec: ModelSpec) -> DenoiserModel:
    """Open a model of pixels that a spec names, on this process's device; guided checkpoints, too.

    Text-to-image pipelines are opened by `PipelineModel(spec)`.
    Raises InputError, naming the file, for what is missing, corrupt or does not fit.

    >>> model = open_model(ModelSpec(base="digits-8", sampler=SamplerConfig(solver="euler", steps=4)))
    >>> model.image_shape, model.evaluations_per_image
    ((1, 8, 8), 4)
    >>> [batch.shape for batch in model.images([[0, 1, 2], [3]])]
    [torch.Size([3, 1, 8, 8]), torch.Size([1, 1, 8, 8])]
    """
    base = open_checkpoint(spec.base)
    auxiliaries = [open_checkpoint(name) for name in (spec.auxiliary, spec.positive) if name is not None]
    return DenoiserModel(spec, base, *auxiliaries, guide=None if spec.guide is None else open_checkpoint(spec.guide))
