"""Reading images while what consumes them is at work on earlier ones."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

READERS = min(4, os.cpu_count() or 1)
"""Threads that decode. Pillow lets go of the interpreter while it does."""


def read_ahead(read: Callable[[range], Tensor], length: int, size: int, *, readers: int = READERS) -> Iterator[Tensor]:
    """`read` of 0..length-1 in order, `size` positions at a time, up to `readers` batches ahead of the consumer.

    Raises what `read` raises, when its batch is due. Raises ValueError for a size below 1.
    """
    if size < 1:
        raise ValueError(f"size is {size}; expected 1 or more")
    parts = [range(start, min(start + size, length)) for start in range(0, length, size)]
    waiting: deque[Future[Tensor]] = deque()
    with ThreadPoolExecutor(readers) as pool:
        try:
            for part in parts:
                waiting.append(pool.submit(read, part))
                if len(waiting) > readers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            # A consumer that stops, or an unreadable image, must not wait for what nobody needs.
            for future in waiting:
                future.cancel()
