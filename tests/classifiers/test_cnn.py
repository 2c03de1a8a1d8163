"""The embedded classifiers on real images: which class is which, sizes, shapes they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fairsims.classifiers import AttributeClassifier, label_batches, load_classifier
from fairsims.classifiers.networks import ConvNet, NetworkConfig, box_reduced
from fairsims.data import open_dataset
from fairsims.errors import InputError


@pytest.mark.parametrize(
    ("name", "data", "size", "classes"),
    [
        ("emoji-gender", "emoji-people", 32, ("man", "woman")),
        ("emoji-vendor", "emoji-people", 32, ("noto", "twemoji")),
        ("emoji-skin-tone", "emoji-people", 32, ("none", "light", "medium-light", "medium", "medium-dark", "dark")),
        ("digits-parity", "digits", 8, ("even", "odd")),
    ],
)
def test_embedded_classifiers_know_the_classes(name: str, data: str, size: int, classes: tuple[str, ...]) -> None:
    """Column k is class k: a flipped order would put every image on the wrong side."""
    classifier = load_classifier(name)
    assert isinstance(classifier, AttributeClassifier)
    assert (classifier.name, classifier.input_size, classifier.attribute.classes) == (name, size, classes)
    images = open_dataset(data, resolution=size)
    for k, label in enumerate(classes):
        members = np.flatnonzero(images.table[classifier.attribute.name] == label)[::5]
        found = label_batches(classifier, [images.read(members)])
        assert (found.argmax(axis=1) == k).mean() > 0.94
        assert found[:, k].mean() > 0.88


@pytest.mark.parametrize(
    ("name", "least"), [("emoji-gender", 600), ("emoji-vendor", 600), ("emoji-skin-tone", 330), ("digits-parity", 600)]
)
def test_measured_errors(name: str, least: int) -> None:
    """The default split first; enough held-out images for the correction; far better than chance."""
    classifier = load_classifier(name)
    assert classifier.default_split == next(iter(classifier.confusions)) == "variant"
    for confusion in classifier.confusions.values():
        assert confusion.totals.min() >= least
        assert np.linalg.det(confusion.rates()) > 0.7
        assert confusion.description


@pytest.mark.parametrize("name", ["emoji-gender", "emoji-vendor", "emoji-skin-tone"])
def test_emoji_errors_grow_with_distance(name: str) -> None:
    """A concept never seen is harder than a variant of one that was."""
    confusions = load_classifier(name).confusions
    assert confusions["variant"].accuracy > confusions["concept"].accuracy


def test_larger_images_are_reduced_by_boxes() -> None:
    classifier = load_classifier("emoji-gender")
    large, small = open_dataset("emoji-people", resolution=64), open_dataset("emoji-people", resolution=32)
    rows = range(0, 1994, 40)
    assert torch.equal(box_reduced(large.read(rows), 2), small.read(rows))
    assert torch.equal(classifier.probabilities(large.read(rows)), classifier.probabilities(small.read(rows)))


@pytest.mark.parametrize(("factor", "slack"), [(2, 0), (4, 0), (3, 1)])
def test_box_means_are_those_of_pillow(factor: int, slack: int) -> None:
    """Pillow divides by 9 with a rounded reciprocal, so that one grey level may differ there."""
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(image).reduce(factor)).astype(int)
    ours = box_reduced(torch.from_numpy(image.transpose(2, 0, 1).copy())[None], factor)[0]
    assert np.abs(ours.numpy().transpose(1, 2, 0) - theirs).max() <= slack


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 3, 48, 48, dtype=torch.uint8),
        torch.zeros(2, 3, 16, 16, dtype=torch.uint8),
        torch.zeros(2, 3, 32, 64, dtype=torch.uint8),
        torch.zeros(2, 1, 32, 32, dtype=torch.uint8),
        torch.zeros(3, 32, 32, dtype=torch.uint8),
        torch.zeros(2, 3, 32, 32),
    ],
)
def test_unusable_images(images: torch.Tensor) -> None:
    classifier = load_classifier("emoji-gender")
    for call in (classifier.probabilities, classifier.features):
        with pytest.raises(InputError, match=r"expected uint8 \(B, 3, 32, 32\) or a whole multiple") as caught:
            call(images)
        assert "\n" not in str(caught.value)


def test_probabilities_come_from_the_features() -> None:
    """The distance in `audit` is measured where the decision is made: one linear layer before it."""
    classifier = load_classifier("emoji-gender")
    images = open_dataset("emoji-people", resolution=32).read(range(8))
    features = classifier.features(images)
    assert features.shape[0] == 8
    assert 64 <= features.shape[1] <= 128
    logits = classifier.backbone.network.head(features) / classifier.temperature  # type: ignore[attr-defined]
    torch.testing.assert_close(logits.softmax(dim=1), classifier.probabilities(images))


def test_the_embedded_network_is_small() -> None:
    network = load_classifier("emoji-gender").backbone.network  # type: ignore[attr-defined]
    assert sum(p.numel() for p in network.parameters()) <= 300_000
    assert not network.training
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channels": 4}, "channels is 4"),
        ({"classes": 1}, "classes is 1"),
        ({"widths": ()}, "widths"),
        ({"input_size": 2}, "too small"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_network_config_refuses(change: dict[str, object], words: str) -> None:
    good = {"input_size": 8, "channels": 1, "classes": 2, "widths": (4, 8, 8)}
    assert ConvNet(NetworkConfig(**good))(torch.zeros(2, 1, 8, 8)).shape == (2, 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=words):
        NetworkConfig(**good | change)  # type: ignore[arg-type]
