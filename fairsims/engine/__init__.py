"""Who does the work: lists of tasks by an engine, and where several processes under torchrun wait for each other.

Work is cut by seeds and by position in the batch, never by process, so that any number of processes writes the same
result. One process needs none of this: without torchrun every function here is a no-op for rank 0 of 1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Rank 0 may sample, audit or write for hours while others wait; a process that died is noticed by torchrun.
TIMEOUT = timedelta(days=7)

_rank, _world = 0, 1
_chosen: Engine | None = None


def launched() -> bool:
    """Whether torchrun (or anything that sets its environment) started more than one process."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def launched_rank() -> int:
    """Number of this process among those started, whether or not it joined them yet."""
    return int(os.environ["RANK"]) if launched() else 0


def initialise() -> None:
    """Join the other processes that torchrun started: nccl between GPUs, gloo between CPUs. Does nothing without it.

    Raises InputError when this machine has GPUs, but fewer than processes.
    """
    global _rank, _world
    if not launched() or _world > 1:
        return
    import torch
    import torch.distributed as dist

    backend = "gloo"
    if torch.cuda.is_available():
        found, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", local_rank() + 1)), torch.cuda.device_count()
        if found > gpus:
            raise InputError(
                f"torchrun started {found} processes on a machine with {gpus} GPUs; expected one each, "
                f"give --nproc_per_node={gpus}"
            )
        torch.cuda.set_device(local_rank())
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend, timeout=TIMEOUT)
    _rank, _world = dist.get_rank(), dist.get_world_size()


def shutdown() -> None:
    """Leave the group; afterwards this is one process again."""
    global _rank, _world
    if _world > 1:
        import torch.distributed as dist

        dist.destroy_process_group()
        _rank, _world = 0, 1


def rank() -> int:
    """Number of this process, 0 to world() - 1."""
    return _rank


def world() -> int:
    """Number of processes."""
    return _world


def local_rank() -> int:
    """Number of this process on its machine: the GPU it uses."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def device() -> torch.device:
    """This process's GPU (under torchrun each has its own), else the CPU."""
    import torch

    return torch.device("cuda", local_rank()) if torch.cuda.is_available() else torch.device("cpu")


def is_main() -> bool:
    """Whether this process writes and prints what there is one of: settings, tables, reports, checkpoints."""
    return _rank == 0


def barrier() -> None:
    """Wait until every process is here."""
    if _world > 1:
        _agree(True)


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 runs the body, then all others do: what it wrote is there for them.

    When the body fails on rank 0 it fails on all: the others raise FairsimsError without running it.
    """
    if _world > 1 and not is_main() and not _agree(True):
        raise FairsimsError("rank 0 failed; its own message says why")
    done = False
    try:
        yield
        done = True
    finally:
        if _world > 1 and is_main():
            _agree(done)


def all_sum(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place. Every process gets the same bits."""
    if _world == 1 or not tensors:
        return
    import torch
    import torch.distributed as dist

    # One message instead of hundreds of small ones.
    flat = torch.cat([t.detach().flatten() for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def share(n: int) -> range:
    """This process's part of n things in a row: contiguous, sizes differing by at most one."""
    return range(_rank * n // _world, (_rank + 1) * n // _world)


def _agree(yes: bool) -> bool:
    """Whether all processes say yes; waits for all of them. A CPU tensor, so that it goes through gloo."""
    import torch
    import torch.distributed as dist

    votes = torch.tensor([0 if yes else 1])
    dist.all_reduce(votes)
    return votes.item() == 0


class Task(Protocol):
    """A piece of work: picklable, a pure function of its fields, done when its file is there."""

    @property
    def path(self) -> Path:
        """The file it makes, which exists whole or not at all."""

    @property
    def number(self) -> int:
        """Of all tasks of this kind: what an array of jobs shares them by."""

    @property
    def what(self) -> str:
        """What it makes, in words that name its seeds."""


T = TypeVar("T", bound=Task)
Opened = TypeVar("Opened")
Open = Callable[[], Opened]
"""Makes, once in a process, what all its tasks need: a model, a classifier. Picklable."""
Work = Callable[[Opened, T], Iterator[int]]
"""Does one task and writes its file; yields the number of its rows that are made so far."""


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T]):
    """How far a task is."""

    task: T
    rows: int
    finished: bool
    """Whether its file is there."""


class Engine(Protocol):
    """Does lists of tasks. Tasks whose file exists are left out: that is how an earlier call is gone on with."""

    def map(self, open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
        """Do the tasks, in any order; afterwards every file is there.

        Yields what this process sees of the work: a Done on the way of a task and one at its end. Nothing is opened
        where nothing is left to do.
        """


class Local:
    """This process does everything."""

    def map(self, open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
        yield from _do(open, work, missing(tasks))


class Torchrun:
    """The processes of a torchrun group take turns at the tasks, and wait for each other at the end.

    A process that fails leaves the group, which torchrun then ends.
    """

    def map(self, open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
        left = missing(tasks)
        barrier()  # nobody adds a file before all have looked
        yield from _do(open, work, left[rank() :: world()])
        barrier()


@dataclass(frozen=True)
class ArrayJob:
    """One of `jobs` processes that share nothing but the folder: it does its part and waits for nobody."""

    job: int
    """From 1."""
    jobs: int

    def map(self, open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
        yield from _do(open, work, [t for t in missing(tasks) if t.number % self.jobs == self.job - 1])


def current() -> Engine:
    """The engine of this process: the one that was chosen, else the processes of torchrun, else this one alone."""
    return _chosen or (Torchrun() if _world > 1 else Local())


def own() -> Engine:
    """The engine for what this process does without the others of torchrun: the one that was chosen, else itself."""
    return _chosen or Local()


@contextlib.contextmanager
def chosen(engine: Engine) -> Iterator[None]:
    """Inside, `engine` does the work."""
    global _chosen
    before, _chosen = _chosen, engine
    try:
        yield
    finally:
        _chosen = before


def missing(tasks: Sequence[T]) -> list[T]:
    """The tasks whose files are not there yet."""
    # One listing of a folder, not a question for each file of it.
    folders = {task.path.parent for task in tasks}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return [task for task in tasks if task.path not in there]


def _do(open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
    opened: Any = open() if tasks else None
    for task in tasks:
        rows = 0
        for rows in work(opened, task):
            yield Done(task=task, rows=rows, finished=False)
        yield Done(task=task, rows=rows, finished=True)
