"""What the commands share: errors as one line, common options, progress bars, printing."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fairsims.training import Tick


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


class Bars:
    """One progress bar per stage on stderr; none when it is not a terminal."""

    def __init__(self) -> None:
        self.stage = ""
        self.bar: tqdm[Any] | None = None

    def __enter__(self) -> Bars:
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


def follow(ticks: Iterator[Tick], out: Path, as_json: bool) -> None:
    """Run a training to its end with a progress bar, then print where it is."""
    from fairsims.runs import read_json

    with Bars() as bars:
        last = None
        for last in ticks:
            budget = read_json(out / "training.json")["train"]["kimg"] * 1000
            bars.report("train", min(last.nimg, int(budget)), int(budget))
            assert bars.bar is not None
            bars.bar.set_postfix(loss=f"{last.loss:.4f}")
    show({"checkpoint": str(out), **({"loss": last.loss, "kimg": last.nimg / 1000} if last else {})}, as_json)


def show(value: dict[str, Any], as_json: bool) -> None:
    """Print a result, as aligned lines or as JSON."""
    click.echo(json.dumps(value) if as_json else "\n".join(_lines(value)))


def _lines(value: dict[str, Any], indent: int = 0) -> Iterable[str]:
    for k, v in value.items():
        if isinstance(v, dict):
            yield f"{' ' * indent}{k}"
            yield from _lines(v, indent + 2)
        else:
            text = f"{v:.4g}" if isinstance(v, float) else ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v
            yield f"{' ' * indent}{k:<{max(2, 26 - indent)}} {text}"


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join(["fairsims", *sys.argv[1:]])


def sizes_of(text: str) -> tuple[int, ...]:
    """`512,1024` as numbers."""
    try:
        return tuple(int(p) for p in text.split(","))
    except ValueError:
        raise InputError(f"--pilots is {text!r}; expected sizes such as 512,1024,3072") from None


def seed_range(text: str) -> range:
    """`0-1023` as a range that includes both ends."""
    first, _, last = text.partition("-")
    try:
        wanted = range(int(first), int(last or first) + 1)
    except ValueError:
        raise InputError(f"--seeds is {text!r}; expected first-last, such as 0-1023") from None
    if len(wanted) == 0:
        raise InputError(f"--seeds is {text!r}; expected the last not below the first")
    return wanted
