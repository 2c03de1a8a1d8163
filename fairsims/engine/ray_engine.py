"""Ray as an engine: workers open what is needed once, take one task after the other and write its file themselves.

What goes through Ray is a task there and a row back, never an image. A finished file is the only record of what is
done, so a worker, a node or the whole cluster may die at any moment. Needs the extra `[ray]`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from fairsims import __version__
from fairsims.engine import Done, Open, Opened, T, Work, missing
from fairsims.errors import FairsimsError, InputError
from fairsims.files import place, sha256_file
from fairsims.options import check_fields

RETRIES = 3
"""Times that a task is tried again after its worker died or failed."""
STARTS = 3
"""Times that Ray is started on this machine: it gives itself 30 s, which a busy machine needs more than."""
PATIENCE = 600.0
"""Seconds that the first worker may take to start: a cluster may have to grow first."""
SEEN = 10.0
"""Seconds after which a file of another machine must be visible here: network file systems keep old listings."""


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where Ray's workers run and what each of them has."""

    ray_address: str | None = None
    """ray: cluster that this machine is a node of, HOST:PORT or auto; $RAY_ADDRESS, or Ray on this machine alone, by
    default."""
    num_gpus: int | None = None
    """ray: GPUs, a worker each; all there are by default, 0 for workers on cores."""
    cpus_per_worker: int = 1
    """ray: cores of a worker."""

    def __post_init__(self) -> None:
        check_fields(self, "0 or more", lambda n: n >= 0, "num_gpus")
        check_fields(self, "1 or more", lambda n: n >= 1, "cpus_per_worker")


_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_PRIVATE = _QUIET | {
    # Nobody else is let in; Ray would write its own token into the home folder.
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    # Ray's 15 lets anything else on the machine go first.
    "RAY_worker_niceness": "0",
    # The only node is not lost, it is busy.
    "RAY_health_check_timeout_ms": "300000",
}
"""Of a Ray for this command alone."""


class Row(NamedTuple):
    """What a worker says of a task that it finished."""

    file: str
    rows: int
    digest: str
    """SHA-256 of the file."""
    seconds: float


class Worker:
    """In a process of its own: what one GPU, or some cores, do."""

    def __init__(self, threads: int, gpu: bool) -> None:
        # torch reads both when the first task imports it.
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if not gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        self.key = ""

    def ready(self, folder: str, probe: str | None) -> tuple[str, str, bool]:
        """Node, versions, and whether this process sees what the caller put into the folder of the results.

        `folder` is where relative paths begin.
        """
        import ray

        with contextlib.suppress(OSError):
            os.chdir(folder)
        until = time.monotonic() + SEEN
        while not (seen := probe is None or place(probe).exists()) and time.monotonic() < until:
            time.sleep(0.2)
        return ray.util.get_node_ip_address(), _versions(), seen

    def do(self, key: str, packed: list[Any], task: Any) -> Row:
        """Do a task. What it needs is opened where the last one needed something else."""
        import ray
        from ray import cloudpickle

        start = time.perf_counter()
        if self.key != key:
            open, self.work = cloudpickle.loads(ray.get(packed[0]))
            self.opened, self.key = open(), key
        rows = 0
        for rows in self.work(self.opened, task):  # noqa: B007
            pass
        return Row(str(task.path), rows, sha256_file(task.path), time.perf_counter() - start)

    def close(self) -> None:
        """Let go of what is open: this machine may train next."""
        self.key, self.opened, self.work = "", None, None
        if (torch := sys.modules.get("torch")) and torch.cuda.is_available():
            torch.cuda.empty_cache()


def _versions() -> str:
    return f"fairsims {__version__}, torch {version('torch')}"


