"""Text-to-image pipelines of diffusers in local folders: checked, opened once, and what their networks wear.

Only JSON, tokenizers and safetensors are read; nothing is downloaded, and no code of a folder is executed.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fairsims import engine
from fairsims.errors import EXTRAS_PAGE, InputError
from fairsims.files import read_json, sha256_file, sha256_json
from fairsims.models.architectures import ARCHITECTURES, Architecture, Embeddings
from fairsims.models.checkpoints import embedded_pipelines, find_checkpoint
from fairsims.models.prompting import Prompting

INDEX = "model_index.json"
LEFT_OUT = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts that are not loaded: they make no image, and a black picture in place of one would be counted as a person's."""
DISTILLED = ("LCMScheduler", "TCDScheduler")
LIBRARIES = ("diffusers", "transformers")


def find_pipeline(name: str | Path) -> Path:
    """The folder of a pipeline given by path or by the name of an embedded one; the path itself where it is neither."""
    given = Path(name)
    return find_checkpoint(name) if not given.exists() and str(name) in embedded_pipelines() else given


def is_pipeline(name: str | Path) -> bool:
    """Whether a folder, or what is embedded by that name, is a text-to-image pipeline of a kind that is known here."""
    index = find_pipeline(name) / INDEX
    return index.is_file() and read_json(index).get("_class_name") in ARCHITECTURES


def describe_pipeline(name: str | Path) -> dict[str, Any]:
    """What a pipeline is, for JSON. Raises InputError as `check_folder`."""
    folder = find_pipeline(name)
    row, index = check_folder(folder)
    facts = {"kind": "text-to-image pipeline", "class": row.pipeline, "scheduler": index["scheduler"][1]}
    return facts | {"digest": pipeline_digest(folder, index)}


def pipeline_digest(folder: Path, index: Mapping[str, Any]) -> str:
    """SHA-256 over every file that a pipeline is loaded from."""
    wanted = [folder / INDEX]
    for name in sorted(n for n in index if n[0] != "_" and n not in LEFT_OUT and _present(index, n)):
        wanted += sorted(
            p for p in (folder / name).rglob("*") if p.suffix in (".json", ".safetensors", ".txt", ".model")
        )
    return sha256_json([[p.relative_to(folder).as_posix(), sha256_file(p)] for p in wanted])


def library(name: str = "diffusers") -> Any:
    """diffusers, transformers or peft, quiet. Raises InputError, which says what to install, without them."""
    import importlib

    try:
        for each in (*LIBRARIES, "peft"):
            importlib.import_module(each)
    except ImportError as e:
        raise InputError(
            f"text-to-image pipelines need {e.name}; install it with: pip install 'fairsims[t2i]'", page=EXTRAS_PAGE
        ) from None
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
    return importlib.import_module(name)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What diffusers says about its own insides, numpy's and torch's versions, is not the user's concern."""
    with warnings.catch_warnings():
        for kind in (DeprecationWarning, FutureWarning):
            warnings.simplefilter("ignore", kind)
        # A second adapter is what is wanted.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        yield


def check_folder(folder: Path) -> tuple[Architecture, dict[str, Any]]:
    """The row and the index of a pipeline folder.

    Raises InputError for what is no text-to-image pipeline, of another kind, incomplete, distilled to few steps,
    quantised, or with parts whose code would come from elsewhere.
    """
    if not folder.is_dir():
        raise InputError(
            f"no folder {str(folder)!r}; expected a local diffusers pipeline; download one first, "
            "with `hf download OWNER/NAME --local-dir FOLDER`"
        )
    index = read_json(folder / INDEX)
    row = ARCHITECTURES.get(str(index.get("_class_name")))
    if row is None:
        raise InputError(f"{folder} is a {index.get('_class_name')}; expected one of {', '.join(ARCHITECTURES)}")
    for name in (*row.needed, row.network):
        if not _present(index, name) or not (folder / name).is_dir():
            raise InputError(f"{folder} has no {name}; restore it, a {row.pipeline} cannot do without")
    for name, value in index.items():
        if name[0] != "_" and name not in LEFT_OUT and isinstance(value, list) and value[0] not in (None, *LIBRARIES):
            raise InputError(f"{folder} has a {name} that comes from {value[0]}; expected one of diffusers")
    config = read_json(folder / row.network / "config.json")
    if "quantization_config" in config:
        raise InputError(
            f"{folder} has a quantised {row.network}; a strength calibrated on it would not carry over; "
            "give the pipeline as it was published"
        )
    distilled = index["scheduler"][1] in DISTILLED or config.get("time_cond_proj_dim")
    if distilled or (row.guidance == "embedded" and not config.get("guidance_embeds")):
        raise InputError(
            f"{folder} is distilled to few steps; expected the pipeline that it was distilled from: "
            "its own objective is not the one that it would be fine-tuned with"
        )
    if row.network == "unet" and config.get("in_channels") != config.get("out_channels"):
        raise InputError(f"{folder} takes more than a prompt (inpainting, say); expected a text-to-image pipeline")
    return row, index


