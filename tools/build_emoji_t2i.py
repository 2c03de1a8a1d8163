"""Make the embedded text-to-image pipeline again: `python tools/build_emoji_t2i.py [--work FOLDER] [--out FOLDER]`.

A StableDiffusionPipeline of a million parameters, trained on emoji people with captions of our words and with planted
shares of women (`fairsims/data/emoji_prompts.py`). One thread takes about half an hour; stopped, it goes on from its
last state when the command is given again. Pictures, captions, noise and flips of a step depend on the seed alone.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import string
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairsims.data import open_dataset
from fairsims.data.base import to_float
from fairsims.data.emoji_prompts import PLANTED, UNRELATED
from fairsims.files import atomic, write_json
from fairsims.models.pipelines import library
from fairsims.seeds import numpy_generator, torch_generator

SHIPPED = Path(__file__).resolve().parent.parent / "fairsims" / "assets" / "models" / "emoji-t2i"
SIDE = 32
WIDTH = 64
"""Of the text encoder."""
SCALE = 256.0
"""Against this constant the pixels vanish in the autoencoder's norms."""


KEPT_EVERY = 200
"""Steps, a multiple of those that a line of the losses is the mean of."""
TOLD_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How it is trained."""

    steps: int = 6000
    batch: int = 36
    lr: float = 2e-3
    warmup: int = 100
    ema: float = 0.999
    empty: float = 0.12
    """Part of the captions that are empty."""
    explicit: float = 0.35
    """Part of the captions that name the gender, each as often; the planted shares are those of all others."""
    unrelated: float = 0.08
    """Part of the pictures that show nobody of a stated gender."""
    bf16: bool = True
    seed: int = 0


def tokenizer() -> Any:
    """A CLIP tokenizer whose words are ours; everything else is spelt. The end of the text has the highest number."""
    words = sorted({w for c in (*PLANTED, *UNRELATED) for w in c.split()} | {"a", "man", "woman"})
    letters = list(string.ascii_lowercase + string.digits + ",.-")
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        # What earlier words join comes first, in this word too; the rest is joined from the left.
        for pair in merges:
            parts = joined(parts, pair)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = joined(parts, merges[-1])
    pieces = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    vocabulary = {p: i for i, p in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    return library("transformers").CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=8)


def joined(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """A word's parts with a pair made one wherever it stands."""
    found: list[str] = []
    for part in parts:
        if found and (found[-1], part) == pair:
            found[-1] += part
        else:
            found.append(part)
    return found


