"""Tiny text-to-image pipelines of random weights, made from configurations: nothing is fetched from anywhere."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.models import ModelSpec, PipelineModel, Prompting, save_checkpoint
from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.pipelines import library, quiet

WORDS = (
    *("a", "photo", "of", "the", "nurse", "pilot", "cook", "judge", "man", "woman", "male", "female", "person"),
    *("tree", "house", "firefighter", "teacher"),
)
"""What the tokenizers know as whole words; everything else is spelt."""
KINDS = ("sd", "sdxl", "sd3", "flux")
PROMPTS = ("a photo of a nurse", "a photo of a pilot", "")
SIDE = 32
"""Side of the images in pixels."""


def clip_tokenizer() -> Any:
    """A CLIP tokenizer of our words; the end of the text has the highest number, where the text encoder pools."""
    from transformers import CLIPTokenizer

    letters = list(string.ascii_lowercase + string.digits + ",.-")
    merges: list[tuple[str, str]] = []
    pieces = [*letters, *(f"{c}</w>" for c in letters)]
    for word in WORDS:
        left = word[0] if len(word) > 1 else f"{word}</w>"
        for k, letter in enumerate(word[1:], start=1):
            right = letter if k < len(word) - 1 else f"{letter}</w>"
            if (left, right) not in merges:
                merges.append((left, right))
                pieces.append(left + right)
            left += right
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=16)


def t5_tokenizer() -> Any:
    """A T5 tokenizer of our words and single letters."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -2.0) for word in WORDS]
    letters = [(c, -6.0) for c in ("▁", *string.ascii_lowercase, ",", ".", "-")]
    return T5Tokenizer(vocab=[*special, *words, *letters], extra_ids=0)


def clip_text(tokenizer: Any, size: int = 32, *, projection: bool = False) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=size,
        intermediate_size=size,
        num_attention_heads=2,
        num_hidden_layers=2,
        projection_dim=size,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def vae(channels: int = 4, shift: float | None = None) -> Any:
    """Four pixels of each side are one of the latents."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(4, 8, 8) if channels == 4 else (4, 8),
        down_block_types=("DownEncoderBlock2D",) * (3 if channels == 4 else 2),
        up_block_types=("UpDecoderBlock2D",) * (3 if channels == 4 else 2),
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=2,
        sample_size=SIDE,
        shift_factor=shift,
    )


def make_sd(**scheduler: Any) -> Any:
    from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=2,
    )
    levels = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
    return StableDiffusionPipeline(
        unet=unet,
        vae=vae(),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        scheduler=DDIMScheduler(**levels, clip_sample=False, set_alpha_to_one=False, **scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def make_sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=SIDE // 4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        norm_num_groups=2,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32,
    )
    return StableDiffusionXLPipeline(
        unet=unet,
        vae=vae(),
        text_encoder=clip_text(tokenizer),
        text_encoder_2=clip_text(tokenizer, projection=True),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            steps_offset=1,
            timestep_spacing="leading",
        ),
    )


def make_sd3() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

    tokenizer = clip_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=SIDE // 4,
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=64,
        caption_projection_dim=32,
        pooled_projection_dim=64,
    )
    return StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift=0.06),
        text_encoder=clip_text(tokenizer, projection=True),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer, projection=True),
        tokenizer_2=tokenizer,
        text_encoder_3=None,
        tokenizer_3=None,
    )


def make_flux() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import T5Config, T5EncoderModel

    tokenizer, second = clip_tokenizer(), t5_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(second), d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )
    return FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=vae(1, shift=0.06),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=encoder,
        tokenizer_2=second,
    )


def make_tiny(kind: str, folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Save a pipeline of a kind (one of `KINDS`) into a folder; `changes` are of its scheduler, with `sd` alone."""
    library()
    torch.manual_seed(seed)
    pipeline = {"sd": make_sd, "sdxl": make_sdxl, "sd3": make_sd3, "flux": make_flux}[kind](**changes)
    network = getattr(pipeline, "unet", None) or pipeline.transformer
    with torch.no_grad():
        for parameter in network.parameters():
            # Layers that start at zero would hide what stands before them.
            parameter.add_(0.05 * torch.randn_like(parameter))
    with quiet():
        pipeline.save_pretrained(folder)
    return folder


SHADE = 132.1
"""Mean grey level between the two shades of `two_shades`: latents +1 are dark, -1 light."""


