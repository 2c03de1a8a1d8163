"""What fixtures and tests share."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fairsims.denoisers import EDMDenoiser
from fairsims.pools import Pool

MakeNetwork = Callable[..., EDMDenoiser]
MakePool = Callable[..., Pool]
MakePipeline = Callable[..., Path]


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: what a full disk does to a writer, at a place of the test's choice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
