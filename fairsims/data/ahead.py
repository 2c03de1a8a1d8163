"""Making things while what consumes them is at work on earlier ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

SMALL = 2**14
"""Bytes of an encoded image up to which it takes longer in the interpreter than in its decoder."""

if TYPE_CHECKING:
    from torch import Tensor

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode. Pillow lets go of the interpreter while it does."""

Item = TypeVar("Item")
Made = TypeVar("Made")


def ahead(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """`function` of every item in order, as many as `workers` of them ahead of the consumer, each in a thread.

    Raises what `function` raises, when its item is due.
    """
    waiting: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # A consumer that stops, or an item that fails, must not wait for what nobody needs.
            for future in waiting:
                future.cancel()


def readers(encoded: bytes | None) -> int:
    """How many threads read images like this one: of small ones more than one would wait for each other."""
    return READERS if len(encoded or b"") > SMALL else 1


def read_ahead(read: Callable[[range], Tensor], length: int, size: int, *, readers: int) -> Iterator[Tensor]:
    """`read` of 0..length-1 in order, `size` positions at a time, up to `readers` batches ahead of the consumer.

    Raises what `read` raises, when its batch is due. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected 1 or more")
    return ahead(read, [range(start, min(start + size, length)) for start in range(0, length, size)], readers)
