"""Augmentation: off is the identity, on is repeatable, in range and does what its name says."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fairsims.classifiers.augment import Augmentation, augment

OFF = Augmentation(
    flip=False, shift=0, rotation=0, zoom=0, hue=0, saturation=0, grey=0, light=0, recolour=0, blur=0, noise=0, erase=0
)


def pictures(channels: int = 3, n: int = 64) -> Tensor:
    x = torch.rand(n, channels, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x.clamp(-0.999, 0.999)


def run(settings: Augmentation, x: Tensor, seed: int = 0) -> Tensor:
    return augment(x.clone(), settings, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_off_is_the_identity(channels: int) -> None:
    x = pictures(channels)
    torch.testing.assert_close(run(OFF, x), x, atol=2e-5, rtol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_on_is_repeatable_and_finite(channels: int) -> None:
    settings = dataclasses.replace(Augmentation(), recolour=0.5)
    x = pictures(channels)
    once = run(settings, x)
    assert torch.equal(once, run(settings, x))
    assert not torch.equal(once, run(settings, x, seed=1))
    assert once.shape == x.shape
    assert torch.isfinite(once).all()
    assert once.abs().max() < 2


def test_flip_mirrors_half() -> None:
    x = pictures(n=400)
    found = run(dataclasses.replace(OFF, flip=True), x)
    mirrored = (found - x.flip(-1)).abs().amax(dim=(1, 2, 3)) < 1e-4
    assert 0.4 < mirrored.float().mean() < 0.6
    torch.testing.assert_close(found[~mirrored], x[~mirrored], atol=2e-5, rtol=0)


def test_grey_removes_colour_and_keeps_the_mean() -> None:
    x = pictures()
    found = run(dataclasses.replace(OFF, grey=1.0), x)
    grey = found.std(dim=1).amax(dim=(1, 2)) < 1e-4
    assert grey.float().mean() > 0.6
    torch.testing.assert_close(found.mean(dim=1)[grey], x.mean(dim=1)[grey], atol=2e-5, rtol=0)


def test_hue_keeps_grey_pixels() -> None:
    x = pictures(1).expand(-1, 3, -1, -1)
    torch.testing.assert_close(run(dataclasses.replace(OFF, hue=1.0), x), x, atol=2e-5, rtol=0)


def test_erase_hides_a_rectangle_only() -> None:
    x = pictures()
    changed = (run(dataclasses.replace(OFF, erase=1.0), x) - x).abs().amax(dim=1) > 1e-3
    share = changed.float().mean(dim=(1, 2))
    assert 0.02 < share.mean() < 0.5
    assert share.max() < 0.6
