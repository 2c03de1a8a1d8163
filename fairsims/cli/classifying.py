"""`fairsims classifier`: make, train, measure and describe attribute classifiers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from fairsims.cli.common import Bars, command_line, json_option, path, seed_option, show
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.classifiers.abstention import Abstention
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.labelled import Labelled
    from fairsims.classifiers.trainers import Trainer

Command = TypeVar("Command", bound=Callable[..., None])

data_option = click.option("--data", help="Labelled images: embedded name, folder with metadata.csv, EDM zip, Parquet.")
resolution_option = click.option("--resolution", type=int, help="Reduce the images to this size, by a whole factor.")
undetermined_option = click.option(
    "--undetermined", multiple=True, metavar="LABEL", help="Label of images that show none of the classes."
)
abstain_option = click.option(
    "--abstain", metavar="RULE", help="When to say undetermined: error=0.02, coverage=0.9 or balanced."
)
SPLIT = (
    click.option("--folds", type=int, default=5, show_default=True),
    click.option(
        "--near-duplicates",
        type=float,
        default=4.0,
        show_default=True,
        help="Grey levels by which images may differ and still be held out together; 0: same pixels.",
    ),
)


SETTINGS = {
    "cnn": ("architecture", "weights", "kimg", "lr", "batch_size", "augment"), "probe": ("backbone", "strength")
}  # fmt: skip
"""Options of `fairsims classifier train` that one kind alone has a use for."""


def with_split(command: Command) -> Command:
    """The options of a held-out split."""
    for option in reversed(SPLIT):
        command = option(command)
    return command


@click.group()
def classifier() -> None:
    """Make, train, measure and describe attribute classifiers."""


@classifier.command("train")
@click.option("--kind", type=click.Choice(["cnn", "probe"]), default="cnn", show_default=True)
@data_option
@click.option("--attr", required=True, help="Label column, e.g. gender.")
@click.option("--classes", help="Classes in order, e.g. man,woman; all of the column by default.")
@undetermined_option
@abstain_option
@click.option(
    "--group-by",
    multiple=True,
    metavar="[NAME:]COLUMNS",
    help="Hold out together what agrees in these columns; repeat for further splits, the first is the default.",
)
@with_split
@resolution_option
@click.option("--architecture", default="small", show_default=True, help="cnn: small, or a torchvision network.")
@click.option("--weights", default="", help="cnn: torchvision weights to start from, a name or a file.")
@click.option("--kimg", type=float, default=60.0, show_default=True, help="cnn: thousands of images seen.")
@click.option("--lr", type=float, default=2e-3, show_default=True, help="cnn: peak learning rate.")
@click.option("--batch-size", type=int, default=64, show_default=True, help="cnn: images per step.")
@click.option("--augment", multiple=True, metavar="NAME=VALUE", help="cnn: e.g. flip=0, hue=0, erase=0.25.")
@click.option("--backbone", help="probe: clip:MODEL:PRETRAINED, torchvision:NETWORK:WEIGHTS, classifier:NAME.")
@click.option("--strength", type=float, default=1.0, show_default=True, help="probe: C of the logistic regression.")
@click.option("--name", help="Name in records; the folder's by default.")
@seed_option
@click.option("--out", type=path, required=True, help="Folder of the classifier; the same command resumes in it.")
@json_option
def train_classifier(
    kind: str,
    data: str | None,
    attr: str,
    classes: str | None,
    undetermined: tuple[str, ...],
    abstain: str | None,
    group_by: tuple[str, ...],
    folds: int,
    near_duplicates: float,
    resolution: int | None,
    name: str | None,
    seed: int,
    out: Path,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train on labelled images, and measure by cross-validation."""
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.making import build_classifier
    from fairsims.classifiers.measuring import describe_classifier

    rule = _abstention(abstain)
    splits = [HeldOut.parse(t, folds=folds, near_duplicates=near_duplicates) for t in group_by or ("",)]
    found = _labelled(data, attr, resolution, classes, undetermined)
    trainer = _trainer(kind, found, seed, settings)
    with Bars() as bars:
        build_classifier(
            out,
            found,
            trainer,
            name=name or out.resolve().name,
            splits=splits,
            abstain=rule,
            seed=seed,
            command=command_line(),
            say=_log,
            report=bars.report,
        )
    show({"classifier": str(out), **describe_classifier(str(out)), **_metrics(out)}, as_json)


@classifier.command("make-clip")
@click.argument("prompts", type=path)
@click.argument("out", type=path)
@data_option
@click.option("--attr", help="Label column of the data; the prompts' attribute by default.")
@undetermined_option
@abstain_option
@click.option("--group-by", default="", metavar="[NAME:]COLUMNS", help="Images that share these are dependent.")
@with_split
@resolution_option
@json_option
def make_clip(
    prompts: Path,
    out: Path,
    data: str | None,
    attr: str | None,
    undetermined: tuple[str, ...],
    abstain: str | None,
    group_by: str,
    folds: int,
    near_duplicates: float,
    resolution: int | None,
    as_json: bool,
) -> None:
    """A zero-shot open_clip classifier of prompts in TOML; labelled images calibrate and measure it."""
    from fairsims.classifiers import making
    from fairsims.classifiers.measuring import describe_classifier
    from fairsims.classifiers.prompts import read_prompts

    rule = _abstention(abstain)
    words = read_prompts(prompts)
    split = _split(group_by, folds, near_duplicates)
    found = None
    if data is not None:
        found = _labelled(data, attr or words.attribute, resolution, ",".join(words.classes), undetermined)
    making.make_clip(words, out, data=found, split=split, abstain=rule, command=command_line())
    show({"classifier": str(out), **describe_classifier(str(out)), **_metrics(out)}, as_json)


