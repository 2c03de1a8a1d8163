"""Random changes of training images that leave the attribute alone, on whole batches, from one generator."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Strength of each change; 0 turns it off. Generated images are a little off in all of these."""

    flip: bool = True
    """Mirror with probability 1/2."""
    shift: float = 3.0
    """Largest translation, pixels."""
    rotation: float = 0.12
    """Standard deviation, radians."""
    zoom: float = 0.1
    """Standard deviation of ln(scale)."""
    hue: float = 0.6
    """Standard deviation of the rotation about the grey axis, radians; half as often a rotation by any angle."""
    saturation: float = 0.4
    """Standard deviation of ln(factor)."""
    grey: float = 0.2
    """Share of images without colour."""
    light: float = 0.2
    """Standard deviation of ln(gamma), of ln(contrast) and, times 0.75, of brightness."""
    recolour: float = 0.0
    """Share of images mixed with a random smooth map of their colours."""
    blur: float = 0.3
    """Share of images mixed with their 3x3 mean."""
    noise: float = 0.12
    """Largest standard deviation of white noise, added to half of the images, data units ([-1, 1])."""
    erase: float = 0.5
    """Share of images with a flat rectangle of up to 3/4 of the side pasted in."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"augment is {name}={value}; expected 0 or more")


def augment(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """float32 `(B, C, H, W)` in [-1, 1] to the same, changed."""
    x = _moved(x, settings, generator)
    if x.shape[1] == 3:
        x = _coloured(x, settings, generator)
    x = _lit(x, settings, generator)
    if settings.recolour:
        x = _recoloured(x, settings, generator)
    return _erased(_degraded(x, settings, generator), settings, generator)


def _moved(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    n = len(x)
    angle = torch.randn(n, generator=g) * s.rotation
    scale = torch.exp(torch.randn(n, generator=g) * s.zoom)
    aspect = torch.exp(torch.randn(n, generator=g) * s.zoom / 2)
    mirror = torch.where(_chance(n, 0.5 if s.flip else 0.0, g), -1.0, 1.0)
    theta = torch.empty(n, 2, 3)
    theta[:, 0, 0] = angle.cos() * scale * aspect * mirror
    theta[:, 0, 1] = -angle.sin() * scale
    theta[:, 1, 0] = angle.sin() * scale * mirror
    theta[:, 1, 1] = angle.cos() * scale / aspect
    theta[:, :, 2] = (torch.rand(n, 2, generator=g) * 2 - 1) * (2 * s.shift / x.shape[-1])
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _coloured(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    """Hue: rotation about (1, 1, 1) by Rodrigues' formula; saturation: blend with the projection on that axis."""
    n = len(x)
    angle = torch.randn(n, generator=g) * s.hue
    anywhere = torch.rand(n, generator=g) * 2 * math.pi
    angle = torch.where(_chance(n, s.hue / 2, g), anywhere, angle)
    saturation = torch.exp(torch.randn(n, generator=g) * s.saturation)
    saturation = torch.where(_chance(n, s.grey, g), torch.zeros(n), saturation)[:, None, None]
    axis = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    turn = cos * torch.eye(3) + (1 - cos) * axis + sin * cross
    changed = torch.einsum("bij,bjhw->bihw", saturation * turn + (1 - saturation) * axis, x)
    return _some(_chance(n, 0.8, g), changed.clamp(-1, 1), x)


def _lit(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    n = len(x)
    gamma, contrast = (torch.exp(torch.randn(n, 1, 1, 1, generator=g) * s.light) for _ in range(2))
    brightness = torch.randn(n, 1, 1, 1, generator=g) * s.light * 0.75
    changed = ((x.clamp(-1, 1) + 1) / 2).pow(gamma) * 2 - 1
    return _some(_chance(n, 0.8, g), (changed * contrast + brightness).clamp(-1, 1), x)


def _recoloured(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    """A random sum of 16 sinusoids of the colour: keeps edges, changes every flat area in its own way."""
    n, c = x.shape[:2]
    waves = torch.randn(n, c, 16, generator=g) * 1.5
    phases = torch.rand(n, 16, 1, 1, generator=g) * 2 * math.pi
    amplitudes = torch.randn(n, 16, c, generator=g) * 0.35
    mapped = torch.einsum("bkhw,bkc->bchw", torch.sin(torch.einsum("bchw,bck->bkhw", x, waves) + phases), amplitudes)
    part = torch.rand(n, 1, 1, 1, generator=g)
    return _some(_chance(n, s.recolour, g), torch.lerp(x, mapped, part).clamp(-1, 1), x)


def _degraded(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    n = len(x)
    smooth = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    part = torch.rand(n, generator=g) * _chance(n, s.blur, g)
    level = torch.rand(n, generator=g) * _chance(n, 0.5, g) * s.noise
    noise = torch.randn(x.shape, generator=g)
    return torch.lerp(x, smooth, part[:, None, None, None]) + noise * level[:, None, None, None]


def _erased(x: Tensor, s: Augmentation, g: torch.Generator) -> Tensor:
    n, c, height, width = x.shape
    centre = torch.rand(n, 2, generator=g) * torch.tensor([height, width])
    half = (0.1 + 0.275 * torch.rand(n, 2, generator=g)) * torch.tensor([height, width])
    rows = (torch.arange(height) - centre[:, :1]).abs() < half[:, :1]
    columns = (torch.arange(width) - centre[:, 1:]).abs() < half[:, 1:]
    hidden = rows[:, :, None] & columns[:, None, :] & _chance(n, s.erase, g)[:, None, None]
    colour = torch.rand(n, c, 1, 1, generator=g) * 2 - 1
    return torch.where(hidden[:, None], colour.expand_as(x), x)


def _chance(n: int, probability: float, g: torch.Generator) -> Tensor:
    return torch.rand(n, generator=g) < probability


def _some(chosen: Tensor, changed: Tensor, x: Tensor) -> Tensor:
    return torch.where(chosen[:, None, None, None], changed, x)
