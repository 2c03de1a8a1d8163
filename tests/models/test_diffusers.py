"""Pipelines of diffusers in and out, held against diffusers' own schedulers and samplers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from support import MakePipeline, MakePool, small_disk
from torch import Tensor

from fairsims.cli import main
from fairsims.data import ImageDataset, to_float
from fairsims.errors import InputError
from fairsims.files import read_json, write_json
from fairsims.models import ModelSpec, SIMSGuidance, merge, open_checkpoint, open_model, save_checkpoint, save_guided
from fairsims.models.diffusers_import import FORMER_NAMES, WEIGHTS, export_pipeline, import_pipeline, read_pipeline
from fairsims.models.diffusers_unet import SCHEDULERS, DiffusersDenoiser
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.pools import pool_dataset
from fairsims.seeds import noise_for
from fairsims.training import TrainConfig, finetune_config, train_folder

LEARNED = {"out_channels": 2}


def off(found: Tensor, expected: Tensor) -> float:
    """Largest error relative to the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def parts(diffusers: Any, folder: Path) -> tuple[Any, Any]:
    """The network and the scheduler as diffusers itself loads them."""
    name = read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]
    network = diffusers.UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False)
    return network, getattr(diffusers, name).from_pretrained(folder / "scheduler")


def their_x0(network: Any, scheduler: Any, x_t: Tensor) -> Tensor:
    """What the scheduler predicts as x0 of `x_t` `(T, C, H, W)`, one noisy image for each training step."""
    with torch.no_grad():
        raw = network(x_t, torch.arange(len(x_t))).sample
    scheduler.set_timesteps(len(scheduler.alphas_cumprod))
    steps = [scheduler.step(raw[t : t + 1], t, x_t[t : t + 1]).pred_original_sample for t in range(len(x_t))]
    return torch.cat(steps)


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"num_train_timesteps": 200, "beta_end": 0.1}),
    ({}, {"clip_sample": False}),
    ({}, {"clip_sample_range": 0.3, "beta_schedule": "scaled_linear"}),
    ({}, {"clip_sample": False, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}),
    ({}, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "clip_sample": False}),
    ({}, {"prediction_type": "sample", "clip_sample": False}),
    ({}, {"trained_betas": [0.01, 0.02, 0.3, 0.2], "num_train_timesteps": 4, "clip_sample": False}),
    ({"center_input_sample": True, "in_channels": 3, "out_channels": 3}, {}),
    (LEARNED, {"variance_type": "learned_range", "clip_sample": False}),
    (LEARNED, {"variance_type": "learned", "prediction_type": "v_prediction"}),
]


@pytest.mark.parametrize(
    ("scheduler", "unet", "settings"),
    # diffusers' own DDIM takes no learned variance.
    [(s, u, k) for s in SCHEDULERS for u, k in CASES if s == "DDPMScheduler" or u is not LEARNED],
)
def test_d_is_the_schedulers_x0_at_every_step(
    diffusers: Any, make_pipeline: MakePipeline, scheduler: str, unet: dict[str, Any], settings: dict[str, Any]
) -> None:
    folder = make_pipeline("DDPMPipeline", scheduler, unet=unet, **settings)
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-11)):
        ours = read_pipeline(folder).to(dtype)
        network, theirs = parts(diffusers, folder)
        # In float64 the scheduler's own table has to be so too; otherwise it is the larger error.
        network, theirs.alphas_cumprod = network.to(dtype), theirs.alphas_cumprod.to(dtype)
        abar = theirs.alphas_cumprod[: len(ours.levels)].reshape(-1, 1, 1, 1)
        assert len(ours.levels) == len(theirs.alphas_cumprod) - bool(settings.get("rescale_betas_zero_snr"))
        g = torch.Generator().manual_seed(1)
        x0, n = (torch.randn(len(abar), *ours.shape, generator=g, dtype=dtype) for _ in range(2))
        x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * n
        expected = their_x0(network, theirs, x_t)
        with torch.no_grad():
            found = ours(x_t / abar.sqrt(), ours.levels.to(dtype))
        assert found.shape == x_t.shape
        # Relative to each image: sigma, and D with it, spans four decades.
        assert max(map(off, found, expected)) < tolerance
        assert ours.clip is None or float(found.abs().max()) <= ours.clip * (1 + 1e-6)


