"""Unequal Gaussians in 2-D and a small network: the smallest loop whose models are trained.

The networks of all repeats are one: the same layers with weights of their own per repeat, multiplied in batches.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from fairsims.collapse.config import Cell, CollapseConfig
from fairsims.collapse.loop import Loop, Row, State
from fairsims.collapse.measures import FloatArray, point_measures
from fairsims.models import SIMSGuidance
from fairsims.models.base import Denoiser
from fairsims.models.sampling import SamplerConfig, solve
from fairsims.seeds import numpy_generator, torch_generator

CENTRES = np.array([[-2.0, 0.0], [1.0, 1.8], [1.0, -1.8]])
SHARES = np.array([0.6, 0.3, 0.1])
STD = 0.4
"""Three modes, one of them a minority of 10%: its share is what a loop may lose."""
BATCH = 256
LR = 3e-3
FREQUENCIES = 4
WIDTH = 64


class RepeatedMLP(Denoiser):
    """D(x; sigma) = c_skip x + c_out F(c_in x, ln(sigma) / 4), one multilayer perceptron F for each of R repeats.

    Preconditioned as EDM is (Karras et al. 2022, arXiv 2206.00364, table 1). x `(R, B, 2)`, sigma `()` or `(R, B, 1)`.
    """

    def __init__(self, repeats: int, width: int, generator: torch.Generator, *, sigma_data: float = 1.6) -> None:
        super().__init__()
        self.sigma_data, self.width = sigma_data, width
        self.img_channels, self.img_resolution = 2, 1
        self.sigma_min, self.sigma_max = 0.01, 20.0
        sizes = [2 + 2 * FREQUENCIES, width, width, width, 2]
        self.weights = nn.ParameterList(
            torch.randn(repeats, a, b, generator=generator) * math.sqrt(2 / a)
            for a, b in zip(sizes, sizes[1:], strict=False)
        )
        self.biases = nn.ParameterList(torch.zeros(repeats, 1, b) for b in sizes[1:])
        with torch.no_grad():
            self.weights[-1].mul_(0.1)

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        s = sigma.to(x).reshape(1, 1, 1) if sigma.ndim == 0 else sigma
        total = s**2 + self.sigma_data**2
        phase = (s.log() / 4).expand(*x.shape[:2], 1) * torch.arange(1, FREQUENCIES + 1).to(x)
        h = torch.cat([x * total.rsqrt(), phase.cos(), phase.sin()], dim=-1)
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            h = nn.functional.silu(h) if k < len(self.weights) - 1 else h
        return x * (self.sigma_data**2 / total) + h * (s * self.sigma_data * total.rsqrt())


class MixtureLoop(Loop):
    """The setting `mixture`. A generation's state is what it made and the fixed real set."""

    headline = "sliced_w2"

    def __init__(self, config: CollapseConfig) -> None:
        super().__init__(config)
        self.sampler = SamplerConfig(steps=config.steps, solver=config.solver)

    def generation(self, g: int, cell: Cell, state: State) -> tuple[State, list[Row]]:
        config, seed = self.config, self.config.seed
        parts = config.composition(cell.level, g, self.n)
        rng = numpy_generator(seed, "fresh", g)
        real = state["real"] if state else self._data(self.n, numpy_generator(seed, "real"))
        trained = [real[:, : parts.fixed], self._data(parts.fresh, rng)]
        if parts.synthetic:
            # More than were kept are drawn with repetition.
            made, pick = state["made"], numpy_generator(seed, "pick", g)
            n, kept = parts.synthetic, state["made"].shape[1]
            trained.append(made[:, pick.permutation(kept)[:n] if n <= kept else pick.integers(kept, size=n)])
        base = RepeatedMLP(config.repeats, config.width or WIDTH, torch_generator(seed, "init", g))
        fit(base, np.concatenate(trained, axis=1), config.kimg, (seed, "train", g))
        model: Denoiser = base
        if cell.method == "sims":
            model = SIMSGuidance(base, self._auxiliary(base, g), config.omega)
        size = max(self.n, config.samples, config.composition(cell.level, 2, self.n).synthetic)
        made = self._sample(model, size, (seed, "made", g))
        fresh = numpy_generator(seed, "measure", g)
        rows = [
            point_measures(points, draw_mixture(config.samples, fresh), CENTRES, fresh)
            for points in made[:, : config.samples].astype(np.float64)
        ]
        return {"real": real, "made": made}, rows

    def _auxiliary(self, base: RepeatedMLP, g: int) -> RepeatedMLP:
        config = self.config
        own = self._sample(base, max(2, round(config.auxiliary_size * self.n)), (config.seed, "own", g))
        if config.auxiliary == "copy":
            aux = copy.deepcopy(base)
        else:
            aux = RepeatedMLP(config.repeats, max(1, base.width // 2), torch_generator(config.seed, "narrow", g))
        fit(aux, own, config.budget, (config.seed, "fine-tune", g), lr=LR / 3 if config.auxiliary == "copy" else LR)
        return aux

    def _data(self, n: int, rng: np.random.Generator) -> FloatArray:
        return draw_mixture(self.config.repeats * n, rng).reshape(self.config.repeats, n, 2).astype(np.float32)

    def _sample(self, model: Denoiser, n: int, seed: tuple[int | str, ...]) -> FloatArray:
        noise = torch.randn(self.config.repeats, n, 2, generator=torch_generator(*seed))
        with torch.inference_mode():
            return np.asarray(solve(model, noise, self.sampler).float().numpy())


def fit(model: RepeatedMLP, points: FloatArray, kimg: float, seed: tuple[int | str, ...], *, lr: float = LR) -> None:
    """Train on points `(R, n, 2)` with EDM's loss, Adam and a rate that falls to 0; `kimg` thousand per repeat."""
    data, generator = torch.as_tensor(points, dtype=torch.float32), torch_generator(*seed)
    repeats, n = data.shape[:2]
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    steps = math.ceil(kimg * 1000 / BATCH)
    each = torch.arange(repeats)[:, None]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        x = data[each, torch.randint(n, (repeats, BATCH), generator=generator)]
        sigma = (torch.randn(repeats, BATCH, 1, generator=generator) * 1.5 - 0.5).exp()
        noise = torch.randn(x.shape, generator=generator) * sigma
        weight = (sigma**2 + model.sigma_data**2) / (sigma * model.sigma_data) ** 2
        # Summed over repeats: their weights are separate, and so are their gradients.
        loss = (weight * (model(x + noise, sigma) - x) ** 2).mean(dim=(1, 2)).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def draw_mixture(n: int, rng: np.random.Generator) -> FloatArray:
    """`(n, 2)` points of the data."""
    return np.asarray(CENTRES[rng.choice(3, size=n, p=SHARES)] + STD * rng.standard_normal((n, 2)))
