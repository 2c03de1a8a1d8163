"""What test_engine_ray.py sends to Ray's workers, which import it there, and makes alone to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fairsims import engine, pools
from fairsims.audit.features import classifier_features, pool_features
from fairsims.audit.screened import stored_screening
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source
from fairsims.files import sha256_file
from fairsims.models import ModelSpec, SamplerConfig, open_model

Reference = dict[str, str]


def pool_of(folder: Path) -> Iterator[int]:
    spec = ModelSpec(base="digits-8", sampler=SamplerConfig(solver="euler", steps=2), batch_size=3)
    return pools.write_pool(folder, open_model(spec), range(40))


def reference(folder: Path) -> Reference:
    """A pool, its labels, features and screening, by the engine that works: the digest of every file by its name."""
    list(pool_of(folder / "pool"))
    pool, classifier = pools.Pool(folder / "pool"), load_classifier("digits-parity")
    label_source(pool, classifier)
    pool_features(pool, classifier_features(classifier), folder / "features", engine.current())
    stored_screening(pool, folder / "features")
    return {p.relative_to(folder).as_posix(): sha256_file(p) for p in sorted(folder.rglob("*")) if p.is_file()}
