"""The bounds of arXiv 2602.16601 for its own experiment, by quadrature: both sides of each, in every generation.

Kernel generations have a closed form: with infinitely many points generation n is the data's mixture with variances
sigma^2 + a h^2, age a drawn from `age_weights`. All centres differ in two dimensions only, so every integral over 10-D
is one over a plane and a radius, and densities on that grid are a product of two small tables.

The forward diffusion is dX = -X/2 dt + dB from t0 to T (the paper's, with T = 4, t0 = 0.02). Since base and target
share it, KL falls at half the rate of the score's squared error: the Kullback-Leibler bound is here an identity up to
the little that is left at T.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fairsims.collapse import theory
from fairsims.collapse.kde import CENTRES, DIMENSION, SIGMA
from fairsims.collapse.measures import FloatArray
from fairsims.seeds import numpy_generator

T0, T = 0.02, 4.0
NODES, TIMES = 48, 20
"""Gauss-Legendre nodes: along each of the plane's two axes and the radius, and along ln t."""
TAIL_NODES = 112
"""Nodes for chi2, whose integrand reaches far beyond both densities where it only just converges."""
REST = DIMENSION - 2


@dataclass(frozen=True)
class Ages:
    """A mixture over ages: weights `(A,)`, variances `(A,)` of each, centres scaled by `shrink`."""

    weights: FloatArray
    variances: FloatArray
    shrink: float = 1.0

    def at(self, t: float) -> Ages:
        """The law after the forward diffusion has run for t."""
        kept = math.exp(-t)
        return Ages(self.weights, self.variances * kept + 1 - kept, self.shrink * math.sqrt(kept))


class Grid:
    """Nodes and weights over the quadrant x, y >= 0 (the centres are symmetric) and the radius of the other eight."""

    def __init__(self, spread: float, *, nodes: int = NODES) -> None:
        """`spread`: the largest standard deviation of what is integrated."""
        x, wx = gauss_legendre(0, 4 + 9 * spread, nodes)
        self.x, self.y = (a.ravel() for a in np.meshgrid(x, x, indexing="ij"))
        r, wr = gauss_legendre(0, 9 * spread, nodes)
        self.r = r
        sphere = 2 * math.pi ** (REST / 2) / math.gamma(REST / 2)
        self.weights = 4 * np.outer(np.outer(wx, wx).ravel(), wr * sphere * r ** (REST - 1))

    def fields(self, law: Ages) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Density and its derivatives along x, y and the radius, each `(plane, radius)`."""
        v = law.variances
        centres = CENTRES[:, :2] * law.shrink
        plane, along = np.zeros((len(self.x), len(v))), np.zeros((2, len(self.x), len(v)))
        for cx, cy in centres:
            dx, dy = self.x - cx, self.y - cy
            bump = np.exp(-(dx**2 + dy**2)[:, None] / (2 * v)) / (2 * math.pi * v * len(centres))
            plane += bump
            along[0] -= dx[:, None] / v * bump
            along[1] -= dy[:, None] / v * bump
        radial = (
            np.exp(-(self.r**2)[None] / (2 * v[:, None])) * (law.weights / (2 * math.pi * v) ** (REST / 2))[:, None]
        )
        return plane @ radial, along[0] @ radial, along[1] @ radial, plane @ (radial * (-self.r[None] / v[:, None]))

    def integral(self, values: FloatArray) -> float:
        return float((self.weights * values).sum())


@dataclass(frozen=True, kw_only=True)
class GenerationBounds:
    """Both sides of the bounds for the step from generation i to i + 1."""

    alpha: float
    generation: int
    """i"""
    kl: float
    """KL(p_{i+1} || q_i) at t0."""
    kl_rest: float
    """The same at T, where both are nearly noise."""
    energy_learned: float
    """hat-eps^2, along the learned model's paths."""
    energy: float
    """eps*^2, along the paths of q_i."""
    chi2: float | None
    """I_i; None where it is infinite."""
    observability: float
    """eta, from simulated paths."""
    observability_se: float
    refreshed: float | None
    """chi2(q_i || p) by quadrature; None where it is infinite."""
    drift: float | None
    """D_i = chi2(p_i || p)"""

    @property
    def kl_bound(self) -> float:
        return theory.kl_upper(self.energy_learned) + self.kl_rest

    @cached_property
    def holds(self) -> dict[str, bool | None]:
        """Each bound, None where it does not apply: chi2's need eps*^2 <= 1, and their remainders are left out."""
        applies = theory.perturbative(self.energy)
        chi2 = math.inf if self.chi2 is None else self.chi2
        low = theory.chi2_lower(self.observability, self.energy)
        return {
            # Quadrature in t is good to a few in a thousand.
            "kl_upper": self.kl <= self.kl_bound * 1.01,
            "chi2_lower": chi2 >= low if applies else None,
            "chi2_upper": chi2 <= theory.chi2_upper(self.energy) if applies else None,
        }

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"kl_bound": self.kl_bound, "holds": self.holds}


