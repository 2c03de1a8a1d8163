"""What images are asked for: nothing in particular, a class, a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import sha256_json
from fairsims.seeds import class_for


@dataclass(frozen=True)
class Conditions:
    """The conditions of a model in order. A seed has one: in turn, so that every whole multiple of them in a row is
    balanced, or at random."""

    names: tuple[str, ...] = ("",)
    """Class names or prompts; one empty condition for an unconditional model."""
    drawn_after: tuple[int, ...] | None = None
    """Conditions at random: drawn by each seed's generator after noise of this shape. None: in turn."""

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError(f"names is {list(self.names)}; expected one or more different ones")

    @classmethod
    def numbered(cls, count: int) -> Conditions:
        """Classes that go by their numbers; none is unconditional."""
        return cls(tuple(map(str, range(count)))) if count else cls()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def unconditional(self) -> bool:
        """Whether nothing in particular is asked for."""
        return self.names == ("",)

    @classmethod
    def of_pool(cls, meta: Mapping[str, Any]) -> Conditions:
        """Those that `pool.json` names."""
        found = meta.get("conditions", {})
        return cls(tuple(found.get("names", ("",))), tuple(found["drawn_after"]) if "drawn_after" in found else None)

    def for_pool(self) -> dict[str, Any]:
        """For `pool.json`: the names, their digest, and how they were drawn where that was at random."""
        drawn = {} if self.drawn_after is None else {"labels": "random", "drawn_after": list(self.drawn_after)}
        return {"names": list(self.names), "digest": self.digest, **drawn}

    @property
    def digest(self) -> str:
        """SHA-256 over the names in their order."""
        return sha256_json(list(self.names))

    def facts(self) -> dict[str, list[str]]:
        """For the recipe of a checkpoint: its classes by name, nothing for an unconditional model."""
        return {} if self.unconditional else {"classes": list(self.names)}

    def of(self, seed: int) -> str:
        """The condition of a seed."""
        return self.names[self.positions([seed])[0]]

    def positions(self, seeds: Sequence[int]) -> list[int]:
        """Which of `names` each seed has."""
        if self.drawn_after is None:
            return [int(seed) % len(self.names) for seed in seeds]
        return [class_for(int(seed), len(self), self.drawn_after) for seed in seeds]

    def one_hot(self, seeds: Sequence[int]) -> Tensor | None:
        """What a class-conditional network is told of each seed, `(B, K)`; None for an unconditional model."""
        return None if self.unconditional else torch.eye(len(self))[self.positions(seeds)]


def read_classes(path: str | Path, count: int) -> tuple[str, ...]:
    """Names of a network's `count` classes from a text file, one a line in their order. Raises InputError."""
    try:
        names = tuple(line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as e:
        raise InputError(f"{path} cannot be read ({e}); expected a text file with a class a line") from None
    if len(names) != count or len(set(names)) != count:
        raise InputError(
            f"{path} names {len(names)} classes, {len(set(names))} of them different; the model has {count}: give a "
            "name for each on a line of its own"
        )
    return names
