"""What the user asks for: a share per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fairsims.datasets.attributes import Attribute
from fairsims.errors import InputError, closest

SUM_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class Target:
    """A parsed `--target`: either shares by class, or one number for the class that the base under-represents."""

    attribute: Attribute
    shares: tuple[float, ...] | None
    number: float | None = None

    def resolve(self, base_shares: Sequence[float] | np.ndarray) -> np.ndarray:
        """Target shares `(K,)`, the number going to the class with the smaller base share (the second when equal)."""
        if self.shares is not None:
            return np.array(self.shares)
        assert self.number is not None
        rare = 0 if base_shares[0] < base_shares[1] else 1
        resolved = np.full(2, 1 - self.number)
        resolved[rare] = self.number
        return resolved


def parse_target(text: str, attribute: Attribute) -> Target:
    """Read `0.5`, `uniform` or `woman=0.3,man=0.7`.

    Raises InputError when a share is not a number in [0, 1], shares do not sum to 1, a class is unknown or named twice,
    or one number is given for other than two classes. Of K classes, K - 1 suffice: the last gets the rest.
    """
    text, classes = text.strip(), attribute.classes
    if text == "uniform":
        return Target(attribute=attribute, shares=(1 / len(classes),) * len(classes))
    if "=" not in text:
        number = _share(text, "--target")
        if len(classes) != 2:
            raise InputError(
                f"--target {text} is one number, {attribute.name} has {len(classes)} classes; "
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
