"""What the user asks for: a share per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.data.attributes import Attribute
from fairsims.errors import InputError, closest

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parsed `--target`: shares by class, or what decides them once the base's are known."""

    attribute: Attribute
    shares: tuple[float, ...] | None
    number: float | None = None
    """Without `shares`: what the class that the base under-represents gets of two; None for the same of every class."""

    @property
    def known(self) -> tuple[float, ...] | None:
        """The shares where they are the same whatever the base has."""
        return (0.5, 0.5) if self.number == 0.5 and len(self.attribute.classes) == 2 else self.shares

    def resolve(self, base_shares: Sequence[float] | np.ndarray) -> np.ndarray:
        """Target shares `(K,)`, the number going to the class with the smaller base share (the second when equal).

        A number and `uniform` are of the images that show a class: `undetermined` keeps the base's share.
        """
        if self.shares is not None:
            return np.array(self.shares)
        classes = self.attribute.determined
        within = np.full(len(classes), 1 / len(classes))
        if self.number is not None:
            rare = 0 if base_shares[0] < base_shares[1] else 1
            within[rare], within[1 - rare] = self.number, 1 - self.number
        rest = np.asarray(base_shares[len(classes) : len(self.attribute.classes)], dtype=np.float64)
        return np.concatenate([within * (1 - rest.sum()), rest])


def parse_target(text: str, attribute: Attribute) -> Target:
    """Read `0.5`, `uniform` or `woman=0.3,man=0.7`.

    Raises InputError when a share is not a number in [0, 1], shares do not sum to 1, a class is unknown or named twice,
    or one number is given for other than two classes. Of K classes, K - 1 suffice: the last gets the rest.
    """
    text, classes, determined = text.strip(), attribute.classes, attribute.determined
    if text == "uniform":
        same = (1 / len(classes),) * len(classes)
        return Target(attribute=attribute, shares=same if determined == classes else None)
    if "=" not in text:
        number = _share(text, "--target")
        if len(determined) != 2:
            raise InputError(
                f"--target {text} is one number, {attribute.name} has {len(determined)} classes; "
                f"give {','.join(f'{c}=...' for c in classes)} or 'uniform'"
            )
        return Target(attribute=attribute, shares=None, number=number)
    given: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = (p.strip() for p in part.partition("="))
        if name not in classes:
            raise InputError(f"{attribute.name} has no class {name!r}{closest(name, classes)}")
        if name in given:
            raise InputError(f"--target names {name!r} twice; give each class once")
        given[name] = _share(value, f"the share of {name}")
    missing = [c for c in classes if c not in given]
    total = math.fsum(given.values())
    if len(missing) == 1 and total <= 1 + SUM_TOLERANCE:
        given[missing[0]] = max(0.0, 1 - total)
    elif missing or abs(total - 1) > SUM_TOLERANCE:
        lacks = f" and lack {', '.join(missing)}" if missing else ""
        raise InputError(f"the shares of --target {text} sum to {total:g}{lacks}; expected 1 over {', '.join(classes)}")
    return Target(attribute=attribute, shares=tuple(given[c] for c in classes))


def describe(shares: Sequence[float] | np.ndarray, classes: Sequence[str]) -> str:
    """`man 0.50, woman 0.50`."""
    return ", ".join(f"{c} {s:.2f}" for c, s in zip(classes, shares, strict=True))


def resampling_cost(base_shares: Sequence[float] | np.ndarray, target: Sequence[float] | np.ndarray) -> float:
    """Images that plain classifier resampling generates per kept one: max_c tau_c / pi_c (infinite if pi_c = 0)."""
    ratios = [math.inf if p <= 0 else t / p for p, t in zip(base_shares, target, strict=True) if t > 0]
    return float(max(ratios))


def as_mapping(shares: Sequence[float] | np.ndarray, classes: Sequence[str]) -> Mapping[str, float]:
    """Shares by class name, as plain floats."""
    return {c: float(s) for c, s in zip(classes, shares, strict=True)}


def _share(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{what} is {text!r}; expected a number in [0, 1], 'uniform' or class=share,...") from None
    if not 0 <= value <= 1:
        raise InputError(f"{what} is {text}; expected a share in [0, 1]")
    return value
