"""`fairsims retarget`, `compare` and `sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import Bars, command, command_line, note, say, show
from fairsims.cli.engines import engine_options
from fairsims.cli.options import (
    BLOCKS,
    INTERVALS,
    PATH,
    RETARGET,
    SIZES,
    WORDS,
    attr_option,
    classifier_option,
    json_option,
    option,
    out_option,
    prompts_option,
    refuse_idle,
    settings,
    target_option,
)
from fairsims.cli.prompting import OWN, arms_over_prompts, over_prompts, own_options
from fairsims.errors import InputError

SWEEP = "fairsims.retarget.grid:SweepConfig"
ONCE = ("attr", "target", "classifier")
TO_SEVERAL = ("hold", "drift", "others", "mode", "rounds", "power", "target_for")
"""Settings of `retarget` alone: a comparison and a sweep have one attribute and fine-tune once."""


@command()
@settings(RETARGET, hold={"metavar": "ATTR"})
@prompts_option
@own_options
@click.option("--out", type=PATH, help="Run folder; by default runs/NNNNN-ATTR-TARGET, resumed when begun.")
@click.option("--runs", type=PATH, default=Path("runs"), show_default=True, help="Where numbered run folders go.")
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and its cost, and stop.")
@engine_options(trains=True)
@json_option
def retarget(prompts: str | None, out: Path | None, runs: Path, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Retarget a model to a mix of classes, with audit and report. The same command again resumes.

    torchrun shares sampling and training between processes. With --prompts the model is a local folder of a
    text-to-image pipeline; --pool, --calibration and --audit count images of each prompt, by default 128, 128 and 64,
    --rounds is 3, --mode is merged, and what comes out is a LoRA file.
    """
    if out is not None:
        refuse_idle("beside --out", "runs")
    if prompts is not None:
        over_prompts(prompts, out, runs, options, as_json)
        return
    refuse_idle("without --prompts", *OWN)
    for name in OWN:
        options.pop(name)
    import fairsims.retarget.retarget as retargeting
    from fairsims.report.publish import publish
    from fairsims.report.terminal import terminal_table
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.cost import dry_run as estimated
    from fairsims.retarget.opening import find_run, prepare

    if len(options["attr"]) != len(options["target"]):
        raise InputError(
            f"there are {len(options['attr'])} --attr and {len(options['target'])} --target; "
            "give one --target for each --attr, in their order"
        )
    if options["audit"] is not None:
        refuse_idle("beside --audit: the number of images is fixed", "power")
    if not (options["hold"] or options["others"]):
        refuse_idle("with --no-others and without --hold", "drift")
    if not options["mode"].startswith("paired"):
        refuse_idle(f"with --mode {options['mode']}", "replaced")
    config = RetargetConfig(**options)
    work = prepare(config)
    if work.model.conditions.unconditional:
        refuse_idle(f"with {config.model}, which has no classes", "target_for")
    note(work.model.spec.sampler.advice)
    if dry_run:
        show(estimated(work), as_json)
        return
    run = out or find_run(config.label, work.settings, runs)
    with Bars() as bars:
        result = retargeting.retarget(
            work, run, progress=bars.report, publish=publish, note=note, command=command_line()
        )
    table = f"{terminal_table(result)}\n\nreport  {run / 'report.html'}\nmodel   {run / config.mode}"
    say(json.dumps({"run": str(run), **result.to_json()}) if as_json else table)


