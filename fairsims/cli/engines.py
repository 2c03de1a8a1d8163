"""The options that say who does the work of a command."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import click

from fairsims import engine
from fairsims.cli.common import note
from fairsims.cli.options import refuse_idle, settings, together
from fairsims.errors import InputError
from fairsims.options import settings_of

RAY = "fairsims.engine.ray_engine:RayConfig"
ENGINES = ("local", "torchrun", "ray")


def engine_options(*, trains: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """`--engine` and what Ray is told, for a command that makes images, labels or features; one that also `trains`
    says where it does."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def run(*args: Any, engine: str | None, **options: Any) -> Any:
            ray = {name: options.pop(name) for name in settings_of(RAY)}
            with _asked(engine, ray, trains):
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
def _asked(name: str | None, ray: dict[str, Any], trains: bool) -> Iterator[None]:
    """Inside, the engine of that name works."""
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
        yield
        return
    from fairsims.engine.ray_engine import Ray, RayConfig

    with Ray(RayConfig(**ray)) as workers, engine.chosen(workers):
        if trains:
            note("Ray makes images, labels and features; training runs in this process alone, not under Ray")
        yield