PACKAGE = """
import torch
from fairsims.classifiers.base import Confusion

def exact(wrong=0):
    return {"test": Confusion(counts=((1000 - wrong, wrong), (wrong, 1000 - wrong)), split="test", description="none")}

class Shade:
    attribute = ("shade", ("dark", "light"))
    digest, name, default_split = "shade-1", "shade", "test"
    confusions = exact(10)

    def probabilities(self, images):
        light = torch.sigmoid(10 * (images.float().mean(dim=(1, 2, 3)) - SHADE))
        return torch.stack([1 - light, light], dim=1)

    def features(self, images):
        return images.float().mean(dim=(2, 3))

class Side:
    attribute = ("side", ("left", "right"))
    digest, name, default_split = "side-1", "side", "test"
    confusions = exact()

    def probabilities(self, images):
        x = images.float().mean(dim=(1, 2))
        right = (x[:, 16:].mean(dim=1) > x[:, :16].mean(dim=1)).float()
        return torch.stack([1 - right, right], dim=1)

class Job:
    attribute = ("job", ("nurse", "pilot"))
    digest, name = "job-1", "job"

    def probabilities(self, images):
        return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

class Gender(Shade):
    attribute, name = ("gender", ("man", "woman")), "gender"
"""
CLASSIFIERS = ("shade", "side", "job", "gender")
SHADE_PROMPTS = """
neutral = "a photo of a {occupation}"
held-out = "a photo of a judge"
unrelated = "a tree"
[explicit]
dark = "a photo of a male {occupation}"
light = "a photo of a female {occupation}"
[lists]
occupation = ["nurse", "pilot"]
"""
"""Prompts for it, with held-out, unrelated and explicit ones."""


def install_shades(place: Path) -> None:
    """Write an installed package into a folder of the path: classifiers of shades, sides and a job."""
    info = place / "shade-1.0.dist-info"
    info.mkdir()
    (place / "shade_package.py").write_text(PACKAGE.replace("SHADE", f"{SHADE}"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shade\nVersion: 1.0\n")
    points = "".join(f"{name} = shade_package:{name.title()}\n" for name in CLASSIFIERS)
    (info / "entry_points.txt").write_text(f"[fairsims.classifiers]\n{points}")


def two_shades(folder: Path) -> Path:
    """Save a pipeline that makes images of two shades, each about half of them, into a folder; it was trained so."""
    make_tiny("sd", folder, prediction_type="v_prediction")
    trained = Path(__file__).parent / "fixtures" / "two-shades" / "unet.safetensors"
    shutil.copy(trained, folder / "unet" / "diffusion_pytorch_model.safetensors")
    return folder


def asking(folder: Path, *prompts: str, mode: str = "base", **settings: Any) -> ModelSpec:
    """The spec of a tiny pipeline that is asked for these prompts in two steps."""
    given = {"steps": 2, "guidance_scale": 3.0, "size": (SIDE, SIDE)} | settings
    return ModelSpec(base=str(folder), batch_size=4, prompting=Prompting(prompts=prompts or PROMPTS, **given))


def random_adapter(model: PipelineModel, *, seed: int = 0, size: float = 0.3, **settings: Any) -> dict[str, Tensor]:
    """An adapter of the model as a training would leave it, with random numbers in it."""
    training = model.trainable(AdapterConfig(**{"rank": 2, "seed": seed} | settings))
    generator = torch.Generator().manual_seed(seed)
    found = {k: size * torch.randn(v.shape, generator=generator) for k, v in training.state_dict().items()}
    training.detach()
    return found


def save_adapter(model: PipelineModel, folder: Path, **settings: Any) -> Path:
    """A folder with `random_adapter`, as a training writes it."""
    layers = settings.get("layers", "all")
    numbers, training = random_adapter(model, **settings), model.trainable(AdapterConfig(rank=2, layers=layers))
    training.load_state_dict(numbers)
    save_checkpoint(folder, training)
    training.detach()
    return folder


def tiny_clip(folder: Path) -> Path:
    """Save an open_clip model of random weights into a folder, as models on the hub are."""
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 48, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    expected = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": expected}))
    return folder


def carry_out(arguments: list[str]) -> None:
    """`fairsims ARGUMENTS` in a process of its own, whose calibrations are of two looks and take what they find."""
    import warnings

    from fairsims.cli import main
    from fairsims.retarget import calibration

    warnings.simplefilter("error")
    calibration.LOOKS, calibration.SURE = 2, -10
    main(arguments)
