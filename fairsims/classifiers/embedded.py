"""How the classifiers that ship with the package are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairsims.classifiers.augment import Augmentation
from fairsims.classifiers.cnn import NetworkConfig
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled
from fairsims.classifiers.making import build_classifier
from fairsims.classifiers.trainers import CNNTrainer
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.data import open_dataset
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError, closest


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """Data, network, recipe and measurements of an embedded classifier."""

    dataset: str
    attribute: Attribute
    config: NetworkConfig
    recipe: ClassifierRecipe
    splits: tuple[HeldOut, ...]


BLUEPRINTS = {
    "emoji-gender": Blueprint(
        dataset="emoji-people",
        attribute=Attribute(name="gender", classes=("man", "woman")),
        config=NetworkConfig(input_size=32, channels=3, classes=2, widths=(16, 32, 64, 80)),
        recipe=ClassifierRecipe(
            kimg=60,
            augmentation=Augmentation(hue=0.1, grey=0.05, erase=0.25, noise=0.1, rotation=0.1),
        ),
        splits=(
            HeldOut(
                name="variant",
                description="skin-tone and vendor variants held out; other variants of the same concept were seen",
                group_by=("concept", "skin_tone", "vendor"),
            ),
            HeldOut(
                name="concept",
                description="whole concepts held out: both genders, every skin tone, both vendors",
                group_by=("concept",),
            ),
        ),
    ),
    "emoji-skin-tone": Blueprint(
        dataset="emoji-people",
        attribute=Attribute(
            name="skin_tone", classes=("none", "light", "medium-light", "medium", "medium-dark", "dark")
        ),
        config=NetworkConfig(input_size=32, channels=3, classes=6, widths=(12, 24, 40, 56)),
        recipe=ClassifierRecipe(
            kimg=20,
            # The attribute is a colour: what changes colours would change the label.
            augmentation=Augmentation(
                hue=0.0, saturation=0.0, grey=0.0, light=0.0, erase=0.25, noise=0.1, rotation=0.1
            ),
            precision="float32",
        ),
        # A group is one design or all tones of a concept: no fold is left without a tone to learn.
        splits=(
            HeldOut(
                name="variant",
                description="single designs held out; others of the concept (tone, gender, vendor) were seen",
                group_by=("concept", "gender", "skin_tone", "vendor"),
            ),
            HeldOut(
                name="concept",
                description="whole concepts held out: every gender, every skin tone, both vendors",
                group_by=("concept",),
            ),
        ),
    ),
    "emoji-vendor": Blueprint(
        dataset="emoji-people",
        attribute=Attribute(name="vendor", classes=("noto", "twemoji")),
        config=NetworkConfig(input_size=32, channels=3, classes=2, widths=(12, 24, 40, 56)),
        recipe=ClassifierRecipe(
            kimg=20,
            # The vendors differ in palette, outline and shading: strong changes of those would hide the attribute.
            augmentation=Augmentation(
                hue=0.0,
                saturation=0.1,
                grey=0.0,
                light=0.05,
                blur=0.15,
                noise=0.05,
                erase=0.25,
                rotation=0.05,
                zoom=0.05,
            ),
            precision="float32",
        ),
        splits=(
            HeldOut(
                name="variant",
                description="skin-tone and gender variants held out; other variants of the same concept were seen",
                group_by=("concept", "gender", "skin_tone"),
            ),
            HeldOut(
                name="concept",
                description="whole concepts held out: every gender, every skin tone, both vendors",
                group_by=("concept",),
            ),
        ),
    ),
    "digits-parity": Blueprint(
        dataset="digits",
        attribute=Attribute(name="parity", classes=("even", "odd")),
        config=NetworkConfig(input_size=8, channels=1, classes=2, widths=(32, 64)),
        recipe=ClassifierRecipe(
            kimg=40,
            augmentation=Augmentation(
                flip=False, shift=0.8, rotation=0.1, zoom=0.06, light=0.1, blur=0.1, noise=0.15, erase=0.0
            ),
        ),
        splits=(HeldOut(name="variant", description="single images held out, 5 folds stratified by class"),),
    ),
}


def build_embedded(name: str, folder: Path, *, say: Callable[[str], None] = lambda line: None) -> Path:
    """Make the embedded classifier `name` again, into `folder`. Raises InputError for an unknown name."""
    if name not in BLUEPRINTS:
        raise InputError(f"no embedded classifier {name!r}{closest(name, BLUEPRINTS)}")
    plan = BLUEPRINTS[name]
    data = open_dataset(plan.dataset, resolution=plan.config.input_size)
    return build_classifier(
        folder,
        labelled(data, plan.attribute.name, plan.attribute.classes),
        CNNTrainer(config=plan.config, recipe=plan.recipe),
        name=name,
        splits=plan.splits,
        command=f"python tools/build_classifiers.py {name}",
        say=say,
    )
