"""The audit of shares in each class: its data, and the rows and the table of a result."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from support import script


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    return script("audits/class_pairs.py")


def test_each_pair_has_its_share_of_odd_digits(audit: ModuleType) -> None:
    odd = {"0 or 1": 0.2, "2 or 3": 0.25, "4 or 5": 0.3, "6 or 7": 0.35, "8 or 9": 0.4}
    data = audit.pairs(odd, 0)
    # Even digits are whole, and the same seed keeps the same odd ones.
    assert 1200 < len(data) < 1400
    assert data.digest == audit.pairs(odd, 0).digest != audit.pairs(odd, 1).digest
    places = data.class_indices("pair")
    whole = [178, 177, 181, 181, 174]
    assert np.bincount(places) == pytest.approx([n / (1 - s) for n, s in zip(whole, odd.values(), strict=True)], abs=1)


def test_the_table_says_shares_in_per_cent(audit: ModuleType) -> None:
    row = {"labels": "random", "pair": "0 or 1", "n": 12}
    row |= {f"{s}{e}": v for s in ("before", "after") for e, v in (("", 0.5), (".low", 0.25), (".high", 0.75))}
    text = audit.as_text(pd.DataFrame([row]))
    assert text.splitlines()[-1] == "| random | 0 or 1 | 12 | 50.0 [25.0, 75.0] | 50.0 [25.0, 75.0] |"
