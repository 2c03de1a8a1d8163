"""The quality section of an audit on real digits that pose as generated."""

from __future__ import annotations

import numpy as np
import pytest
from support import MakePool

from fairsims.audit.compare import quality
from fairsims.audit.fidelity import QualityReference, dataset_batches, reference_labels, subsample
from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import features_of
from fairsims.datasets import ImageDataset, open_dataset
from fairsims.errors import InputError
from fairsims.pools import pool_dataset

PARITY = load_classifier("digits-parity")
HALF = np.array([0.5, 0.5])


def without_labels(dataset: ImageDataset) -> ImageDataset:
    return ImageDataset(
        name="bare", digest=dataset.digest, resolution=8, channels=1, source=dataset.source,
        table=dataset.table[[]], attributes={},
    )  # fmt: skip


def test_copies_of_the_training_set_show(digits_pool: MakePool) -> None:
    """A pool of the training images themselves: distance 0, where real images keep their distance."""
    copies = digits_pool(300, 300, "copies")
    found = quality({"before": copies}, PARITY, pool_dataset(copies), HALF)
    assert found["before"]["nearest_median"] == 0
    assert found["reference"]["nearest_median"] > 0
    assert (found["before"]["precision"], found["before"]["recall"]) == (1.0, 1.0)
    assert found["before"]["fd_reference"] == pytest.approx(0, abs=1e-6)
    assert found["precision_recall"] == {"k": 3, "n": 600, "sampling": "equal numbers, drawn from a fixed seed"}


def test_one_number_of_images_serves_every_side(digits_pool: MakePool) -> None:
    """Precision depends on the number of images: the smallest side sets it for all, so that sides compare."""
    large, small = digits_pool(400, 100, "large"), digits_pool(30, 30, "small")
    found = quality({"before": large, "after": small}, PARITY, open_dataset("digits"), HALF)
    assert found["precision_recall"]["n"] == 60
    assert (found["before"]["n"], found["after"]["n"]) == (500, 60)
    # The small pool's images are among the large one's, whose mix is the less balanced.
    assert found["after"]["fd_target"] < found["before"]["fd_target"]


def test_a_collapsed_pool_loses_recall(digits_pool: MakePool) -> None:
    reference = open_dataset("digits")
    real = QualityReference(features=features_of(PARITY, dataset_batches(reference)), weights=None)
    assert real.at_target is None
    varied = features_of(PARITY, digits_pool(150, 150).batches())
    collapsed = np.repeat(varied[:30], 10, axis=0)
    measured = real.measure(varied, 300)
    assert "fd_target" not in measured
    assert real.measure(collapsed, 300)["recall"] < measured["recall"] / 3
    assert real.measure(collapsed, 300)["precision"] > 0.9


def test_a_reference_without_labels_is_labelled_by_the_classifier(digits: ImageDataset, digits_pool: MakePool) -> None:
    labels, by = reference_labels(digits, PARITY)
    assert by == "its own"
    called, by = reference_labels(without_labels(digits), PARITY)
    assert by == "called by digits-parity"
    assert 0.9 < (labels == called).mean() <= 1
    pools = {"before": digits_pool(200, 60)}
    own, others = quality(pools, PARITY, digits, HALF), quality(pools, PARITY, without_labels(digits), HALF)
    assert others["reference"]["labels"] == "called by digits-parity"
    assert others["before"]["fd_target"] == pytest.approx(own["before"]["fd_target"], rel=0.05)
    assert others["before"]["fd_reference"] == own["before"]["fd_reference"]


def test_a_pool_of_three_images_is_refused(digits_pool: MakePool) -> None:
    with pytest.raises(InputError, match="above k = 3"):
        quality({"before": digits_pool(2, 1)}, PARITY, open_dataset("digits"), HALF)


def test_subsamples() -> None:
    assert subsample(5, 9).tolist() == [0, 1, 2, 3, 4]
    chosen = subsample(1000, 100)
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == subsample(1000, 100).tolist()
