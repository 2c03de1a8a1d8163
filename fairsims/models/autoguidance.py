"""Guidance by another network: away from what a smaller or less trained one makes of the same noise."""

from __future__ import annotations

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.models.base import Denoiser


class AutoGuidance(Denoiser):
    """D_g(x; sigma) = D_guide(x; sigma) + g (D_main(x; sigma) - D_guide(x; sigma)).

    Karras et al. 2024, arXiv 2406.02507, eq. 3; with an unconditional guide it is classifier-free guidance. g = 1 is
    `main`, bit for bit, and never calls the guide. `interval` = (lo, hi): the guide is called only for sigma in
    [lo, hi] (Kynkäänniemi et al. 2024, arXiv 2404.07724). A guide without classes ignores the labels.
    Raises InputError when the two do not make the same kind of image.
    """

    def __init__(
        self, main: Denoiser, guide: Denoiser, g: float, *, interval: tuple[float, float] | None = None
    ) -> None:
        super().__init__()
        if main.shape != guide.shape:
            raise InputError(f"the model has the shape {main.shape}, the guide {guide.shape}; give a guide of the same")
        if guide.label_dim not in (0, main.label_dim):
            raise InputError(
                f"the guide knows {guide.label_dim} classes, the model {main.label_dim}; give a guide of the same "
                "classes, or one without"
            )
        self.main, self.guide, self.g, self.interval = main, guide, float(g), interval
        self.img_resolution, self.img_channels = main.img_resolution, main.img_channels
        self.sigma_min, self.sigma_max, self.label_dim = main.sigma_min, main.sigma_max, main.label_dim

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        found = self.main(x, sigma, labels)
        if self.g == 1 or not self._inside(sigma):
            return found
        other = self.guide(x, sigma, labels if self.guide.label_dim else None)
        return other + self.g * (found - other)

    def evaluations_at(self, sigma: float) -> int:
        both = self.g != 1 and self._inside(torch.tensor(sigma, dtype=torch.float64))
        return self.main.evaluations_at(sigma) + (self.guide.evaluations_at(sigma) if both else 0)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.main.round_sigma(sigma)

    @property
    def precision(self) -> str:
        return self.main.precision

    @precision.setter
    def precision(self, value: str) -> None:
        self.main.precision = self.guide.precision = value

    def _inside(self, sigma: Tensor) -> bool:
        if self.interval is None:
            return True
        low, high = self.interval
        return bool(((sigma >= low) & (sigma <= high)).all())
