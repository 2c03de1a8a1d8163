"""The two sets of a paired contrast differ in the targeted attribute, where they have to, and in nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairsims.audit.joint import Cells
from fairsims.data.attributes import Attribute
from fairsims.errors import InputError
from fairsims.retarget.contrast import Contrast, contrast_set, raked_strata
from fairsims.retarget.drawing import draw_complement

POOL = 600
MAN, WOMAN = 0, 1


def contrast(places: np.ndarray, others: np.ndarray, chosen: np.ndarray, change: list[float], part: float) -> Contrast:
    sure = np.ones(len(places), dtype=bool)
    names = [f"class {k}" for k in range(len(change))]
    return contrast_set(chosen, places, sure, others, np.array(change), replaced=part, seed=3, names=names)


def people(women: float = 0.25, kinds: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return (rng.random(POOL) < women).astype(np.int64), rng.integers(0, kinds, POOL)


@settings(max_examples=40, deadline=None)
@given(women=st.floats(0.05, 0.6), part=st.floats(0.05, 1.0), kinds=st.integers(1, 8))
def test_replaced_entries_are_women_alike_in_all_else(women: float, part: float, kinds: int) -> None:
    places, others = people(women, kinds)
    men = np.flatnonzero(places == MAN)
    found = contrast(places, others, men, [-0.25, 0.25], part)
    differ = found.chosen != men
    assert differ.sum() == found.replaced == max(1, round(part * len(men)))
    assert (places[found.chosen[differ]] == WOMAN).all()
    alike = others[found.chosen] == others[men]
    assert (~alike).sum() == found.unmatched
    # The sets' shares differ by `scale` times the change.
    assert np.isclose(differ.mean(), found.scale * 0.25, atol=1 / len(men))


def test_a_wanted_image_is_used_again_only_when_all_alike_were() -> None:
    places, others = people(0.1, 2)
    men = np.flatnonzero(places == MAN)
    chosen = contrast(places, others, men, [-1.0, 1.0], 1.0).chosen
    for kind in (0, 1):
        of_kind = np.flatnonzero((places == WOMAN) & (others == kind))
        used = np.bincount(chosen, minlength=POOL)[of_kind]
        assert used.max() - used.min() <= 1


def test_several_classes_give_way_and_take_over_in_proportion() -> None:
    rng = np.random.default_rng(1)
    places, others = rng.integers(0, 4, POOL), rng.integers(0, 3, POOL)
    complement = np.flatnonzero(places < 2)
    change = [-0.3, -0.1, 0.1, 0.3]
    found = contrast(places, others, complement, change, 1.0)
    before, after = (np.bincount(places[c], minlength=4) / len(complement) for c in (complement, found.chosen))
    assert np.allclose(after - before, found.scale * np.array(change), atol=2 / len(complement))
    assert found.scale == pytest.approx(min(before[0] / 0.3, before[1] / 0.1))
    assert found.unmatched == 0


def test_what_has_no_fitting_image_is_replaced_by_another_and_counted() -> None:
    places = np.repeat([MAN, WOMAN], 50)
    others = np.repeat([0, 1], 50)
    found = contrast(places, others, np.arange(50), [-0.5, 0.5], 0.5)
    assert (found.replaced, found.unmatched) == (25, 25)


def test_the_same_seed_gives_the_same_set() -> None:
    places, others = people()
    men = np.flatnonzero(places == MAN)
    first, second = (contrast(places, others, men, [-0.25, 0.25], 0.5).chosen for _ in range(2))
    assert np.array_equal(first, second)


def test_without_a_wanted_image_it_is_refused() -> None:
    places, others = np.zeros(POOL, dtype=np.int64), np.zeros(POOL, dtype=np.int64)
    with pytest.raises(InputError, match="no image of class 1 in the pool is sure enough"):
        contrast(places, others, np.arange(100), [-0.5, 0.5], 0.5)
    with pytest.raises(InputError, match="no image of class 0 to replace"):
        contrast(places + 1, others, np.arange(100), [-0.5, 0.5], 0.5)


def test_a_raked_set_has_the_pools_mix_of_other_attributes() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    women = rng.random(n) < 0.25
    # Men are mostly of the first kind, so that a set of men alone would be.
    kind = np.where(rng.random(n) < np.where(women, 0.2, 0.7), 0, 1)
    probabilities = np.where(women[:, None], [0.03, 0.97], [0.98, 0.02])
    genders, kinds = (Attribute(name=n, classes=c) for n, c in (("gender", ("man", "woman")), ("kind", ("a", "b"))))
    cells = Cells(attributes=(genders, kinds))
    of_strata, shares = raked_strata(cells, probabilities, [kind], np.array([1.0, 0.0]))
    chosen = draw_complement(of_strata, shares, seed=0, names=cells.names, scarce=20)
    assert not women[chosen].any()
    assert (kind[chosen] == 0).mean() == pytest.approx((kind == 0).mean(), abs=0.01)
    assert abs((kind[~women] == 0).mean() - (kind == 0).mean()) > 0.05, "as the pool has them it would not"
    assert len(np.unique(chosen)) == len(chosen)
