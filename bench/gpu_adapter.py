"""The part `adapter` of `bench/gpu.py`: LoRA training and sampling of a text-to-image pipeline of published size."""

from __future__ import annotations

import string
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from gpu_cases import Case, Sizes, Unable, memory
from timing import DEVICE, timed

from fairsims.data.latents import LatentSet
from fairsims.errors import FairsimsError
from fairsims.models import ModelSpec, PipelineModel, Prompting
from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.base import Trainable
from fairsims.models.pipelines import library
from fairsims.training import train
from fairsims.training.adapters import adapter_settings


def adapter(sizes: Sizes, scratch: Path) -> Iterator[Case]:
    """An adapter on a UNet of Stable Diffusion's size, on latents of 512 x 512 pixels: steps of its training, sampling.

    UNet, text encoder and scheduler have the published configuration, weights at random; the decoder is a small one.
    """
    opened: list[PipelineModel] = []

    def opening() -> dict[str, Any]:
        began = time.perf_counter()
        opened.append(opened_pipeline(scratch / "pipeline", sizes))
        size = sum(p.numel() for p in opened[0].pipeline.network.parameters())
        return {"M parameters": size / 1e6, "seconds": time.perf_counter() - began}

    def on(measure: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
        if not opened:
            raise Unable("no pipeline was made")
        return measure(opened[0], *given)

    yield "made and opened", 20, opening
    for batch in sizes.adapter_batches:
        yield f"LoRA of rank 16, batch {batch}", 8, partial(on, adapter_steps, batch, False, sizes)
    last = sizes.adapter_batches[-1]
    yield f"LoRA of rank 16, batch {last}, checkpointing", 10, partial(on, adapter_steps, last, True, sizes)
    yield f"sampling, guidance 7.5, batch {last}", 10, partial(on, prompted, last)


def opened_pipeline(folder: Path, sizes: Sizes) -> PipelineModel:
    try:
        make_pipeline(folder, sizes)
        prompting = Prompting(prompts=("a photo of a nurse", ""), steps=10 if sizes.latents > 8 else 2)
        return PipelineModel(ModelSpec(base=str(folder), precision="bfloat16", prompting=prompting))
    except (ImportError, FairsimsError) as e:
        raise Unable(str(e)) from None


def make_pipeline(folder: Path, sizes: Sizes) -> None:
    """A folder of a Stable Diffusion pipeline of random weights."""
    diffusers = library()
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = list(string.ascii_lowercase)
    pieces = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={p: i for i, p in enumerate(pieces)}, merges=[], model_max_length=77)
    width, layers = sizes.text
    told = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.device(DEVICE):
        unet = diffusers.UNet2DConditionModel(
            sample_size=sizes.latents,
            block_out_channels=sizes.unet,
            cross_attention_dim=width,
            attention_head_dim=8 if sizes.unet[0] > 8 else 2,
            norm_num_groups=32 if sizes.unet[0] > 8 else 4,
        )
        text = CLIPTextModel(told)
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=8 * sizes.latents,
        )
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    diffusers.StableDiffusionPipeline(
        unet=unet.to(torch.bfloat16),
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        scheduler=diffusers.DDIMScheduler(**levels, clip_sample=False, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def adapter_steps(model: PipelineModel, batch: int, checkpointing: bool, sizes: Sizes) -> dict[str, Any]:
    memory()
    shape = model.noise_shape
    latents = torch.randn(64, *shape, generator=torch.Generator().manual_seed(0))
    data = LatentSet(name="noise", digest="", latents=latents, conditions=torch.arange(64) % 2)
    tick = 2 * batch / 1000
    config = adapter_settings(model, tick * 1000, batch_size=batch, tick_kimg=tick, state_kimg=tick)
    network: Trainable = model.trainable(AdapterConfig(checkpointing=checkpointing))
    try:
        ticks = train(network, data, config)
        next(ticks)
        seconds = min(timed(lambda: next(ticks)) for _ in range(sizes.repeats)) / 2
        trained = sum(p.numel() for p in network.parameters())
    finally:
        network.detach()  # type: ignore[operator]
    found = {"batch": batch, "steps/s": 1 / seconds, "images/s": batch / seconds}
    return found | {"M trained": trained / 1e6} | memory()


def prompted(model: PipelineModel, batch: int) -> dict[str, Any]:
    seeds = [range(batch)]
    list(model.images(seeds))
    seconds = timed(lambda: list(model.images(seeds)))
    return {"batch": batch, "evaluations/s": batch * model.evaluations_per_image / seconds} | memory()
