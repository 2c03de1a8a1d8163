"""What the commands share: errors as one line, progress bars, printing."""

from __future__ import annotations

import functools
import json
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from fairsims import engine
from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    from tqdm import tqdm

    from fairsims.training import Tick


PARALLEL = ("retarget", "compare", "train", "finetune", "generate", "sweep")
"""Commands that share their work under torchrun."""


class Command(click.Command):
    """Says in the words of the command line what settings say in their own."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ValueError as e:
            # Settings are checked in `__post_init__`, which raises "<field> is <found>; expected ...".
            if "; expected" not in str(e):
                raise
            field, verb, rest = str(e).partition(" is ")
            flag = f"--{field.replace('_', '-')}"
            known = any(flag in p.opts for p in self.params)
            raise InputError(f"{flag if known else field}{verb}{rest}") from e


class Verbs(click.Group):
    """A group of commands."""

    command_class = Command


class Group(Verbs):
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
            fail(f"{e}; see {e.page}" if e.page else str(e))
        except BrokenPipeError:
            # Whoever read the output, `head` say, has seen enough. What is left must not be tried again at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except OSError as e:
            where = e.filename or "a file"
            fail(f"cannot read or write {where}: {e.strerror or e}; free space or choose another folder")
        except click.UsageError as e:
            if "\n" in e.message:  # the whole help, of a group without a command
                raise
            where = f"; see {e.ctx.command_path} --help" if e.ctx else ""
            fail(e.format_message().rstrip(".") + where)
        except KeyboardInterrupt:
            fail("interrupted; the same command goes on from here")


command = functools.partial(click.command, cls=Command)


def note(message: str | None) -> None:
    """A line on stderr about what may be better done otherwise, where there is one."""
    if message:
        click.echo(f"note: {' '.join(message.split())}", err=True)


def fail(message: str) -> NoReturn:
    """One line on stderr, exit code 2; under torchrun without waiting for the other processes."""
    if engine.launched_rank():
        # Most errors are found by all processes. While this one waits, torchrun ends it if rank 0 has failed as well.
        time.sleep(5)
    click.echo("error: " + " ".join(message.split()), err=True)
    if engine.launched():
        sys.stderr.flush()
        os._exit(2)
    sys.exit(2)


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
        if isinstance(v, dict) and v:
            yield f"{' ' * indent}{k}"
            yield from _lines(v, indent + 2)
        else:
            yield f"{' ' * indent}{k:<{max(2, 26 - indent)}} {_text(v)}"


def _text(value: Any) -> str:
    if value is None or value in ("", {}, []):
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def command_line() -> str:
    """The command as it was typed, for the record."""
    return shlex.join(["fairsims", *sys.argv[1:]])