@command()
@option(RETARGET, "model")
@attr_option
@target_option
@classifier_option
@settings(
    RETARGET,
    without=("model", *ONCE, *TO_SEVERAL),
    audit={"help": "Images kept of each arm, on the same seeds.", "default": 2048, "show_default": True},
    tolerance={"help": "Shown beside the errors: +- this."},
)
@prompts_option
@own_options
@click.option(
    "--arms",
    type=WORDS,
    help="With --prompts: the ways to compare, of base, words, resampled, positive, negative, negative-positive, "
    "control, unconditional; all that the prompts allow by default.",
)
@out_option
@engine_options(trains=True)
@json_option
def compare(prompts: str | None, arms: tuple[str, ...] | None, out: Path, as_json: bool, **options: Any) -> None:
    """Compare ways to a target: base, resampling, naive fine-tuning, SIMS merged and guided, a paired contrast.

    At equal network evaluations per kept image: the guided arm samples with --steps, every other arm with the steps
    that cost as much. The same command again resumes. torchrun shares sampling and training between processes.

    With --prompts the model is a local folder of a text-to-image pipeline and the ways are those of --arms: words
    added to prompts at random, resampling, and LoRA adapters. --pool, --calibration and --audit count images of each
    prompt, by default 128, 128 and 64.
    """
    if prompts is not None:
        arms_over_prompts(prompts, out, arms, options, as_json)
        return
    refuse_idle("without --prompts", *OWN, "arms")
    for name in OWN:
        options.pop(name)
    import fairsims.retarget.compare as comparing
    from fairsims.report.comparison import comparison_text, write_comparison
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.opening import prepare

    config = RetargetConfig(**options, mode="guided")
    work = prepare(config, each=False)
    note(work.model.spec.sampler.advice)
    with Bars() as bars:
        result = comparing.compare(work, out, progress=bars.report, publish=write_comparison, command=command_line())
    text = f"{comparison_text(result)}\n\ntable   {out / 'compare.parquet'}\npage    {out / 'compare.md'}"
    say(json.dumps({"comparison": str(out), **result}) if as_json else text)


@command()
@option(RETARGET, "model")
@option(RETARGET, "attr", once=True, required=False, help="Attribute; the classifier's when one is given.")
@click.option(
    "--target",
    default="base",
    show_default=True,
    help="0.5, uniform or woman=0.3,man=0.7; base: the auxiliary learns the pool as it is, for quality alone (SIMS).",
)
@classifier_option
@settings(
    SWEEP,
    without=("run", "steer"),
    sizes={"type": SIZES},
    modes={"type": WORDS},
    intervals={"type": INTERVALS},
    blocks={"type": BLOCKS},
    guides={"type": WORDS, "default": None, "callback": lambda _, __, named: named or ()},
    features={"type": WORDS},
)
@settings(
    RETARGET,
    without=("model", *ONCE, *TO_SEVERAL, "replaced", "budget", "complement_size", "interval", "calibration", "audit"),
    tolerance={"help": "Points whose share lies within this of the target are near it."},
)
@out_option
@engine_options(trains=True)
@json_option
def sweep(attr: str | None, target: str, classifier: str | None, out: Path, as_json: bool, **options: Any) -> None:
    """Measure share and quality over budgets, strengths and set sizes. The same command again resumes."""
    import fairsims.retarget.sweep as sweeping
    from fairsims.options import settings_of
    from fairsims.report.sweep_figures import sweep_figures
    from fairsims.report.sweep_table import read_points, sweep_text
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.grid import SweepConfig

    if target == "base":
        refuse_idle("without a --target: the auxiliary learns the pool as it is", "omega", "cap", "floor", "tolerance")
    for mode, names in {"blocks": ("blocks",), "decayed": ("weight_decay",)}.items():
        if mode not in options["modes"]:
            refuse_idle(f"without {mode} among the modes", *names)
    grid = {name: options.pop(name) for name in settings_of(SWEEP) if name in options}
    run = RetargetConfig(
        attr=attr or _attribute(classifier),
        target="uniform" if target == "base" else target,
        classifier=classifier,
        **options,
    )
    config = SweepConfig(run=run, steer=target != "base", **grid)
    with Bars() as bars:
        result = sweeping.sweep(config, out, progress=bars.report, publish=sweep_figures, command=command_line())
    table = sweep_text(read_points(out), result)
    table += f"\n\ntable   {out / 'sweep.parquet'}\nfigures {' '.join(map(str, sorted(out.glob('*.png'))))}"
    say(json.dumps({"sweep": str(out), **result}) if as_json else table)


def _attribute(classifier: str | None) -> str:
    """The attribute that a classifier labels. Raises InputError when none is given."""
    from fairsims.classifiers import load_classifier

    if classifier is None:
        raise InputError("neither an attribute nor a classifier is given; give --attr, or the --classifier of one")
    return load_classifier(classifier).attribute.name
