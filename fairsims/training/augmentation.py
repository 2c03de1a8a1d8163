"""Non-leaky augmentation: distortions that the network is told about, so that it does not learn to make them.

Karras et al. 2022 (arXiv 2206.00364, appendix F.2), after StyleGAN2-ADA (arXiv 2006.06676). Each image gets 9 labels,
all 0 for an image left as it is, which is what sampling asks for:

| labels | distortion | drawn from |
|---|---|---|
| a0 | mirrored left to right, always considered | {0, 1} |
| a1 | mirrored top to bottom | {0, 1} |
| a2 | scaled by 2^(a2 / 5) | N(0, 1) |
| cos a3 - 1, sin a3 | rotated by a3 | U(-pi, pi) |
| a5 cos a4, a5 sin a4 | stretched by 2^(a5 / 5) along the direction a4, shrunk across | U(-pi, pi), N(0, 1) |
| a6, a7 | moved right and down by 1/8 of the side each | N(0, 1) |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

AUGMENT_DIM = 9
SCALE = 2**0.2
STRETCH = 2**0.2
SHIFT = 1 / 8


def draw_augmentation(n: int, p: float, generator: torch.Generator) -> Tensor:
    """Labels `(n, 9)` float32: each distortion but the first happens with probability p, independently."""
    uniform = torch.rand(n, 9, generator=generator)
    normal = torch.randn(n, 4, generator=generator)
    happens = (uniform[:, 4:] < p).float()
    mirror = (uniform[:, :2] < 0.5).float()
    rotation, direction = ((uniform[:, 2:4] * 2 - 1) * math.pi).unbind(1)
    flip_y, scaled, rotated, stretched, shifted = happens.unbind(1)
    columns = [
        mirror[:, 0],
        mirror[:, 1] * flip_y,
        normal[:, 0] * scaled,
        (rotation * rotated).cos() - 1,
        (rotation * rotated).sin(),
        normal[:, 1] * direction.cos() * stretched,
        normal[:, 1] * direction.sin() * stretched,
        normal[:, 2] * shifted,
        normal[:, 3] * shifted,
    ]
    return torch.stack(columns, dim=1)


def augment(images: Tensor, labels: Tensor) -> Tensor:
    """Distort images `(B, C, R, R)` in [-1, 1] as their `labels` `(B, 9)` say; the border is continued by reflection.

    Mirrored images are exact, others are interpolated.
    """
    mirrored = torch.where(labels[:, 0, None, None, None] > 0, images.flip(3), images)
    mirrored = torch.where(labels[:, 1, None, None, None] > 0, mirrored.flip(2), mirrored)
    grid = F.affine_grid(_pull_back(labels[:, 2:]), list(images.shape), align_corners=False)
    warped = F.grid_sample(mirrored, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    still = (labels[:, 2:] == 0).all(dim=1)
    return torch.where(still[:, None, None, None], mirrored, warped.clamp(-1, 1))


def _pull_back(labels: Tensor) -> Tensor:
    """`(B, 2, 3)`: for each point of the result the point of the image, both in [-1, 1] with y downwards."""
    scale, cosine, sine, along_x, along_y, right, down = labels.double().unbind(1)
    cosine, one = cosine + 1, torch.ones_like(scale)
    stretch = STRETCH ** torch.hypot(along_x, along_y)
    direction = torch.atan2(along_y, along_x)
    turn = _matrix(direction.cos(), -direction.sin(), direction.sin(), direction.cos())
    # Undone in the reverse order: moved, stretched, rotated, scaled.
    inverse_stretch = turn @ _matrix(1 / stretch, 0 * one, 0 * one, stretch) @ turn.mT
    inverse_rotation = _matrix(cosine, sine, -sine, cosine)
    inverse = (inverse_rotation @ inverse_stretch) * (SCALE**-scale)[:, None, None]
    shift = torch.stack([right, down], dim=1)[:, :, None] * 2 * SHIFT
    return torch.cat([inverse, -inverse @ shift], dim=2).to(labels.dtype)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack([torch.stack([a, b], dim=1), torch.stack([c, d], dim=1)], dim=1)
