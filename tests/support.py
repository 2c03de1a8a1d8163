"""What fixtures and tests share."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from click.testing import CliRunner, Result
from PIL import Image

from fairsims.cli import main
from fairsims.models import Checkpoint, Denoiser, DenoiserModel, EDMDenoiser, ModelSpec
from fairsims.pools import Pool

MakeNetwork = Callable[..., EDMDenoiser]
MakePool = Callable[..., Pool]
MakePipeline = Callable[..., Path]


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def succeeds(*args: object) -> dict[str, Any]:
    result = run(*args, "--json")
    assert result.exit_code == 0, result.stderr or result.exception
    return dict(json.loads(result.stdout))


def refused(*args: object) -> str:
    """The one line on stderr of a command that has to fail with exit code 2 and nothing on stdout."""
    result = run(*args)
    assert result.exit_code == 2, (result.output, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


def in_memory(denoiser: Denoiser, *, digest: str = "abc", **settings: Any) -> DenoiserModel:
    """A model of networks that no file has; it cannot be opened in another process."""
    spec = ModelSpec(base="in memory", precision=denoiser.precision, **settings)
    return DenoiserModel(spec, Checkpoint(name=spec.base, denoiser=denoiser, digest=digest, recipe={}))


def label(pool: Pool, name: str, attribute: str, classes: Sequence[str], probabilities: np.ndarray) -> None:
    """Give a pool a label table of these probabilities `(N, K)`, as a classifier's would be stored."""
    for path, (shard, places) in zip(pool.label_files(name), pool.parts.items(), strict=True):
        assert path.name == shard.name
        table = pd.DataFrame(probabilities[places].astype(np.float32), columns=[f"{attribute}.{c}" for c in classes])
        table.insert(0, "seed", pool.seeds[places])
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path, index=False)


GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    """Pixels `(H, W)` or `(H, W, C)` as a PNG file, of another Pillow mode where one is named."""
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(buffer, format="PNG")
    return buffer.getvalue()


def script(name: str) -> ModuleType:
    """A program of the repository as a module: `tools/x.py`, which sees its neighbours as it does when it is run."""
    path = Path(__file__).parent.parent / name
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # Several have the name of another module: bench/coverage.py.
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """No file can grow beyond `size` bytes: what a full disk does to a writer, at a place of the test's choice."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def killed_and_gone_on(arguments: list[str], begun: Callable[[], bool], result: Path) -> str:
    """SIGKILL `fairsims ARGUMENTS` once it has `begun` and before `result` exists, give it again; what that prints."""
    command = [sys.executable, "-W", "error", "-m", "fairsims", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while process.poll() is None and not begun():
        time.sleep(0.005)
    assert process.poll() is None
    process.kill()
    process.communicate()
    assert not result.exists()
    again = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=500)
    assert (again.returncode, again.stderr) == (0, "")
    return again.stdout


CHROMIUM = Path("/usr/bin/chromium")
ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
