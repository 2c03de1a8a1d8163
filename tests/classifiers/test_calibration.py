"""Temperature, calibration error by hand, and intervals that know about groups."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairsims.classifiers.evaluation import accuracy_interval, bootstrap_interval, calibration_error, fit_temperature


def test_temperature_is_recovered() -> None:
    """Labels drawn from softmax(logits / 2.5)."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 3, generator=generator) * 4
    labels = torch.multinomial((logits / 2.5).softmax(dim=1), 1, generator=generator)[:, 0].numpy()
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(2.5, rel=0.05)
    assert fit_temperature(logits * 20, labels, bounds=(0.01, 100)) == pytest.approx(20 * found, rel=0.01)
    assert calibration_error((logits / found).softmax(dim=1), labels) < 0.02
    assert calibration_error(logits.softmax(dim=1), labels) > 0.08


def test_calibration_error_by_hand() -> None:
    """Two images at 0.9 of which one is right, two at 0.6 both right: (|1 - 1.8| + |2 - 1.2|)/4."""
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.4, 0.6]])
    assert calibration_error(probabilities, np.array([0, 1, 1, 1])) == pytest.approx(0.4)


def test_single_images_have_the_wilson_interval() -> None:
    """statsmodels' `proportion_confint(90, 100, method="wilson")`."""
    right = np.arange(100) < 90
    assert accuracy_interval(right, np.arange(100)) == pytest.approx((0.825634, 0.944771), abs=2e-3)


def test_copies_add_nothing() -> None:
    """Every image four times is no more evidence than once."""
    right = np.arange(200) % 7 > 0
    once = accuracy_interval(right, np.arange(200))
    assert accuracy_interval(np.repeat(right, 4), np.repeat(np.arange(200), 4)) == pytest.approx(once, abs=0.002)
    wide = accuracy_interval(np.ones(400, dtype=bool), np.repeat(np.arange(20), 20))
    assert wide[0] == pytest.approx(20 / (20 + 1.96**2), abs=1e-3)


def test_intervals_cover_under_groups() -> None:
    """Groups of 10 that are right or wrong almost as one, true accuracy 0.8: 95% of the intervals contain it."""
    rng, hits = np.random.default_rng(0), 0
    for _ in range(400):
        level = rng.beta(1.6, 0.4, 60)
        right = rng.uniform(size=600) < np.repeat(level, 10)
        low, high = accuracy_interval(right, np.repeat(np.arange(60), 10))
        hits += low <= 0.8 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_the_bootstrap_draws_whole_groups() -> None:
    """The mean of 20 groups with means 0 or 1: its standard error is that of 20 draws, not of 200."""
    value = np.repeat(np.arange(20) % 2, 10).astype(float)
    low, high = bootstrap_interval(lambda i: float(value[i].mean()), np.repeat(np.arange(20), 10))
    assert low == pytest.approx(0.5 - 1.96 * 0.5 / np.sqrt(20), abs=0.06)
    assert high == pytest.approx(0.5 + 1.96 * 0.5 / np.sqrt(20), abs=0.06)
