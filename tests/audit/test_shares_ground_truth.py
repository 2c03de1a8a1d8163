"""Real images of known classes through a real classifier: the intervals hold the true mix as often as they say."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fairsims.audit.labelled import labelled_pool, labelled_shares
from fairsims.audit.shares import corrected_shares
from fairsims.classifiers.base import Confusion
from fairsims.data import open_dataset

DIGITS = open_dataset("digits")
GROUPS = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
"""Digit to class: 0-2, 3-6, 7-9."""


@pytest.mark.parametrize(("classes", "mix"), [(2, (0.7, 0.3)), (3, (0.5, 0.4, 0.1))])
def test_intervals_hold_the_mix_of_real_digits(classes: int, mix: tuple[float, ...]) -> None:
    """Calls are out of fold; errors are measured on half of the images and corrected on sets of the other half.

    The classifier sees a quarter of the pixels, so that its errors matter.
    """
    digit = DIGITS.table["digit"].astype(int).to_numpy()
    pixels = DIGITS.read(range(len(DIGITS))).numpy()[:, 0, 2:6, 2:6].reshape(len(DIGITS), -1)
    true = digit % 2 if classes == 2 else GROUPS[digit]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    calls = cross_val_predict(model, pixels, true, cv=5)
    assert 0.6 < (calls == true).mean() < 0.92
    rng, names, hits = np.random.default_rng(0), [str(k) for k in range(classes)], dict.fromkeys("ABC", 0.0)
    repetitions = 200
    for _ in range(repetitions):
        order = rng.permutation(len(true))
        measured, there = order[: len(true) // 2], order[len(true) // 2 :]
        sizes = rng.multinomial(400, mix)
        drawn = np.concatenate([there[true[there] == k][:n] for k, n in enumerate(sizes)])
        errors = Confusion.of(true[measured], calls[measured], size=classes, split="half", description="digits")
        counts = np.bincount(calls[drawn], minlength=classes)
        sample = rng.choice(len(drawn), 120, replace=False)
        for tier, found in (
            ("A", labelled_shares(labelled_pool(names, calls[drawn], sample, true[drawn][sample]))),
            ("B", corrected_shares(names, counts, errors)),
            ("C", corrected_shares(names, counts, None)),
        ):
            assert found.tier == tier
            hits[tier] += float(((np.array(found.low) <= mix) & (np.array(found.high) >= mix)).mean()) / repetitions
    assert 0.91 <= hits["A"] <= 0.99
    assert 0.91 <= hits["B"] <= 0.99
    assert hits["C"] < 0.75
