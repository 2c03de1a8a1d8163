"""Probes on frozen features: the same decisions as scikit-learn's, saved as plain numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsims.classifiers import load_classifier
from fairsims.classifiers.backbones import open_backbone
from fairsims.classifiers.cnn import CNNTrainer
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled, seen_by
from fairsims.classifiers.making import build_classifier
from fairsims.classifiers.networks import TorchvisionConfig, TorchvisionNet, load_trunk
from fairsims.classifiers.probe import ProbeTrainer
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.data import open_dataset
from fairsims.errors import InputError
from fairsims.files import read_json

SINGLE = HeldOut(name="image", description="single images", folds=3)


@pytest.mark.parametrize("classes", [("0", "1"), ("3", "5", "8")])
def test_a_saved_probe_decides_like_scikit_learn(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """Standardising, weights and intercept folded into one layer; two classes and several."""
    data = labelled(open_dataset("digits"), "digit", classes)
    folder = build_classifier(
        tmp_path / "p", data, ProbeTrainer(backbone="classifier:digits-parity", strength=0.3), name="p", splits=[SINGLE]
    )
    probe, images = load_classifier(folder), data.dataset.read(data.indices)
    features = load_classifier("digits-parity").features(images).double().numpy()
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, class_weight="balanced", max_iter=2000))
    logits = torch.from_numpy(peer.fit(features, data.labels).predict_log_proba(features))
    expected = (logits / read_json(folder / "config.json")["temperature"]).softmax(dim=1)
    torch.testing.assert_close(probe.probabilities(images).double(), expected, atol=1e-4, rtol=0)
    assert probe.confusions["image"].accuracy > 0.9
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "seen.npy"}
    assert set(load_file(folder / "model.safetensors")) == {"weight", "bias"}


def test_features_that_learned_the_attribute_from_these_images(tmp_path: Path) -> None:
    people = open_dataset("emoji-people", resolution=32)
    data = labelled(people, "gender", ("man", "woman"))
    with pytest.raises(InputError, match="emoji-gender learned gender from 1304 of these 1304 images"):
        ProbeTrainer(backbone="classifier:emoji-gender").prepared(data, load_classifier)


def test_images_a_probe_learned_from_are_known_at_a_multiple_of_its_features_size(tmp_path: Path) -> None:
    """Trained at 64 pixels on the features of a classifier of 32."""
    people = open_dataset("emoji-people").subset(range(0, 1994, 40), name="some")
    learned = labelled(people, "vendor", ())
    trainer = ProbeTrainer(backbone="classifier:emoji-gender")
    build_classifier(tmp_path / "p", learned, trainer, name="p", splits=[SINGLE])
    probe = load_classifier(tmp_path / "p")
    assert probe.input_size == 32
    assert seen_by(probe, labelled(people.subset(range(0, 50, 7)), "vendor", ())).all()
    others = open_dataset("emoji-people").subset(range(1, 1994, 40))
    assert seen_by(probe, labelled(others, "vendor", ())).mean() < 0.5


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"weight": torch.zeros(2, 64)}, "does not fit"),
        ({"weight": torch.zeros(3, 64), "bias": torch.zeros(3)}, "contradicts itself"),
        ({"weight": torch.full((2, 64), torch.nan), "bias": torch.zeros(2)}, "weight is not finite"),
    ],
)
def test_damaged_probes(tmp_path: Path, damage: dict[str, torch.Tensor], words: str) -> None:
    data = labelled(open_dataset("digits").subset(range(200)), "digit", ("0", "1"))
    trainer = ProbeTrainer(backbone="classifier:digits-parity")
    folder = build_classifier(tmp_path / "p", data, trainer, name="p", splits=[SINGLE])
    save_file(damage, folder / "model.safetensors")
    config = read_json(folder / "config.json")
    del config["weights_digest"]
    import json

    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=words):
        load_classifier(folder)


def test_torchvision_networks_with_local_weights(tmp_path: Path) -> None:
    """A file of weights, cut before its last layer; the features are what torchvision's own network gives there."""
    from torchvision import models
    from torchvision.transforms import v2

    torch.manual_seed(0)
    network = models.get_model("shufflenet_v2_x0_5", weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = open_backbone(f"torchvision:shufflenet_v2_x0_5:{tmp_path / 'w.safetensors'}", load_classifier)
    assert backbone.preprocessing["size"] == 224
    images = open_dataset("emoji-people", resolution=32).read(range(2))
    normal = v2.Normalize(backbone.preprocessing["mean"], backbone.preprocessing["std"])
    x = normal(v2.functional.resize(images.float(), [224, 224], antialias=True).round() / 255)
    with torch.no_grad():
        logits = network(x)
        found = network.fc(backbone.features(images))
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-3)

    config = TorchvisionConfig(architecture="shufflenet_v2_x0_5", input_size=32, channels=1, classes=2)
    trained = TorchvisionNet(config)
    load_trunk(trained.trunk, config.architecture, str(tmp_path / "w.safetensors"))
    assert torch.equal(trained.trunk.conv1[0].weight, network.conv1[0].weight)  # type: ignore[index, union-attr]
    with pytest.raises(InputError, match="does not fit shufflenet_v2_x1_0"):
        open_backbone(f"torchvision:shufflenet_v2_x1_0:{tmp_path / 'w.safetensors'}", load_classifier)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="corrupt"):
        open_backbone(f"torchvision:shufflenet_v2_x0_5:{tmp_path / 'w.safetensors'}", load_classifier)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("resnet18", "expected clip:MODEL:PRETRAINED"),
        ("torchvision:resnet19:DEFAULT", "no network 'resnet19' to take; did you mean"),
        ("torchvision:resnet18", "without weights"),
        ("torchvision:resnet18:IMAGENET", "no weights 'IMAGENET'; did you mean"),
        ("torchvision:resnet18:/no/w.pth", "/no/w.pth is missing"),
        ("classifier:nothing", "no classifier folder 'nothing'"),
    ],
)
def test_unknown_backbones(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        open_backbone(spec, load_classifier)


def test_a_torchvision_network_is_trained_and_saved(tmp_path: Path) -> None:
    data = labelled(open_dataset("digits").subset(range(40)), "parity")
    recipe = ClassifierRecipe(kimg=0.05, precision="float32", batch_size=16)
    trainer = CNNTrainer(architecture="shufflenet_v2_x0_5", recipe=recipe)
    split = HeldOut(name="image", description="single images", folds=2)
    classifier = load_classifier(build_classifier(tmp_path / "c", data, trainer, name="c", splits=[split]))
    assert classifier.facts()["kind"] == "cnn"
    found = classifier.probabilities(data.dataset.read(range(4)))
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found.sum(dim=1).numpy(), 1, atol=1e-6)
    assert classifier.confusions["image"].totals.sum() == 40
