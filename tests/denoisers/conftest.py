"""What the tests of snapshots share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def pwned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a payload would create; no test may leave it behind."""
    monkeypatch.setenv("FAIRSIMS_PWNED", str(tmp_path / "pwned"))
    monkeypatch.setenv("FAIRSIMS_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "pwned"
    assert not (tmp_path / "pwned").exists(), "a payload was executed"
