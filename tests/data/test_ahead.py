"""What is made ahead of its consumer comes in order, with its errors, and no further ahead than asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
import torch

from fairsims.data.ahead import ahead, read_ahead
from fairsims.errors import InputError


@pytest.fixture
def slow() -> tuple[Callable[[range], torch.Tensor], list[int]]:
    """A reader that takes 20 ms, and what it was asked for."""
    asked: list[int] = []

    def read(part: range) -> torch.Tensor:
        asked.append(part.start)
        time.sleep(0.02)
        return torch.tensor(list(part))

    return read, asked


def test_reading_runs_ahead_of_the_consumer_and_keeps_the_order(
    slow: tuple[Callable[[range], torch.Tensor], list[int]],
) -> None:
    read, asked = slow
    batches = read_ahead(read, 40, 4, readers=3)
    assert next(batches).tolist() == [0, 1, 2, 3]
    time.sleep(0.1)
    # Three at work or ready, and no more: memory does not grow with the source.
    assert sorted(asked) == [0, 4, 8, 12]
    assert torch.cat(list(batches)).tolist() == list(range(4, 40))


def test_a_consumer_that_stops_leaves_no_thread(slow: tuple[Callable[[range], torch.Tensor], list[int]]) -> None:
    read, asked = slow
    before = threading.active_count()
    batches = read_ahead(read, 400, 4, readers=2)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(asked) <= 5


def test_what_reading_raises_arrives() -> None:
    def read(part: range) -> torch.Tensor:
        if part.start == 8:
            raise InputError("broken")
        return torch.zeros(len(part))

    batches = read_ahead(read, 16, 4, readers=2)
    assert len(next(batches)) == len(next(batches)) == 4
    with pytest.raises(InputError, match="broken"):
        next(batches)
    with pytest.raises(ValueError, match="size is 0; expected"):
        next(read_ahead(read, 16, 0, readers=1))


def test_one_worker_is_one_item_ahead() -> None:
    begun: list[int] = []

    def square(x: int) -> int:
        begun.append(x)
        return x * x

    found = ahead(square, iter(range(4)), 1)
    assert begun == []
    assert next(found) == 0
    time.sleep(0.05)
    assert begun == [0, 1]
    assert list(found) == [1, 4, 9]
    assert begun == [0, 1, 2, 3]
    assert list(ahead(square, [], 1)) == []
