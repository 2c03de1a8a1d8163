"""What images are asked for: nothing in particular, a class, a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairsims.files import sha256_json


@dataclass(frozen=True)
class Conditions:
    """The conditions of a model in order. A seed has one, so that every whole multiple of them in a row is balanced."""

    names: tuple[str, ...] = ("",)
    """Class names or prompts; one empty condition for an unconditional model."""

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

    @property
    def digest(self) -> str:
        """SHA-256 over the names in their order."""
        return sha256_json(list(self.names))

    def facts(self) -> dict[str, list[str]]:
        """For the recipe of a checkpoint: its classes by name, nothing for an unconditional model."""
        return {} if self.unconditional else {"classes": list(self.names)}

    def of(self, seed: int) -> str:
        """The condition of a seed."""
        return self.names[seed % len(self.names)]

    def positions(self, seeds: Sequence[int]) -> list[int]:
        """Which of `names` each seed has."""
        return [int(seed) % len(self.names) for seed in seeds]

    def one_hot(self, seeds: Sequence[int]) -> Tensor | None:
        """What a class-conditional network is told of each seed, `(B, K)`; None for an unconditional model."""
        return None if self.unconditional else torch.eye(len(self))[self.positions(seeds)]