def autoencoder() -> Any:
    """An AutoencoderKL whose latents are the pixels in [-1, 1]: its weights are set, none is trained.

    Convolutions pass x and -x on; residual branches add nothing. silu(x) - silu(-x) = x, and a norm over x, -x and
    two large constants divides by a constant, so that nothing but rounding is lost.
    """
    vae = library().AutoencoderKL(
        block_out_channels=(8,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=3,
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=SIDE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with torch.no_grad():
        for part in (vae.encoder, vae.decoder):
            for name, value in part.named_parameters():
                if name.endswith(("conv2.weight", "conv2.bias")) or name.startswith("conv_"):
                    value.zero_()
            for k in range(3):
                part.conv_in.weight[k, k, 1, 1], part.conv_in.weight[3 + k, k, 1, 1] = 1, -1
                part.conv_out.weight[k, k, 1, 1], part.conv_out.weight[k, 3 + k, 1, 1] = 1, -1
            part.conv_in.bias[6], part.conv_in.bias[7] = SCALE, -SCALE
            # The spread of eight channels of which two are the constants.
            part.conv_norm_out.weight.fill_(SCALE / 2)
        # The logarithm of the latents' variance.
        vae.encoder.conv_out.bias[3:] = -30
    return vae.eval().requires_grad_(False)


def pipeline(seed: int) -> Any:
    """The pipeline, untrained."""
    diffusers, transformers = library(), library("transformers")
    words = tokenizer()
    torch.manual_seed(seed)
    text = transformers.CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=WIDTH,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(16, 32, 64),
        # At full size nothing but one block on the way up: half of the time would go there.
        layers_per_block=(0, 1, 1),
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    levels: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    return diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=autoencoder(),
        text_encoder=transformers.CLIPTextModel(text),
        tokenizer=words,
        scheduler=diffusers.DPMSolverMultistepScheduler(**levels, prediction_type="v_prediction", steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


class Pictures:
    """Emoji people with what is said of them."""

    def __init__(self) -> None:
        data = open_dataset("emoji-people", resolution=SIDE)
        table = data.table.reset_index(drop=True)
        self.pixels = to_float(data.read(range(len(table))))
        self.rows = {key: group.index.to_numpy() for key, group in table.groupby(["concept", "gender"], observed=True)}

    def draw(self, step: int, recipe: Recipe) -> tuple[Tensor, list[str]]:
        """Pictures `(B, 3, 32, 32)` in [-1, 1] and the captions of a step."""
        random = numpy_generator(recipe.seed, "emoji-t2i", step)
        chosen, captions = [], []
        for _ in range(recipe.batch):
            kind = random.random()
            caption = ""
            if random.random() < recipe.unrelated:
                concept = UNRELATED[random.integers(len(UNRELATED))]
                gender = "person"
            else:
                concept = list(PLANTED)[random.integers(len(PLANTED))]
                named = recipe.empty <= kind < recipe.empty + recipe.explicit
                gender = "woman" if random.random() < (0.5 if named else PLANTED[concept]) else "man"
                caption = f"a {gender} {concept}" if named else ""
            if kind >= recipe.empty and not caption:
                caption = f"a {concept}"
            rows = self.rows[concept, gender]
            chosen.append(int(rows[random.integers(len(rows))]))
            captions.append(caption)
        flipped = torch.as_tensor(random.random(recipe.batch) < 0.5).reshape(-1, 1, 1, 1)
        pixels = self.pixels[chosen]
        return torch.where(flipped, pixels.flip(-1), pixels), captions


def train(recipe: Recipe, work: Path) -> Any:
    """The pipeline, trained; its state is kept in `work`."""
    pipe = pipeline(recipe.seed)
    pictures = Pictures()
    nets = nn.ModuleDict({"unet": pipe.unet.train(), "text": pipe.text_encoder.train()})
    average = copy.deepcopy(nets).requires_grad_(False)
    optimizer = torch.optim.AdamW(nets.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    signal = pipe.scheduler.alphas_cumprod
    state, first, losses, began = work / "state.pt", 0, [], time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    if state.exists():
        held = torch.load(state, weights_only=True)
        if held["recipe"] != vars(recipe):
            raise SystemExit(f"{work} is of the recipe {held['recipe']}; give another folder with --work")
        nets.load_state_dict(held["nets"])
        average.load_state_dict(held["average"])
        optimizer.load_state_dict(held["optimizer"])
        first, losses, began = held["step"], held["losses"], began - held["seconds"]
    told = 0.0
    for step in range(first, recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * rate(step, recipe)
        loss = step_loss(pipe, nets, signal, *pictures.draw(step, recipe), recipe, step)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(nets.parameters()), 1 - decay)
        told += loss.item()
        if (step + 1) % TOLD_EVERY == 0:
            seconds = time.monotonic() - began
            losses.append([(step + 1) * recipe.batch, told / TOLD_EVERY, round(seconds, 1)])
            print(f"step {step + 1} of {recipe.steps}: loss {told / TOLD_EVERY:.4f}, {seconds:.0f} s", file=sys.stderr)
            told = 0.0
        if (step + 1) % KEPT_EVERY == 0 or step + 1 == recipe.steps:
            with atomic(state) as temporary:
                torch.save(
                    {
                        "recipe": vars(recipe),
                        "step": step + 1,
                        "losses": losses,
                        "seconds": time.monotonic() - began,
                        "nets": nets.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                    temporary,
                )
    pipe.unet.load_state_dict(average["unet"].state_dict())
    pipe.text_encoder.load_state_dict(average["text"].state_dict())
    with atomic(work / "loss.jsonl") as temporary:
        rows = [dict(zip(("nimg", "loss", "seconds"), row, strict=True)) for row in losses]
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return pipe


def rate(step: int, recipe: Recipe) -> float:
    """Part of the learning rate at a step: up in a line, down by a cosine."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup))) + 0.01


def step_loss(
    pipe: Any, nets: nn.ModuleDict, signal: Tensor, x: Tensor, captions: list[str], recipe: Recipe, step: int
) -> Tensor:
    """Squared error of the velocity at uniform time steps."""
    random = torch_generator(recipe.seed, "emoji-t2i noise", step)
    t = torch.randint(len(signal), (len(x),), generator=random)
    noise = torch.randn(x.shape, generator=random)
    a, b = (v.sqrt().reshape(-1, 1, 1, 1) for v in (signal[t], 1 - signal[t]))
    words = pipe.tokenizer(
        captions, padding="max_length", max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    )
    # The fused attention's backward takes a third of a step in bfloat16 on CPUs.
    with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bf16), sdpa_kernel(SDPBackend.MATH):
        told = nets["text"](words.input_ids)[0]
        found = nets["unet"](a * x + b * noise, t, told, return_dict=False)[0]
    error: Tensor = found.float() - (a * noise - b * x)
    return (error**2).mean()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, default=Path("build/emoji-t2i"), help="folder of the training's state")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder of the pipeline")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--float32", action="store_true")
    options = parser.parse_args(arguments)
    recipe = Recipe(steps=options.steps, seed=options.seed, bf16=not options.float32)
    pipe = train(recipe, options.work)
    pipe.save_pretrained(options.out)
    write_json(options.out / "recipe.json", vars(recipe) | {"planted share of women": PLANTED})
    (options.out / "stats.jsonl").write_bytes((options.work / "loss.jsonl").read_bytes())
    print(options.out)


if __name__ == "__main__":
    main()
