"""The exact Gaussian loop in 2-D: models are fitted Gaussians, guided samplers affine maps, nothing is approximated.

A base is the maximum-likelihood Gaussian of its training set, whose denoiser is linear, `D(x; sigma) = m + G (x - m)`
with `G = S (S + sigma^2 I)^-1`. So is SIMS's combination of two, and each step of an ODE solver with it: what a
generation makes is exactly a Gaussian, whose moments are computed without drawing a point. Fits need the moments of
their points only, which are drawn from their exact law (Bartlett 1933). All repeats go through together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.loop import Loop, Row, State, column
from fairsims.collapse.measures import FloatArray, gaussian_chi2, gaussian_kl, gaussian_w2
from fairsims.models.sampling import sigma_schedule
from fairsims.seeds import numpy_generator

MEAN = np.zeros(2)
COV = np.array([[2.0, 1.0], [1.0, 2.0]])
"""The data: the covariance of Neon's published toy (arXiv 2510.03597, toy_appendix.ipynb); SIMS's own is not known."""
SIGMA_MIN, SIGMA_MAX = 0.002, 80.0


class Gaussians(NamedTuple):
    """One Gaussian per repeat."""

    mean: FloatArray
    """`(R, 2)`"""
    cov: FloatArray
    """`(R, 2, 2)`"""


class GaussianLoop(Loop):
    """The setting `gaussian`. A generation's state is the Gaussian it makes and the fixed real set's fit."""

    headline = "w2"

    def __init__(self, config: CollapseConfig, *, noise: bool = True) -> None:
        """Without `noise` every fit is of infinitely many points: the loop's deterministic part, for any cell."""
        super().__init__(config)
        self.noise, repeats = noise, config.repeats if noise else 1
        self.sigmas = sigma_schedule(config.steps, SIGMA_MIN, SIGMA_MAX).numpy()
        self.data = Gaussians(np.broadcast_to(MEAN, (repeats, 2)), np.broadcast_to(COV, (repeats, 2, 2)))

    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        config, parts = self.config, self.config.composition(cell.level, g, self.n)
        sims = cell.method == "sims"
        real = Gaussians(state["real_mean"], state["real_cov"]) if state else self._fit(self.data, self.n, "real")
        trained = [(real, parts.fixed)]
        if parts.fresh:
            trained.append((self._fit(self.data, parts.fresh, "fresh", g), parts.fresh))
        if parts.synthetic:
            last = Gaussians(state["mean"], state["cov"])
            trained.append((self._fit(last, parts.synthetic, "generation", g), parts.synthetic))
        base = pooled(trained)
        aux = self._auxiliary(base, g) if sims else base
        made = self._sampled(base, aux, config.omega if sims else 0.0)
        kept = {"real_mean": real.mean, "real_cov": real.cov}
        return kept | {"mean": made.mean, "cov": made.cov}, rows(made)

    def theory(self, cell: Cell) -> list[float] | None:
        """The drift without sampling noise."""
        exact = GaussianLoop(self.config, noise=False).generations(cell)
        return [float(column(of, self.headline)[0]) for of in exact]

    def _auxiliary(self, base: Gaussians, g: int) -> Gaussians:
        """A copy of the base on its way to the fit of the base's own samples: after B time constants 1 - e^-B of it."""
        own = self._fit(self._sampled(base, base, 0.0), round(self.config.auxiliary_size * self.n), "auxiliary", g)
        kappa = -math.expm1(-self.config.budget)
        return Gaussians(base.mean + kappa * (own.mean - base.mean), base.cov + kappa * (own.cov - base.cov))

    def _sampled(self, base: Gaussians, aux: Gaussians, omega: float) -> Gaussians:
        return sampled(base, aux, omega, self.sigmas, heun=self.config.solver == "heun")

    def _fit(self, law: Gaussians, n: int, *use: int | str) -> Gaussians:
        return drawn_fit(law, n, numpy_generator(self.config.seed, *use)) if self.noise else law


