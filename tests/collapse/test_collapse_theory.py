"""Each statement of the theory on cases with exact answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fairsims.collapse import kde_theory, theory
from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.gaussian import GaussianLoop
from fairsims.collapse.measures import gaussian_chi2, gaussian_kl

ALPHA = st.floats(0.01, 0.99)


def discrete_chi2(p: np.ndarray, q: np.ndarray) -> float:
    return float(((p - q) ** 2 / q).sum())


@given(alpha=ALPHA, seed=st.integers(0, 10**6))
def test_refresh_identity_on_any_distribution(alpha, seed):
    rng = np.random.default_rng(seed)
    data, made = rng.dirichlet(np.ones(7), size=2) + 1e-3
    data, made = data / data.sum(), made / made.sum()
    mixed = alpha * data + (1 - alpha) * made
    assert discrete_chi2(mixed, data) == pytest.approx(theory.refreshed(alpha, discrete_chi2(made, data)), rel=1e-9)


@given(alpha=ALPHA, ages=st.integers(0, 30))
def test_memory_is_refreshing_again_and_again(alpha, ages):
    drift = 1.0
    for _ in range(ages):
        drift = theory.refreshed(alpha, drift)
    assert drift == pytest.approx(float(theory.memory(alpha, ages)), rel=1e-9)


@given(alpha=ALPHA, generation=st.integers(0, 25), h=st.floats(0, 2))
def test_kde_variance_is_that_of_the_mixture_over_ages(alpha, generation, h):
    """The closed form, the one-step recursion and the mixture that `age_weights` describes agree."""
    variance = 0.36
    for _ in range(generation):
        variance = alpha * 0.36 + (1 - alpha) * variance + h**2
    weights = theory.age_weights(alpha, generation)
    assert weights.sum() == pytest.approx(1)
    assert theory.kde_variance(0.6, h, alpha, generation) == pytest.approx(variance)
    assert 0.36 + h**2 * weights @ np.arange(generation + 1) == pytest.approx(variance)


def test_kde_variance_reproduces_the_published_drift():
    """+108.38%, +24.72%, +13.77% in the public reproduction, whose second moment of the centres is 25.6."""
    for alpha, published in ((0.1, 1.0838), (0.5, 0.2472), (0.9, 0.1377)):
        drift = 10 * (theory.kde_variance(0.6, 0.6, alpha, 20) - 0.36) / (25.6 + 3.6)
        assert drift == pytest.approx(published, abs=0.002)
    assert theory.kde_variance(0.6, 0.6, 0, 20) == pytest.approx(0.36 * 21)


# A diffusion whose error is exact: Y = X + W on [0, 1], X = 0, drift error beta (sqrt(rho) + a mean-free part). Path
# energy is beta^2, the end moves by beta sqrt(rho): chi2 = exp(beta^2 rho) - 1, KL = beta^2 rho / 2, eta = rho.
@given(beta=st.floats(0.01, 0.3), rho=st.floats(0, 1))
def test_bounds_hold_on_an_exact_diffusion(beta, rho):
    energy, moved = beta**2, beta * math.sqrt(rho)
    kl = float(gaussian_kl(np.array([[moved]]), np.eye(1)[None], np.zeros(1), np.eye(1))[0])
    chi2 = float(gaussian_chi2(np.array([[moved]]), np.eye(1)[None], np.zeros(1), np.eye(1))[0])
    assert chi2 == pytest.approx(math.expm1(energy * rho), abs=1e-12)
    assert kl <= theory.kl_upper(energy) + 1e-15
    assert theory.chi2_lower(rho, energy) <= chi2 + 1e-15
    assert chi2 <= theory.chi2_upper(energy)
    # The constants are not idle: a lower bound of the whole leading term and half of the KL bound are too much.
    if rho > 0.9:
        assert kl > theory.kl_upper(energy) / 2
        assert 4 * theory.chi2_lower(rho, energy) > 0.99 * rho * energy


def test_kl_bound_is_met_with_equality_by_a_constant_error():
    assert theory.kl_upper(0.25) == pytest.approx(
        float(gaussian_kl(np.array([[0.5]]), np.eye(1)[None], np.zeros(1), np.eye(1))[0])
    )


def test_bounds_need_small_errors():
    assert theory.perturbative(1.0)
    assert not theory.perturbative(1.01)
    assert theory.chi2_lower(1, 2.0, remainder=1.0) < 0 < theory.chi2_lower(1, 0.1, remainder=1.0)


@given(alpha=ALPHA, eta=st.floats(0.01, 1), energy=st.floats(1e-4, 1))
def test_no_drift_that_obeys_the_lower_recursion_stays_below_the_floor(alpha, eta, energy):
    """D_{i+1} + (1 - alpha)^2 D_i >= alpha eta eps^2 / 16: the least such D, from any start, comes back to the floor."""
    floor, drift = theory.divergence_floor(alpha, eta, energy), []
    for start in (0.0, floor, 10 * floor):
        d = start
        for _ in range(400):
            d = max(0.0, alpha * eta * energy / 16 - (1 - alpha) ** 2 * d)
            drift.append(d)
        assert max(drift[-2:]) >= floor * (1 - 1e-6)


def test_discounted_sum_by_hand():
    # (1/2)^2 per generation: 0.1 / 16 + 0.2 / 4 + 0.3, and the initial 0.8 / 64.
    assert theory.discounted(0.5, [0.1, 0.2, 0.3], 0.8) == pytest.approx(0.1 / 16 + 0.2 / 4 + 0.3 + 0.8 / 64)
    assert theory.accumulated_upper(0.5, [0.1], 0.0, bias=1.0) == pytest.approx(1.1)


@given(alpha=ALPHA, seed=st.integers(0, 10**6), count=st.integers(1, 20))
def test_additive_form_bounds_the_recursion_it_is_proved_from(alpha, seed, count):
    """A drift that each generation refreshes and adds at most eps^2 + bias to never exceeds the sum."""
    rng = np.random.default_rng(seed)
    energies, bias = rng.uniform(0, 1, count), 0.3
    drift = initial = float(rng.uniform(0, 2))
    for energy in energies:
        drift = theory.refreshed(alpha, drift) + energy * rng.uniform() + bias * alpha * rng.uniform()
    assert drift <= theory.accumulated_upper(alpha, energies.tolist(), initial, bias / alpha)


def test_two_sided_accumulation_fails_as_printed():
    """With errors that can be summed the needed constant grows without end; the additive form needs none."""
    energies = [0.04 * 0.5**i for i in range(161)]
    needed = [theory.two_sided_constant(0.1, energies[: n + 1], 1.0, 0.25) for n in (10, 20, 40, 80, 160)]
    assert needed[0] == pytest.approx(26.84, rel=0.01)
    assert needed[-1] > 1e13 * needed[0]
    assert all(a < b for a, b in zip(needed, needed[1:], strict=False))
    assert theory.accumulated_upper(0.1, energies, 0.25, bias=1.0) < 1 + 1e-6


@given(share=st.floats(0, 0.98), factor=st.floats(0.5, 1.02), generation=st.integers(1, 40))
def test_augmentation_shrinkage_solves_its_recursion(share, factor, generation):
    variance = factor
    for _ in range(generation - 1):
        variance = factor * (1 - share + share * variance)
    assert theory.augmentation_shrinkage(share, factor, generation) == pytest.approx(variance, rel=1e-6)


def test_unbiased_augmentation_does_not_collapse():
    """With a sampler of hardly any error the squared drift grows as `augmentation_noise` says: at most 3/2."""
    config = CollapseConfig.of("gaussian", steps=48, solver="heun", repeats=500, generations=20, n=400, levels=(1.0,))
    loop, state, drift = GaussianLoop(config), {}, []
    for g in range(1, 21):
        state, rows = loop.generation(g, Cell(method="standard", level=1.0), state)
        drift.append(np.mean([row["cov_drift"] ** 2 for row in rows]))
    assert np.mean(drift[8:]) / drift[0] == pytest.approx(theory.augmentation_noise(0.5), rel=0.12)
    assert theory.augmentation_noise(0.5) == pytest.approx(4 / 3)
    assert theory.augmentation_noise(1 - 1e-9) == pytest.approx(1.5)


def test_quadrature_of_one_kernel_step_against_closed_forms():
    """alpha = 1: q is the data itself; with its centres far apart each component is a Gaussian on its own."""
    bounds = kde_theory.generation_bounds(1.0, 0, 0.3, pairs=0)
    kept = math.exp(-kde_theory.T0)
    v, w = (x * kept + 1 - kept for x in (0.36 + 0.09, 0.36))
    assert bounds.kl == pytest.approx(10 * (v / w - 1 - math.log(v / w)) / 2, rel=1e-4)
    assert bounds.chi2 == pytest.approx((w / math.sqrt(v * (2 * w - v))) ** 10 - 1, rel=5e-4)
    assert bounds.drift == bounds.refreshed == pytest.approx(0, abs=1e-9)


def test_score_energy_and_kl_are_one_identity():
    """Both sides of proposition 3.1 come from different integrals and differ by what is left at T alone."""
    bounds = kde_theory.generation_bounds(0.5, 1, 0.3, pairs=0)
    assert bounds.kl == pytest.approx(theory.kl_upper(bounds.energy_learned) + bounds.kl_rest, rel=1e-3)
    assert bounds.refreshed == pytest.approx(theory.refreshed(0.5, bounds.drift), rel=1e-9)
    assert bounds.holds["kl_upper"]


def test_chi2_is_infinite_where_tails_are_too_wide():
    far = kde_theory.generation_bounds(0.5, 2, 0.6, pairs=0)
    assert far.drift is None
    assert far.refreshed is None
    assert far.chi2 is not None


def test_observability_of_a_kernel_step():
    """Nearly all of a kernel's error can be seen at the end; half of it cannot be."""
    trained, learned = kde_theory.mixed(0.5, 1, 0.2), kde_theory.law_of(0.5, 2, 0.2)
    eta, se = kde_theory.observability(trained, learned, pairs=600, seed=1)
    assert 0.7 < eta - 2 * se < eta + 2 * se < 1.3


def test_score_is_the_gradient_of_the_log_density():
    law, rng = kde_theory.law_of(0.5, 3, 0.6).at(0.1), np.random.default_rng(0)
    x, step = rng.standard_normal((5, 10)), 1e-5

    def log_density(points):
        centres = kde_theory.CENTRES * law.shrink
        parts = [
            w / 5 * stats.multivariate_normal(c, v * np.eye(10)).pdf(points)
            for c in centres
            for w, v in zip(law.weights, law.variances, strict=True)
        ]
        return np.log(sum(parts))

    for axis in (0, 1, 7):
        move = step * np.eye(10)[axis]
        slope = (log_density(x + move) - log_density(x - move)) / (2 * step)
        assert kde_theory.score(law, x)[:, axis] == pytest.approx(slope, rel=1e-4, abs=1e-6)
