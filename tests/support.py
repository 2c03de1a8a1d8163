"""What fixtures and tests share."""

from __future__ import annotations

import functools
import importlib.util
import io
import json
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerContext
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
from fairsims.report import figures
from fairsims.report.html import write_report

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


class Command:
    """`fairsims ARGUMENTS` in a process of its own, with its output in files and every warning an error.

    It is forked from a process that has imported torch and the rooms: importing takes as long as most tests work.
    """

    def __init__(self, arguments: Sequence[object], folder: Path | None = None) -> None:
        """Start it in a folder, by default the one that the tests run in."""
        self._said = Path(tempfile.mkdtemp())
        settings = os.environ | {"OMP_NUM_THREADS": "1"}
        given = (list(map(str, arguments)), folder or Path.cwd(), settings, self._said, figures.DPI)
        self._process = forked().Process(target=_as_command, args=given)
        self._process.start()

    @property
    def running(self) -> bool:
        return self._process.is_alive()

    def send(self, how: signal.Signals) -> None:
        """Signal it, if it is still there."""
        if self.running and self._process.pid is not None:
            os.kill(self._process.pid, how)

    def finish(self) -> tuple[int | None, str, str]:
        """Wait for its end: exit code, stdout, stderr."""
        self._process.join(500)
        code = self._process.exitcode
        self._process.close()
        out, err = ((self._said / name).read_text(encoding="utf-8") for name in ("stdout", "stderr"))
        return code, out, err


@functools.cache
def forked() -> ForkServerContext:
    """Processes that are forked from one in which the rooms are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["support", "torch._dynamo", "fairsims.retarget.retarget", "fairsims.report.publish"]
    )
    # It sees what the tests see, and one thread is what can be forked.
    settings = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"}
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        multiprocessing.forkserver.ensure_running()  # type: ignore[attr-defined]
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def _as_command(arguments: list[str], folder: Path, environment: Mapping[str, str], said: Path, dpi: int) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(said / name, os.O_WRONLY | os.O_CREAT), number)
    # A suite started in the background ignores SIGINT, and what it starts inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    warnings.simplefilter("error")
    # As in this process, so that reports can be compared.
    figures.DPI = dpi
    # What a process of its own would look for packages in, too.
    sys.path[:0] = [p for p in environment.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.argv = ["fairsims", *arguments]
    runpy.run_module("fairsims", run_name="__main__", alter_sys=True)


def killed_and_gone_on(arguments: list[str], begun: Callable[[], bool], result: Path) -> str:
    """SIGKILL `fairsims ARGUMENTS` once it has `begun` and before `result` exists, give it again; what that prints."""
    command = Command(arguments)
    while command.running and not begun():
        time.sleep(0.005)
    assert command.running
    command.send(signal.SIGKILL)
    command.finish()
    assert not result.exists()
    code, printed, errors = Command(arguments).finish()
    assert (code, errors) == (0, "")
    return printed


TELL_TIME = {"plan.json", "timings.json", "audit/audit.json", "report.html", "manifest.json", "auxiliary/stats.jsonl"}
TELL_TIME |= {"positive/stats.jsonl"}
"""What a run's files say of times; the manifest holds the digests of the others."""


def run_files(run: Path) -> list[str]:
    return sorted(p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file())


def timeless(path: Path, tell_time: Container[str] = TELL_TIME) -> Any:
    """A JSON file's content without the time of day, durations and memory; a manifest's digests of what tells time."""
    if path.suffix == ".jsonl":
        return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in path.read_text().splitlines()]
    value = json.loads(path.read_text())
    if path.name == "audit.json":
        del value["created"], value["plan"]["written"], value["cost"]["seconds"], value["cost"]["peak_memory_gb"]
        for stage in value["cost"]["stages"]:
            del stage["seconds"]
    elif path.name == "timings.json":
        return list(value)
    elif path.name == "plan.json":
        del value["written"]
    elif path.name == "manifest.json":
        value["outputs"] = {k: None if k in tell_time else v for k, v in value["outputs"].items()}
    return value


def assert_same_run(reference: Path, run: Path, scratch: Path) -> None:
    """Every file of both runs is the same, byte for byte but for times."""
    assert run_files(run) == run_files(reference)
    for name in run_files(reference):
        if name not in TELL_TIME:
            assert (run / name).read_bytes() == (reference / name).read_bytes(), name
        elif name != "report.html":
            assert timeless(run / name) == timeless(reference / name), name
    # A report is a function of its folder: told the reference's times, this run's is the reference's.
    copy = scratch / "run"
    shutil.copytree(run, copy)
    assert write_report(copy).read_bytes() == (run / "report.html").read_bytes()
    for name in ("audit/audit.json", "plan.json"):
        shutil.copy(reference / name, copy / name)
    assert write_report(copy).read_bytes() == (reference / "report.html").read_bytes()


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
