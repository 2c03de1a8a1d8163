"""Folders that are no pipeline of our kind, or broken, or hostile: one line that says why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from support import MakePipeline

from fairsims.errors import InputError
from fairsims.files import read_json, write_json
from fairsims.models import open_checkpoint
from fairsims.models.diffusers_import import WEIGHTS, import_pipeline, read_pipeline

INDEX, CONFIG, LEVELS = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        (
            INDEX,
            {
                "_class_name": "StableDiffusionPipeline",
                "vae": ["diffusers", "AutoencoderKL"],
                "text_encoder": ["transformers", "CLIPTextModel"],
            },
            "is a StableDiffusionPipeline with text_encoder, vae",
        ),
        (INDEX, {"_class_name": "LDMPipeline", "vqvae": ["diffusers", "VQModel"]}, "is a LDMPipeline with vqvae"),
        (
            INDEX,
            {"_class_name": "ScoreSdeVePipeline"},
            "is a ScoreSdeVePipeline; expected DDPMPipeline or DDIMPipeline",
        ),
        (INDEX, {"_class_name": ["pipeline", "MyPipeline"]}, "expected DDPMPipeline or DDIMPipeline"),
        (INDEX, {"_class_name": None}, "expected DDPMPipeline or DDIMPipeline"),
        (CONFIG, {"_class_name": "UNet2DConditionModel"}, "its UNet is a UNet2DConditionModel; expected a UNet2DModel"),
        (CONFIG, {"num_class_embeds": 10}, "num_class_embeds = 10, so it is class-conditional"),
        (CONFIG, {"class_embed_type": "timestep"}, "class_embed_type = 'timestep', so it is class-conditional"),
        (CONFIG, {"time_embedding_type": "fourier"}, "time_embedding_type is 'fourier'; expected 'positional'"),
        (CONFIG, {"sample_size": [8, 16]}, r"sample_size is \[8, 16\]; expected one number"),
        (CONFIG, {"sample_size": None}, "sample_size is None"),
        (CONFIG, {"in_channels": 4, "out_channels": 4}, "4 channels in and 4 out"),
        (CONFIG, {"out_channels": 3}, "1 channels in and 3 out"),
        (CONFIG, {"in_channels": "1"}, "1 channels in"),
        (CONFIG, {"block_out_channels": [8, 16]}, "where unet/config.json asks for"),
        (CONFIG, {"layers_per_block": 2}, "has nothing for"),
        (CONFIG, {"add_attention": False}, "asks for nothing"),
        (CONFIG, {"block_out_channels": [2_000_000, 2_000_000]}, "where unet/config.json asks for"),
        (
            CONFIG,
            {"down_block_types": ["DownBlock2D", "os.system"]},
            "diffusers builds no UNet2DModel of these settings",
        ),
        (CONFIG, {"block_out_channels": 8}, "diffusers builds no UNet2DModel of these settings"),
        (LEVELS, {"_class_name": "PNDMScheduler"}, "its scheduler is a PNDMScheduler; expected DDPMScheduler or DDIM"),
        (LEVELS, {"_class_name": None}, "its scheduler is a None"),
        (LEVELS, {"prediction_type": "flow"}, "prediction_type is 'flow'; expected epsilon, v_prediction, sample"),
        (LEVELS, {"thresholding": True}, "thresholding"),
        (LEVELS, {"beta_schedule": "surprise"}, "diffusers builds no DDIMScheduler of these settings"),
        (LEVELS, {"num_train_timesteps": "many"}, "diffusers builds no DDIMScheduler of these settings"),
        (LEVELS, {"trained_betas": [0.1, 0.2]}, "has 2 betas; expected one for each of 50"),
        (LEVELS, {"beta_start": -0.1}, "noise levels do not rise"),
        (LEVELS, {"beta_start": 0.0, "beta_end": 0.0}, "noise levels do not rise"),
        (LEVELS, {"trained_betas": [0.99999, 0.5], "num_train_timesteps": 2}, "lowest noise level is 31"),
        (LEVELS, {"clip_sample_range": "wide"}, "could not convert"),
    ],
)
def test_other_models_are_refused_in_one_line(
    make_pipeline: MakePipeline, tmp_path: Path, file: str, changes: dict[str, Any], message: str
) -> None:
    folder = make_pipeline()
    write_json(folder / file, read_json(folder / file) | changes)
    with pytest.raises(InputError, match=message) as caught:
        import_pipeline(folder, tmp_path / "out")
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_nothing_in_the_folder_is_executed_or_unpickled(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    folder, proof = make_pipeline(), tmp_path / "proof"
    code = f"open({str(proof)!r}, 'w').close()\nclass MyPipeline: pass\nclass UNet2DModel: pass\n"
    for name in ("pipeline.py", "unet/my_unet.py"):
        (folder / name).write_text(code)
    index = read_json(folder / INDEX)
    for changes in ({"_class_name": ["pipeline", "MyPipeline"]}, {"unet": ["my_unet", "UNet2DModel"]}):
        write_json(folder / INDEX, index | changes)
        with pytest.raises(InputError, match="expected DDPMPipeline|its unet comes from my_unet"):
            read_pipeline(folder)
    write_json(folder / INDEX, index)
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"has diffusion_pytorch_model\.bin; expected .*safetensors"):
        read_pipeline(folder)
    assert not proof.exists()


def test_broken_folders_are_named(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere is no folder"):
        read_pipeline(tmp_path / "nowhere")
    for file in (INDEX, CONFIG, LEVELS):
        folder = make_pipeline(name=f"without-{Path(file).stem}")
        (folder / file).write_text("{")
        with pytest.raises(InputError, match=f"{Path(file).name} is not valid JSON"):
            read_pipeline(folder)
        (folder / file).unlink()
        with pytest.raises(InputError, match=f"{Path(file).name} is missing"):
            read_pipeline(folder)
    folder = make_pipeline()
    whole = (folder / "unet" / WEIGHTS).read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (folder / "unet" / WEIGHTS).write_bytes(whole[:size])
        with pytest.raises(InputError, match="is corrupt"):
            read_pipeline(folder)
    with pytest.raises(
        InputError, match="is a diffusers pipeline; give --prompts if it is text-to-image, else: fairsims import"
    ):
        open_checkpoint(folder)
    with pytest.raises(InputError, match="holds something else already; give a new folder"):
        import_pipeline(make_pipeline(name="whole"), folder)


def test_without_the_extra_the_line_says_what_to_install(
    make_pipeline: MakePipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pipeline()
    import_pipeline(folder, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for call in (lambda: read_pipeline(folder), lambda: open_checkpoint(tmp_path / "model").denoiser):
        with pytest.raises(InputError, match=r"pip install 'fairsims\[diffusers\]'"):
            call()
