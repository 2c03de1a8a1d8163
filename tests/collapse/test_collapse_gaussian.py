"""The closed-form Gaussian loop against sampling point by point."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.gaussian import COV, MEAN, GaussianLoop, Gaussians, drawn_fit, pooled, sampled
from fairsims.collapse.measures import gaussian_w2
from fairsims.models import Denoiser, GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.base import sigma_column
from fairsims.models.sampling import SamplerConfig, sigma_schedule, solve


class GaussianDenoiser(Denoiser):
    """E[x0 | x] of one Gaussian, x of shape `(B, d)`: the denoiser whose sampling the loop solves in closed form."""

    def __init__(self, mean: np.ndarray, cov: np.ndarray) -> None:
        super().__init__()
        self.mean, self.cov = torch.as_tensor(mean), torch.as_tensor(cov)
        self.img_channels, self.img_resolution = len(mean), 1

    def forward(self, x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        s = sigma_column(sigma.double(), x.double())[0, 0]
        gain = self.cov @ torch.linalg.inv(self.cov + s**2 * torch.eye(len(self.mean), dtype=torch.float64))
        denoised: torch.Tensor = self.mean + (x.double() - self.mean) @ gain.T
        return denoised.to(x.dtype)


def gaussians(seed: int, count: int = 1) -> Gaussians:
    rng = np.random.default_rng(seed)
    half = rng.standard_normal((count, 2, 2)) * 0.4 + np.eye(2)
    return Gaussians(rng.standard_normal((count, 2)), half @ half.transpose(0, 2, 1) + 0.05 * np.eye(2))


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), omega=st.floats(0, 1.5), solver=st.sampled_from(["euler", "heun"]))
def test_affine_map_is_what_the_sampler_does(seed, omega, solver):
    """`solve` with `SIMSGuidance` on points of noise gives the mean and the spread of the closed form."""
    base, aux = gaussians(seed), gaussians(seed + 1)
    guided = SIMSGuidance(*(GaussianDenoiser(g.mean[0], g.cov[0]) for g in (base, aux)), omega)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    images = solve(guided, points, SamplerConfig(steps=9, solver=solver)).numpy()
    made = sampled(base, aux, omega, sigma_schedule(9, 0.002, 80.0).numpy(), heun=solver == "heun")
    spread = (images[1:] - images[0]).T
    assert made.mean[0] == pytest.approx(images[0], rel=1e-7, abs=1e-9)
    assert made.cov[0] == pytest.approx(spread @ spread.T, rel=1e-7, abs=1e-9)


def test_denoiser_agrees_with_the_mixture_of_one():
    mean, x = np.array([0.5, -1.0]), torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double()
    own = GaussianDenoiser(mean, 0.49 * np.eye(2))
    known = GaussianMixtureDenoiser(torch.tensor(mean)[None], [0.7], [1.0])
    for sigma in (0.01, 1.0, 30.0):
        assert torch.allclose(own(x, torch.tensor(sigma)), known(x, torch.tensor(sigma)))


def test_guidance_leads_away_from_the_auxiliary():
    """The convention: an auxiliary that is too narrow makes the guided model wider than the base, and the reverse."""
    sigmas = sigma_schedule(400, 0.002, 80.0).numpy()
    base = Gaussians(np.zeros((1, 2)), np.eye(2)[None])
    for scale in (0.8, 1.25):
        aux = Gaussians(np.full((1, 2), 0.1), scale * np.eye(2)[None])
        made = sampled(base, aux, 1.0, sigmas, heun=True)
        assert np.sign(made.cov[0, 0, 0] - 1) == -np.sign(scale - 1)
        assert made.mean[0, 0] < 0
        unguided = sampled(base, aux, 0.0, sigmas, heun=True)
        assert unguided.cov[0] == pytest.approx(np.eye(2), abs=0.01)
        itself = sampled(base, aux, -1.0, sigmas, heun=True)
        assert itself.cov[0] == pytest.approx(scale * np.eye(2), abs=0.01)


def test_fits_are_drawn_from_their_law():
    """Moments of the drawn fits against those of fits to points."""
    rng, n, repeats = np.random.default_rng(3), 40, 20_000
    law = Gaussians(np.broadcast_to(MEAN, (repeats, 2)), np.broadcast_to(COV, (repeats, 2, 2)))
    drawn = drawn_fit(law, n, rng)
    points = rng.multivariate_normal(MEAN, COV, size=(4000, n))
    covs = np.stack([np.cov(p.T, bias=True) for p in points])
    assert drawn.mean.std(axis=0) == pytest.approx(points.mean(axis=1).std(axis=0), rel=0.05)
    assert drawn.cov.mean(axis=0) == pytest.approx(COV * (n - 1) / n, rel=0.02)
    assert drawn.cov.std(axis=0) == pytest.approx(covs.std(axis=0), rel=0.06)


def test_pooled_is_the_fit_of_all_points():
    rng = np.random.default_rng(0)
    parts = [rng.standard_normal((n, 2)) + shift for n, shift in ((5, 0), (11, 2), (3, -1))]
    fits = [(Gaussians(p.mean(axis=0)[None], np.cov(p.T, bias=True)[None]), len(p)) for p in parts]
    whole = np.concatenate(parts)
    found = pooled(fits)
    assert found.mean[0] == pytest.approx(whole.mean(axis=0))
    assert found.cov[0] == pytest.approx(np.cov(whole.T, bias=True))


def run(method: str, level: float, **changes) -> np.ndarray:
    config = CollapseConfig.of("gaussian", **({"generations": 40, "repeats": 30, "levels": (level,)} | changes))
    loop, state, drift = GaussianLoop(config), {}, []
    for g in range(1, config.generations + 1):
        state, rows = loop.generation(g, Cell(method=method, level=level), state)
        drift.append([row["w2"] for row in rows])
    return np.array(drift)


def test_standard_training_drifts_and_sims_does_not():
    standard, sims = run("standard", 4.0), run("sims", 0.25)
    assert standard[-1].mean() > 2.5 * standard[0].mean()
    assert sims[-1].mean() < 1.25 * sims[0].mean()
    assert sims[-1].mean() < standard[0].mean()


def test_without_noise_sims_removes_the_samplers_error():
    config = CollapseConfig.of("gaussian")
    loop = GaussianLoop(config, noise=False)
    drift = {m: loop.generation(1, Cell(method=m, level=1.0), {})[1][0]["w2"] for m in ("standard", "sims")}
    assert drift["sims"] < drift["standard"] / 50


def test_a_budget_of_nothing_is_no_guidance():
    assert run("sims", 1.0, budget=0.0, generations=3) == pytest.approx(run("standard", 1.0, generations=3))


def test_fully_synthetic_loops_collapse():
    drift = run("standard", 0.0, loop="synthetic", generations=40)
    assert drift[-1].mean() > 10 * drift[0].mean()


def test_all_fresh_data_stay_at_the_first_level():
    drift = run("standard", 1.0, loop="fresh", repeats=200)
    assert drift[-1].mean() == pytest.approx(drift[0].mean(), rel=0.1)


def test_rows_measure_against_the_data():
    state, rows = GaussianLoop(CollapseConfig.of("gaussian", repeats=2)).generation(
        1, Cell(method="standard", level=1.0), {}
    )
    assert rows[1]["w2"] == pytest.approx(float(gaussian_w2(state["mean"][1], state["cov"][1], MEAN, COV)))
    assert rows[1]["variance_ratio"] < 1
