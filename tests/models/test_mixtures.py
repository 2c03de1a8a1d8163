"""Exact mixtures: the denoiser is the posterior mean, and guiding them follows the exact ODE and the linear rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.special import ndtri

from fairsims.models import GaussianMixtureDenoiser, SIMSGuidance
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.retarget.complement import complement_shares, least_strength

MEANS, STDS = [-1.0, 1.0], [0.3, 0.3]
N = 20_000


def mixture(shares: list[float] | np.ndarray, means: object = None, stds: object = None) -> GaussianMixtureDenoiser:
    columns = torch.tensor(MEANS if means is None else means, dtype=torch.float64)
    return GaussianMixtureDenoiser(
        columns[:, None] if columns.ndim == 1 else columns, STDS if stds is None else stds, list(shares)
    )


@pytest.mark.parametrize("sigma", [0.05, 0.7, 4.0])
@pytest.mark.parametrize("x", [-1.6, -0.1, 0.4, 2.5])
def test_denoiser_is_the_posterior_mean(sigma: float, x: float) -> None:
    means, stds, shares = [-1.0, 0.5, 2.0], [0.2, 0.5, 0.1], [0.2, 0.5, 0.3]

    def joint(x0: float) -> float:
        prior = sum(p * np.exp(-(((x0 - m) / s) ** 2) / 2) / s for p, m, s in zip(shares, means, stds, strict=True))
        return float(prior * np.exp(-(((x - x0) / sigma) ** 2) / 2))

    places = sorted({*means, x})
    evidence = quad(joint, -8, 8, points=places, limit=400)[0]
    expected = quad(lambda x0: x0 * joint(x0), -8, 8, points=places, limit=400)[0] / evidence
    exact = mixture(shares, means, stds)
    found = float(exact(torch.tensor([[x]], dtype=torch.float64), torch.tensor(sigma)))
    assert found == pytest.approx(expected, abs=1e-6)


def test_responsibilities_are_bayes() -> None:
    x, sigma = torch.tensor([[0.2, -0.4]]), torch.tensor(0.5)
    exact = mixture([0.25, 0.75], [[-1.0, 0.0], [1.0, 1.0]], [0.3, 0.8])
    total = [0.3**2 + 0.25, 0.8**2 + 0.25]
    joint = [
        p / (2 * np.pi * v) * np.exp(-((0.2 - m[0]) ** 2 + (-0.4 - m[1]) ** 2) / (2 * v))
        for p, m, v in zip([0.25, 0.75], [[-1.0, 0.0], [1.0, 1.0]], total, strict=True)
    ]
    assert exact.responsibilities(x, sigma)[0].tolist() == pytest.approx([j / sum(joint) for j in joint], abs=1e-6)


def test_images_and_vectors_are_treated_alike() -> None:
    exact = mixture([0.4, 0.6], [[-1.0, 0.0, 1.0, 0.5]] * 2, [0.1, 0.5])
    x = torch.randn(6, 4)
    assert torch.equal(exact(x, torch.tensor(1.0)), exact(x.view(6, 4, 1, 1), torch.tensor(1.0)).view(6, 4))
    assert exact(x, torch.tensor(1.0)).dtype == x.dtype


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 0.9"):
        mixture([0.4, 0.5])


def test_plain_sampling_keeps_the_shares() -> None:
    exact = mixture([0.7, 0.3])
    assert abs(sampled_share(exact) - 0.7) < 4 * np.sqrt(0.21 / N)


def sampled_share(denoiser: object, steps: int = 40) -> float:
    """Share of class 0 among N samples."""
    noise = torch.randn(N, 1, generator=torch.Generator().manual_seed(1))
    samples = solve(denoiser, noise, SamplerConfig(solver="heun", steps=steps))  # type: ignore[arg-type]
    return float((mixture([0.5, 0.5]).classify(samples) == 0).double().mean())


def exact_share(pi: float, rho: float, omega: float) -> float:
    """Share of class 0 from the ODE alone, written here anew: an adaptive solver from a grid of noise quantiles.

    In one dimension the flow keeps the order of points, so the noise splits at one threshold.
    """

    def posterior_mean(x: np.ndarray, sigma: float, shares: tuple[float, float]) -> np.ndarray:
        v = 0.3**2 + sigma**2
        weights = [p * np.exp(-((x - m) ** 2 - x**2 - 1) / (2 * v)) for p, m in zip(shares, MEANS, strict=True)]
        each = [m + 0.3**2 / v * (x - m) for m in MEANS]
        return np.asarray((weights[0] * each[0] + weights[1] * each[1]) / (weights[0] + weights[1]))

    def slope(t: float, x: np.ndarray) -> np.ndarray:
        # In t = ln sigma: dx/dt = sigma dx/dsigma = x - D.
        sigma = float(np.exp(t))
        base, aux = posterior_mean(x, sigma, (pi, 1 - pi)), posterior_mean(x, sigma, (rho, 1 - rho))
        return x - ((1 + omega) * base - omega * aux)

    quantiles = np.linspace(0.005, 0.995, 400)
    ends = solve_ivp(
        slope, (np.log(80), np.log(0.002)), 80 * ndtri(quantiles), rtol=1e-8, atol=1e-8, method="DOP853"
    ).y[:, -1]
    assert (np.diff(ends) > 0).all(), "the flow has to keep the order"
    above = int(np.searchsorted(ends, 0.0))
    low, high = ends[above - 1], ends[above]
    return float(quantiles[above - 1] + (quantiles[above] - quantiles[above - 1]) * -low / (high - low))


@pytest.mark.parametrize(("pi", "rho", "omega"), [(0.6, 0.8, 1.0), (0.6, 0.7, 1.0), (0.8, 0.95, 2.0), (0.7, 0.2, 0.5)])
def test_guided_share_is_that_of_the_exact_ode(pi: float, rho: float, omega: float) -> None:
    exact = exact_share(pi, rho, omega)
    guided = SIMSGuidance(mixture([pi, 1 - pi]), mixture([rho, 1 - rho]), omega)
    found = sampled_share(guided)
    # Monte Carlo error of N samples, and .002 for 40 steps and a start at sigma 80.
    assert abs(found - exact) < 3 * np.sqrt(exact * (1 - exact) / N) + 0.002


@pytest.mark.parametrize("omega", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("pi", [0.6, 0.7, 0.8])
def test_the_linear_rule_reaches_parity(pi: float, omega: float) -> None:
    start, parity = np.array([pi, 1 - pi]), np.array([0.5, 0.5])
    if omega < least_strength(start, parity):
        assert complement_shares(start, parity, omega).min() < 0
        return
    rho = complement_shares(start, parity, omega)
    guided = SIMSGuidance(mixture(start), mixture(rho), omega)
    assert abs(sampled_share(guided, steps=24) - 0.5) < 0.01


def test_beyond_parity_the_rule_promises_more_than_it_gives() -> None:
    # 60:40 to 40:60 reaches 93% of the move at any omega: the reason why calibration measures.
    for omega in (1.0, 2.0):
        rho = complement_shares(np.array([0.6, 0.4]), np.array([0.4, 0.6]), omega)
        share = exact_share(0.6, float(rho[0]), omega)
        assert 0.408 < share < 0.420


def test_three_classes_follow_the_rule_where_it_is_feasible() -> None:
    corners = [[1.0, 0.0], [-0.5, 0.866], [-0.5, -0.866]]
    pi, tau, omega = np.array([0.6, 0.3, 0.1]), np.array([0.45, 0.30, 0.25]), 2.0
    assert omega >= least_strength(pi, tau) == pytest.approx(1.5)
    rho = complement_shares(pi, tau, omega)
    base, aux = (mixture(s, corners, [0.2] * 3) for s in (pi, rho))
    noise = torch.randn(N, 2, generator=torch.Generator().manual_seed(2))
    guided = SIMSGuidance(base, aux, omega)
    classes = base.classify(solve(guided, noise, SamplerConfig(solver="heun", steps=24)))
    found = np.bincount(classes.numpy(), minlength=3) / N
    assert np.abs(found - tau).max() < 0.03
    assert np.abs(found - pi).max() > 0.1


def test_the_exact_share_without_guidance_is_the_base_share() -> None:
    # omega = 0: the flow transports N(0, 80^2) to the mixture, so the threshold sits at the share's own quantile.
    assert exact_share(0.6, 0.6, 0.0) == pytest.approx(0.6, abs=2e-3)
