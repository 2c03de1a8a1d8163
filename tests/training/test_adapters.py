"""Adapters trained on the latents of a pipeline's own images: objectives, resumption to the byte, what is refused."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from tiny_pipelines import KINDS, PROMPTS, asking, make_tiny
from torch import Tensor

from fairsims.data.latents import LatentSet
from fairsims.errors import ChangedSettings, Diverged, InputError
from fairsims.models import PipelineModel
from fairsims.models.adapter_training import AdapterConfig
from fairsims.models.adapters import read_adapter
from fairsims.models.objective import Batch
from fairsims.pools import Pool, pool_latents, write_pool
from fairsims.seeds import torch_generator
from fairsims.training.adapters import adapter_settings, train_adapter

pytest.importorskip("diffusers")
SMALL = AdapterConfig(rank=2, layers="attention")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PipelineModel:
    return PipelineModel(asking(make_tiny("sd", tmp_path_factory.mktemp("tiny") / "sd")))


@pytest.fixture(scope="module")
def pool(model: PipelineModel, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("pool") / "pool"
    assert list(write_pool(folder, model, range(24), latents=True))[-1] == 24
    return Pool(folder)


def test_a_pool_keeps_the_latents_of_its_images(model: PipelineModel, pool: Pool) -> None:
    data = pool_latents(pool)
    assert (len(data), data.shape, data.conditions.tolist()) == (24, model.noise_shape, [0, 1, 2] * 8)
    assert pool.conditions == PROMPTS
    with torch.no_grad():
        decoded = model.pipeline.pipe.vae.decode(data.latents[5:6] / model.pipeline.pipe.vae.config.scaling_factor)[0]
    pixels = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().int()
    assert (pixels[0] - pool.read([5])[0].int()).abs().max() <= 1
    part = data.subset([5, 5, 0], name="part")
    assert (part.conditions.tolist(), part.digest != data.digest) == ([2, 2, 0], True)
    assert torch.equal(part.latents[0], data.latents[5])
    (pool.folder / "latents" / "shard-00000.safetensors").rename(pool.folder / "elsewhere")
    with pytest.raises(InputError, match="is missing or broken"):
        pool_latents(pool)
    (pool.folder / "elsewhere").rename(pool.folder / "latents" / "shard-00000.safetensors")


def test_training_resumes_to_the_same_bytes(model: PipelineModel, pool: Pool, tmp_path: Path) -> None:
    data, before = pool_latents(pool), torch.cat(list(model.images([[0, 1]])))
    settings = adapter_settings(model, 0.048, batch_size=8, tick_kimg=0.008, state_kimg=0.016, lr=1e-2)
    ticks = list(train_adapter(model, data, settings, SMALL, tmp_path / "whole"))
    assert (len(ticks), ticks[-1].step) == (6, 6)
    for _ in islice(train_adapter(model, data, settings, SMALL, tmp_path / "killed"), 5):
        pass
    assert (tmp_path / "killed" / "state.pt").exists()
    assert [t.step for t in train_adapter(model, data, settings, SMALL, tmp_path / "killed")] == [5, 6]
    whole, killed = (tmp_path / n / "model.safetensors" for n in ("whole", "killed"))
    assert whole.read_bytes() == killed.read_bytes()
    adapter = read_adapter(tmp_path / "whole")
    assert (adapter.config["rank"], adapter.recipe["classes"]) == (2, list(PROMPTS))
    assert all(t.dtype == torch.float32 for t in adapter.tensors.values())
    assert any(t.any() for n, t in adapter.tensors.items() if "lora_B" in n)
    assert torch.equal(torch.cat(list(model.images([[0, 1]]))), before), "the base is what it was"
    with pytest.raises(ChangedSettings, match="adapter.rank = 2, now"):
        next(train_adapter(model, data, settings, AdapterConfig(rank=3, layers="attention"), tmp_path / "killed"))
    with pytest.raises(InputError, match="expected an adapter of a text-to-image pipeline"):
        read_adapter(Path("fairsims/assets/models/digits-8"))


def test_a_divergence_keeps_the_last_good_adapter(model: PipelineModel, pool: Pool, tmp_path: Path) -> None:
    data = pool_latents(pool)
    bad = LatentSet(
        name="bad",
        digest="x",
        latents=torch.where(torch.arange(24)[:, None, None, None] < 23, data.latents, torch.nan),
        conditions=data.conditions,
    )
    settings = adapter_settings(model, 0.024, batch_size=4, tick_kimg=0.004, state_kimg=0.004)
    with pytest.raises(Diverged, match="the loss became nan"):
        list(train_adapter(model, bad, settings, SMALL, tmp_path / "out"))
    assert torch.equal(torch.cat(list(model.images([[0]]))), torch.cat(list(model.images([[0]]))))


def loss_of(model: PipelineModel, config: AdapterConfig, *, u: float = 0.5) -> tuple[float, Tensor, Tensor, Tensor]:
    """Loss of one row; its latents, noise and the network's prediction for what the objective makes of them."""
    training = model.trainable(config)
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, *training.shape, generator=generator) for _ in range(2))
    with torch.no_grad():
        loss = training.loss(Batch(images=x, sigma=torch.tensor([u]), noise=noise, labels=torch.tensor([0])))
    training.detach()
    return float(loss), x, noise, torch.tensor(u)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_objectives_of_noise_and_velocity(prediction: str, tmp_path: Path) -> None:
    model = PipelineModel(asking(make_tiny("sd", tmp_path / "sd", prediction_type=prediction)))
    loss, x, noise, _ = loss_of(model, SMALL)
    pipeline, t = model.pipeline, torch.tensor([500])
    alpha = pipeline.pipe.scheduler.alphas_cumprod[500]
    noisy = pipeline.pipe.scheduler.add_noise(x, noise, t)
    target = noise if prediction == "epsilon" else pipeline.pipe.scheduler.get_velocity(x, noise, t)
    with torch.no_grad():
        told = pipeline.embeddings([PROMPTS[0]])
        found = pipeline.row.predict(pipeline.pipe, pipeline.network, noisy, t, told, vars(model.settings))
    assert loss == pytest.approx(float(((found - target) ** 2).mean()), rel=1e-4)
    snr = float(alpha / (1 - alpha))
    weighted, *_ = loss_of(model, AdapterConfig(rank=2, layers="attention", min_snr=0.1))
    weight = min(snr, 0.1) / (snr if prediction == "epsilon" else snr + 1)
    assert weighted == pytest.approx(loss * weight, rel=1e-4)


