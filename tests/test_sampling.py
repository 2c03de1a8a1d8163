"""Noise levels, the Heun solver, and images that are a function of their seed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from fairsims.datasets import to_uint8
from fairsims.denoisers import Denoiser, EDMDenoiser, GaussianMixtureDenoiser
from fairsims.sampling import SampleBatch, SamplerConfig, generate, heun, sigma_schedule
from fairsims.seeds import noise_for

EDM = Path(__file__).parent / "fixtures" / "edm"


@pytest.fixture(scope="module")
def edm() -> EDMDenoiser:
    """EDM's network with attention at 16x16 RGB and random weights."""
    network = EDMDenoiser(
        img_resolution=16, img_channels=3, model_channels=16, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8],
        dropout=0.13,
    )  # fmt: skip
    network.load_state_dict(load_file(EDM / "songunet-ddpmpp.safetensors"))
    return network.eval().requires_grad_(False)


def gaussian(mean: float, std: float) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(torch.tensor([[mean]]), [std], [1.0])


def images_of(batches: list[SampleBatch]) -> Tensor:
    return torch.cat([b.images for b in batches])


def test_schedule_values_of_forty_steps() -> None:
    sigmas = sigma_schedule(40, 0.002, 80)
    known = {0: 80, 5: 38.3, 10: 16.8, 15: 6.59, 20: 2.24, 25: 0.625, 30: 0.131, 35: 0.018, 39: 0.002}
    for i, value in known.items():
        assert float(sigmas[i]) == pytest.approx(value, rel=0.03 if value == 0.018 else 0.005), i
    assert float(sigmas[40]) == 0
    assert (len(sigmas), sigmas.dtype) == (41, torch.float64)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_schedule_falls_and_keeps_its_ends(rho: float) -> None:
    sigmas = sigma_schedule(9, 0.01, 50.0, rho).tolist()
    assert all(a > b for a, b in pairwise(sigmas))
    assert sigmas[0] == pytest.approx(50)
    assert sigmas[-2] == pytest.approx(0.01)
    if rho == 1:
        assert sigmas[4] == pytest.approx((50 + 0.01) / 2)


def test_sampler_takes_the_denoisers_range_unless_told() -> None:
    denoiser = gaussian(0, 1)
    denoiser.sigma_min, denoiser.sigma_max = 0.01, 50.0
    assert SamplerConfig(steps=4).sigmas(denoiser)[[0, 3]].tolist() == pytest.approx([50, 0.01])
    told = SamplerConfig(steps=4, sigma_min=0.1, sigma_max=10).sigmas(denoiser)
    assert told[[0, 3]].tolist() == pytest.approx([10, 0.1])


@pytest.mark.parametrize(("changes", "message"), [({"steps": 1}, "steps is 1"), ({"rho": 0.0}, "rho is 0.0")])
def test_settings_out_of_range_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**changes)  # type: ignore[arg-type]


def test_heun_solves_a_gaussian_exactly_in_the_limit() -> None:
    # D is linear for one Gaussian, and the ODE has x(0) = mean + std (x - mean) / sqrt(std**2 + sigma_max**2).
    mean, std = 0.7, 0.4
    denoiser, noise = gaussian(mean, std), torch.linspace(-2, 2, 9)[:, None].double()
    expected = mean + std * (noise * 80 - mean) / (std**2 + 80**2) ** 0.5
    errors = [float((heun(denoiser, noise, sigma_schedule(n, 0.002, 80)) - expected).abs().max()) for n in (16, 32, 64)]
    assert errors[-1] < 4e-3
    # Second order: half the step, a quarter of the error.
    assert all(3 < a / b < 5.5 for a, b in pairwise(errors))


def test_heun_evaluates_twice_per_step_less_one() -> None:
    class Count(Denoiser):
        calls = 0
        img_channels = img_resolution = 1

        def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
            self.calls += 1
            return x * 0

    denoiser, sampler = Count(), SamplerConfig(steps=7)
    heun(denoiser, torch.ones(1, 1), sampler.sigmas(denoiser))
    assert denoiser.calls == sampler.evaluations(denoiser) == 13


def test_images_do_not_depend_on_the_batch_size(edm: EDMDenoiser) -> None:
    sampler, seeds = SamplerConfig(steps=5), list(range(100, 116))
    whole = to_uint8(images_of(list(generate(edm, seeds, sampler=sampler, batch_size=16)))).int()
    assert whole.float().std() > 20, "images without content would agree anyway"
    for size in (1, 7):
        batches = list(generate(edm, seeds, sampler=sampler, batch_size=size))
        assert [s for b in batches for s in b.seeds] == seeds
        assert (to_uint8(images_of(batches)).int() - whole).abs().max() <= 1, size


def test_images_do_not_depend_on_the_order_of_seeds(edm: EDMDenoiser) -> None:
    sampler, seeds = SamplerConfig(steps=3), [9, 4, 7, 1]
    forward = images_of(list(generate(edm, seeds, sampler=sampler)))
    backward = images_of(list(generate(edm, seeds[::-1], sampler=sampler)))
    assert (forward - backward.flip(0)).abs().max() < 1e-5
    assert (forward[0] - forward[1]).abs().max() > 0.1


def test_the_same_call_gives_the_same_bits(edm: EDMDenoiser) -> None:
    runs = [images_of(list(generate(edm, range(6), sampler=SamplerConfig(steps=3), batch_size=4))) for _ in range(2)]
    assert torch.equal(*runs)
    assert runs[0].dtype == torch.float32


def test_generate_starts_from_the_seeds_noise() -> None:
    denoiser = gaussian(0, 0.5)
    denoiser.sigma_max = 1.0
    found = images_of(list(generate(denoiser, [11, 12], sampler=SamplerConfig(steps=100))))
    expected = noise_for([11, 12], (1, 1, 1)) * 0.5 / (0.25 + 1) ** 0.5
    assert torch.allclose(found, expected, rtol=0.01)


@pytest.mark.parametrize("size", [0, -3])
def test_an_empty_batch_is_refused(edm: EDMDenoiser, size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size is {size}; expected 1 or more"):
        next(generate(edm, range(4), batch_size=size))
