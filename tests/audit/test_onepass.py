"""An audit decodes each image of a folder, zip or Parquet once, and keeps what separate passes would."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from fairsims.audit.compare import Aim, audit
from fairsims.audit.features import classifier_features, stored_features
from fairsims.audit.onepass import read_once
from fairsims.audit.screened import stored_screening
from fairsims.classifiers import load_classifier
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset
from fairsims.errors import InputError

PARITY = load_classifier("digits-parity")


class Counted(ImageDataset):
    """A data set that says how often it was read through."""

    passes = 0

    def batches(self, size: int = 256) -> Iterator[Tensor]:
        self.passes += 1
        return super().batches(size)


def counted(digits: ImageDataset, n: int = 300) -> Counted:
    part = digits.subset(np.arange(n))
    fields = ("name", "digest", "resolution", "channels", "source", "table", "attributes", "ids")
    return Counted(**{name: getattr(part, name) for name in fields})


def test_an_audit_decodes_every_image_once(digits: ImageDataset, tmp_path: Path) -> None:
    source, reference = counted(digits), digits.subset(np.arange(600, 900))
    found = audit(source, None, [(PARITY, Aim())], reference=reference, store=tmp_path / "once")
    assert source.passes == 1
    again = audit(source, None, [(PARITY, Aim())], reference=reference, store=tmp_path / "once")
    assert source.passes == 1
    apart = counted(digits)
    # As separate passes keep it, byte for byte.
    stored_screening(apart, tmp_path / "apart")
    label_source(apart, PARITY, tmp_path / "apart")
    stored_features(apart, classifier_features(PARITY), tmp_path / "apart")
    assert apart.passes == 3
    files = sorted(p.name for p in (tmp_path / "apart").iterdir())
    assert len(files) == 3
    for name in files:
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "apart" / name).read_bytes(), name
    assert found.main.before == again.main.before and found.quality == again.quality


def test_what_is_kept_is_not_made_again(digits: ImageDataset, tmp_path: Path) -> None:
    source = counted(digits)
    label_source(source, PARITY, tmp_path)
    stored_screening(source, tmp_path)
    # One thing alone is left to whoever needs it.
    read_once(source, [PARITY], [classifier_features(PARITY)], tmp_path)
    assert source.passes == 2
    for file in tmp_path.glob("screening-*"):
        file.unlink()
    read_once(source, [PARITY], [classifier_features(PARITY)], tmp_path)
    assert source.passes == 3
    read_once(source, [PARITY], [classifier_features(PARITY)], tmp_path)
    assert source.passes == 3


def test_nothing_is_kept_of_images_that_cannot_be_read(digits: ImageDataset, tmp_path: Path) -> None:
    class Broken(Counted):
        def batches(self, size: int = 256) -> Iterator[Tensor]:
            yield from [next(iter(super().batches(100)))]
            raise InputError("a.png is broken; restore it")

    part = counted(digits)
    fields = ("name", "digest", "resolution", "channels", "source", "table", "attributes", "ids")
    source = Broken(**{name: getattr(part, name) for name in fields})
    with pytest.raises(InputError, match="a.png is broken"):
        read_once(source, [PARITY], [classifier_features(PARITY)], tmp_path)
    assert list(tmp_path.iterdir()) == []