def rows(made: Gaussians) -> list[Row]:
    """Measures of each repeat's Gaussian against the data."""
    columns = {
        "w2": gaussian_w2(*made, MEAN, COV),
        "kl": gaussian_kl(*made, MEAN, COV),
        "chi2": gaussian_chi2(*made, MEAN, COV),
        "mean_drift": np.linalg.norm(made.mean - MEAN, axis=1),
        "cov_drift": np.linalg.norm(made.cov - COV, axis=(1, 2)) / np.linalg.norm(COV),
        "variance_ratio": np.trace(made.cov, axis1=1, axis2=2) / np.trace(COV),
    }
    return [dict(zip(columns, map(float, values), strict=True)) for values in zip(*columns.values(), strict=True)]


def drawn_fit(law: Gaussians, n: int, rng: np.random.Generator) -> Gaussians:
    """Maximum-likelihood Gaussian of `n` points of each law, drawn as moments: mean ~ N(m, S / n), n cov ~ Wishart."""
    repeats = len(law.mean)
    factor = np.linalg.cholesky(law.cov)
    mean = law.mean + np.einsum("rij,rj->ri", factor, rng.standard_normal((repeats, 2))) / math.sqrt(n)
    bartlett = np.zeros((repeats, 2, 2))
    bartlett[:, 0, 0] = np.sqrt(rng.chisquare(n - 1, repeats))
    bartlett[:, 1, 1] = np.sqrt(rng.chisquare(max(n - 2, 1), repeats))
    bartlett[:, 1, 0] = rng.standard_normal(repeats)
    half = factor @ bartlett
    return Gaussians(mean, half @ half.transpose(0, 2, 1) / n)


def pooled(parts: list[tuple[Gaussians, int]]) -> Gaussians:
    """Maximum-likelihood Gaussian of sets of points together, from each set's own fit and size."""
    total = sum(n for _, n in parts)
    mean = sum(g.mean * (n / total) for g, n in parts)
    cov = sum((g.cov + (g.mean - mean)[:, :, None] * (g.mean - mean)[:, None, :]) * (n / total) for g, n in parts)
    return Gaussians(np.asarray(mean), np.asarray(cov))


def sampled(base: Gaussians, aux: Gaussians, omega: float, sigmas: FloatArray, *, heun: bool) -> Gaussians:
    """What the deterministic sampler makes of SIMS's guidance (1 + omega) D_base - omega D_aux: exactly, as moments.

    A step of Euler or Heun (Karras et al. 2022, arXiv 2206.00364, algorithm 1) from sigma to the next is an affine map;
    the sampler is their product, applied to N(0, sigma_max^2 I). `sigmas` `(N + 1,)` fall to 0.
    """
    levels = sigmas[:-1]
    slope, shift = (x * (1 + omega) for x in denoiser_map(base, levels))
    if omega:
        slope_aux, shift_aux = denoiser_map(aux, levels)
        slope, shift = slope - omega * slope_aux, shift - omega * shift_aux
    # The ODE's velocity (x - D(x)) / sigma as a matrix on (x, 1).
    velocity = np.zeros((*slope.shape[:2], 3, 3))
    velocity[..., :2, :2] = (np.eye(2) - slope) / levels[:, None, None, None]
    velocity[..., :2, 2] = -shift / levels[:, None, None]
    step = (sigmas[1:] - levels)[:, None, None, None]
    maps = np.eye(3) + step * velocity
    if heun:
        # The last step, to 0, stays Euler's.
        maps[:-1] = np.eye(3) + step[:-1] / 2 * (velocity[:-1] + velocity[1:] @ maps[:-1])
    whole = maps[0]
    for following in maps[1:]:
        whole = following @ whole
    spread = whole[:, :2, :2] * sigmas[0]
    return Gaussians(whole[:, :2, 2], spread @ spread.transpose(0, 2, 1))


def denoiser_map(law: Gaussians, levels: FloatArray) -> tuple[FloatArray, FloatArray]:
    """D(x; sigma) = K x + k at every noise level, K = (S + sigma^2 I)^-1 S: `(N, R, 2, 2)` and `(N, R, 2)`."""
    noisy = law.cov + (levels**2)[:, None, None, None] * np.eye(2)
    slope = np.asarray(np.linalg.solve(noisy, np.broadcast_to(law.cov, noisy.shape)), dtype=np.float64)
    return slope, law.mean - (slope @ law.mean[..., None])[..., 0]
