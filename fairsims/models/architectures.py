"""What text-to-image pipelines of diffusers differ in: one row each. Another architecture is another row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Embeddings = dict[str, Tensor]
"""What a prompt is to the network: arguments of the pipeline by name, a row for each prompt."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A text-to-image pipeline: where its network is, how it is asked, trained and adapted."""

    pipeline: str
    """Class in diffusers."""
    network: str
    """Attribute of the pipeline that holds what is adapted; also the prefix of its tensors in a LoRA file."""
    blocks: tuple[str, ...]
    """Parts of the network whose layers can be adapted; what other programs' LoRA loaders know."""
    flow: bool
    """Trained on the velocity of a straight path; otherwise on what its scheduler's `prediction_type` says."""
    encode: Callable[[Any, str], Embeddings]
    """A prompt's embeddings, of one row, from the pipeline."""
    predict: Callable[[Any, Any, Tensor, Tensor, Embeddings, Mapping[str, Any]], Tensor]
    """The network's output for noisy latents and time steps `(B,)` from (pipeline, network, latents, t, embeddings,
    facts of the sampling: guidance, height, width)."""
    guidance: str = "classifier-free"
    """`classifier-free`: two branches, the unconditional one too; `embedded`: a number that the network is told."""
    needed: tuple[str, ...] = ("scheduler", "vae", "tokenizer", "text_encoder")
    """Parts of the pipeline that it cannot do without, beside the network."""
    webui: bool = False
    """Whether A1111 and kohya's names are a format of their own for it."""

    def targets(self, network: Any, layers: str) -> list[str]:
        """Names of the layers that an adapter sits on: `all`, `attention` or `cross-attention`."""
        found = []
        for name, module in network.named_modules():
            if name.startswith(self.blocks) and isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
                parts = name.split(".")
                inside = [p for p in parts if p in ("attn", "attn1", "attn2")]
                crossed = bool(inside) and (inside[-1] == "attn2" or parts[-1].startswith("add_"))
                if layers == "all" or (layers == "attention" and inside) or (layers == "cross-attention" and crossed):
                    found.append(name)
        return found


def _encode_sd(pipe: Any, prompt: str) -> Embeddings:
    found, _ = pipe.encode_prompt(prompt, pipe._execution_device, 1, False)
    return {"prompt_embeds": found}


def _encode_sdxl(pipe: Any, prompt: str) -> Embeddings:
    found, _, pooled, _ = pipe.encode_prompt(
        prompt, device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": found, "pooled_prompt_embeds": pooled}


def _encode_sd3(pipe: Any, prompt: str) -> Embeddings:
    found, _, pooled, _ = pipe.encode_prompt(
        prompt, None, None, device=pipe._execution_device, do_classifier_free_guidance=False
    )
    return {"prompt_embeds": found, "pooled_prompt_embeds": pooled}


def _encode_flux(pipe: Any, prompt: str) -> Embeddings:
    found, pooled, _ = pipe.encode_prompt(prompt, None, device=pipe._execution_device)
    return {"prompt_embeds": found, "pooled_prompt_embeds": pooled}


def _predict_sd(pipe: Any, network: Any, x: Tensor, t: Tensor, told: Embeddings, facts: Mapping[str, Any]) -> Tensor:
    return _first(network(x, t, encoder_hidden_states=told["prompt_embeds"], return_dict=False))


def _predict_sdxl(pipe: Any, network: Any, x: Tensor, t: Tensor, told: Embeddings, facts: Mapping[str, Any]) -> Tensor:
    size = (facts["height"], facts["width"])
    # Size as drawn, no cropping, size as wanted: what the pipeline says when it samples.
    ids = torch.tensor([[*size, 0, 0, *size]], dtype=told["prompt_embeds"].dtype, device=x.device).expand(len(x), -1)
    added = {"text_embeds": told["pooled_prompt_embeds"], "time_ids": ids}
    found = network(x, t, encoder_hidden_states=told["prompt_embeds"], added_cond_kwargs=added, return_dict=False)
    return _first(found)


def _predict_sd3(pipe: Any, network: Any, x: Tensor, t: Tensor, told: Embeddings, facts: Mapping[str, Any]) -> Tensor:
    found = network(
        hidden_states=x,
        timestep=t,
        encoder_hidden_states=told["prompt_embeds"],
        pooled_projections=told["pooled_prompt_embeds"],
        return_dict=False,
    )
    return _first(found)


def _predict_flux(pipe: Any, network: Any, x: Tensor, t: Tensor, told: Embeddings, facts: Mapping[str, Any]) -> Tensor:
    embeds = told["prompt_embeds"]
    rows, columns = (int(facts[side]) // (pipe.vae_scale_factor * 2) for side in ("height", "width"))
    places = pipe._prepare_latent_image_ids(len(x), rows, columns, x.device, embeds.dtype)
    found = network(
        hidden_states=x,
        timestep=t / 1000,
        # What a guidance-distilled network was told when the images were made.
        guidance=torch.full((len(x),), float(facts["guidance"]), device=x.device),
        pooled_projections=told["pooled_prompt_embeds"],
        encoder_hidden_states=embeds,
        txt_ids=torch.zeros(embeds.shape[1], 3, device=x.device, dtype=embeds.dtype),
        img_ids=places,
        return_dict=False,
    )
    return _first(found)


def _first(found: Sequence[Tensor]) -> Tensor:
    return found[0]


TWO_TEXTS = (*Architecture.needed, "tokenizer_2", "text_encoder_2")
UNET = ("down_blocks.", "mid_block.", "up_blocks.")
TRANSFORMER = ("transformer_blocks.", "single_transformer_blocks.")
ARCHITECTURES: dict[str, Architecture] = {
    row.pipeline: row
    for row in (
        Architecture(
            pipeline="StableDiffusionPipeline",
            network="unet",
            blocks=UNET,
            flow=False,
            encode=_encode_sd,
            predict=_predict_sd,
            webui=True,
        ),
        Architecture(
            pipeline="StableDiffusionXLPipeline",
            network="unet",
            blocks=UNET,
            flow=False,
            encode=_encode_sdxl,
            predict=_predict_sdxl,
            needed=TWO_TEXTS,
            webui=True,
        ),
        Architecture(
            pipeline="StableDiffusion3Pipeline",
            network="transformer",
            blocks=TRANSFORMER,
            flow=True,
            encode=_encode_sd3,
            predict=_predict_sd3,
            needed=TWO_TEXTS,
        ),
        Architecture(
            pipeline="FluxPipeline",
            network="transformer",
            blocks=TRANSFORMER,
            flow=True,
            encode=_encode_flux,
            predict=_predict_flux,
            needed=TWO_TEXTS,
            guidance="embedded",
        ),
    )
}
"""By the pipeline's class, as `model_index.json` names it."""
