"""The options that say who does the work of a command."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import click

from fairsims import engine
from fairsims.cli.common import note
from fairsims.cli.options import Text, refuse_idle, settings, together
from fairsims.errors import InputError
from fairsims.options import settings_of

RAY = "fairsims.engine.ray_engine:RayConfig"
ENGINES = ("local", "torchrun", "ray")


def part(text: str) -> tuple[int, int]:
    """`3/8`, the third of eight."""
    job, jobs = (int(number) for number in text.split("/"))
    if not 1 <= job <= jobs:
        raise ValueError
    return job, jobs


shards_option = click.option(
    "--shards",
    type=Text("K/N", "K/N with K from 1 to N, such as 3/8", part),
    help="Make the K-th of N parts only: jobs that share nothing but the folder finish it together, in any order.",
)


def engine_options(*, trains: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--engine` and what Ray is told, for a command that makes images, labels or features; one that also `trains`
    says where it does."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, engine: str | None, **options: Any) -> Any:
            ray = {name: options.pop(name) for name in settings_of(RAY)}
            with _asked(engine, ray, options.get("shards"), trains):
                return command(*args, **options)

        return together(
            click.option(
                "--engine",
                type=click.Choice(ENGINES),
                help="Who makes images, labels and features: this process, those of torchrun, or Ray's workers. "
                "The files are the same. torchrun where it started this, else local, by default.",
            ),
            settings(RAY),
        )(run)

    return decorate


@contextlib.contextmanager
def _asked(name: str | None, ray: dict[str, Any], shards: tuple[int, int] | None, trains: bool) -> Iterator[None]:
    """Inside, the engine of that name works, or this process is one of an array of jobs."""
    if shards is not None and (engine.launched() or name in ("torchrun", "ray")):
        raise InputError(
            "--shards is for jobs that know nothing of each other; leave it out under torchrun and with --engine ray, "
            "which share the work themselves"
        )
    if name != "ray":
        refuse_idle("without --engine ray", *ray)
    if engine.launched() and name in ("local", "ray"):
        raise InputError(
            f"--engine is {name}, and torchrun started this; start it without torchrun, or leave --engine out"
        )
    if name == "torchrun" and not engine.launched():
        raise InputError(
            "--engine is torchrun, and torchrun did not start this; start it with "
            "`torchrun --nproc_per_node=N -m fairsims ...`"
        )
    if name != "ray":
        with contextlib.nullcontext() if shards is None else engine.chosen(engine.ArrayJob(*shards)):
            yield
        return
    from fairsims.engine.ray_engine import Ray, RayConfig

    with Ray(RayConfig(**ray)) as workers, engine.chosen(workers):
        if trains:
            note("Ray makes images, labels and features; training runs in this process alone, not under Ray")
        yield
