"""What test_engine_ray.py sends to Ray's workers, which import it there, and makes alone to compare with."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fairsims import engine, pools
from fairsims.audit.features import classifier_features, pool_features
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source
from fairsims.errors import InputError
from fairsims.files import sha256_file
from fairsims.models import ModelSpec, SamplerConfig, open_model

Reference = dict[str, str]


@dataclass(frozen=True, kw_only=True)
class NumberTask:
    path: Path
    number: int

    @property
    def what(self) -> str:
        return f"the number of seeds {self.number}-{self.number}"


def numbered() -> int:
    return 10


def write_number(factor: int, task: NumberTask) -> Iterator[int]:
    """3 is refused, 4 fails the first time, 5 ends the process."""
    if task.number == 3:
        raise InputError("3 is refused")
    if task.number == 4 and not (before := task.path.with_name("before")).exists():
        before.touch()
        raise ValueError("not the first time")
    if task.number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    yield 1
    task.path.write_text(str(factor * task.number))
    yield 2


def pool_of(folder: Path) -> Iterator[int]:
    spec = ModelSpec(base="digits-8", sampler=SamplerConfig(solver="euler", steps=2), batch_size=3)
    return pools.write_pool(folder, open_model(spec), range(40))


def reference(folder: Path) -> Reference:
    """A pool, its labels and features, by the engine that works: the digest of every file by its name."""
    list(pool_of(folder / "pool"))
    pool, classifier = pools.Pool(folder / "pool"), load_classifier("digits-parity")
    label_source(pool, classifier)
    pool_features(pool, classifier_features(classifier), folder / "features", engine.current())
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
