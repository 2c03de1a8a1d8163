"""How this machine rounds: whether digests recorded elsewhere can be expected bit for bit."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn


def rounding_of_this_machine() -> str:
    """SHA-256 over what the kernels of a small network and its gradients give.

    Processors, numbers of threads and versions of torch differ in the order in which they add. Where this digest is
    another than the recorded one, images can be compared up to a grey level only.
    """
    digest = hashlib.sha256()
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    for channels, size in ((32, 8), (48, 16), (96, 8)):
        x = random(128, channels, size, size).requires_grad_(True)
        first, linear = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(channels, 4 * channels)
        with torch.no_grad():
            for parameter in (*first.parameters(), *linear.parameters()):
                parameter.copy_(random(*parameter.shape) / channels)
        hidden = nn.functional.silu(nn.functional.group_norm(first(x), 8))
        rows = hidden.flatten(2).transpose(1, 2)
        attended = nn.functional.scaled_dot_product_attention(rows, rows, rows)
        out = linear(attended).exp().mean() + hidden.double().square().mean().sqrt()
        out.backward()
        for tensor in (hidden, attended, out, x.grad, first.weight.grad, linear.weight.grad):
            assert tensor is not None
            digest.update(tensor.detach().contiguous().numpy().tobytes())
    return digest.hexdigest()
