"""What the adapters of a prompt retargeting are trained on: rows of a prompt's images, prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.audit.joint import FloatArray
from fairsims.errors import InputError
from fairsims.retarget.drawing import largest_remainders
from fairsims.seeds import numpy_generator


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """Images that a prompt's set may be drawn from: places in a list of latents, with what was said of them."""

    places: np.ndarray
    """`(n,)` positions in the list."""
    probabilities: FloatArray
    """`(n, K)` of the attribute with the target."""
    others: tuple[np.ndarray, ...] = ()
    """Predicted class of each further known attribute, `(n,)` each."""


def draw_rows(
    source: Source, shares: FloatArray, size: int, *, floor: float, seed: int, names: Sequence[str], prompt: str
) -> np.ndarray:
    """`size` places in the given mix of classes, `(size,)`, as even in the other attributes as the prompt's images.

    Candidates of a class are the images of it with at least `floor`; each is weighed by its probability and by how much
    rarer its other attributes are among that class than among all of the prompt's images. They are drawn without
    replacement while they last, then again. A class without a candidate gives its share to the others.
    Raises InputError when no class that is wanted has one.
    """
    winner, sure = source.probabilities.argmax(axis=1), source.probabilities.max(axis=1)
    candidates = [np.flatnonzero((winner == c) & (sure >= floor)) for c in range(len(shares))]
    there = np.where([len(found) > 0 for found in candidates], shares, 0.0)
    if there.sum() <= 0:
        wanted = " or ".join(n for n, s in zip(names, shares, strict=True) if s > 0)
        raise InputError(
            f"no image of {prompt!r} is {wanted} with a probability of {floor:g} or more; a person may not be found in "
            "them; lower --floor, make the pool larger, or leave the prompt out"
        )
    rng = numpy_generator(seed, "prompt", prompt)
    drawn = [
        _drawn(found, sure[found] * _evened(source.others, found), int(n), rng)
        for found, n in zip(candidates, largest_remainders(there / there.sum(), size), strict=True)
        if n
    ]
    return np.asarray(source.places[np.concatenate(drawn)])


def _evened(others: Sequence[np.ndarray], found: np.ndarray) -> np.ndarray:
    """Weights `(len(found),)` that give the candidates the other attributes' mix of all images."""
    weight = np.ones(len(found))
    for other in others:
        size = int(other.max()) + 1
        of_all = np.bincount(other, minlength=size) / len(other)
        of_class = np.bincount(other[found], minlength=size) / len(found)
        weight *= (of_all / np.maximum(of_class, 1e-9))[other[found]]
    return weight


def _drawn(items: np.ndarray, weights: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    whole, rest = divmod(n, len(items))
    # Efraimidis and Spirakis 2006, as in `draw_complement`.
    keys = np.log(rng.random(len(items))) / np.maximum(weights, 1e-12)
    return np.concatenate([np.repeat(items, whole), items[np.argsort(-keys)[:rest]]])
