"""Randomness: image k depends on seed k alone, streams depend on every part of their name."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fairsims.seeds import derive, noise_for, numpy_generator, torch_generator

parts = st.lists(st.one_of(st.integers(-(2**40), 2**40), st.text(max_size=6)), min_size=1, max_size=4)


def test_noise_does_not_depend_on_batch_or_order() -> None:
    together = noise_for([3, 1, 2], (2, 4, 4))
    for row, seed in enumerate([3, 1, 2]):
        assert torch.equal(noise_for([seed], (2, 4, 4))[0], together[row])
    assert torch.equal(noise_for([2, 3, 1], (2, 4, 4))[[1, 2, 0]], together)


def test_noise_does_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(1)
    first = noise_for([5], (8,))
    torch.randn(100)
    assert torch.equal(noise_for([5], (8,)), first)


def test_noise_is_standard_normal_and_differs_between_seeds() -> None:
    noise = noise_for(range(2000), (1, 8, 8))
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean())) < 0.01
    assert abs(float(noise.std()) - 1) < 0.01
    correlation = torch.corrcoef(noise.flatten(1).T).fill_diagonal_(0).abs().max()
    assert correlation < 0.12
    assert len(torch.unique(noise[:, 0, 0, 0])) == 2000


def test_noise_is_the_same_on_every_machine() -> None:
    # torch promises one CPU stream per seed; a change would silently change every image of every seed.
    found = noise_for([0], (3,))[0].tolist()
    assert found == pytest.approx([1.5409960746765137, -0.293428897857666, -2.1787893772125244], abs=1e-6)


def test_seeds_beyond_32_bits_have_noise_of_their_own() -> None:
    """Below nothing changes: the generator's own stream. Beyond it, none of those that torch would wrap to."""
    last = torch.randn(3, generator=torch.Generator().manual_seed(2**32 - 1))
    assert torch.equal(noise_for([2**32 - 1], (3,))[0], last)
    far = [2**32, 2**32 + 5, 2**33 + 5, 2**40 + 5, 2**63 - 1, -5]
    noise = noise_for([*far, *(s % 2**32 for s in far)], (1, 8, 8))
    assert noise.dtype == torch.float32
    assert len(torch.unique(noise[:, 0, 0, 0])) == len({*far, *(s % 2**32 for s in far)})
    assert abs(float(noise_for(range(2**32, 2**32 + 500), (8, 8)).std()) - 1) < 0.01
    # On every machine.
    digest = hashlib.sha256(b"str:noise\x1fint:4294967296").digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little") // 2)
    assert np.array_equal(noise[0].numpy(), rng.standard_normal((1, 8, 8), dtype=np.float32))


@given(parts)
def test_derived_seeds_fit_every_generator(values: list[int | str]) -> None:
    seed = derive(*values)
    assert 0 <= seed < 2**63
    torch_generator(*values)
    numpy_generator(*values)


@given(parts, parts)
def test_other_parts_give_another_seed(a: list[int | str], b: list[int | str]) -> None:
    if "\x1f" in "".join(map(str, a + b)):
        return
    assert (derive(*a) == derive(*b)) == (a == b and list(map(type, a)) == list(map(type, b)))


def test_parts_are_kept_apart() -> None:
    assert len({derive(1, 2), derive(12), derive("1", 2), derive("1", "2"), derive(2, 1), derive("12")}) == 6


def test_derived_seeds_are_the_same_on_every_machine() -> None:
    digest = hashlib.sha256(b"int:7\x1fstr:order\x1fint:3").digest()
    assert derive(7, "order", 3) == int.from_bytes(digest[:8], "little") // 2


def test_generators_repeat() -> None:
    assert torch.equal(
        torch.randn(4, generator=torch_generator(1, "a")), torch.randn(4, generator=torch_generator(1, "a"))
    )
    assert np.array_equal(numpy_generator(1, "a").random(4), numpy_generator(1, "a").random(4))
    assert not np.array_equal(numpy_generator(1, "a").random(4), numpy_generator(1, "b").random(4))