def generation_bounds(alpha: float, generation: int, h: float, *, pairs: int = 400, seed: int = 0) -> GenerationBounds:
    """Every quantity of one step. `pairs` of paths estimate the observability; 0 leaves it out (nan)."""
    made, trained, learned = law_of(alpha, generation, h), mixed(alpha, generation, h), law_of(alpha, generation + 1, h)
    grid = Grid(math.sqrt(float(learned.at(T0).variances.max())))
    data = law_of(alpha, 0, h)
    eta, se = observability(trained, learned, pairs, seed) if pairs else (math.nan, math.nan)
    energy, energy_learned = energies(grid, trained, learned)
    return GenerationBounds(
        alpha=alpha,
        generation=generation,
        kl=kl(grid, learned.at(T0), trained.at(T0)),
        kl_rest=kl(grid, learned.at(T), trained.at(T)),
        energy=energy,
        energy_learned=energy_learned,
        chi2=chi2(learned.at(T0), trained.at(T0)),
        observability=eta,
        observability_se=se,
        refreshed=chi2(trained.at(T0), data.at(T0)),
        drift=chi2(made.at(T0), data.at(T0)),
    )


def law_of(alpha: float, generation: int, h: float) -> Ages:
    """p_n, generation 0 being the data."""
    weights = np.ones(1) if generation == 0 else theory.age_weights(alpha, generation)
    return Ages(weights, SIGMA**2 + np.arange(generation + 1, dtype=np.float64) * h**2)


def mixed(alpha: float, generation: int, h: float) -> Ages:
    """q_n = alpha p + (1 - alpha) p_n."""
    made = law_of(alpha, generation, h)
    weights = (1 - alpha) * made.weights
    weights[0] += alpha
    return Ages(weights, made.variances)


def kl(grid: Grid, p: Ages, q: Ages) -> float:
    """KL(p || q)"""
    f, g = grid.fields(p)[0], grid.fields(q)[0]
    inside = f > 1e-290
    ratio = np.log(np.divide(f, g, out=np.ones_like(f), where=inside & (g > 0)))
    return grid.integral(np.where(inside, f * ratio, 0.0))


def chi2(p: Ages, q: Ages) -> float | None:
    """chi2(p || q); None where it is infinite: where p's largest variance V is at least twice q's, W.

    Far out the integrand p^2 / q falls like a Gaussian of variance 1 / (2 / V - 1 / W), which can be wide.
    """
    wide, wide_q = (float(law.variances[law.weights > 0].max()) for law in (p, q))
    if wide >= 2 * wide_q:
        return None
    grid = Grid(math.sqrt(max(wide, 1 / (2 / wide - 1 / wide_q))), nodes=TAIL_NODES)
    f, g = grid.fields(p)[0], grid.fields(q)[0]
    # Where both have underflowed their integrand has too: f^2 / g is at most of their size there.
    return grid.integral(np.divide((f - g) ** 2, g, out=np.zeros_like(f), where=g > 1e-300))


