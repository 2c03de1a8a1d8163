"""The command line: parse, one library call, print. Results go to stdout, progress to stderr."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims import __version__
from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fairsims.training import Tick

EXAMPLES = """\b
Examples:
  fairsims retarget --attr gender --target 0.5
  fairsims retarget --attr gender --target woman=0.35,man=0.65 --mode guided
  fairsims retarget --model digits-8 --attr parity --target 0.5 --dry-run
"""


class Group(click.Group):
    """Turns errors that a user can mend into one line on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except FairsimsError as e:
            fail(str(e))
        except ValueError as e:
            # Settings are checked in `__post_init__`, which raises "<field> is <found>; expected ...".
            if "; expected" not in str(e):
                raise
            fail("--" + str(e).replace("_", "-", 1) if " is " in str(e) else str(e))
        except OSError as e:
            fail(
                f"cannot read or write {e.filename or 'a file'}: {e.strerror or e}; free space or choose another folder"
            )
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from here")


def fail(message: str) -> None:
    """One line on stderr, exit code 2."""
    click.echo("error: " + " ".join(message.split()), err=True)
    sys.exit(2)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
model_option = click.option(
    "--model", default="emoji-people-32", show_default=True, help="Checkpoint folder or embedded model."
)
attr_option = click.option("--attr", required=True, help="Attribute, e.g. gender.")
target_option = click.option("--target", required=True, help="0.5, uniform, or woman=0.3,man=0.7.")
classifier_option = click.option(
    "--classifier", help="Classifier folder or embedded name; the one that fits by default."
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="Type of the network's products; auto is bfloat16 where the hardware has it.",
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
steps_option = click.option("--steps", type=int, default=12, show_default=True, help="Noise levels of the sampler.")
omega_option = click.option("--omega", type=float, help="Planned omega of the complement rule.")
cap_option = click.option("--cap", type=float, default=2.0, show_default=True, help="Largest strength.")
floor_option = click.option(
    "--floor", type=float, default=0.9, show_default=True, help="Least class probability in the complement set."
)
size_option = click.option("--complement-size", type=int, help="Images in the complement set; all that fit by default.")
budget_option = click.option(
    "--budget", type=float, default=9.6, show_default=True, help="Fine-tuning of the auxiliary, kimg."
)
lr_option = click.option("--lr", type=float, default=3e-4, show_default=True, help="Learning rate of the fine-tune.")
batch_option = click.option(
    "--batch-size", type=int, default=64, show_default=True, help="Images per fine-tuning step."
)
path = click.Path(path_type=Path)


@click.group(cls=Group, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fairsims")
def main() -> None:
    """Retarget the attribute mix of a diffusion model with its own images (SIMS), and prove it."""


@main.command()
@model_option
@attr_option
@target_option
@click.option(
    "--mode",
    type=click.Choice(["merged", "guided"]),
    default="merged",
    show_default=True,
    help="One network, or two (SIMS).",
)
@classifier_option
@click.option("--reference", help="Labelled real data for the audit; the base's training data by default.")
@click.option("--out", type=path, help="Run folder; by default runs/NNNNN-ATTR-TARGET, resumed when begun.")
@click.option("--runs", type=path, default=Path("runs"), show_default=True, help="Where numbered run folders go.")
@click.option("--pool", type=int, default=3072, show_default=True, help="Images of the base to label and draw from.")
@budget_option
@batch_option
@lr_option
@omega_option
@cap_option
@floor_option
@size_option
@click.option("--pilots", default="512,1024,3072", show_default=True, help="Calibration images of each pilot.")
@click.option("--audit", type=int, default=2048, show_default=True, help="Audit images, before and after each.")
@click.option(
    "--tolerance", type=float, default=0.03, show_default=True, help="Reached: interval inside target +- this."
)
@steps_option
@click.option("--sample-batch", type=int, default=128, show_default=True, help="Images sampled at once.")
@precision_option
@seed_option
@click.option("--dry-run", is_flag=True, help="Print the resolved plan and its cost, and stop.")
@json_option
def retarget(
    out: Path | None, runs: Path, pilots: str, precision: str, dry_run: bool, as_json: bool, **options: Any
) -> None:
    """Retarget a model to a mix of classes, with audit and report. The same command again resumes."""
    from fairsims import jobs
    from fairsims.report.terminal import terminal_table
    from fairsims.retarget.config import RetargetConfig
    from fairsims.retarget.pipeline import prepare

    sizes = _sizes(pilots)
    config = RetargetConfig(**options, pilots=sizes, precision=jobs.resolve_precision(precision))
    job = prepare(config)
    if dry_run:
        _print(jobs.dry_run(job), as_json)
        return
    run = out or jobs.find_run(job, runs)
    with _Bars() as bars:
        result = jobs.run_retarget(job, run, report=bars.report, command=_command())
    if as_json:
        click.echo(json.dumps({"run": str(run), **result}))
    else:
        click.echo(terminal_table(result))
        click.echo(f"\nreport  {run / 'report.html'}\nmodel   {run / config.mode}")


@main.command()
@click.option("--preset", required=True, help="emoji-people-32 or digits-8: data, network and schedule.")
@click.option("--data", help="Other training data of the preset's shape: embedded name or path.")
@click.option("--out", type=path, required=True, help="Checkpoint folder; resumes when begun.")
@click.option("--kimg", type=float, help="Budget in thousands of images.")
@precision_option
@seed_option
@json_option
def train(
    preset: str, data: str | None, out: Path, kimg: float | None, precision: str, seed: int, as_json: bool
) -> None:
    """Train a base model."""
    from fairsims import jobs

    ticks = jobs.train_preset(preset, out, data=data, kimg=kimg, seed=seed, precision=precision)
    _follow(ticks, out, as_json)


@main.command()
@model_option
@click.option("--seeds", default="0-1023", show_default=True, help="Image seeds, first-last.")
@click.option("--out", type=path, required=True, help="Pool folder; resumes when begun.")
@steps_option
@click.option("--batch-size", type=int, default=128, show_default=True)
@precision_option
@click.option("--export-zip", type=path, help="Also write an EDM data set zip.")
@click.option("--export-folder", type=path, help="Also write PNG files and metadata.csv.")
@json_option
def generate(
    model: str, seeds: str, out: Path, steps: int, batch_size: int, precision: str, export_zip: Path | None,
    export_folder: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Sample a model's images into a pool."""
    from fairsims import jobs, pools

    wanted = _seed_range(seeds)
    with _Bars() as bars:
        for done in jobs.generate_pool(
            model, out, wanted, steps=steps, batch_size=batch_size, precision=jobs.resolve_precision(precision)
        ):
            bars.report("generate", done, len(wanted))
    pool = pools.Pool(out)
    if export_zip:
        pools.export_edm_zip(pool, export_zip)
    if export_folder:
        pools.export_folder(pool, export_folder)
    _print(
        {"pool": str(out), "images": len(pool), "evaluations_per_image": pool.meta["evaluations_per_image"]}, as_json
    )


@main.command()
@click.argument("pool", type=path)
@attr_option
@classifier_option
@json_option
def label(pool: Path, attr: str, classifier: str | None, as_json: bool) -> None:
    """Label a pool with class probabilities and estimate its shares."""
    from fairsims import jobs
    from fairsims.pools import Pool

    opened = Pool(pool)
    e = jobs.label(opened, jobs.classifier_of(opened, attr, classifier))
    shares = {
        c: {"share": e.share[k], "low": e.low[k], "high": e.high[k], "raw": e.raw[k]} for k, c in enumerate(e.classes)
    }
    _print({"images": e.n, "shares": shares, "method": e.method, "warnings": list(e.warnings)}, as_json)


@main.command()
@click.argument("pool", type=path)
@attr_option
@target_option
@classifier_option
@omega_option
@cap_option
@floor_option
@size_option
@seed_option
@click.option("--out", type=path, required=True, help="Parquet table to write: seed, class, probability.")
@json_option
def complement(
    pool: Path, attr: str, target: str, classifier: str | None, omega: float | None, cap: float, floor: float,
    complement_size: int | None, seed: int, out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Plan the complement of a target and draw it from a pool."""
    from fairsims import jobs
    from fairsims.pools import Pool

    opened = Pool(pool)
    _, facts = jobs.make_complement(
        opened, jobs.classifier_of(opened, attr, classifier), target, out, omega=omega, cap=cap, floor=floor,
        size=complement_size, seed=seed,
    )  # fmt: skip
    _print(facts | {"table": str(out)}, as_json)


@main.command()
@model_option
@click.option("--pool", type=path, required=True, help="Pool of images to train on.")
@click.option("--complement", "table", type=path, help="Table of `fairsims complement`; the whole pool by default.")
@budget_option
@batch_option
@lr_option
@precision_option
@seed_option
@click.option("--out", type=path, required=True, help="Checkpoint folder; resumes when begun.")
@json_option
def finetune(
    model: str, pool: Path, table: Path | None, budget: float, batch_size: int, lr: float, precision: str, seed: int,
    out: Path, as_json: bool,
) -> None:  # fmt: skip
    """Fine-tune a copy of a model into an auxiliary."""
    from fairsims import jobs
    from fairsims.pools import Pool

    ticks = jobs.finetune_pool(
        model, Pool(pool), table, out, budget=budget, batch_size=batch_size, lr=lr, seed=seed,
        precision=jobs.resolve_precision(precision),
    )  # fmt: skip
    _follow(ticks, out, as_json)


@main.command()
@model_option
@click.option("--aux", type=path, required=True, help="Auxiliary checkpoint.")
@click.option("--strength", type=float, required=True, help="w or omega: (1+w) base - w auxiliary.")
@click.option("--mode", type=click.Choice(["merged", "guided"]), default="merged", show_default=True)
@click.option("--out", type=path, required=True, help="Checkpoint folder to write.")
@json_option
def merge(model: str, aux: Path, strength: float, mode: str, out: Path, as_json: bool) -> None:
    """Write base and auxiliary as one network (merged) or as a guided pair."""
    from fairsims import jobs

    _print({"checkpoint": str(out), "digest": jobs.combine(model, aux, strength, out, mode=mode)}, as_json)


@main.command()
@click.option("--before", type=path, required=True, help="Pool of the model as it was.")
@click.option("--after", type=path, help="Pool of the model as it is.")
@attr_option
@target_option
@classifier_option
@click.option("--reference", help="Labelled real data for the Fréchet distances: embedded name or path.")
@click.option("--split", help="Held-out split whose errors correct the shares.")
@click.option("--tolerance", type=float, default=0.03, show_default=True)
@click.option("--out", type=path, required=True, help="Folder for audit/ and report.html.")
@json_option
def audit(before: Path, after: Path | None, out: Path, as_json: bool, **options: Any) -> None:
    """Measure shares and quality of pools before and after."""
    from fairsims import jobs
    from fairsims.report.terminal import terminal_table

    result = jobs.audit_pools(before, after, out, command=_command(), **options)
    click.echo(json.dumps(result) if as_json else f"{terminal_table(result)}\n\nreport  {out / 'report.html'}")


@main.command()
@click.argument("path_or_name", required=False)
@json_option
def info(path_or_name: str | None, as_json: bool) -> None:
    """What is installed and embedded, or what a checkpoint, pool or run is."""
    from fairsims import jobs

    _print(jobs.describe_path(path_or_name) if path_or_name else jobs.overview(), as_json)


@main.command()
@click.argument("runs", type=path, default=Path("runs"))
@click.option("--port", type=int, help="Port on this machine; Streamlit's choice by default.")
@click.option("--headless", is_flag=True, help="Do not open a browser.")
def dashboard(runs: Path, port: int | None, headless: bool) -> None:
    """Show runs in the browser (this machine only)."""
    from fairsims.report.dashboard import launch_dashboard

    launch_dashboard(runs, port=port, headless=headless)


class _Bars:
    """One progress bar per stage on stderr; none when it is not a terminal."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> _Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def report(self, stage: str, done: int, total: int) -> None:
        from tqdm import tqdm

        if stage != self.stage:
            if self.bar is not None:
                self.bar.close()
            self.stage = stage
            self.bar = tqdm(
                total=total, desc=f"{stage:<12}", unit=" images", file=sys.stderr, disable=not sys.stderr.isatty()
            )
        assert self.bar is not None
        self.bar.update(done - self.bar.n)


def _follow(ticks: Iterator[Tick], out: Path, as_json: bool) -> None:
    """Run a training to its end with a progress bar, then print where it is."""
    from fairsims.runs import read_json

    with _Bars() as bars:
        last = None
        for last in ticks:
            budget = read_json(out / "training.json")["train"]["kimg"] * 1000
            bars.report("train", min(last.nimg, int(budget)), int(budget))
            assert bars.bar is not None
            bars.bar.set_postfix(loss=f"{last.loss:.4f}")
    _print({"checkpoint": str(out), **({"loss": last.loss, "kimg": last.nimg / 1000} if last else {})}, as_json)


def _print(value: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(value) if as_json else "\n".join(_lines(value)))


def _lines(value: dict[str, Any], indent: int = 0) -> Iterable[str]:
    for k, v in value.items():
        if isinstance(v, dict):
            yield f"{' ' * indent}{k}"
            yield from _lines(v, indent + 2)
        else:
            text = f"{v:.4g}" if isinstance(v, float) else ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v
            yield f"{' ' * indent}{k:<{max(2, 26 - indent)}} {text}"


def _command() -> str:
    return shlex.join(["fairsims", *sys.argv[1:]])


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(p) for p in text.split(","))
    except ValueError:
        raise InputError(f"--pilots is {text!r}; expected sizes such as 512,1024,3072") from None


def _seed_range(text: str) -> range:
    first, _, last = text.partition("-")
    try:
        wanted = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"--seeds is {text!r}; expected first-last, such as 0-1023") from None
    if len(wanted) == 0:
        raise InputError(f"--seeds is {text!r}; expected the last not below the first")
    return wanted


if __name__ == "__main__":
    main()
