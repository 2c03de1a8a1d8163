"""From noise to images: the levels, the solver and the noise that is added on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairsims.models.base import Denoiser
from fairsims.models.solvers import FEW, SOLVERS
from fairsims.options import check_choices, choice
from fairsims.seeds import derive, noise_for


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a denoiser is turned into images: the solver, its noise levels and its added noise.

    Raises ValueError for a setting that is not possible.

    >>> SamplerConfig(steps=12).facts()["solver"]
    'dpmpp2m'
    """

    solver: str = choice(*SOLVERS)
    """Solver of the sampling ODE.

    `fairsims.models.solvers` says what each is, and what it costs."""
    steps: int = 10
    """Noise levels of the sampler."""
    schedule: str = choice("polynomial", "logsnr")
    """Where the noise levels lie: even in sigma^(1/rho), or in log sigma."""
    sigma_min: float | None = None
    """Lowest noise level; the denoiser's own when None."""
    sigma_max: float | None = None
    """Highest noise level, where sampling starts; the denoiser's own when None."""
    rho: float = 7.0
    """Exponent of the polynomial schedule: larger puts more of the levels near sigma_min."""
    S_churn: float = 0.0
    """Noise added over the whole trajectory; 0 is the deterministic sampler. With heun and euler."""
    S_min: float = 0.0
    """Lowest noise level at which noise is added."""
    S_max: float = math.inf
    """Highest noise level at which noise is added."""
    S_noise: float = 1.0
    """Standard deviation of the added noise, relative to what the level asks for."""

    def __post_init__(self) -> None:
        check_choices(self)
        if self.steps < 2:
            raise ValueError(f"steps is {self.steps}; expected 2 or more")
        for name in ("rho", "S_noise"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected a positive number")
        if not self.S_churn >= 0:
            raise ValueError(f"S_churn is {self.S_churn}; expected 0 or more")
        if not 0 <= self.S_min <= self.S_max:
            raise ValueError(
                f"S_min is {self.S_min} and S_max {self.S_max}; expected two noise levels, the lower first"
            )
        if self.S_churn and not SOLVERS[self.solver].noisy:
            noisy = " or ".join(name for name, solver in SOLVERS.items() if solver.noisy)
            raise ValueError(f"S_churn is {self.S_churn}; expected 0 with {self.solver}, use {noisy} to add noise")

    @property
    def advice(self) -> str | None:
        """What to take in place of a solver that is worse than a cheaper one; None where there is nothing to say."""
        if self.solver == "heun" and not self.S_churn and self.steps <= FEW:
            cost = 2 * self.steps - 1
            return (
                f"heun at {self.steps} levels costs {cost} evaluations an image and is less exact than dpmpp2m for as "
                f"many; --solver dpmpp2m --steps {cost} costs the same"
            )
        return None

    def sigmas(self, denoiser: Denoiser) -> Tensor:
        """The schedule for a denoiser, `(steps + 1,)` float64; levels that round to the same one are visited once."""
        low, high = self.sigma_min or denoiser.sigma_min, self.sigma_max or denoiser.sigma_max
        # The limit of the polynomial as rho grows.
        levels = sigma_schedule(self.steps, low, high, math.inf if self.schedule == "logsnr" else self.rho)
        return torch.cat([torch.unique(denoiser.round_sigma(levels[:-1])).flip(0), levels[-1:]])

    def gamma(self, sigma: float, count: int) -> float:
        """Relative increase of a noise level by added noise (Algorithm 2), `count` levels in all."""
        inside = self.S_churn > 0 and self.S_min <= sigma <= self.S_max
        return min(self.S_churn / count, math.sqrt(2) - 1) if inside else 0.0

    def evaluations(self, denoiser: Denoiser) -> int:
        """Network forwards an image costs (NFE), two networks counted as two where both are called."""
        sigmas, visited = self.sigmas(denoiser), list[float]()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            visited.append(float(sigma))
            return x

        # The solver itself tells which levels it visits: it is run on a single number.
        SOLVERS[self.solver].solve(
            denoise, sigmas[0], sigmas, lambda x, sigma, step: (x, self.raised(denoiser, sigma, len(sigmas) - 1))
        )
        return sum(map(denoiser.evaluations_at, visited))

    def raised(self, denoiser: Denoiser, sigma: Tensor, count: int) -> Tensor:
        """The level that added noise raises `sigma` to, `count` levels in all: sigma itself where none is added."""
        gamma = self.gamma(float(sigma), count)
        return denoiser.round_sigma(sigma * (1 + gamma)) if gamma else sigma

    def facts(self) -> dict[str, Any]:
        """What decides the images, for `pool.json`; the settings of added noise only where some is added."""
        churn = ("S_churn", "S_min", "S_max", "S_noise") if self.S_churn else ()
        spaced = ("rho",) if self.schedule == "polynomial" else ("schedule",)
        found = {name: getattr(self, name) for name in ("solver", "steps", *spaced, *churn)}
        return {k: (str(v) if v == math.inf else v) for k, v in found.items()}


def sigma_schedule(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """`steps` falling noise levels and a final 0, `(steps + 1,)` float64 (eq. 5); evenly spaced logarithms where rho
    is infinite."""
    i = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    if rho == math.inf:
        levels = sigma_max * (sigma_min / sigma_max) ** i
    else:
        levels = (sigma_max ** (1 / rho) + i * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([levels, levels.new_zeros(1)])


def solve(
    denoiser: Denoiser,
    noise: Tensor,
    sampler: SamplerConfig,
    *,
    seeds: Sequence[int] = (),
    labels: Tensor | None = None,
    sigmas: Tensor | None = None,
) -> Tensor:
    """Images from standard normal `noise` `(B, ...)`: x0 in float64, around a network that sees noise's own type.

    `seeds` `(B,)` are needed where the sampler adds noise: image i gets noise of its own from `seeds[i]`. `sigmas`
    `(N + 1,)`, falling to 0, take the place of the sampler's own schedule.
    """
    # On the CPU, as single numbers: what depends on a level can then be decided without waiting for a GPU.
    sigmas = (sampler.sigmas(denoiser) if sigmas is None else sigmas.double()).cpu()
    if sampler.S_churn and len(seeds) != len(noise):
        raise ValueError(f"got {len(seeds)} seeds for {len(noise)} images; expected one each to add noise from")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return denoiser(x.to(noise.dtype), sigma.to(noise.dtype), labels).double()

    def add_noise(x: Tensor, sigma: Tensor, step: int) -> tuple[Tensor, Tensor]:
        raised = sampler.raised(denoiser, sigma, len(sigmas) - 1)
        if raised is sigma:
            return x, sigma
        fresh = noise_for([derive("churn", int(s), step) % 2**32 for s in seeds], x.shape[1:]).to(x)
        return x + (raised**2 - sigma**2).clamp(min=0).sqrt() * sampler.S_noise * fresh, raised

    return SOLVERS[sampler.solver].solve(denoise, noise.double() * sigmas[0], sigmas, add_noise)