class Ray:
    """Workers on a Ray cluster, one per GPU or per some cores. As a context it ends them, and the Ray that it began.

    Raises InputError where Ray is not installed, the address does not answer, or there is less than was asked for.
    """

    def __init__(self, config: RayConfig) -> None:
        address = config.ray_address or os.environ.get("RAY_ADDRESS") or "local"
        # Ray reads them when it is imported.
        for name, value in (_PRIVATE if address == "local" else _QUIET).items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise InputError('the engine ray needs Ray; run `pip install "fairsims[ray]"`') from None
        self.ray, self.config = ray, config
        self.began = _connect(ray, address)
        try:
            self.gpu, self.size = _room(ray.nodes(), config)
        except InputError:
            self.close()
            raise
        self.seconds = 0.0
        """That the workers spent on tasks."""
        self._idle: list[Any] = []

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, and Ray if it was begun here."""
        for worker in getattr(self, "_idle", []):
            self.ray.kill(worker)
        self._idle = []
        if self.began:
            self.ray.shutdown()

    def map(self, open: Open[Opened], work: Work[Opened, T], tasks: Sequence[T]) -> Iterator[Done[T]]:
        """As `Engine.map`. Raises FairsimsError naming the seeds of a task that failed more than `RETRIES` times."""
        left = missing(tasks)
        if not left:
            return
        packed = [self.ray.put(self.ray.cloudpickle.dumps((open, work)))]
        with _probe(left[0].path.parent) as probe:
            yield from self._carry_out(left, packed, str(probe))

    def _carry_out(self, left: Sequence[T], packed: list[Any], probe: str) -> Iterator[Done[T]]:
        ray, key = self.ray, secrets.token_hex(8)
        waiting, failed = deque(left), Counter[str]()
        running: dict[Any, tuple[Any, T | None]] = {}

        def start(worker: Any = None) -> None:
            worker = worker or self._hired()
            running[worker.ready.remote(os.getcwd(), probe)] = worker, None

        try:
            for _ in range(min(self.size, len(left))):
                start(self._idle.pop() if self._idle else None)
            while waiting or any(task is not None for _, task in running.values()):
                done, _ = ray.wait(list(running), timeout=PATIENCE)
                if not done:
                    self._refuse_waiting(running.values())
                    continue
                worker, task = running.pop(done[0])
                try:
                    found = ray.get(done[0])
                except ray.exceptions.RayTaskError as e:
                    if isinstance(e.cause, FairsimsError):
                        self._idle.append(worker)
                        raise e.cause from None
                    failed_here = _reason(e.cause if e.cause is not None else e)
                except ray.exceptions.RayError as e:
                    failed_here = _reason(e)
                else:
                    failed_here = ""
                if failed_here:
                    # Alive or not, it is not trusted with more.
                    ray.kill(worker)
                    _count(failed, task, failed_here, self.size)
                    if task is not None:
                        waiting.appendleft(task)
                    start()
                    continue
                if task is None:
                    node, versions, seen = found
                    _check(node, versions, seen, probe)
                else:
                    _arrived(task, found)
                    self.seconds += found.seconds
                    yield Done(task=task, rows=found.rows, finished=True)
                if waiting:
                    task = waiting.popleft()
                    running[worker.do.remote(key, packed, task)] = worker, task
                else:
                    worker.close.remote()
                    self._idle.append(worker)
        finally:
            for worker, _ in running.values():
                ray.kill(worker)

    def _hired(self) -> Any:
        kind = self.ray.remote(num_cpus=self.config.cpus_per_worker, num_gpus=int(self.gpu), max_restarts=0)(Worker)
        return kind.remote(self.config.cpus_per_worker, self.gpu)

    def _refuse_waiting(self, running: Any) -> None:
        """Raises InputError where no worker works, and none started for so long."""
        if all(task is None for _, task in running):
            free = self.ray.available_resources()
            raise InputError(
                f"no worker started within {PATIENCE:.0f} s: {free.get('CPU', 0):g} cores and {free.get('GPU', 0):g} "
                f"GPUs of the cluster are free; expected {self.config.cpus_per_worker} cores"
                f"{' and a GPU' if self.gpu else ''}; wait for other work to end, or ask for less"
            )


def _connect(ray: Any, address: str) -> bool:
    """Join the cluster, or begin one on this machine; whether it was begun or joined here."""
    if address not in ("local", "auto"):
        _answers(address)
    if ray.is_initialized():
        if address in ("local", "auto", ray.get_runtime_context().gcs_address):
            return False
        raise InputError(f"--ray-address is {address}, and this process is connected to another cluster already")
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    try:
        if address == "local":
            start_private(ray)
        else:
            _start(ray, address=address)
    except Exception as e:  # Ray raises whatever it meets
        raise InputError(f"cannot join Ray at {address} ({_reason(e)}); expected a running cluster") from None
    return True


def start_private(ray: Any, **resources: int) -> None:
    """A Ray on this machine for this process alone, by default with all its cores and GPUs."""
    # Images don't go through its memory.
    _start(ray, address="local", include_dashboard=False, object_store_memory=100 * 2**20, **resources)


def _start(ray: Any, **settings: Any) -> None:
    """`ray.init`, up to `STARTS` times where it takes too long. Raises whatever Ray does."""
    for left in reversed(range(STARTS)):
        try:
            ray.init(log_to_driver=False, configure_logging=False, **settings)
            return
        except Exception as e:
            ray.shutdown()
            if not (left and "timed out" in str(e)):
                raise


def _answers(address: str) -> None:
    """Raises InputError where nothing listens there: Ray itself would try for two minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address.startswith("ray://") or not host or not port.isdecimal():
        raise InputError(
            f"--ray-address is {address}; expected HOST:PORT of the head, or auto, on a node of the cluster "
            "(`ray start --address=HOST:PORT` makes this machine one)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as e:
        raise InputError(
            f"nothing answers at {address} ({e.strerror or e}); start Ray there (`ray start --head`), or leave "
            "--ray-address out for this machine alone"
        ) from None


def _room(nodes: Sequence[Any], config: RayConfig) -> tuple[bool, int]:
    """Whether workers have GPUs, and how many workers the nodes have room for. Raises InputError for too few."""
    there = [n["Resources"] for n in nodes if n["Alive"]]
    gpus = sum(int(r.get("GPU", 0)) for r in there)
    wanted = gpus if config.num_gpus is None else config.num_gpus
    if wanted > gpus:
        raise InputError(f"--num-gpus is {wanted}; Ray's {len(there)} nodes have {gpus}; give no more, or add nodes")
    cores = [int(r.get("CPU", 0)) for r in there]
    rooms = [c // config.cpus_per_worker for c in cores]
    if wanted:
        rooms = [min(room, int(r.get("GPU", 0))) for room, r in zip(rooms, there, strict=True)]
    if sum(rooms) < max(1, wanted):
        raise InputError(
            f"--cpus-per-worker is {config.cpus_per_worker}; Ray's nodes have {', '.join(map(str, cores)) or 'no'} "
            f"cores, room for {sum(rooms)} of {max(1, wanted)} workers; give fewer cores"
        )
    return wanted > 0, wanted or sum(rooms)


@contextlib.contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A file that every worker has to see, beside the results."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".ray-{secrets.token_hex(8)}.part"
    probe.write_bytes(b"")
    try:
        yield probe
    finally:
        probe.unlink(missing_ok=True)


def _check(node: str, versions: str, seen: bool, probe: str) -> None:
    """Raises InputError for a worker that would write other bytes, or elsewhere."""
    if not seen:
        raise InputError(
            f"the worker on {node} does not see {place(probe).parent}; expected a folder that all nodes share, under "
            "that name"
        )
    if versions != _versions():
        raise InputError(f"the worker on {node} has {versions}; expected {_versions()} as here; install the same")


def _count(failed: Counter[str], task: T | None, reason: str, size: int) -> None:
    """Raises FairsimsError for one failure too many."""
    what = "the start of a worker" if task is None else task.what
    failed[what] += 1
    if failed[what] > RETRIES + (size if task is None else 0):
        raise FairsimsError(
            f"{what}: failed {failed[what]} times under Ray, the last time with: {reason}; mend that and give the "
            "command again, which goes on from here"
        )


def _arrived(task: T, row: Row) -> None:
    """Raises FairsimsError where what the worker wrote is not what is read here."""
    until = time.monotonic() + SEEN
    while not task.path.exists() and time.monotonic() < until:
        time.sleep(0.2)
    if not task.path.exists() or sha256_file(task.path) != row.digest:
        raise FairsimsError(
            f"{task.what}: a worker wrote {row.file} and it is {'other' if task.path.exists() else 'not there'} here; "
            "expected a folder that all nodes share"
        )


def _reason(error: BaseException) -> str:
    """An error in one line: its last one, since Ray puts a traceback before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if type(error).__module__.startswith("ray"):
        return f"{kind}: {lines[0][:200]}" if lines else kind
    return f"{kind}: {lines[-1][:200]}" if lines else kind