def energies(grid: Grid, trained: Ages, learned: Ages) -> tuple[float, float]:
    """eps*^2 and hat-eps^2: the integral over t of E |score error|^2 under the noised q and under the learned law."""
    log_t, weights = gauss_legendre(math.log(T0), math.log(T), TIMES)
    total = np.zeros(2)
    for t, w in zip(np.exp(log_t), weights, strict=True):
        q, p = grid.fields(trained.at(t)), grid.fields(learned.at(t))
        inside = (q[0] > 1e-290) & (p[0] > 1e-290)
        square = np.zeros_like(q[0])
        for dq, dp in zip(q[1:], p[1:], strict=True):
            error = np.divide(dp, p[0], out=np.zeros_like(dp), where=inside)
            error -= np.divide(dq, q[0], out=np.zeros_like(dq), where=inside)
            square += error**2
        total += w * t * np.array([grid.integral(square * q[0]), grid.integral(square * p[0])])
    return float(total[0]), float(total[1])


def observability(trained: Ages, learned: Ages, pairs: int, seed: int, steps: int = 40) -> tuple[float, float]:
    """eta = Var(E[M_T | Y_t0]) / eps*^2 (definition 3.2) with its standard error, from simulated paths.

    M is the integral of the score's error against the noise of the time-reversed diffusion of q. Reversed, such a path
    is a forward one: two forward paths from one endpoint give independent copies of M, whose product has the mean
    E[E[M | Y]^2], and E[M] = 0.
    """
    rng = numpy_generator(seed, "observability")
    start = trained.at(T0)
    age = rng.choice(len(start.weights), p=start.weights, size=pairs)
    centre = CENTRES[rng.integers(len(CENTRES), size=pairs)] * start.shrink
    y = centre + np.sqrt(start.variances[age])[:, None] * rng.standard_normal((pairs, DIMENSION))
    x = np.concatenate([y, y])
    times = np.exp(np.linspace(math.log(T0), math.log(T), steps + 1))
    martingale, energy = np.zeros(len(x)), np.zeros(len(x))
    for before, after in zip(times[:-1], times[1:], strict=True):
        kept, dt = math.exp(-(after - before)), after - before
        later = x * math.sqrt(kept) + math.sqrt(1 - kept) * rng.standard_normal(x.shape)
        truth, model = score(trained.at(after), later), score(learned.at(after), later)
        # Backwards the path moves by (x / 2 + score) dt + dB.
        noise = x - later - (later / 2 + truth) * dt
        martingale += ((model - truth) * noise).sum(axis=1)
        energy += ((model - truth) ** 2).sum(axis=1) * dt
        x = later
    product = martingale[:pairs] * martingale[pairs:]
    whole = float(energy.mean())
    return float(product.mean()) / whole, float(product.std(ddof=1)) / math.sqrt(pairs) / whole


def score(law: Ages, x: FloatArray) -> FloatArray:
    """Gradient of the log density at points `(B, 10)`."""
    gap = ((x[:, None, :] - CENTRES * law.shrink) ** 2).sum(axis=-1)
    v = law.variances
    with np.errstate(divide="ignore"):
        log = np.log(law.weights) - DIMENSION / 2 * np.log(v) - gap[:, :, None] / (2 * v)
    log -= log.max(axis=(1, 2), keepdims=True)
    parts = np.exp(log) / v
    whole = np.exp(log).sum(axis=(1, 2))[:, None]
    towards = parts.sum(axis=2) @ (CENTRES * law.shrink)
    return np.asarray((towards - parts.sum(axis=(1, 2))[:, None] * x) / whole)


def gauss_legendre(low: float, high: float, n: int) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights on [low, high]."""
    nodes, weights = np.polynomial.legendre.leggauss(n)
    return (nodes + 1) * (high - low) / 2 + low, weights * (high - low) / 2
