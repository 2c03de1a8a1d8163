"""Training a base and fine-tuning an auxiliary."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from fairsims.cli.common import compile_option, follow, json_option, path, with_options
from fairsims.errors import InputError

# Named as the fields of TrainConfig, and None where its default or the preset's is to hold.
SETTINGS = (
    click.option("--batch-size", type=int, help="Images per step, over all processes."),
    click.option("--micro-batch", type=int, help="Most images at once on each device; gradients are summed."),
    click.option("--lr", type=float, help="Peak learning rate."),
    click.option("--ema-halflife-kimg", type=float, help="Half-life of the weight average; 0: raw weights."),
    click.option("--P-mean", "P_mean", type=float, help="Mean of ln(sigma) in the loss."),
    click.option("--P-std", "P_std", type=float, help="Standard deviation of ln(sigma) in the loss."),
    click.option("--augment", type=float, help="Probability of each distortion the network is told about."),
    click.option("--xflip/--no-xflip", default=None, help="Mirror images at random."),
    click.option("--clip-norm", type=float, help="Largest gradient norm."),
    click.option("--state-kimg", type=float, help="How often the state that a killed run resumes from is saved."),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        default="auto",
        show_default=True,
        help="Type of the network's products.",
    ),
    click.option("--seed", type=int, default=0, show_default=True),
)
SCHEDULE = (
    click.option("--kimg", type=float, help="Budget in thousands of images."),
    click.option("--warmup-kimg", type=float, help="Linear ramp of the learning rate."),
    click.option("--lr-final", type=float, help="Share of --lr that the cosine decay ends at; 1: no decay."),
)
NETWORK = (
    click.option("--arch", type=click.Choice(["ddpmpp", "ncsnpp", "adm"]), help="Kind of network; ddpmpp by default."),
    click.option("--channels", type=int, help="Width of the first level."),
    click.option("--channel-mult", metavar="N,N,...", help="Width of each level in multiples of --channels."),
    click.option("--blocks", type=int, help="Residual blocks per level."),
    click.option("--attention", metavar="N,N,...", help="Resolutions with attention, or none."),
    click.option("--dropout", type=float, help="Dropout probability."),
    click.option("--patch-size", type=int, help="The network works on pixels unshuffled by this; not with adm."),
    click.option("--sigma-data", type=float, help="Standard deviation of the pixels; measured by default."),
)


@click.command()
@click.option("--preset", help="emoji-people-32, emoji-people-64, digits-8, cifar10 or ffhq64.")
@click.option("--data", help="Training data, an embedded name or a path; instead of the preset's.")
@click.option("--resolution", type=int, help="Reduce the data to this size, by a whole factor.")
@click.option("--init", help="Checkpoint to start from; its network is taken as it is.")
@click.option("--out", type=path, required=True, help="Checkpoint folder; resumes when begun.")
@with_options(*SCHEDULE, *SETTINGS, *NETWORK)
@compile_option
@json_option
def train(
    preset: str | None, data: str | None, resolution: int | None, init: str | None, out: Path, arch: str | None,
    channels: int | None, channel_mult: str | None, blocks: int | None, attention: str | None, dropout: float | None,
    patch_size: int | None, sigma_data: float | None, precision: str, compiled: bool, as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Train a base model, by a preset or on data of one's own. torchrun shares each batch between the processes."""
    from fairsims import jobs
    from fairsims.training.presets import ARCHITECTURES

    network = given(
        model_channels=channels, channel_mult=numbers("--channel-mult", channel_mult), num_blocks=blocks,
        attn_resolutions=numbers("--attention", attention), dropout=dropout, patch_size=patch_size,
        sigma_data=sigma_data,
    )  # fmt: skip
    # A preset knows its own precision; without one the hardware decides.
    asked = None if precision == "auto" and preset else jobs.resolve_precision(precision)
    ticks = jobs.train_base(
        out, preset_name=preset, data=data, resolution=resolution, init=init,
        network=(ARCHITECTURES[arch] if arch else {}) | network, settings=given(**settings, precision=asked),
        compiled=compiled,
    )  # fmt: skip
    follow(ticks, out, as_json)


@click.command()
@click.option(
    "--model", "--init", default="emoji-people-32", show_default=True, help="Checkpoint folder or embedded model."
)
@click.option("--pool", type=path, required=True, help="Pool of images to train on.")
@click.option("--complement", "table", type=path, help="Table of `fairsims complement`; the whole pool by default.")
@click.option("--budget", "--kimg", "budget", type=float, default=9.6, show_default=True, help="Fine-tuning in kimg.")
@with_options(*SETTINGS)
@click.option("--out", type=path, required=True, help="Checkpoint folder; resumes when begun.")
@compile_option
@json_option
def finetune(
    model: str, pool: Path, table: Path | None, budget: float, out: Path, precision: str, compiled: bool,
    as_json: bool, **settings: Any,
) -> None:  # fmt: skip
    """Fine-tune a copy of a model into an auxiliary, at a constant rate. torchrun shares each batch."""
    from fairsims import jobs
    from fairsims.pools import Pool

    ticks = jobs.finetune_pool(
        model, Pool(pool), table, out, budget=budget,
        settings=given(**settings, precision=jobs.resolve_precision(precision)), compiled=compiled,
    )  # fmt: skip
    follow(ticks, out, as_json)


def given(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}


def numbers(name: str, text: str | None) -> list[int] | None:
    """`1,2,2` as a list; `none` as the empty one."""
    if text is None or text == "none":
        return None if text is None else []
    try:
        return [int(p) for p in text.split(",")]
    except ValueError:
        raise InputError(f"{name} is {text!r}; expected whole numbers such as 1,2,2") from None
