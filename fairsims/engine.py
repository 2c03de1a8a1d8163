"""Several processes under torchrun: who this one is, and where they wait for each other.

Work is cut by seeds and by position in the batch, never by process, so that any number of processes writes the same
result. One process needs none of this: without torchrun every function here is a no-op for rank 0 of 1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from fairsims.errors import FairsimsError, InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Rank 0 may sample, audit or write for hours while others wait; a process that died is noticed by torchrun.
TIMEOUT = timedelta(days=7)

_rank, _world = 0, 1


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
