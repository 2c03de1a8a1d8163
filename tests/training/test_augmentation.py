"""Non-leaky augmentation: what each label does, and that the network is told."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from support import MakeNetwork
from torch import Tensor

from fairsims.data import ImageDataset, to_float
from fairsims.errors import InputError
from fairsims.training import TrainConfig, train
from fairsims.training.augmentation import AUGMENT_DIM, augment, draw_augmentation
from fairsims.training.batches import batches

SMALL = TrainConfig(kimg=0.032, batch_size=16, augment=0.5, seed=3)
COLUMNS = ("x-flip", "y-flip", "scale", "cos", "sin", "stretch-x", "stretch-y", "right", "down")


def labels(**values: float) -> Tensor:
    row = torch.zeros(1, AUGMENT_DIM)
    for name, value in values.items():
        row[0, COLUMNS.index(name.replace("_", "-"))] = value
    return row


def blob(x: float, y: float, *, wide: float = 2.0, high: float = 2.0, size: int = 32) -> Tensor:
    """A soft spot at (x, y) in pixels from the centre, `(1, 1, size, size)` in [-1, 1]."""
    place = torch.arange(size) - (size - 1) / 2
    spot = torch.exp(-(((place - x) / wide) ** 2)[None] - (((place - y) / high) ** 2)[:, None])
    return spot[None, None] * 2 - 1


def moments(image: Tensor) -> tuple[float, float, float, float]:
    """Centre (x, y) and spread (x, y) of the brightness, in pixels."""
    mass = (image[0, 0] + 1).double()
    place = torch.arange(len(mass)) - (len(mass) - 1) / 2
    across, down = mass.sum(0) / mass.sum(), mass.sum(1) / mass.sum()
    x, y = float(across @ place.double()), float(down @ place.double())
    return x, y, float(across @ (place - x).double() ** 2) ** 0.5, float(down @ (place - y).double() ** 2) ** 0.5


def test_no_labels_leave_the_image_as_it_is(digits: ImageDataset) -> None:
    images = to_float(digits.read(range(4)))
    assert torch.equal(augment(images, torch.zeros(4, AUGMENT_DIM)), images)


def test_mirroring_is_exact(digits: ImageDataset) -> None:
    image = to_float(digits.read([0]))
    assert torch.equal(augment(image, labels(x_flip=1)), image.flip(3))
    assert torch.equal(augment(image, labels(y_flip=1)), image.flip(2))
    assert torch.equal(augment(image, labels(x_flip=1, y_flip=1)), image.flip(2, 3))


def test_a_quarter_turn_is_a_quarter_turn(digits: ImageDataset) -> None:
    image = to_float(digits.read([0]))
    turned = augment(image, labels(cos=math.cos(math.pi / 2) - 1, sin=1))
    # Clockwise: the first row becomes the last column.
    assert torch.allclose(turned, torch.rot90(image, -1, (2, 3)), atol=1e-4)


def test_moving_by_an_eighth(digits: ImageDataset) -> None:
    image = to_float(digits.read([0]))
    right = augment(image, labels(right=1))
    assert torch.allclose(right[..., 1:], image[..., :-1], atol=1e-4)
    down = augment(image, labels(down=1))
    assert torch.allclose(down[..., 1:, :], image[..., :-1, :], atol=1e-4)


def test_scale_is_a_power_of_two_to_a_fifth() -> None:
    _, _, spread, _ = moments(blob(0, 0))
    _, _, larger, higher = moments(augment(blob(0, 0), labels(scale=2.5)))
    assert larger / spread == pytest.approx(2**0.5, rel=0.02)
    assert higher == pytest.approx(larger, rel=0.01)
    x, y, _, _ = moments(augment(blob(4, 2), labels(scale=2.5)))
    assert (x, y) == (pytest.approx(4 * 2**0.5, abs=0.1), pytest.approx(2 * 2**0.5, abs=0.1))


def test_stretching_along_an_axis_keeps_the_area() -> None:
    spot = blob(0, 0, wide=3, high=3)
    _, _, before, _ = moments(spot)
    _, _, wide, low = moments(augment(spot, labels(stretch_x=2.5)))
    assert wide / before == pytest.approx(2**0.5, rel=0.03)
    assert low / before == pytest.approx(2**-0.5, rel=0.03)
    _, _, narrow, high = moments(augment(spot, labels(stretch_y=2.5)))
    assert (narrow, high) == (pytest.approx(low, rel=0.01), pytest.approx(wide, rel=0.01))


def test_distortions_are_applied_in_the_stated_order() -> None:
    # Mirrored, then turned a quarter clockwise, then moved right: (6, 0) -> (-6, 0) -> (0, -6) -> (4, -6).
    done = augment(blob(6, 0), labels(x_flip=1, cos=-1, sin=1, right=1))
    x, y, _, _ = moments(done)
    assert (x, y) == (pytest.approx(4, abs=0.1), pytest.approx(-6, abs=0.1))


def test_each_distortion_happens_with_its_probability() -> None:
    drawn = draw_augmentation(20000, 0.12, torch.Generator().manual_seed(0))
    assert drawn.shape == (20000, AUGMENT_DIM)
    share = (drawn != 0).double().mean(dim=0)
    expected = torch.tensor([0.5, 0.06, *[0.12] * 7], dtype=torch.float64)
    assert (share - expected).abs().max() < 0.012
    happens = drawn[:, 2:] != 0
    assert torch.equal(happens[:, 1], happens[:, 2])
    both = (happens[:, 0] & happens[:, 1]).double().mean()
    assert float(both) == pytest.approx(0.12**2, abs=0.004)
    turned = drawn[happens[:, 1]]
    assert torch.allclose((turned[:, 3] + 1) ** 2 + turned[:, 4] ** 2, torch.ones(len(turned)), atol=1e-5)
    assert float(drawn[happens[:, 0], 2].std()) == pytest.approx(1, abs=0.06)


def test_the_network_is_told(make_network: MakeNetwork, digits: ImageDataset) -> None:
    network = make_network(augment_dim=AUGMENT_DIM)
    before = network.model.map_augment.weight.clone()
    list(train(network, digits, SMALL))
    assert (network.model.map_augment.weight != before).any(dim=0).all()


def test_a_network_that_cannot_be_told_is_refused(make_network: MakeNetwork, digits: ImageDataset) -> None:
    with pytest.raises(InputError, match="takes 0 augment labels; expected 9 for --augment"):
        next(train(make_network(), digits, SMALL))
    next(train(make_network(), digits, replace(SMALL, augment=0.0, xflip=True)))


def test_batches_are_distorted_as_their_labels_say(make_network: MakeNetwork, digits: ImageDataset) -> None:
    network = make_network(augment_dim=AUGMENT_DIM)
    plain, distorted = (
        next(batches(digits, network, replace(SMALL, augment=p), first=0, rows=range(16))) for p in (0.0, 0.5)
    )
    assert plain.augment_labels is None
    assert distorted.augment_labels is not None
    assert torch.equal(distorted.images, augment(plain.images, distorted.augment_labels))
    assert torch.equal(distorted.noise, plain.noise)
    assert distorted.images.abs().max() <= 1
