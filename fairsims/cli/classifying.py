"""`fairsims classifier`: make, train, measure and describe attribute classifiers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.cli.common import Bars, Verbs, command_line, show
from fairsims.cli.options import (
    CHANGE,
    PATH,
    WORDS,
    json_option,
    option,
    out_option,
    refuse_idle,
    together,
)
from fairsims.errors import InputError

if TYPE_CHECKING:
    from fairsims.classifiers.abstention import Abstention
    from fairsims.classifiers.labelled import Labelled

HELD_OUT = "fairsims.classifiers.evaluation:HeldOut"
RECIPE = "fairsims.classifiers.training:ClassifierRecipe"
CNN = "fairsims.classifiers.cnn:CNNTrainer"
PROBE = "fairsims.classifiers.probe:ProbeTrainer"
LEARNT = {
    "cnn": ("architecture", "weights", "kimg", "lr", "batch_size", "augment"),
    "probe": ("backbone", "strength"),
}
"""Options of `fairsims classifier train` that one kind alone has a use for."""

data_option = click.option("--data", help="Labelled images: embedded name, folder with metadata.csv, EDM zip, Parquet.")
resolution_option = click.option("--resolution", type=int, help="Reduce the images to this size, by a whole factor.")
undetermined_option = click.option(
    "--undetermined", multiple=True, metavar="LABEL", help="Label of images that show none of the classes."
)
abstain_option = click.option(
    "--abstain", metavar="RULE", help="When to say undetermined: error=0.02, coverage=0.9 or balanced."
)
group_option = click.option(
    "--group-by", default="", metavar="[NAME:]COLUMNS", help="Images that share these label columns are dependent."
)
near_option = option(HELD_OUT, "near_duplicates", default=4.0)


@click.group(cls=Verbs)
def classifier() -> None:
    """Make, train, measure and describe attribute classifiers."""


@classifier.command("train")
@click.option(
    "--kind",
    type=click.Choice(list(LEARNT)),
    default="cnn",
    show_default=True,
    help="A network of its own, or a probe of frozen features.",
)
@data_option
@click.option("--attr", required=True, help="Label column, e.g. gender.")
@click.option("--classes", type=WORDS, help="Classes in order, e.g. man,woman; all of the column by default.")
@undetermined_option
@abstain_option
@click.option(
    "--group-by",
    multiple=True,
    metavar="[NAME:]COLUMNS",
    help="Hold out together what agrees in these columns; again for further splits, the first is the default.",
)
@option(HELD_OUT, "folds")
@near_option
@resolution_option
@together(*(option(CNN, name, prefix="cnn: ") for name in ("architecture", "weights")))
@together(*(option(RECIPE, name, prefix="cnn: ") for name in ("kimg", "lr", "batch_size")))
@click.option("--augment", type=CHANGE, multiple=True, help="cnn: e.g. flip=0, hue=0, erase=0.25.")
@option(PROBE, "backbone", required=False, prefix="probe: ")
@option(PROBE, "strength", prefix="probe: ")
@click.option("--name", help="Name in records; the folder's by default.")
@option(RECIPE, "seed")
@out_option
@json_option
def train_classifier(
    kind: str,
    data: str | None,
    attr: str,
    classes: tuple[str, ...],
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
    **options: Any,
) -> None:
    """Train on labelled images, and measure by cross-validation."""
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.kinds import KINDS
    from fairsims.classifiers.making import build_classifier

    for other in LEARNT:
        if other != kind:
            refuse_idle(f"with --kind {kind}", *LEARNT[other])
    rule = _abstention(abstain)
    splits = [HeldOut.parse(t, folds=folds, near_duplicates=near_duplicates) for t in group_by or ("",)]
    found = _labelled(data, attr, resolution, classes, undetermined)
    trainer = KINDS[kind].trainer
    assert trainer is not None
    with Bars() as bars:
        build_classifier(
            out,
            found,
            trainer(seed=seed, **{name: options[name] for name in LEARNT[kind]}),
            name=name or out.resolve().name,
            splits=splits,
            abstain=rule,
            seed=seed,
            command=command_line(),
            say=_log,
            progress=bars.report,
        )
    _show(out, as_json)


@classifier.command("make-clip")
@click.argument("prompts", type=PATH)
@click.argument("out", type=PATH)
@data_option
@click.option("--attr", help="Label column of the data; the prompts' attribute by default.")
@undetermined_option
@abstain_option
@group_option
@near_option
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
    near_duplicates: float,
    resolution: int | None,
    as_json: bool,
) -> None:
    """A zero-shot open_clip classifier of prompts in TOML; labelled images calibrate and measure it."""
    from fairsims.classifiers import making
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.prompts import read_prompts

    rule = _abstention(abstain)
    words = read_prompts(prompts)
    split, found = HeldOut.parse(group_by, near_duplicates=near_duplicates), None
    if data is None:
        refuse_idle("without --data", "attr", "undetermined", "group_by", "near_duplicates", "resolution")
    else:
        found = _labelled(data, attr or words.attribute, resolution, tuple(words.classes), undetermined)
    making.make_clip(words, out, data=found, split=split, abstain=rule, command=command_line())
    _show(out, as_json)


@classifier.command("evaluate")
@click.argument("spec", metavar="CLASSIFIER")
@data_option
@click.option("--attr", help="Label column of the data; the classifier's attribute by default.")
@undetermined_option
@group_option
@option(HELD_OUT, "folds")
@near_option
@resolution_option
@option(RECIPE, "seed", help="Chooses the folds.")
@click.option("--split", "name", help="Name of the result; that of the columns or of the data by default.")
@click.option("--default", is_flag=True, help="Let this result correct shares from now on.")
@click.option("--out", type=PATH, help="Copy of the classifier that gets the result; its own folder by default.")
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
    """Measure how often CLASSIFIER errs, and write the confusion counts beside its weights.

    On the data that it was trained on it is fitted again for each of --folds; on other data its calls are counted as
    they are.
    """
    from fairsims.classifiers import load_classifier
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.measuring import evaluate_classifier, is_refitted

    classifier = load_classifier(spec)
    attribute = classifier.attribute
    found = _labelled(data, attr or attribute.name, resolution, attribute.determined, undetermined)
    if not is_refitted(classifier, found):
        refuse_idle("on data that the classifier was not trained on", "folds", "seed")
    with Bars() as bars:
        result = evaluate_classifier(
            spec,
            found,
            HeldOut.parse(group_by, folds=folds, near_duplicates=near_duplicates),
            name=name,
            default=default,
            out=out,
            seed=seed,
            say=_log,
            progress=lambda done, total: bars.report("measure", done, total),
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
    data: str | None, attr: str, resolution: int | None, classes: tuple[str, ...] | None, undetermined: tuple[str, ...]
) -> Labelled:
    from fairsims.classifiers.labelled import labelled
    from fairsims.data import open_dataset

    if not data:
        raise InputError("--data is missing; expected labelled images: embedded name, image folder, EDM zip or Parquet")
    wanted = [c for c in classes or () if c]
    return labelled(open_dataset(data, resolution=resolution), attr, wanted, undetermined)


def _abstention(text: str | None) -> Abstention | None:
    from fairsims.classifiers.abstention import Abstention

    return Abstention.parse(text) if text else None


def _show(out: Path, as_json: bool) -> None:
    from fairsims.classifiers.measuring import describe_classifier
    from fairsims.files import read_json

    metrics = read_json(out / "config.json")["metrics"]
    show(
        {"classifier": str(out), **describe_classifier(str(out)), **({"metrics": metrics} if metrics else {})}, as_json
    )


def _log(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)
