"""Carry out an audit of a published model: sweep, then retarget at the sweep's best point, then audit. One command:

    python audits/paper.py ffhq64-gender --model edm-ffhq-64x64-uncond-vp.pkl --reference ffhq-64x64.zip \\
        --classifier gender/ [--vae sd-vae-ft-mse/] [--out runs/ffhq64-gender]
    torchrun --standalone --nproc_per_node=8 audits/paper.py ...        on several GPUs
    python audits/paper.py ffhq64-gender --estimate --rate 1500 --gpus 8

    python audits/paper.py sd15-occupations --model stable-diffusion-v1-5/ [--classifier faces]
                                                        over prompts, with one LoRA file at the end

The files are yours and none is fetched; they may also be named by FAIRSIMS_MODEL, FAIRSIMS_REFERENCE,
FAIRSIMS_CLASSIFIER and FAIRSIMS_VAE. `audits/NAME/recipe.toml` has every setting; `--changes FILE.toml` overrides some
of them. What is unfinished is resumed. `--estimate` prints the work, time and disk that the recipe asks for, and does
nothing.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from fairsims import engine
from fairsims.audit.power import MOST
from fairsims.classifiers import load_classifier
from fairsims.classifiers.cnn import CNNTrainer
from fairsims.classifiers.evaluation import HeldOut
from fairsims.classifiers.labelled import labelled
from fairsims.classifiers.making import build_classifier
from fairsims.classifiers.training import ClassifierRecipe
from fairsims.cli.common import Bars, say
from fairsims.data import open_dataset
from fairsims.data.prompts import read_prompts
from fairsims.errors import FairsimsError, InputError
from fairsims.models import fastest_precision
from fairsims.models.precondition import resolve_precision
from fairsims.options import from_mapping
from fairsims.report.prompt_parts import feasibility_table
from fairsims.report.prompts import prompt_text, write_prompt_report
from fairsims.report.publish import publish
from fairsims.report.sweep_figures import sweep_figures
from fairsims.report.sweep_table import read_points, sweep_text
from fairsims.report.terminal import as_text, terminal_table
from fairsims.retarget.config import RetargetConfig
from fairsims.retarget.grid import SweepConfig
from fairsims.retarget.opening import prepare
from fairsims.retarget.prompt_config import PromptConfig
from fairsims.retarget.prompt_retarget import prepare_prompts, retarget_prompts
from fairsims.retarget.retarget import retarget
from fairsims.retarget.retargeting import SHOWN
from fairsims.retarget.sweep import begin_run, sweep

HERE = Path(__file__).parent
FILES = ("model", "reference", "classifier", "vae")
RATE = 1500.0
"""Network forwards a second on one GPU that an estimate rests on, where the recipe says nothing else."""


def read_recipe(name: str, changes: Path | None = None, file: str = "recipe.toml") -> dict[str, Any]:
    """A TOML file of `audits/NAME`, with the tables of a file of changes laid over its own.

    Raises InputError where one of them is missing or broken.
    """
    recipe = _read(HERE / name / file)
    return laid_over(recipe, _read(changes)) if changes else recipe


def asked_recipe(
    parser: argparse.ArgumentParser, name: str, changes: Path | None, file: str = "recipe.toml"
) -> dict[str, Any]:
    """`read_recipe` for a command line, which ends with one line where it cannot be read."""
    try:
        return read_recipe(name, changes, file)
    except InputError as e:
        parser.error(str(e))


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise InputError(f"cannot read {path} ({e.strerror}); expected a TOML file there") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise InputError(f"{path} is no TOML ({e}); mend it") from None


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = {k: laid_over(below[k], v) if isinstance(below.get(k), dict) else v for k, v in above.items()}
    return below | merged


def sweep_config(recipe: dict[str, Any], files: dict[str, str | None], attr: str) -> SweepConfig:
    """The recipe's sweep over the user's files."""
    run: dict[str, Any] = recipe["run"] | files | {"attr": attr, "precision": resolve_precision("auto")}
    target = run.pop("target", "base")
    config = from_mapping(RetargetConfig, run | {"target": "uniform" if target == "base" else target})
    return SweepConfig.read(recipe["sweep"], run=config, steer=target != "base")


def classifier_for_features(recipe: dict[str, Any], files: dict[str, str | None], out: Path) -> str:
    """The classifier given, or one trained on the labels of the reference as the recipe says."""
    if files["classifier"]:
        return files["classifier"]
    plan, folder = recipe.get("classifier"), out / "classifier"
    if plan is None:
        raise InputError("no classifier is given, and this recipe does not make one; give --classifier")
    if not (folder / "config.json").exists():
        data = open_dataset(str(files["reference"]))
        if plan["attribute"] not in data.attributes:
            raise InputError(
                f"{data.name} has no labels for {plan['attribute']!r} to train a classifier on; give --classifier"
            )
        found = labelled(data, plan["attribute"])
        settings = ClassifierRecipe(kimg=plan["kimg"], precision=fastest_precision(torch.device("cpu")))
        build_classifier(
            folder,
            found,
            CNNTrainer(widths=tuple(plan["widths"]), recipe=settings),
            name=plan["name"],
            splits=[HeldOut(name="variant", description="single images held out", folds=plan["folds"])],
            command="python audits/paper.py",
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
    return str(folder)


def carry_out(name: str, recipe: dict[str, Any], files: dict[str, str | None], out: Path) -> None:
    """Classifier, sweep, retargeting with its audit; prints what came out beside what was published."""
    command = f"python audits/paper.py {name}"
    with engine.main_first():
        files = files | {"classifier": classifier_for_features(recipe, files, out)}
    config = sweep_config(recipe, files, load_classifier(str(files["classifier"])).attribute.name)
    with Bars() as bars:
        swept = sweep(config, out / "sweep", progress=bars.report, publish=sweep_figures, command=command)
    say(sweep_text(read_points(out / "sweep"), swept))
    if config.steer:
        point = next(p for p in config.points() if p.name == swept["best"]["at_target"]["point"])
        with engine.main_first():
            chosen = begin_run(config, out / "sweep", point, out / "retarget")
        with Bars() as bars:
            audit = retarget(prepare(chosen), out / "retarget", progress=bars.report, publish=publish, command=command)
        say(f"\n{terminal_table(audit)}")
    for when, row in swept["confirmed"].items():
        distances = ", ".join(f"{k} {row[k]:.4g}" for k in ("fd_reference", "fd_target") if k in row)
        say(f"confirmed on {row['images']} audit seeds: {when}: {distances}, {row['nfe']} evaluations")
    say(published(recipe))


def carry_out_prompts(name: str, recipe: dict[str, Any], files: dict[str, str | None], out: Path) -> None:
    """A retargeting over prompts with its audit and its LoRA file; prints it beside what was published."""
    config = prompt_config(recipe, files)
    with Bars() as bars:
        found = retarget_prompts(
            prepare_prompts(config),
            out,
            progress=bars.report,
            publish=write_prompt_report,
            feasible=lambda classes, rows: say(as_text([feasibility_table(classes, rows)])),
            command=f"python audits/paper.py {name}",
        )
    say(prompt_text(found))
    lines = [f"  {p['what']}: {p['value']} ({p['source']})" for p in recipe["published"]]
    say("\n".join(["published, not reproduced here (other prompts, classifiers and images):", *lines]))


def prompt_config(recipe: dict[str, Any], files: dict[str, str | None]) -> PromptConfig:
    """The recipe's settings over the user's pipeline; the ready classifier of faces where none is given."""
    own = {"model": files["model"], "classifier": files["classifier"] or "faces"}
    return from_mapping(PromptConfig, recipe["run"] | own | {"precision": resolve_precision("auto")})


def estimate_prompts(recipe: dict[str, Any], rate: float, gpus: int) -> str:
    """Work and time of a recipe over prompts: hours = forwards / (rate x GPUs). An estimate, not measured.

    A training step on an image counts as three forwards. An upper bound: every explicit prompt has a pool, and the
    calibration spends all of its images.
    """
    config = prompt_config(recipe, {"model": "model", "classifier": None})
    prompts, guided = read_prompts(config.prompts), not recipe["size"].get("embedded", False)
    nfe = (config.steps or 50) * (2 if guided else 1)
    neutral, explicit = len(prompts.of("neutral")), len(prompts.of("explicit"))
    stages = {
        "pool": (neutral + guided) * config.pool * nfe,
        "explicit prompts": 0 if config.positive == "never" else explicit * config.pool * nfe,
        "adapters": 2 * config.budget * 1000 * 3,
        "calibration": neutral * config.calibration * nfe,
        "audit": (2 * len(prompts.items) + 2 * neutral) * config.audit * nfe,
    }
    size = recipe["size"]["tflop"]
    lines = [f"estimate, not measured: {rate:g} forwards/s on each of {gpus} GPU(s), {size:g} TFLOP a forward"]
    for stage, forwards in (stages | {"in all": sum(stages.values())}).items():
        lines.append(f"  {stage:<32}{forwards / 1e6:>8.2f} M forwards{forwards / rate / 3600 / gpus:>9.2f} h")
    return "\n".join(lines)


def published(recipe: dict[str, Any]) -> str:
    """What others report: on Inception features, so not to be read beside a distance on a classifier's."""
    lines = []
    for p in recipe["published"]:
        at = f" at {p['nfe']} evaluations" if "nfe" in p else ""
        lines.append(f"  {p['what']:<12}  FID {p['fid']:.2f}{at} ({p['source']})")
    return "\n".join(["published, not reproduced here (FID: another extractor than any distance above):", *lines])