@classifier.command("evaluate")
@click.argument("spec", metavar="CLASSIFIER")
@data_option
@click.option("--attr", help="Label column of the data; the classifier's attribute by default.")
@undetermined_option
@click.option("--group-by", default="", metavar="[NAME:]COLUMNS", help="Hold out together what agrees in these.")
@with_split
@resolution_option
@seed_option
@click.option("--split", "name", help="Name of the result; that of the columns or of the data by default.")
@click.option("--default", is_flag=True, help="Let this result correct shares from now on.")
@click.option("--out", type=path, help="Copy of the classifier that gets the result; its own folder by default.")
@json_option
def evaluate(
    spec: str,
    data: str | None,
    attr: str | None,
    undetermined: tuple[str, ...],
    group_by: str,
    folds: int,
    near_duplicates: float,
    resolution: int | None,
    seed: int,
    name: str | None,
    default: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure how often CLASSIFIER errs, and write the confusion counts beside its weights."""
    from fairsims.classifiers import load_classifier
    from fairsims.classifiers.measuring import evaluate_classifier

    attribute = load_classifier(spec).attribute
    classes = ",".join(attribute.determined)
    found = _labelled(data, attr or attribute.name, resolution, classes, undetermined)
    with Bars() as bars:
        result = evaluate_classifier(
            spec,
            found,
            _split(group_by, folds, near_duplicates),
            name=name,
            default=default,
            out=out,
            seed=seed,
            say=_log,
            report=lambda done, total: bars.report("measure", done, total),
        )
    show(result, as_json)


@classifier.command("info")
@click.argument("spec", metavar="CLASSIFIER")
@json_option
def info(spec: str, as_json: bool) -> None:
    """What CLASSIFIER is and how often it errs."""
    from fairsims.classifiers.measuring import describe_classifier

    show(describe_classifier(spec), as_json)


def _labelled(
    data: str | None, attr: str, resolution: int | None, classes: str | None, undetermined: tuple[str, ...]
) -> Labelled:
    from fairsims.classifiers.labelled import labelled
    from fairsims.data import open_dataset

    if not data:
        raise InputError("--data is missing; expected labelled images: embedded name, image folder, EDM zip or Parquet")
    wanted = [c.strip() for c in (classes or "").split(",") if c.strip()]
    return labelled(open_dataset(data, resolution=resolution), attr, wanted, undetermined)


def _trainer(kind: str, data: Labelled, seed: int, settings: dict[str, Any]) -> Trainer:
    from fairsims.classifiers.cnn import NetworkConfig
    from fairsims.classifiers.torchvision_nets import TorchvisionConfig
    from fairsims.classifiers.trainers import CNNTrainer, ProbeTrainer
    from fairsims.classifiers.training import ClassifierRecipe
    from fairsims.engine import device
    from fairsims.models.precondition import fastest_precision

    for other, names in SETTINGS.items():
        for name in names:
            if other != kind and click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE:
                option = name.replace("_", "-")
                raise InputError(f"--{option} is for --kind {other}; leave it out, or give --kind {other}")
    if kind == "probe":
        if not settings["backbone"]:
            raise InputError("--backbone is missing; expected clip:MODEL:PRETRAINED, torchvision:NETWORK:WEIGHTS or "
                             "classifier:NAME")  # fmt: skip
        return ProbeTrainer(backbone=settings["backbone"], strength=settings["strength"])
    shape: dict[str, int] = {
        "input_size": data.dataset.resolution, "channels": data.dataset.channels,
        "classes": len(data.attribute.classes),
    }  # fmt: skip
    architecture, weights = settings["architecture"], settings["weights"]
    if architecture == "small" and weights:
        raise InputError("--weights is for torchvision networks; give --architecture, or train the small one from none")
    small = architecture == "small"
    return CNNTrainer(
        config=NetworkConfig.default(**shape) if small else TorchvisionConfig(architecture=architecture, **shape),
        recipe=ClassifierRecipe(
            kimg=settings["kimg"],
            lr=settings["lr"],
            batch_size=settings["batch_size"],
            augmentation=_augmentation(settings["augment"]),
            precision=fastest_precision(device()),
            seed=seed,
        ),
        weights=weights,
    )


def _augmentation(texts: tuple[str, ...]) -> Any:
    """`flip=0 hue=0.1` as changes of the default augmentation."""
    from dataclasses import fields

    from fairsims.classifiers.augment import Augmentation
    from fairsims.errors import closest

    known = {f.name: f.default for f in fields(Augmentation)}
    given: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise InputError(f"--augment has no {name!r}{closest(name, known)}")
        try:
            given[name] = float(value) if not isinstance(known[name], bool) else bool(int(value))
        except ValueError:
            raise InputError(f"--augment is {text!r}; expected NAME=NUMBER such as hue=0 or flip=0") from None
        if given[name] < 0 or given[name] != given[name]:
            raise InputError(f"--augment is {text!r}; expected 0 or more")
    return Augmentation(**given)


def _split(group_by: str, folds: int, near_duplicates: float) -> HeldOut:
    from fairsims.classifiers.evaluation import HeldOut

    return HeldOut.parse(group_by, folds=folds, near_duplicates=near_duplicates)


def _abstention(text: str | None) -> Abstention | None:
    from fairsims.classifiers.abstention import Abstention

    return Abstention.parse(text) if text else None


def _metrics(out: Path) -> dict[str, Any]:
    metrics = json.loads((out / "config.json").read_text(encoding="utf-8"))["metrics"]
    return {"metrics": metrics} if metrics else {}


def _log(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
