"""Training is repeatable, learns, and refuses what it cannot use."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairsims.classifiers.augment import Augmentation
from fairsims.classifiers.networks import ConvNet, NetworkConfig
from fairsims.classifiers.training import ClassifierRecipe, predict_logits
from fairsims.classifiers.training import train_network as train
from fairsims.data import open_dataset
from fairsims.errors import Diverged, InputError

SMALL = NetworkConfig(input_size=8, channels=1, classes=2, widths=(8, 16))
MILD = Augmentation(flip=False, shift=0.5, rotation=0.05, zoom=0.05, light=0.1, blur=0.0, noise=0.1, erase=0.0)


def train_network(images: torch.Tensor, labels: np.ndarray, config: NetworkConfig, recipe: ClassifierRecipe) -> ConvNet:
    return train(images, labels, lambda: ConvNet(config), recipe, classes=config.classes)


def parity() -> tuple[torch.Tensor, np.ndarray]:
    digits = open_dataset("digits")
    return digits.read(range(len(digits))), digits.class_indices("parity")


def test_learns_images_it_has_not_seen() -> None:
    images, labels = parity()
    network = train_network(images[:1200], labels[:1200], SMALL, ClassifierRecipe(kimg=6, augmentation=MILD))
    assert not network.training
    found = predict_logits(network, images[1200:]).argmax(dim=1).numpy()
    assert (found == labels[1200:]).mean() > 0.85


def test_the_seed_decides_everything() -> None:
    """Not the state of torch's global generator, which is left as it was."""
    images, labels = parity()
    runs = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(noise)
        before = torch.get_rng_state()
        recipe = ClassifierRecipe(kimg=0.5, seed=seed, augmentation=MILD)
        runs.append(predict_logits(train_network(images, labels, SMALL, recipe), images[:50]))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_batches_of_prediction_do_not_matter() -> None:
    images, labels = parity()
    network = train_network(images, labels, SMALL, ClassifierRecipe(kimg=0.2, augmentation=MILD))
    torch.testing.assert_close(predict_logits(network, images[:60], 7), predict_logits(network, images[:60]))


def test_an_empty_class() -> None:
    images, _ = parity()
    with pytest.raises(InputError, match=r"\[50, 0\]; expected some of every class"):
        train_network(images[:50], np.zeros(50, dtype=np.int64), SMALL, ClassifierRecipe(kimg=0.1))


def test_a_loss_that_is_not_finite() -> None:
    images, labels = parity()
    with pytest.raises(Diverged, match="lower lr"):
        train_network(images, labels, SMALL, ClassifierRecipe(kimg=20, lr=1e30, augmentation=MILD))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kimg": 0}, "kimg is 0"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"weight_decay": -0.1}, "weight_decay"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"average_from": float("nan")}, "average_from"),
        ({"precision": "float16"}, "float16"),
    ],
)
def test_recipe_refuses(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ClassifierRecipe(**{"kimg": 1.0} | change)  # type: ignore[arg-type]
