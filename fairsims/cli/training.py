"""Training a base and fine-tuning an auxiliary."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import command, follow, show
from fairsims.cli.options import (
    PATH,
    POOL,
    RETARGET,
    WHOLE,
    Text,
    compile_option,
    json_option,
    listed,
    option,
    out_option,
    refuse_idle,
    settings,
    together,
)
from fairsims.options import keys_of

TRAIN = "fairsims.training.config:TrainConfig"
PRESETS = tomllib.loads((files("fairsims") / "training" / "presets.toml").read_text(encoding="utf-8"))
SCHEDULE = ("kimg", "warmup_kimg", "lr_final", "decay", "decay_batches", "ema_stds", "averages_kimg")
SETTINGS = (
    "batch_size",
    "micro_batch",
    "lr",
    "beta2",
    "weight_decay",
    "ema_halflife_kimg",
    "P_mean",
    "P_std",
    "augment",
    "xflip",
    "clip_norm",
    "state_kimg",
    "precision",
    "seed",
)
NETWORK = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "dropout", "patch_size", "sigma_data")
"""Arguments of the network, in the order of their options."""
ATTENTION = Text(
    "N,N,...", "whole numbers with commas between, or none", lambda text: () if text == "none" else listed(int)(text)
)
network_options = together(
    click.option(
        "--arch",
        type=click.Choice(keys_of("fairsims.models.families:ARCHITECTURES")),
        help="Kind of network; the first by default.",
    ),
    click.option("--channels", "model_channels", type=int, help="Width of the first level."),
    click.option("--channel-mult", type=WHOLE, help="Width of each level in multiples of --channels."),
    click.option("--blocks", "num_blocks", type=int, help="Residual blocks per level."),
    click.option("--attention", "attn_resolutions", type=ATTENTION, help="Resolutions with attention, or none."),
    click.option("--dropout", type=float, help="Dropout probability."),
    click.option("--patch-size", type=int, help="The network works on pixels unshuffled by this; not with adm."),
    click.option("--sigma-data", type=float, help="Standard deviation of the pixels; measured by default."),
)


@command()
@click.option("--preset", help=f"One of {', '.join(PRESETS)}.")
@click.option("--data", help="Training data, an embedded name or a path; instead of the preset's.")
@click.option("--resolution", type=int, help="Reduce the data to this size, by a whole factor.")
@click.option("--init", help="Checkpoint to start from; its network is taken as it is.")
@click.option("--condition", metavar="ATTR", help="The network is told the class of this attribute of the data.")
@click.option(
    "--vae",
    metavar="FOLDER",
    help="Train on latents: local folder of the diffusers AutoencoderKL that encodes the data, once.",
)
@settings(TRAIN, *SCHEDULE, *SETTINGS, unset=True)
@network_options
@out_option
@compile_option
@json_option
def train(
    preset: str | None, init: str | None, arch: str | None, out: Path, precision: str, as_json: bool, **options: Any
) -> None:
    """Train a base model, by a preset or on data of one's own. torchrun shares each batch between the processes.

    A setting that is not given is the preset's, or the library's.
    """
    from fairsims.models.families import ARCHITECTURES
    from fairsims.models.precondition import resolve_precision
    from fairsims.training.base import train_base

    if init is not None:
        refuse_idle("beside --init: the network of the checkpoint is taken as it is", "arch", "condition", *NETWORK)
    network = given({name: options.pop(name) for name in NETWORK})
    # As JSON has them: a checkpoint's configuration is compared with what is asked for.
    network = {name: list(value) if isinstance(value, tuple) else value for name, value in network.items()}
    # A preset knows its own precision; without one the hardware decides.
    asked = None if precision == "auto" and preset else resolve_precision(precision)
    changes = {name: options.pop(name) for name in (*SCHEDULE, *SETTINGS) if name in options}
    changes = given(changes | {"precision": asked})
    network = (ARCHITECTURES[arch] if arch else {}) | network
    follow(train_base(out, preset_name=preset, init=init, network=network, settings=changes, **options), out, as_json)


@command()
@option(RETARGET, "model", "--model", "--init")
@click.option("--pool", type=POOL, required=True, help="Pool of images to train on.")
@click.option("--complement", "table", type=PATH, help="Table of fairsims complement; the whole pool by default.")
@option(RETARGET, "budget", "--budget", "--kimg")
@option(RETARGET, "rank")
@settings(TRAIN, *SETTINGS, unset=True)
@out_option
@compile_option
@json_option
def finetune(
    model: str,
    pool: Path,
    table: Path | None,
    budget: float,
    rank: int | None,
    out: Path,
    precision: str,
    compiled: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fine-tune a copy of a model into an auxiliary, at a constant rate. torchrun shares each batch."""
    from fairsims import engine
    from fairsims.models import ModelSpec, open_model
    from fairsims.models.precondition import resolve_precision
    from fairsims.pools import Pool, pool_dataset, pool_latents
    from fairsims.retarget.drawing import set_positions
    from fairsims.training.auxiliary import finetune_settings, train_auxiliary

    opened = Pool(pool)
    with engine.main_first():
        base = open_model(ModelSpec(base=model, compiled=compiled))
    data = pool_latents(opened) if base.latent else pool_dataset(opened)
    if table is not None:
        data = data.subset(set_positions(opened, table), name="complement")
    asked = given(options | {"precision": resolve_precision(precision)})
    follow(train_auxiliary(base, data, finetune_settings(base, budget, **asked), out, rank=rank), out, as_json)


@command()
@click.argument("sources", nargs=-1, required=True, type=PATH)
@click.option("--std", type=float, required=True, help="Relative width of the weight average, below 0.289.")
@click.option("--out", type=PATH, required=True, help="Checkpoint folder to write.")
@json_option
def average(sources: tuple[Path, ...], std: float, out: Path, as_json: bool) -> None:
    """Reconstruct a weight average of another width (EDM2's post-hoc EMA).

    SOURCES is the folder of a training with --ema-stds, or several EDM2 snapshots named ...-KIMG-STD.pkl.
    """
    from fairsims.training.averages import reconstruct

    show({"checkpoint": str(out), **reconstruct(sources, std, out)}, as_json)


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
