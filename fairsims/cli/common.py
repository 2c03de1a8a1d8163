"""What the commands share: errors as one line, common options, progress bars, printing."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from fairsims import engine
from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fairsims.training import Tick


Command = TypeVar("Command", bound=Callable[..., None])

PARALLEL = ("retarget", "compare", "train", "finetune", "generate", "sweep")
"""Commands that share their work under torchrun."""


class Group(click.Group):
    """Turns errors that a user can mend into one line on stderr and exit code 2.

    Under torchrun the processes share the work of the commands in `PARALLEL`; any other runs on rank 0 alone.
    """

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        if engine.launched():
            if found[0] in PARALLEL:
                engine.initialise()
            elif engine.launched_rank():
                raise click.exceptions.Exit(0)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            engine.shutdown()
            return result
        except FairsimsError as e:
            fail(str(e))
        except ValueError as e:
            # Settings are checked in `__post_init__`, which raises "<field> is <found>; expected ...".
            if "; expected" not in str(e):
                raise
            name, found, rest = str(e).partition(" is ")
            fail(f"--{name.replace('_', '-')}{found}{rest}" if found else str(e))
        except BrokenPipeError:
            # Whoever read the output, `head` say, has seen enough. What is left must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as e:
            fail(
                f"cannot read or write {e.filename or 'a file'}: {e.strerror or e}; free space or choose another folder"
            )
        except click.UsageError as e:
            if not engine.launched():
                raise
            leave(e.show)
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from here")


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2."""
    leave(lambda: click.echo("error: " + " ".join(message.split()), err=True))


def leave(say: Callable[[], None]) -> NoReturn:
    """Exit with code 2 after saying why; under torchrun without waiting for the other processes."""
    if engine.launched_rank():
        # Most errors are found by all processes. While this one waits, torchrun ends it if rank 0 has failed as well.
        time.sleep(5)
    say()
    if engine.launched():
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)


def given_once(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """The value of an option that other commands take several times; click alone would drop all but the last."""
    if len(values) > 1:
        raise InputError(f"--{option.name} is given {len(values)} times; expected once: this command takes one")
    return values[0] if values else None


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
model_option = click.option(
    "--model", default="emoji-people-32", show_default=True, help="Checkpoint folder or embedded model."
)
attr_option = click.option("--attr", multiple=True, callback=given_once, required=True, help="Attribute, e.g. gender.")
target_option = click.option(
    "--target", multiple=True, callback=given_once, required=True, help="0.5, uniform, or woman=0.3,man=0.7."
)
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
compile_option = click.option(
    "--compile", "compiled", is_flag=True, help="torch.compile the networks: minutes at the start, faster after."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
steps_option = click.option("--steps", type=int, default=12, show_default=True, help="Noise levels of the sampler.")
solver_option = click.option(
    "--solver", type=click.Choice(["heun", "euler", "dpmpp2m"]), default="heun", show_default=True, help="ODE solver."
)
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
finetune_option = click.option(
    "--finetune", multiple=True, metavar="NAME=VALUE", help="Another setting of the fine-tune, e.g. augment=0.15."
)
path = click.Path(path_type=Path)
reference_option = click.option("--reference", help="Real data for quality; the base's training data by default.")
sample_batch_option = click.option(
    "--sample-batch", type=int, default=128, show_default=True, help="Images sampled at once."
)


def with_options(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in this order in the help."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


fine_tuning_options = with_options(batch_option, lr_option, finetune_option, omega_option, cap_option, floor_option)
"""Of every command that trains an auxiliary on a drawn set."""
sampling_options = with_options(solver_option, sample_batch_option, precision_option, seed_option)
"""Of every command that samples base and auxiliary."""


class Bars:
    """One progress bar per stage on stderr; none when it is not a terminal."""

    def __init__(self, unit: str = " images") -> None:
        self.stage, self.unit = "", unit
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
                total=total,
                desc=f"{stage:<12}",
                unit=self.unit,
                file=sys.stderr,
                disable=not sys.stderr.isatty() or engine.launched_rank() > 0,
            )
        assert self.bar is not None
        self.bar.update(done - self.bar.n)


def follow(ticks: Iterator[Tick], out: Path, as_json: bool) -> None:
    """Run a training to its end with a progress bar, then print where it is."""
    from fairsims.files import read_json

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
    say(json.dumps(value) if as_json else "\n".join(_lines(value)))


def say(text: str) -> None:
    """Print on stdout, under torchrun once for all processes."""
    if engine.launched_rank() == 0:
        click.echo(text)


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


def values_of(texts: Sequence[str]) -> dict[str, float]:
    """`["augment=0.15", "xflip=true"]` as names and numbers."""
    switch = {"true": True, "false": False}
    try:
        return {n: switch[v] if v in switch else float(v) for n, _, v in (t.partition("=") for t in texts)}
    except ValueError:
        raise InputError(f"--finetune is {', '.join(texts)}; expected NAME=NUMBER such as augment=0.15") from None


def interval_of(text: str | None) -> tuple[float, float] | None:
    """`0.2,5` as two noise levels."""
    if text is None:
        return None
    try:
        low, high = (float(p) for p in text.split(","))
    except ValueError:
        raise InputError(f"--interval is {text!r}; expected two noise levels such as 0.2,5") from None
    return low, high


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