def _present(index: Mapping[str, Any], name: str) -> bool:
    return isinstance(index.get(name), list) and index[name][0] is not None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How images are sampled, the pipeline's own defaults filled in."""

    steps: int
    guidance: float
    height: int
    width: int


class Adapter(Protocol):
    """What a network can wear."""

    def put_on(self, pipeline: OpenedPipeline) -> None: ...

    def take_off(self, pipeline: OpenedPipeline) -> None: ...


class OpenedPipeline:
    """A pipeline, loaded once and shared by all models of it; its network wears one adapter at a time, or none."""

    def __init__(self, folder: str | Path, precision: str, prompting: Prompting) -> None:
        """Raises InputError as `check_folder`, and for what is broken or does not fit the machine."""
        self.name, self.folder, self.precision = str(folder), find_pipeline(folder), precision
        self.row, self.index = check_folder(self.folder)
        self.pipe = self._loaded(getattr(torch, precision))
        self.worn: Adapter | None = None
        self._known: dict[str, Embeddings] = {}
        self._place(prompting)

    @property
    def network(self) -> Any:
        """What is adapted: the UNet or the transformer."""
        return getattr(self.pipe, self.row.network)

    @cached_property
    def digest(self) -> str:
        """As `pipeline_digest`."""
        return pipeline_digest(self.folder, self.index)

    def _loaded(self, dtype: torch.dtype) -> Any:
        diffusers = library()
        kind = getattr(diffusers, self.row.pipeline)
        parts, options = kind._get_signature_keys(kind)
        absent: dict[str, Any] = {p: None for p in parts if p in LEFT_OUT or not _present(self.index, p)}
        if "requires_safety_checker" in options:
            absent["requires_safety_checker"] = False
        try:
            with quiet():
                pipe = kind.from_pretrained(
                    self.folder, torch_dtype=dtype, local_files_only=True, use_safetensors=True, **absent
                )
        except Exception as e:  # every library raises its own
            reason = " ".join(str(e).split())[:200]
            raise InputError(f"{self.folder} cannot be opened ({type(e).__name__}: {reason}); restore it") from None
        pipe.set_progress_bar_config(disable=True)
        for part in pipe.components.values():
            if isinstance(part, torch.nn.Module):
                part.eval().requires_grad_(False)
        return pipe

    def resolved(self, asked: Prompting) -> Settings:
        """The settings, the pipeline's own where nothing was asked for. Raises InputError for a size it cannot do."""
        defaults = inspect.signature(type(self.pipe).__call__).parameters
        config, factor = self.network.config, self.pipe.vae_scale_factor
        side = config.sample_size if getattr(config, "sample_size", None) else self.pipe.default_sample_size
        sides = side if isinstance(side, list | tuple) else (side, side)
        size = asked.size or (sides[0] * factor, sides[1] * factor)
        patch = 2 if self.row.guidance == "embedded" else getattr(config, "patch_size", None) or 1
        multiple = math.lcm(8, factor * patch)
        if any(length % multiple for length in size):
            raise InputError(
                f"the size is {size[0]}x{size[1]}; {self.name} makes images whose height and width are multiples "
                f"of {multiple}; give such a size"
            )
        return Settings(
            steps=asked.steps or defaults["num_inference_steps"].default,
            guidance=float(
                defaults["guidance_scale"].default if asked.guidance_scale is None else asked.guidance_scale
            ),
            height=size[0],
            width=size[1],
        )

    def _place(self, asked: Prompting) -> None:
        """Put the pipeline where it computes, by diffusers' own switches."""
        device = engine.device()
        if asked.slicing:
            self.pipe.enable_attention_slicing()
            self.pipe.vae.enable_slicing()
        if asked.offload == "none":
            self.pipe.to(device)
        elif device.type == "cpu":
            raise InputError(f"--offload is {asked.offload} and this machine has no GPU; leave it out")
        elif asked.offload == "model":
            self.pipe.enable_model_cpu_offload(gpu_id=device.index)
        else:
            self.pipe.enable_sequential_cpu_offload(gpu_id=device.index)

    def guided_by_two(self, settings: Settings) -> bool:
        """Whether every step asks the network for the prompt and for nothing in particular."""
        return self.row.guidance == "classifier-free" and settings.guidance > 1

    @property
    def unconditional(self) -> str:
        """What the branch without a prompt is told: `zeros`, `the empty prompt`, or that there is `none`."""
        if self.row.guidance == "embedded":
            return "none"
        return "zeros" if self.pipe.config.get("force_zeros_for_empty_prompt") else "the empty prompt"

    def embeddings(self, prompts: Sequence[str]) -> Embeddings:
        """What these prompts are to the network, a row each, on its device. Each prompt is encoded once, by itself.

        The empty prompt is what the unconditional branch is told.
        """
        with quiet(), torch.no_grad():
            for prompt in dict.fromkeys(prompts):
                if prompt not in self._known:
                    found = self.row.encode(self.pipe, prompt)
                    zeros = prompt == "" and self.unconditional == "zeros"
                    self._known[prompt] = {k: (torch.zeros_like(v) if zeros else v).cpu() for k, v in found.items()}
        device = self.pipe._execution_device
        names = self._known[prompts[0]]
        return {name: torch.cat([self._known[p][name] for p in prompts]).to(device) for name in names}

    def sample(self, settings: Settings, prompts: Sequence[str], seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Images `(B, 3, H, W)` in [0, 1] and their final latents, as the pipeline makes them by itself."""
        held: dict[str, Tensor] = {}

        def keep(_: Any, __: int, ___: Any, values: dict[str, Tensor]) -> dict[str, Tensor]:
            held.update(values)
            return {}

        asked = dict(self.embeddings(prompts))
        if self.guided_by_two(settings):
            asked |= {f"negative_{k}": v for k, v in self.embeddings([""] * len(prompts)).items()}
        with quiet():
            found = self.pipe(
                **asked,
                height=settings.height,
                width=settings.width,
                num_inference_steps=settings.steps,
                guidance_scale=settings.guidance,
                # One for each image, as a user has who makes that image alone.
                generator=[torch.Generator().manual_seed(seed) for seed in seeds],
                output_type="pt",
                callback_on_step_end=keep,
                callback_on_step_end_tensor_inputs=["latents"],
            )
        return found.images, held["latents"]

    def latent_shape(self, settings: Settings) -> tuple[int, ...]:
        """Shape of an image's latents as the network sees them."""
        height, width = settings.height // self.pipe.vae_scale_factor, settings.width // self.pipe.vae_scale_factor
        if self.row.guidance == "embedded":
            # Rows of 2x2 patches.
            return (height // 2) * (width // 2), int(self.network.config.in_channels)
        return int(self.network.config.in_channels), height, width

    def evaluations(self, settings: Settings) -> int:
        """Forwards of the network that an image costs."""
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        steps = settings.steps
        if not scheduler.config.get("use_dynamic_shifting"):
            with quiet():
                scheduler.set_timesteps(steps)
            # Some schedulers visit a step twice.
            steps = len(scheduler.timesteps)
        return steps * (2 if self.guided_by_two(settings) else 1)

    def wear(self, adapter: Adapter | None) -> None:
        """Put an adapter on the network in place of what it wears; None takes that off."""
        if self.worn is adapter:
            return
        with quiet():
            if self.worn is not None:
                self.worn.take_off(self)
            self.worn = adapter
            if adapter is not None:
                adapter.put_on(self)