def test_the_levels_are_the_papers(make_pipeline: MakePipeline) -> None:
    ours = read_pipeline(make_pipeline(num_train_timesteps=1000))
    abar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    np.testing.assert_allclose(ours.levels, np.sqrt((1 - abar) / abar), rtol=2e-3)
    assert (ours.sigma_min, ours.sigma_max) == pytest.approx((0.01, 157.4), rel=2e-3)
    cosine = read_pipeline(make_pipeline(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", name="cosine"))
    assert float(cosine.levels[-1]) > 10_000
    assert 100 < cosine.sigma_max <= 160


def test_levels_between_round_to_the_nearest(make_pipeline: MakePipeline) -> None:
    ours = read_pipeline(make_pipeline())
    low, high = ours.levels[20:22]
    sigmas = torch.stack([low, 0.51 * low + 0.49 * high, 0.49 * low + 0.51 * high, high]).float()
    assert ours.round_sigma(sigmas).tolist() == torch.stack([low, low, high, high]).float().tolist()
    assert ours.round_sigma(torch.tensor([0.0, 1e9], dtype=torch.float64)).tolist() == ours.levels[[0, -1]].tolist()
    assert ours.round_sigma(torch.tensor(1.0)).shape == ()
    seen = []
    ours.model.register_forward_pre_hook(lambda _, args: seen.append(args[1].tolist()))
    x = torch.randn(4, *ours.shape)
    whole = ours(x, sigmas)
    assert seen == [[20, 20, 21, 21]]
    assert off(ours(x[1:2], sigmas[1]), whole[1:2]) < 1e-5
    grid = SamplerConfig(solver="heun", steps=30).sigmas(ours)
    assert set(grid[:-1].tolist()) <= set(ours.levels.tolist())


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_sample": False},
        {"clip_sample": True, "num_train_timesteps": 1000},
        {"clip_sample": False, "prediction_type": "v_prediction", "beta_schedule": "scaled_linear"},
        {"clip_sample": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"},
    ],
)
def test_ddim_sampling_is_our_euler_solver(
    diffusers: Any, make_pipeline: MakePipeline, settings: dict[str, Any]
) -> None:
    folder = make_pipeline(**settings)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        ours = read_pipeline(folder).to(dtype)
        network, theirs = parts(diffusers, folder)
        network, theirs.alphas_cumprod = network.to(dtype), theirs.alphas_cumprod.to(dtype)
        theirs.set_timesteps(10)
        noise = torch.randn(3, *ours.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
        image = noise
        with torch.no_grad():
            for t in theirs.timesteps:
                image = theirs.step(network(image, t).sample, t, image, use_clipped_model_output=True).prev_sample
            sigmas = torch.cat([ours.levels[theirs.timesteps], torch.zeros(1, dtype=torch.float64)])
            # Their first state has unit variance altogether, ours is noise of sigma.
            start = noise * (1 + sigmas[0] ** -2).sqrt().to(dtype)
            found = solve(ours, start, SamplerConfig(solver="euler"), sigmas=sigmas)
        assert off(found, image.double()) < tolerance


def ddim(diffusers: Any, folder: Path, steps: int, seed: int = 0) -> Tensor:
    """Two images of a DDIM pipeline, `(2, C, 8, 8)` in [-1, 1]."""
    pipeline = diffusers.DDIMPipeline.from_pretrained(folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        batch_size=2,
        generator=torch.Generator().manual_seed(seed),
        num_inference_steps=steps,
        output_type="pt",
        use_clipped_model_output=True,
    ).images
    return images * 2 - 1


def euler(denoiser: DiffusersDenoiser, steps: int, seed: int = 0) -> Tensor:
    """The same images by our solver, on the levels that DDIM visits with its "leading" spacing."""
    visited = torch.arange(0, len(denoiser.levels), len(denoiser.levels) // steps).flip(0)
    sigmas = torch.cat([denoiser.levels[visited], torch.zeros(1, dtype=torch.float64)])
    noise = torch.randn(2, *denoiser.shape, generator=torch.Generator().manual_seed(seed))
    start = noise * (1 + sigmas[0] ** -2).sqrt()
    with torch.no_grad():
        return solve(denoiser, start, SamplerConfig(solver="euler"), sigmas=sigmas).clamp(-1, 1).float()


def test_a_checkpoint_holds_all_of_it(diffusers: Any, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    folder = make_pipeline(num_train_timesteps=1000, prediction_type="v_prediction")
    facts = import_pipeline(folder, tmp_path / "model")
    loaded, direct = open_checkpoint(tmp_path / "model").network, read_pipeline(folder)
    assert isinstance(loaded, DiffusersDenoiser)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == direct.config == json.loads(json.dumps(direct.config))
    for name, value in direct.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)
    assert facts["parameters"] == sum(p.numel() for p in direct.parameters())
    assert (facts["levels"], facts["prediction"], facts["ignored"]) == (1000, "v_prediction", [])
    assert open_checkpoint(tmp_path / "model").recipe["from"] == "diffusers"
    written = (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns
    assert import_pipeline(folder, tmp_path / "model") == facts
    assert (tmp_path / "model" / "model.safetensors").stat().st_mtime_ns == written
    # The real thing: two images of the pipeline as it is called.
    images = ddim(diffusers, folder, 20)
    assert (images.abs() < 0.99).float().mean() > 0.5
    assert (euler(loaded, 20) - images).abs().max() < 1e-4


@pytest.mark.parametrize("pipeline", ["DDPMPipeline", "DDIMPipeline"])
def test_there_and_back_is_the_same_pipeline(
    diffusers: Any, make_pipeline: MakePipeline, tmp_path: Path, pipeline: str
) -> None:
    settings = {"variance_type": "fixed_large"} if pipeline == "DDPMPipeline" else {"steps_offset": 1}
    folder = make_pipeline(pipeline, timestep_spacing="trailing", **settings)
    import_pipeline(folder, tmp_path / "model")
    assert export_pipeline(tmp_path / "model", tmp_path / "back")["class"] == pipeline
    for name in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        assert read_json(tmp_path / "back" / name) == read_json(folder / name)
    before, after = (load_file(f / "unet" / WEIGHTS) for f in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)
    images = []
    for path in (folder, tmp_path / "back"):
        loaded = diffusers.DiffusionPipeline.from_pretrained(path, low_cpu_mem_usage=False)
        assert type(loaded).__name__ == pipeline
        loaded.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        images.append(loaded(generator=generator, num_inference_steps=5, output_type="np").images)
    assert np.array_equal(*images)


def test_finetune_merge_guide_generate_and_go_back(
    diffusers: Any, make_pipeline: MakePipeline, digits_pool: MakePool, tmp_path: Path
) -> None:
    model, aux, merged, guided = (tmp_path / n for n in ("model", "aux", "merged", "guided"))
    import_pipeline(make_pipeline(unet=LEARNED | {"dropout": 0.1}), model)
    config = finetune_config(0.16, batch_size=8, lr=1e-3, tick_kimg=0.04)
    images = pool_dataset(digits_pool(20, 12))
    ticks = list(train_folder(open_checkpoint(model).network, images, config, aux, recipe={"kind": "auxiliary"}))
    assert ticks[-1].loss < 0.9 * ticks[0].loss
    base, auxiliary = open_checkpoint(model).network, open_checkpoint(aux).network
    changed = {k for k, v in auxiliary.state_dict().items() if not torch.equal(v, base.state_dict()[k])}
    assert changed == set(base.state_dict())
    # The rows of the variance get no gradient, so they come through as they were.
    for name in ("model.conv_out.weight", "model.conv_out.bias"):
        assert torch.equal(auxiliary.state_dict()[name][1:], base.state_dict()[name][1:])

    save_checkpoint(merged, merge(base, auxiliary, 0.5))
    save_guided(guided, str(model), str(aux), 0.5)
    one = open_checkpoint(merged).network
    name = "model.conv_in.weight"
    b, a = (n.state_dict()[name].double() for n in (base, auxiliary))
    assert torch.equal(one.state_dict()[name], (1.5 * b - 0.5 * a).float())
    pair = open_checkpoint(guided).denoiser
    assert isinstance(pair, SIMSGuidance)
    x, sigma = torch.randn(2, 1, 8, 8), base.levels[10].float()
    assert off(pair(x, sigma), 1.5 * base(x, sigma) - 0.5 * auxiliary(x, sigma)) < 1e-5

    images: list[Tensor] = []
    for folder, evaluations in ((merged, 7), (guided, 14)):
        model = open_model(ModelSpec(base=str(folder), sampler=SamplerConfig(solver="heun", steps=4)))
        assert model.evaluations_per_image == evaluations
        images += [to_float(batch) for batch in model.images([range(6)])]
    assert all(i.shape == (6, 1, 8, 8) and i.std() > 0.1 for i in images)
    assert off(*images) > 0.01

    with pytest.raises(InputError, match="guided is a SIMSGuidance; only a single network that came from diffusers"):
        export_pipeline(guided, tmp_path / "back")
    export_pipeline(merged, tmp_path / "back")
    network, _ = parts(diffusers, tmp_path / "back")
    for name, value in one.model.state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


@pytest.mark.slow
def test_a_pipeline_is_retargeted_and_goes_back(
    diffusers: Any, make_pipeline: MakePipeline, digits: ImageDataset, tmp_path: Path
) -> None:
    wide = {"block_out_channels": (16, 16)}
    untrained = read_pipeline(make_pipeline("DDPMPipeline", unet=wide, num_train_timesteps=1000))
    config = TrainConfig(kimg=8, batch_size=32, lr=4e-3, ema_halflife_kimg=0.5, P_mean=-0.5)
    list(train_folder(untrained, digits, config, tmp_path / "model", recipe={}))
    options = {
        "--model": tmp_path / "model",
        "--attr": "parity",
        "--target": "even=0.35,odd=0.65",
        "--pool": 400,
        "--calibration": 256,
        "--audit": 256,
        "--budget": 1.2,
        "--batch-size": 32,
        "--lr": 3e-4,
        "--steps": 6,
        "--floor": 0.6,
        "--out": tmp_path / "run",
    }
    result = CliRunner().invoke(main, ["retarget", *(str(a) for pair in options.items() for a in pair)])
    assert result.exit_code == 0, result.output
    shares = read_json(tmp_path / "run" / "audit" / "audit.json")["attributes"]["parity"]
    assert shares["after"]["odd"]["share"] > shares["before"]["odd"]["share"]
    merged = open_checkpoint(tmp_path / "run" / "merged").network
    assert isinstance(merged, DiffusersDenoiser)
    export_pipeline(tmp_path / "run" / "merged", tmp_path / "back")
    # This network is trained on few images and clips much: rounding grows on the way.
    assert (euler(merged, 20) - ddim(diffusers, tmp_path / "back", 20)).abs().max() < 1e-3


def test_an_exported_merge_samples_as_ours_does(diffusers: Any, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    base, aux = (read_pipeline(make_pipeline(seed=k, name=str(k), prediction_type="v_prediction")) for k in (0, 1))
    merged = merge(base, aux, 0.7)
    save_checkpoint(tmp_path / "merged", merged)
    export_pipeline(tmp_path / "merged", tmp_path / "back")
    images = ddim(diffusers, tmp_path / "back", 10)
    assert (images.abs() < 0.99).float().mean() > 0.5
    assert (euler(merged, 10) - images).abs().max() < 1e-4
    assert (euler(base, 10) - images).abs().max() > 0.1


def test_training_sees_what_sampling_clips(make_pipeline: MakePipeline) -> None:
    denoiser = read_pipeline(make_pipeline(clip_sample_range=0.1)).requires_grad_(True)
    x, sigma = torch.randn(2, 1, 8, 8), torch.tensor(3.0)
    assert denoiser(x, sigma).abs().max() <= 0.1 < denoiser.train()(x, sigma).abs().max()


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_weight_makes_the_networks_own_error(make_pipeline: MakePipeline, prediction: str) -> None:
    denoiser = read_pipeline(make_pipeline(prediction_type=prediction, clip_sample=False)).double()
    g = torch.Generator().manual_seed(0)
    x0, n = (torch.randn(50, 1, 8, 8, generator=g, dtype=torch.float64) for _ in range(2))
    s = denoiser.levels.reshape(-1, 1, 1, 1)
    x = x0 + s * n
    target = {"epsilon": n, "v_prediction": (n - s * x0) * (1 + s**2).rsqrt(), "sample": x0}[prediction]
    with torch.no_grad():
        raw = denoiser.model(x * (1 + s**2).rsqrt(), torch.arange(50)).sample
        weighted = denoiser.loss_weight(s) * (denoiser(x, denoiser.levels) - x0) ** 2
    torch.testing.assert_close(weighted, (raw - target) ** 2, rtol=1e-8, atol=1e-10)


def test_the_earlier_layout_and_names_are_read(diffusers: Any, make_pipeline: MakePipeline, tmp_path: Path) -> None:
    folder, flat = make_pipeline(), tmp_path / "flat"
    flat.mkdir()
    for path in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json"):
        shutil.copy(folder / path, flat)
    former = {v: k for k, v in FORMER_NAMES.items()}
    state = load_file(folder / "unet" / WEIGHTS)
    renamed = {}
    for name, value in state.items():
        for new, old in former.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    assert len(set(renamed) - set(state)) >= 16
    save_file(renamed, flat / WEIGHTS)
    # Settings that came later are absent from early files.
    config = read_json(flat / "config.json")
    late = ("attn_norm_num_groups", "downsample_type", "upsample_type", "dropout", "class_embed_type", "add_attention")
    write_json(flat / "config.json", {k: v for k, v in config.items() if k not in late} | {"resolution": 8})
    facts = import_pipeline(flat, tmp_path / "model")
    assert facts["ignored"] == ["resolution"]
    assert torch.equal(euler(open_checkpoint(tmp_path / "model").network, 10), euler(read_pipeline(folder), 10))
    theirs = diffusers.UNet2DModel.from_pretrained(flat, low_cpu_mem_usage=False).state_dict()
    assert all(
        torch.equal(v, theirs[k]) for k, v in open_checkpoint(tmp_path / "model").network.model.state_dict().items()
    )


def test_half_precision_weights_are_read(diffusers: Any, make_pipeline: MakePipeline) -> None:
    folder = make_pipeline()
    path = folder / "unet" / WEIGHTS
    state = {k: v.half() for k, v in load_file(path).items()}
    save_file(state, path)
    found = read_pipeline(folder).model.state_dict()
    assert all(torch.equal(found[k], v.float()) for k, v in state.items())


def test_export_is_whole_or_not_at_all(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    import_pipeline(make_pipeline(), tmp_path / "model")
    with small_disk(20_000), pytest.raises(OSError):
        export_pipeline(tmp_path / "model", tmp_path / "back")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "pipeline"]
    export_pipeline(tmp_path / "model", tmp_path / "back")
    with pytest.raises(InputError, match="back holds something else already; give a new folder"):
        export_pipeline(tmp_path / "model", tmp_path / "back")
    with pytest.raises(InputError, match="digits-8 is a EDMDenoiser; only a single network that came from diffusers"):
        export_pipeline("digits-8", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_commands_go_there_and_back(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    def run(*args: object) -> Any:
        return CliRunner().invoke(main, [str(a) for a in args])

    folder, model = make_pipeline(), tmp_path / "model"
    imported = run("import", "diffusers", folder, model, "--json")
    assert imported.exit_code == 0, imported.output
    assert json.loads(imported.stdout)["levels"] == 50
    assert json.loads(run("info", model, "--json").stdout)["class"] == "DiffusersDenoiser"
    assert run("export", "diffusers", model, tmp_path / "back").exit_code == 0
    assert torch.equal(euler(read_pipeline(tmp_path / "back"), 5), euler(read_pipeline(folder), 5))
    refused = run("export", "diffusers", "digits-8", tmp_path / "other")
    assert refused.exit_code == 2
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: digits-8 is a EDMDenoiser")


def test_precision_changes_the_products_only(make_pipeline: MakePipeline) -> None:
    denoiser = read_pipeline(make_pipeline())
    x = noise_for(range(4), denoiser.shape)
    exact = denoiser(x, torch.ones(()))
    denoiser.precision = "bfloat16"
    rough = denoiser(x, torch.ones(()))
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().mean() < 0.1