def work(config: SweepConfig) -> dict[str, float]:
    """Network forwards of each stage by arithmetic; a training step on an image counts as three.

    2 * steps - 1 evaluations an image (Heun), twice that for a guided pair without an interval.
    """
    run, nfe = config.run, 2 * config.run.steps - 1
    networks = {"base": 1, "auxiliary": 1, "merged": 1, "guided": 2}
    dearest = max(networks[m] for m in config.modes)
    stages = {
        "pool": run.pool * nfe,
        "fine-tunes": len(config.sizes) * config.budgets[-1] * 1000 * 3,
        "points": sum(config.images * nfe * networks[p.mode] for p in config.points()),
    }
    if config.confirm:
        stages["confirm"] = config.confirm * nfe * (1 + dearest)
    if config.steer:
        audited = run.audit or MOST
        stages["calibrate and audit"] = nfe * (run.calibration * dearest + audited * dearest + SHOWN)
    return stages


def estimate(recipe: dict[str, Any], rate: float, gpus: int) -> str:
    """Work, time and disk of a recipe: hours = forwards / (rate x GPUs). An estimate, not measured."""
    config, size = sweep_config(recipe, dict.fromkeys(FILES[:3], "file"), "attribute"), recipe["size"]
    stages = work(config)
    lines = [f"estimate, not measured: {rate:g} forwards/s on each of {gpus} GPU(s), {size['gflop']:g} GFLOP a forward"]
    hours = 0.0
    for stage, forwards in stages.items():
        each = forwards / rate / 3600 / gpus
        hours += each
        lines.append(f"  {stage:<32}{forwards / 1e6:>8.1f} M forwards{each:>9.2f} h")
    lines.append(f"  {'in all':<32}{sum(stages.values()) / 1e6:>8.1f} M forwards{hours:>9.2f} h")
    pools = config.run.pool * (2 if config.steer else 1) + config.images * sum(1 for _ in config.points())
    pools += config.confirm * 3 + ((config.run.calibration + (config.run.audit or MOST) + SHOWN) if config.steer else 0)
    # Unpacked pixels: an upper bound of the PNG's size.
    images = pools * size["resolution"] ** 2 * 3 / 1e9
    latents = pools * math.prod(size["latents"]) * 4 / 1e9 if "latents" in size else 0.0
    beside = f" and their latents {latents:.1f} GB" if latents else ""
    network = size["parameters"] * 4 / 1e9
    # Each fine-tune's snapshots and result; its state (weights, average, two moments of Adam); the import; the run's.
    kept = network * (len(config.sizes) * (len(config.budgets) + 1) + 4 + 3)
    lines.append(
        f"  disk: {pools:,} images, {images:.1f} GB at most{beside}; networks {kept:.1f} GB; "
        f"{images + latents + kept:.1f} GB in all"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="folder of the recipe, such as ffhq64-gender, imagenet64-sims or sd15-occupations")
    for file in FILES:
        parser.add_argument(f"--{file}", default=os.environ.get(f"FAIRSIMS_{file.upper()}"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--changes", type=Path, help="TOML laid over the recipe")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--rate", type=float, help="network forwards a second on one GPU; the recipe's by default")
    parser.add_argument("--gpus", type=int, default=1)
    args = parser.parse_args(arguments)
    recipe = asked_recipe(parser, args.name, args.changes)
    asked = "prompts" in recipe["run"]
    if args.estimate:
        rate = args.rate or recipe["size"].get("rate", RATE)
        print((estimate_prompts if asked else estimate)(recipe, rate, args.gpus))
        return
    files = {file: getattr(args, file) for file in FILES}
    needed = ("model", *([] if asked else ["reference"]), *(["vae"] if "latents" in recipe["size"] else []))
    missing = [f for f in needed if not files[f]]
    if missing:
        parser.error(f"no {' and no '.join(missing)} given; name your own files, by option or environment")
    engine.initialise()
    try:
        (carry_out_prompts if asked else carry_out)(args.name, recipe, files, args.out or Path("runs") / args.name)
    except FairsimsError as e:
        sys.exit(f"error: {e}")
    finally:
        engine.shutdown()


if __name__ == "__main__":
    main()
