"""What a network is trained on: a batch of images with the noise drawn for them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A step's images, or a part of them: B rows."""

    images: Tensor
    """`(B, C, H, W)` float32 in [-1, 1]."""
    sigma: Tensor
    """Noise levels, `(B,)`."""
    noise: Tensor
    """Standard normal, of images' shape."""
    labels: Tensor | None = None
    """One-hot classes `(B, label_dim)`, for a class-conditional network."""
    augment_labels: Tensor | None = None
    """How the images were distorted, `(B, 9)`."""

    def part(self, start: int, stop: int) -> Batch:
        """Rows start to stop - 1."""
        return Batch(**{name: tensor[start:stop] for name, tensor in vars(self).items() if tensor is not None})
