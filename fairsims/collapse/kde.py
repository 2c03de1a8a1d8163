"""Kernel-density generations: the experiment of arXiv 2602.16601 (appendix on the Gaussian mixture), and SIMS in it.

Data: five equal Gaussians of standard deviation 0.6 in 10-D, one at the origin and four at (+-4, +-4) in the first two
dimensions. A model is its training set with kernels of bandwidth h: its samples are training points plus h times
standard noise, drawn exactly. With SIMS the auxiliary's kernels sit on samples of the base, and the guided sampler runs
over both sets' exact denoisers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fairsims.collapse.config import Cell
from fairsims.collapse.loop import Loop, Row, State
from fairsims.collapse.measures import FloatArray, mode_shares, sliced_w2
from fairsims.collapse.theory import kde_variance
from fairsims.models import SIMSGuidance
from fairsims.models.base import Denoiser
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.seeds import numpy_generator

DIMENSION, SIGMA = 10, 0.6
CENTRES = np.zeros((5, DIMENSION))
CENTRES[1:, :2] = [(-4, -4), (-4, 4), (4, -4), (4, 4)]
BETWEEN = float((CENTRES**2).sum(axis=1).mean())
"""Second moment of the centres: 25.6."""
SECOND_MOMENT = BETWEEN + DIMENSION * SIGMA**2
BLOCK = 512
SIGMA_MIN, SIGMA_MAX = 0.05, 20.0
"""Noise levels of the guided sampler: a narrow range, since coarse steps widen what they make."""


class KernelDenoiser(Denoiser):
    """E[x0 | x] of a kernel density estimate: points `(N, d)`, bandwidth h; x of shape `(B, d)`, sigma `()`."""

    def __init__(self, points: FloatArray, h: float) -> None:
        super().__init__()
        self.points, self.h = torch.as_tensor(points), h
        self.img_channels, self.img_resolution = points.shape[1], 1

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        rows = x.to(self.points)
        blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
        return torch.cat([self._posterior_mean(block, float(sigma)) for block in blocks]).to(x)

    def _posterior_mean(self, x: Tensor, sigma: float) -> Tensor:
        variance = self.h**2 + sigma**2
        gain = self.h**2 / variance
        nearness = (-(torch.cdist(x, self.points) ** 2) / (2 * variance)).softmax(dim=1)
        return (1 - gain) * (nearness @ self.points) + gain * x


class KernelLoop(Loop):
    """The setting `kde`. A generation's state is the kernels' centres; with SIMS what the guided sampler made."""

    headline = "second_moment_drift"

    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        made, rows, real = [], [], []
        parts = self.config.composition(cell.level, g, self.n)
        for r in range(self.config.repeats):
            rng = numpy_generator(self.config.seed, "repeat", r, "generation", g)
            fixed = state["real"][r] if state else draw_data(self.n, rng)
            trained = [fixed[: parts.fixed], draw_data(parts.fresh, rng)]
            if parts.synthetic:
                trained.append(self._samples(state["made"][r], parts.synthetic, rng, cell))
            points = np.concatenate(trained)
            made.append(points if cell.method == "standard" else self._guided(points, rng))
            real.append(fixed)
            # 0 where the points are samples themselves and no kernel comes on top.
            rows.append(
                measured(made[-1], self.config.h if cell.method == "standard" else 0.0, self.config.samples, rng)
            )
        # Loops without a fixed set need no real points later.
        kept = np.stack(real) if self.config.loop == "augmentation" else np.zeros((self.config.repeats, 0, DIMENSION))
        return {"made": np.stack(made), "real": kept}, rows

    def _samples(self, state: FloatArray, n: int, rng: np.random.Generator, cell: Cell) -> FloatArray:
        if cell.method == "standard":
            return draw_kernels(state, self.config.h, n, rng)
        # As many as the guided sampler made, or again from those when more are asked for.
        return np.asarray(state[rng.permutation(len(state))[:n]] if n <= len(state) else rng.choice(state, n))

    def _guided(self, points: FloatArray, rng: np.random.Generator) -> FloatArray:
        config = self.config
        own = draw_kernels(points, config.h, max(2, round(config.auxiliary_size * self.n)), rng)
        guided = SIMSGuidance(KernelDenoiser(points, config.h), KernelDenoiser(own, config.h), config.omega)
        noise = torch.from_numpy(rng.standard_normal((self.n, DIMENSION)))
        sampler = SamplerConfig(steps=config.steps, solver=config.solver, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
        with torch.inference_mode():
            return np.asarray(solve(guided, noise, sampler).numpy())

    def theory(self, cell: Cell) -> list[float] | None:
        """The drift by the closed-form variance; there is none with a fixed real set."""
        if cell.method != "standard" or self.config.loop == "augmentation":
            return None
        alpha = cell.level if self.config.loop == "fresh" else 0.0
        generations = range(1, self.config.generations + 1)
        return [
            DIMENSION * (kde_variance(SIGMA, self.config.h, alpha, g) - SIGMA**2) / SECOND_MOMENT for g in generations
        ]


def draw_data(n: int, rng: np.random.Generator) -> FloatArray:
    """`(n, 10)` points of the data."""
    return np.asarray(CENTRES[rng.integers(5, size=n)] + SIGMA * rng.standard_normal((n, DIMENSION)))


def draw_kernels(points: FloatArray, h: float, n: int, rng: np.random.Generator) -> FloatArray:
    """`n` samples of a kernel density estimate."""
    return np.asarray(points[rng.integers(len(points), size=n)] + h * rng.standard_normal((n, DIMENSION)))


def measured(points: FloatArray, h: float, samples: int, rng: np.random.Generator) -> Row:
    """Measures of a model with kernels at `points` (its samples themselves where h is 0).

    The second moment is the model's own, not that of samples: `E|x|^2 = mean |x_i|^2 + d h^2`.
    """
    second = float((points**2).sum(axis=1).mean()) + DIMENSION * h**2
    few = draw_kernels(points, h, samples, rng)
    return {
        "second_moment_drift": second / SECOND_MOMENT - 1,
        "within_variance": (second - BETWEEN) / DIMENSION,
        "sliced_w2": sliced_w2(few, draw_data(samples, rng), rng),
        "mean_drift": float(np.linalg.norm(points.mean(axis=0))),
        **mode_shares(few[:, :2], CENTRES[:, :2]),
    }