@pytest.mark.parametrize("kind", ["sdxl", "sd3", "flux"])
def test_every_architecture_learns(kind: str, tmp_path: Path) -> None:
    """A few steps on two latents bring their loss down: prompt, pooled text, sizes and times fit the network."""
    assert kind in KINDS
    model = PipelineModel(asking(make_tiny(kind, tmp_path / kind)))
    training = model.trainable(AdapterConfig(rank=4))
    x = torch.randn(2, *training.shape, generator=torch.Generator().manual_seed(0))
    u, noise = training.draw_noise(2, torch_generator(0, "noise"), mean=0, std=1)
    batch = Batch(images=x, sigma=u, noise=noise, labels=torch.tensor([0, 2]))
    optimizer, losses = torch.optim.Adam(training.parameters(), lr=1e-2), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = training.loss(batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    training.detach()


def test_flow_is_a_straight_path_at_the_schedulers_shift(tmp_path: Path) -> None:
    model = PipelineModel(asking(make_tiny("sd3", tmp_path / "sd3")))
    loss, x, noise, u = loss_of(model, SMALL, u=0.4)
    pipeline, s = model.pipeline, float(3 * u / (1 + 2 * u))
    with torch.no_grad():
        told = pipeline.embeddings([PROMPTS[0]])
        noisy, t = (1 - s) * x + s * noise, torch.tensor([1000 * s])
        found = pipeline.row.predict(pipeline.pipe, pipeline.network, noisy, t, told, vars(model.settings))
    assert loss == pytest.approx(float(((found - (noise - x)) ** 2).mean()), rel=1e-4)
    # Levels that the scheduler visits are shifted by the same rule.
    scheduler = pipeline.pipe.scheduler
    unshifted = torch.linspace(1, 1000, 1000).flip(0) / 1000
    torch.testing.assert_close(
        scheduler.sigmas[:-1] if len(scheduler.sigmas) > 1000 else scheduler.sigmas,
        3 * unshifted / (1 + 2 * unshifted),
        atol=1e-5,
        rtol=1e-5,
    )
    with pytest.raises(InputError, match="--min-snr is 5.0 and .* predicts flow"):
        model.trainable(AdapterConfig(min_snr=5.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"layers": "none"}, "layers is 'none'"),
        ({"min_snr": -1.0}, "min_snr is -1"),
        ({"timesteps": "all"}, "timesteps is 'all'"),
    ],
)
def test_impossible_adapters(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdapterConfig(**settings)


def test_latents_are_neither_mirrored_nor_of_another_shape(model: PipelineModel, pool: Pool, tmp_path: Path) -> None:
    data = pool_latents(pool)
    with pytest.raises(InputError, match="cannot be mirrored or distorted"):
        next(train_adapter(model, data, adapter_settings(model, 0.01, xflip=True), SMALL, tmp_path / "a"))
    larger = LatentSet(
        name="larger", digest="x", latents=torch.zeros(4, 4, 9, 9), conditions=torch.zeros(4, dtype=torch.int64)
    )
    with pytest.raises(InputError, match="larger has 4x9x9 images, the model makes 4x8x8"):
        next(train_adapter(model, larger, adapter_settings(model, 0.01), SMALL, tmp_path / "b"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_bfloat16_learns_with_and_without_checkpointing(checkpointing: bool, tmp_path: Path) -> None:
    """What a backward pass computes again has the kernels of the forward pass."""
    model = PipelineModel(asking(make_tiny("sd", tmp_path / "sd")))
    training = model.trainable(AdapterConfig(rank=2, checkpointing=checkpointing))
    training.precision = "bfloat16"
    x = torch.randn(1, *training.shape, generator=torch.Generator().manual_seed(0))
    u, noise = training.draw_noise(1, torch_generator(0, "noise"), mean=0, std=1)
    training.loss(Batch(images=x, sigma=u, noise=noise, labels=torch.tensor([0]))).backward()
    gradients = [t.grad for t in training.tensors]
    assert all(g is not None and bool(g.isfinite().all()) for g in gradients)
    assert any(bool(g.any()) for g in gradients if g is not None)
