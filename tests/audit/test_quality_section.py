"""The quality section of an audit on real digits that pose as generated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support import MakePool

from fairsims.audit.blocks import subsample
from fairsims.audit.facts import Neighbourhood, Pair, QualityResult, ReferenceFacts
from fairsims.audit.features import classifier_features, stored_features
from fairsims.audit.fidelity import QualityReference, quality
from fairsims.audit.groups import GroupCalls
from fairsims.audit.quality import FrechetReference, frechet_distance, moments_of
from fairsims.audit.records import from_json, to_json
from fairsims.audit.references import reference_calls, reference_labels
from fairsims.classifiers import load_classifier
from fairsims.classifiers.base import features_of
from fairsims.classifiers.labelling import label_source
from fairsims.data import ImageDataset
from fairsims.data.sources import ImageSource
from fairsims.errors import InputError
from fairsims.pools import pool_dataset

PARITY = load_classifier("digits-parity")
FEATURES = classifier_features(PARITY)
HALF = [(PARITY, np.array([0.5, 0.5]))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the digits, made once for all tests here."""
    return tmp_path_factory.mktemp("store")


def reference_of(found: QualityResult) -> ReferenceFacts:
    assert found.reference is not None
    return found.reference


def without_labels(dataset: ImageDataset) -> ImageDataset:
    return ImageDataset(
        name="bare",
        digest=dataset.digest,
        resolution=8,
        channels=1,
        source=dataset.source,
        table=dataset.table[[]],
        attributes={},
    )


def test_copies_of_the_training_set_show(digits_pool: MakePool) -> None:
    """A pool of the training images themselves: distance 0, where real images keep their distance."""
    copies = digits_pool(300, 300, "copies")
    found = quality({"before": copies}, FEATURES, pool_dataset(copies), HALF)
    assert found.before["nearest_median"] == 0
    assert reference_of(found).nearest_median > 0
    assert (found.before["precision"], found.before["recall"], found.before["coverage"]) == (1.0, 1.0, 1.0)
    assert found.before["auth_pct"] == 0
    assert found.nearest_pairs["before"][0] == Pair(generated=0, training=0, distance=0.0)
    assert len(found.nearest_pairs["before"]) == 8
    assert found.before["fd_reference"] == pytest.approx(0, abs=1e-6)
    how = "equal numbers, drawn from a fixed seed"
    assert found.precision_recall == Neighbourhood(k=3, k_density=5, n=600, sampling=how)


def test_one_number_of_images_serves_every_side(digits: ImageDataset, digits_pool: MakePool, store: Path) -> None:
    """Precision depends on the number of images: the smallest side sets it for all, so that sides compare."""
    large, small = digits_pool(400, 100, "large"), digits_pool(30, 30, "small")
    found = quality({"before": large, "after": small}, FEATURES, digits, HALF, store=store)
    assert found.precision_recall is not None
    assert found.precision_recall.n == 60
    assert (found.before["n"], found.after["n"]) == (500, 60)
    # The small pool's images are among the large one's, whose mix is the less balanced.
    assert found.after["fd_target"] < found.before["fd_target"]


def test_a_collapsed_pool_loses_recall(digits: ImageDataset, digits_pool: MakePool, store: Path) -> None:
    real = QualityReference(features=stored_features(digits, FEATURES, store), weights=None)
    assert real.at_target is None
    varied = features_of(PARITY, digits_pool(150, 150).batches())
    collapsed = np.repeat(varied[:30], 10, axis=0)
    measured = real.measure(varied, 300)
    assert "fd_target" not in measured
    assert real.measure(collapsed, 300)["recall"] < measured["recall"] / 3
    assert real.measure(collapsed, 300)["precision"] > 0.9


def test_a_reference_without_labels_is_labelled_by_the_classifier(
    digits: ImageDataset, digits_pool: MakePool, store: Path
) -> None:
    labels, by = reference_labels(digits, PARITY)
    assert by == "its own"
    called, by = reference_labels(without_labels(digits), PARITY)
    assert by == "called by digits-parity"
    assert 0.9 < (labels == called).mean() <= 1
    pools = {"before": digits_pool(200, 60)}
    own = quality(pools, FEATURES, digits, HALF, store=store)
    others = quality(pools, FEATURES, without_labels(digits), HALF, store=store)
    assert reference_of(others).labels == "called by digits-parity"
    assert others.before["fd_target"] == pytest.approx(own.before["fd_target"], rel=0.05)
    assert others.before["fd_reference"] == own.before["fd_reference"]


def test_the_section_of_one_source(digits: ImageDataset, digits_pool: MakePool, tmp_path: Path) -> None:
    """Every key by the documented name, as JSON; the same call again reads what the store holds."""
    pool = digits_pool(260, 90)
    groups = {"parity": GroupCalls(classifier=PARITY, calls={"before": label_source(pool, PARITY).argmax(axis=1)})}

    def measured() -> QualityResult:
        return quality({"before": pool}, FEATURES, digits, HALF, groups=groups, store=tmp_path / "store")

    found = measured()
    assert found.metric == "FD (digits-parity features)"
    assert to_json(found.extractor) == FEATURES.facts()
    assert set(found.before) == {
        "fd_reference",
        "fd_target",
        "fd_infinity",
        "kid",
        "kid_low",
        "kid_high",
        "precision",
        "recall",
        "density",
        "coverage",
        "auth_pct",
        "nearest_median",
        "nearest_low",
        "n",
    }
    assert found.before["kid_low"] <= found.before["kid"] <= found.before["kid_high"]
    assert found.before["fd_infinity"] < found.before["fd_reference"]
    assert 0 < reference_of(found).effective_n <= 1797
    assert "a smaller group would look worse" in found.unavailable["group_fd"]
    counts = [g["before"].n for g in found.groups["parity"].values()]
    assert counts[0] is not None
    assert counts[0] == counts[1] <= 90 + 10
    assert from_json(QualityResult, json.loads(json.dumps(to_json(found)))) == found
    kept = {f.name: f.stat().st_mtime_ns for f in (tmp_path / "store").iterdir()}
    assert sorted(name.split("-")[0] for name in kept) == ["digits", "features", "features", "moments", "moments"]
    assert measured() == found
    assert {f.name: f.stat().st_mtime_ns for f in (tmp_path / "store").iterdir()} == kept


