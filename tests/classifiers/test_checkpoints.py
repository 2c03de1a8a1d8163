"""Saving, loading and finding classifiers; one line for everything a user can get wrong."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fairsims.classifiers import Confusion, classifier_for, load_classifier
from fairsims.classifiers.base import Card
from fairsims.classifiers.checkpoints import embedded_classifiers, save_classifier, trainer_of
from fairsims.classifiers.cnn import CNNTrainer
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import Labelled, labelled, seen_by
from fairsims.classifiers.networks import ConvNet, NetworkConfig
from fairsims.data import Attribute, open_dataset
from fairsims.errors import InputError
from fairsims.files import read_json, sha256_file


def save(folder: Path, *, seed: int = 0, temperature: float = 1.5) -> Path:
    torch.manual_seed(seed)
    config = NetworkConfig(input_size=8, channels=1, classes=2, widths=(4, 8))
    card = Card(
        kind="cnn",
        name="tiny",
        attribute=Attribute(name="parity", classes=("even", "odd")),
        temperature=temperature,
        confusions={"variant": Confusion(counts=((9, 1), (2, 8)), split="variant", description="d")},
        default_split="variant",
    )
    tensors = ConvNet(config).state_dict()
    save_classifier(folder, card, {"input_size": 8, "network": asdict(config)}, tensors, {"recipe": {"kimg": 1}})
    return folder


def test_round_trip(tmp_path: Path) -> None:
    save(tmp_path / "a")
    one, two = load_classifier(tmp_path / "a"), load_classifier(str(tmp_path / "a"))
    images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(one.probabilities(images), two.probabilities(images))
    assert one.digest == two.digest
    assert one.confusions["variant"].counts == ((9, 1), (2, 8))
    assert one.attribute == Attribute(name="parity", classes=("even", "odd"))


def test_digest_is_that_of_the_decisions(tmp_path: Path) -> None:
    """Weights and temperature change it, a note in the configuration does not."""
    first = load_classifier(save(tmp_path / "a")).digest
    assert load_classifier(save(tmp_path / "b", seed=1)).digest != first
    assert load_classifier(save(tmp_path / "c", temperature=2.0)).digest != first
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"note": "x"}))
    assert load_classifier(tmp_path / "a").digest == first


def edit(key: str, value: object) -> object:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return apply


def spoil(folder: Path) -> None:
    """A NaN among the weights, in a file that is whole."""
    tensors = load_file(folder / "model.safetensors")
    tensors["head.bias"][0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    edit("weights_digest", sha256_file(folder / "model.safetensors"))(folder)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"not weights"), "model.safetensors is corrupt"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (edit("format", "other/1"), "format 'other/1'"),
        (edit("kind", "forest"), "kind 'forest'"),
        (spoil, "head.bias is not finite"),
        (edit("weights_digest", "0"), "is not the file that"),
        (edit("name", "a/b"), "without slashes"),
        (edit("threshold", 0.9), "contradicts itself"),
        (edit("threshold", float("nan")), "contradicts itself"),
        (edit("network", {"architecture": "resnet17", "input_size": 8, "channels": 1, "classes": 2}), "did you mean"),
        (edit("network", {"channels": 1}), "does not describe a classifier"),
        (edit("network", None), "does not describe a classifier"),
        (edit("temperature", "warm"), "does not describe a classifier"),
        (edit("classes", ["even"]), "contradicts itself"),
        (edit("default_split", "concept"), "contradicts itself"),
        (edit("confusions", {"variant": {"counts": [[1, 2]], "description": "d"}}), "rows of"),
        (
            edit("network", {"input_size": 8, "channels": 1, "classes": 2, "widths": [4, 9], "dropout": 0.2}),
            "does not fit",
        ),
    ],
)
def test_broken_folders(tmp_path: Path, damage: object, words: str) -> None:
    folder = save(tmp_path / "a")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(InputError) as caught:
        load_classifier(folder)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_weights(tmp_path: Path) -> None:
    folder = save(tmp_path / "a")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="corrupt"):
        load_classifier(folder)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'emoji-gender'"):
        load_classifier("emoji-gendre")


def test_embedded_classifier_by_purpose() -> None:
    assert classifier_for("gender", 32, 3).name == "emoji-gender"
    assert classifier_for("gender", 64, 3).name == "emoji-gender"
    assert classifier_for("parity", 8, 1).name == "digits-parity"


@pytest.mark.parametrize("case", [("gender", 48, 3), ("gender", 32, 1), ("age", 32, 3), ("parity", 0, 1)])
def test_no_classifier_for_it(case: tuple[str, int, int]) -> None:
    with pytest.raises(InputError) as caught:
        classifier_for(*case)
    assert "emoji-gender (gender at 32x32 RGB)" in str(caught.value)
    assert "digits-parity (parity at 8x8 grey)" in str(caught.value)


def test_a_copied_folder_works_anywhere(tmp_path: Path) -> None:
    shutil.copytree(embedded_classifiers()["digits-parity"], tmp_path / "moved")
    assert load_classifier(tmp_path / "moved").digest == load_classifier("digits-parity").digest


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("digits-parity", "2f92899a4bc236696b5adf1c6f8ffce1202824fe3bd0e492415714039e06bb2c"),
        ("emoji-gender", "bf78bfb730cc529cd7f216a74d4a17b943020c3207aa636c0f240d28c49d793b"),
        ("emoji-skin-tone", "e8afe422c2727aa421c81e6f75be969ff940b66fb977ec9db537782138b96eed"),
        ("emoji-vendor", "0c8a487554df7a82566e1cdc88373d6465f8b7c6d2997575f3a338383df57418"),
    ],
)
def test_shipped_digests_stay(name: str, digest: str) -> None:
    """Runs record them: resuming one with another digest is refused."""
    assert load_classifier(name).digest == digest


def test_facts_are_json() -> None:
    facts = json.loads(json.dumps(load_classifier("emoji-gender").facts()))
    assert facts["kind"] == "cnn"
    assert facts["classes"] == ["man", "woman"]
    assert facts["input_size"] == facts["preprocessing"]["size"] == 32
    assert len(facts["weights_digest"]) == 64


def test_embedded_training_images_are_known() -> None:
    """Measuring a shipped classifier as it is on what it learned from would flatter it."""
    for name, folder in embedded_classifiers().items():
        data = learned_from(read_json(folder / "config.json"))
        some = replace(data, indices=data.indices[::40], labels=data.labels[::40])
        assert seen_by(load_classifier(name), some).all()


@pytest.mark.parametrize("name", embedded_classifiers())
def test_a_shipped_classifier_says_how_to_make_it_again(name: str) -> None:
    """New data without new weights, or a recipe that the code no longer knows, is caught here."""
    config = read_json(embedded_classifiers()[name] / "config.json")
    data, trainer = learned_from(config), trainer_of(config)
    assert data.facts() == config["data"]
    assert trainer is not None
    assert json.loads(json.dumps(trainer.facts()))["recipe"] == config["recipe"]
    if config["kind"] == "probe":
        assert trainer.prepared(data, load_classifier).model["backbone"] == config["backbone"]
    else:
        assert isinstance(trainer, CNNTrainer)
        assert json.loads(json.dumps(asdict(trainer.network(data)))) == config["network"]
    splits = [HeldOut.measured_before(split, config) for split in config["confusions"]]
    assert [s.folds for s in splits] == [5] * len(splits)
    assert [(s.group_by == ()) for s in splits] == [name == "digits-parity"] * len(splits)


def learned_from(config: dict[str, Any]) -> Labelled:
    data = open_dataset(config["data"]["name"], resolution=config["input_size"])
    return labelled(data, config["attribute"], config["classes"])
