"""`fairsims classifier`: make, train, measure and describe attribute classifiers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.cli.common import Bars, Verbs, command_line, show
from fairsims.cli.options import CHANGE, PATH, WORDS, Text, json_option, option, out_option, refuse_idle, together
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


def _abstention(text: str) -> Abstention:
    from fairsims.classifiers.abstention import Abstention

    return Abstention.parse(text)


abstain_option = click.option(
    "--abstain",
    type=Text("RULE", "error=0.02, coverage=0.9 or balanced", _abstention),
    help="When to say undetermined: error=0.02, coverage=0.9 or balanced.",
)
group_option = click.option(
    "--group-by", default="", metavar="[NAME:]COLUMNS", help="Images that share these label columns are dependent."
)
labelled_options = together(
    click.option("--data", help="Labelled images: embedded name, folder with metadata.csv, EDM zip, Parquet."),
    click.option(
        "--undetermined", multiple=True, metavar="LABEL", help="Label of images that show none of the classes."
    ),
    option(HELD_OUT, "near_duplicates", default=4.0),
    click.option("--resolution", type=int, help="Reduce the images to this size, by a whole factor."),
    click.option("--class-folders", is_flag=True, help="The folders that images lie in are their labels."),
)


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
@labelled_options
@click.option("--attr", required=True, help="Label column, e.g. gender.")
@click.option("--classes", type=WORDS, help="Classes in order, e.g. man,woman; all of the column by default.")
@abstain_option
@click.option(
    "--group-by",
    multiple=True,
    metavar="[NAME:]COLUMNS",
    help="Hold out together what agrees in these columns; again for further splits, the first is the default.",
)
@option(HELD_OUT, "folds")
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
    kind: str, attr: str, classes: tuple[str, ...], group_by: tuple[str, ...], out: Path, as_json: bool, **options: Any
) -> None:
    """Train on labelled images, and measure by cross-validation."""
    from fairsims.classifiers.evaluation import HeldOut
    from fairsims.classifiers.kinds import KINDS
    from fairsims.classifiers.making import build_classifier

    for other in LEARNT:
        if other != kind:
            refuse_idle(f"with --kind {kind}", *LEARNT[other])
    cut, seed = {k: options[k] for k in ("folds", "near_duplicates")}, options["seed"]
    splits = [HeldOut.parse(columns, **cut) for columns in group_by or ("",)]
    found = _labelled(attr, classes, options)
    trainer = KINDS[kind].trainer
    assert trainer is not None
    with Bars() as bars:
        build_classifier(
            out,
            found,
            trainer(seed=seed, **{name: options[name] for name in LEARNT[kind]}),
            name=options["name"] or out.resolve().name,
            splits=splits,
            abstain=options["abstain"],
            seed=seed,
            command=command_line(),
            say=_log,
            progress=bars.report,
        )
    _show(out, as_json)


@classifier.command("make-clip")
@click.argument("prompts", type=PATH)
@click.argument("out", type=PATH)
@labelled_options
@click.option("--attr", help="Label column of the data; the prompts' attribute by default.")
@abstain_option
@group_option
@json_option
def make_clip(
    prompts: Path, out: Path, attr: str | None, abstain: Abstention | None, group_by: str, as_json: bool, **options: Any
) -> None:
    """A zero-shot open_clip classifier of prompts in TOML; labelled images calibrate and measure it."""
    from fairsims.classifiers import making
    from fairsims.classifiers.clip import read_prompts
    from fairsims.classifiers.evaluation import HeldOut

    words = read_prompts(prompts)
    split, found = HeldOut.parse(group_by, near_duplicates=options["near_duplicates"]), None
    if options["data"] is None:
        refuse_idle(
            "without --data", "attr", "undetermined", "group_by", "near_duplicates", "resolution", "class_folders"
        )
    else:
        found = _labelled(attr or words.attribute, tuple(words.classes), options)
    making.make_clip(words, out, data=found, split=split, abstain=abstain, command=command_line())
    _show(out, as_json)


@classifier.command("evaluate")
@click.argument("spec", metavar="CLASSIFIER")
@labelled_options
@click.option("--attr", help="Label column of the data; the classifier's attribute by default.")
@group_option
@option(HELD_OUT, "folds")
@option(RECIPE, "seed", help="Chooses the folds.")
@click.option("--split", "name", help="Name of the result; that of the columns or of the data by default.")
@click.option("--default", is_flag=True, help="Let this result correct shares from now on.")
@click.option("--out", type=PATH, help="Copy of the classifier that gets the result; its own folder by default.")
@json_option
def evaluate(
    spec: str,
    attr: str | None,
    group_by: str,
    folds: int,
    seed: int,
    name: str | None,
    default: bool,
    out: Path | None,
    as_json: bool,
    **options: Any,
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
    found = _labelled(attr or attribute.name, attribute.determined, options)
    if not is_refitted(classifier, found):
        refuse_idle("on data that the classifier was not trained on", "folds", "seed")
    with Bars() as bars:
        result = evaluate_classifier(
            spec,
            found,
            HeldOut.parse(group_by, folds=folds, near_duplicates=options["near_duplicates"]),
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


def _labelled(attr: str, classes: tuple[str, ...] | None, options: Mapping[str, Any]) -> Labelled:
    """The images that `labelled_options` name."""
    from fairsims.classifiers.labelled import labelled
    from fairsims.data import open_dataset

    if not options["data"]:
        raise InputError("--data is missing; expected labelled images: embedded name, image folder, EDM zip or Parquet")
    folders = attr if options["class_folders"] else None
    images = open_dataset(options["data"], resolution=options["resolution"], class_folders=folders)
    for note in images.found.notes if images.found is not None else ():
        _log(f"{images.name}: {note}")
    return labelled(images, attr, [c for c in classes or () if c], options["undetermined"])


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