def test_groups_are_called_on_both_sides(digits: ImageDataset) -> None:
    """Real images as the classifier calls them: their own labels would not carry its errors."""
    swapped = ImageDataset(
        name="swapped",
        digest=digits.digest,
        resolution=8,
        channels=1,
        source=digits.source,
        table=digits.table.assign(parity=digits.table["parity"].map({"even": "odd", "odd": "even"})),
        attributes={"parity": digits.attributes["parity"]},
    )
    assert (reference_calls(swapped, PARITY, None) == label_source(digits, PARITY).argmax(axis=1)).all()
    assert (reference_calls(swapped, PARITY, None) != reference_labels(swapped, PARITY)[0]).mean() > 0.9


def test_without_targets_nothing_is_reweighted(digits: ImageDataset, digits_pool: MakePool, store: Path) -> None:
    found = quality({"before": digits_pool(80, 20)}, FEATURES, digits, store=store)
    assert reference_of(found).labels is None
    assert "fd_target" not in found.before
    assert found.groups == {}


def test_reference_statistics_of_others(
    digits: ImageDataset, digits_pool: MakePool, tmp_path: Path, store: Path
) -> None:
    """An EDM file serves what needs moments; the rest is named, with the reason."""
    real, pool = stored_features(digits, FEATURES, store).astype(np.float64), digits_pool(250, 150)
    np.savez(tmp_path / "ref.npz", mu=real.mean(axis=0), sigma=np.cov(real, rowvar=False))
    found = quality({"before": pool}, FEATURES, tmp_path / "ref.npz", HALF)
    own = frechet_distance(FrechetReference.of(moments_of(real)), moments_of(features_of(PARITY, pool.batches())))
    assert set(found.before) == {"fd_reference", "fd_infinity", "n"}
    assert found.before["fd_reference"] == pytest.approx(own, rel=1e-6)
    assert reference_of(found).name == "ref.npz"
    assert {"kid", "precision", "fd_target", "auth_pct", "group_kid"} < set(found.unavailable)
    assert "without images" in found.unavailable["kid"]
    np.savez(tmp_path / "other.npz", mu=np.zeros(300), sigma=np.eye(300))
    with pytest.raises(InputError, match="the reference has 300 features, the images have"):
        quality({"before": pool}, FEATURES, tmp_path / "other.npz", HALF)


def test_few_images_are_measured_with_a_warning(digits: ImageDataset, digits_pool: MakePool, store: Path) -> None:
    sides: dict[str, ImageSource] = {"before": digits_pool(300, 100, "a"), "after": digits_pool(20, 10, "b")}
    found = quality(sides, FEATURES, digits, HALF, store=store)
    assert found.unavailable["fd_infinity"].startswith("after: got 30 images for")
    assert "fd_infinity" in found.before and "fd_infinity" not in found.after
    assert any("after has 30 images; quality numbers of fewer than 50" in w for w in found.warnings)
    assert any("before has 400, after has 30 images" in w for w in found.warnings)


def test_a_target_that_few_real_images_serve(digits: ImageDataset, digits_pool: MakePool) -> None:
    """A class with weight 0 is left out; what rests on a handful of images is warned of; on one, refused."""
    parity = digits.class_indices("parity")
    few = digits.subset(np.concatenate([np.flatnonzero(parity == 0)[:300], np.flatnonzero(parity == 1)[:4]]))
    pool = digits_pool(60, 40)
    found = quality({"before": pool}, FEATURES, few, [(PARITY, np.array([0.0, 1.0]))])
    assert reference_of(found).effective_n == pytest.approx(4)
    assert any("the reference is worth 4 images" in w for w in found.warnings)
    with pytest.raises(InputError, match="has no image of parity odd, which the target wants; give a --reference"):
        quality({"before": pool}, FEATURES, digits.subset(np.flatnonzero(parity == 0)[:300]), HALF)
    with pytest.raises(InputError, match="at least 2 images; got 1"):
        quality({"before": pool}, FEATURES, few.subset(np.arange(301)), [(PARITY, np.array([0.0, 1.0]))])


def test_a_pool_of_three_images_is_refused(digits: ImageDataset, digits_pool: MakePool, store: Path) -> None:
    with pytest.raises(InputError, match="above k = 5"):
        quality({"before": digits_pool(2, 1)}, FEATURES, digits, HALF, store=store)


def test_subsamples() -> None:
    assert subsample(5, 9).tolist() == [0, 1, 2, 3, 4]
    chosen = subsample(1000, 100)
    assert len(set(chosen.tolist())) == 100
    assert (np.diff(chosen) > 0).all()
    assert chosen.tolist() == subsample(1000, 100).tolist()
