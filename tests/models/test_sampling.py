"""Noise levels, the Heun solver, and images that are a function of their seed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from support import in_memory
from torch import Tensor

from fairsims.data import to_uint8
from fairsims.models import Conditions, Denoiser, EDMDenoiser, GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.edm_pickle import read_snapshot
from fairsims.models.sampling import SamplerConfig, sigma_schedule, solve
from fairsims.models.solvers import SOLVERS
from fairsims.seeds import noise_for

ROUNDING = 1e-5
"""How far images in data units may be apart that batches of other sizes made: kernels then add in another order.

One call of the network differs by 1e-6. Heun's correction of a step from s to s' multiplies that by (s - s') / 2s': 4 on
the default twelve levels, where images differ by 2e-6, but 630 on three levels, which end with a step from 2.5 to
0.002, and 890 when noise raises that 2.5 to 3.6, where they differ by 1e-4.
"""
EDM = Path(__file__).parents[1] / "fixtures" / "edm"


@pytest.fixture(scope="module")
def edm() -> EDMDenoiser:
    """EDM's network with attention at 16x16 RGB and random weights."""
    return read_snapshot(EDM / "songunet-ddpmpp.pkl").denoiser


def gaussian(mean: float, std: float) -> GaussianMixtureDenoiser:
    return GaussianMixtureDenoiser(torch.tensor([[mean]]), [std], [1.0])


def samples(denoiser: Denoiser, seeds: Sequence[int], sampler: SamplerConfig, size: int = 128) -> Tensor:
    """Images in data units, before they are rounded to grey levels; `size` at once."""
    cut = [seeds[start : start + size] for start in range(0, len(seeds), size)]
    with torch.inference_mode():
        return torch.cat([solve(denoiser, noise_for(s, denoiser.shape), sampler, seeds=s).float() for s in cut])


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 1}, "steps is 1"),
        ({"rho": 0.0}, "rho is 0.0"),
        ({"solver": "ddim"}, "solver is 'ddim'"),
        ({"S_churn": -1.0}, "S_churn is -1.0"),
        ({"S_churn": 1.0, "S_min": 2.0, "S_max": 1.0}, "S_min is 2.0 and S_max 1.0"),
        ({"S_churn": 1.0, "solver": "dpmpp2m"}, "expected 0 with dpmpp2m"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("solver", "counts", "low", "high"),
    [
        ("heun", (16, 32, 64), 3, 5.5),
        ("dpmpp2m", (32, 64, 128), 3, 5.5),
        ("euler", (32, 64, 128), 1.7, 2.3),
        ("dpmpp3m", (64, 128, 256), 2.8, 5.5),
        ("unipc", (16, 32, 64), 8, 40),
        ("ipndm", (32, 64, 128), 3, 5.5),
    ],
)
def test_solvers_converge_to_the_exact_answer_at_their_order(
    solver: str, counts: tuple[int, ...], low: float, high: float
) -> None:
    # D is linear for one Gaussian, and the ODE has x(0) = mean + std (x - mean) / sqrt(std**2 + sigma_max**2).
    mean, std = 0.7, 0.4
    denoiser, noise = gaussian(mean, std), torch.linspace(-2, 2, 9)[:, None].double()
    expected = mean + std * (noise * 80 - mean) / (std**2 + 80**2) ** 0.5
    # The final step to 0 is exact only in the limit of a small sigma_min.
    errors = [
        float((solve(denoiser, noise, SamplerConfig(solver=solver, steps=n)) - expected).abs().max()) for n in counts
    ]
    assert errors[-1] < (0.03 if solver == "euler" else 4e-3)
    assert all(low < a / b < high for a, b in pairwise(errors)), errors


def test_dpmpp2m_beats_euler_at_equal_cost() -> None:
    denoiser, noise = gaussian(0.7, 0.4), torch.linspace(-2, 2, 9)[:, None].double()
    expected = 0.7 + 0.4 * (noise * 80 - 0.7) / (0.4**2 + 80**2) ** 0.5
    error = {
        s: float((solve(denoiser, noise, SamplerConfig(solver=s, steps=24)) - expected).abs().max())
        for s in ("euler", "dpmpp2m")
    }
    assert error["dpmpp2m"] < error["euler"] / 3


def test_given_levels_take_the_place_of_the_schedule() -> None:
    denoiser, noise = gaussian(0.7, 0.4), torch.tensor([[1.0], [-1.0]])
    x = noise.double() * 3
    x = x + (1 - 3) * (x - denoiser(x, torch.tensor(3.0))) / 3
    x = x + (0 - 1) * (x - denoiser(x, torch.tensor(1.0))) / 1
    euler = SamplerConfig(solver="euler")
    found = solve(denoiser, noise.double(), euler, sigmas=torch.tensor([3.0, 1.0, 0.0]))
    assert torch.allclose(found, x, atol=1e-12)


@pytest.mark.parametrize(("solver", "steps"), [("heun", 40), ("euler", 200)])
def test_added_noise_keeps_the_distribution_and_changes_the_images(solver: str, steps: int) -> None:
    denoiser, seeds = gaussian(0.3, 0.5), range(3000)
    noise = noise_for(seeds, (1,)).double()
    ode = solve(denoiser, noise, SamplerConfig(solver=solver, steps=steps))
    stochastic = SamplerConfig(solver=solver, steps=steps, S_churn=20, S_min=0.05, S_max=50)
    sde = solve(denoiser, noise, stochastic, seeds=seeds)
    # 3,000 draws: three standard errors of mean and of standard deviation.
    assert float(sde.mean()) == pytest.approx(0.3, abs=3 * 0.5 / 3000**0.5)
    assert float(sde.std()) == pytest.approx(0.5, abs=3 * 0.5 / 6000**0.5 + 0.01)
    assert float(torch.corrcoef(torch.stack([ode[:, 0], sde[:, 0]]))[0, 1]) < 0.9


def test_added_noise_belongs_to_the_seed(edm: EDMDenoiser) -> None:
    sampler, seeds = SamplerConfig(solver="heun", steps=12, S_churn=12), [5, 6, 7]
    whole = samples(edm, seeds, sampler)
    assert (whole - samples(edm, seeds[::-1], sampler, size=1).flip(0)).abs().max() < ROUNDING
    assert (whole - samples(edm, seeds, SamplerConfig(solver="heun", steps=12))).abs().max() > 0.05


@pytest.mark.parametrize(("solver", "evaluations"), [("heun", 13), *((s, 7) for s in SOLVERS if s != "heun")])
def test_evaluations_are_those_that_happen(solver: str, evaluations: int) -> None:
    class Count(Denoiser):
        calls = 0
        img_channels = img_resolution = 1

        def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
            self.calls += 1
            return x * 0

    base, aux, sampler = Count(), Count(), SamplerConfig(solver=solver, steps=7)
    solve(base, torch.ones(1, 1), sampler)
    assert base.calls == sampler.evaluations(base) == evaluations
    base.calls = 0
    guided = SIMSGuidance(base, aux, 1.0, interval=(0.3, 5.0))
    solve(guided, torch.ones(1, 1), sampler)
    assert 0 < aux.calls < base.calls == evaluations
    assert sampler.evaluations(guided) == base.calls + aux.calls


def test_discrete_noise_levels_are_visited_once() -> None:
    class Discrete(GaussianMixtureDenoiser):
        def round_sigma(self, sigma: Tensor) -> Tensor:
            levels = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
            return levels[(sigma.reshape(-1, 1).double() - levels).abs().argmin(dim=1)].reshape(sigma.shape)

    denoiser = Discrete(torch.zeros(1, 1), [1.0], [1.0])
    denoiser.sigma_min, denoiser.sigma_max = 0.5, 4.0
    sampler = SamplerConfig(solver="heun", steps=10)
    assert sampler.sigmas(denoiser).tolist() == [4.0, 2.0, 1.0, 0.5, 0.0]
    assert sampler.evaluations(denoiser) == 7


def test_classes_of_a_conditional_network_belong_to_the_seeds() -> None:
    labels = Conditions.numbered(4).one_hot(range(7, 15))
    assert labels is not None
    assert labels.argmax(dim=1).tolist() == [3, 0, 1, 2, 3, 0, 1, 2]
    assert Conditions.numbered(0).one_hot([1]) is None


def test_images_do_not_depend_on_the_batch_size(edm: EDMDenoiser) -> None:
    model, seeds = in_memory(edm, sampler=SamplerConfig(solver="heun", steps=5)), list(range(100, 116))
    whole = torch.cat(list(model.images([seeds]))).int()
    assert whole.float().std() > 20, "images without content would agree anyway"
    for size in (1, 7):
        cut = [seeds[start : start + size] for start in range(0, 16, size)]
        found = list(model.images(cut))
        assert [len(images) for images in found] == [len(part) for part in cut]
        assert (torch.cat(found).int() - whole).abs().max() <= 1, size


def test_images_do_not_depend_on_the_order_of_seeds(edm: EDMDenoiser) -> None:
    sampler, seeds = SamplerConfig(solver="heun", steps=3), [9, 4, 7, 1]
    forward, backward = samples(edm, seeds, sampler), samples(edm, seeds[::-1], sampler)
    assert (forward - backward.flip(0)).abs().max() < 1e-5
    assert (forward[0] - forward[1]).abs().max() > 0.1


def test_the_same_call_gives_the_same_bits(edm: EDMDenoiser) -> None:
    runs = [samples(edm, range(6), SamplerConfig(solver="heun", steps=3), size=4) for _ in range(2)]
    assert torch.equal(*runs)


def test_images_start_from_the_seeds_noise() -> None:
    denoiser = gaussian(0, 0.5)
    denoiser.sigma_max = 1.0
    (found,) = in_memory(denoiser, sampler=SamplerConfig(solver="heun", steps=100)).images([[11, 12]])
    expected = noise_for([11, 12], (1, 1, 1)) * 0.5 / (0.25 + 1) ** 0.5
    assert (found.int() - to_uint8(expected).int()).abs().max() <= 1
