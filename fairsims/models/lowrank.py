"""A change of low rank in every weight of a network, trained in the place of the weights themselves (LoRA)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fairsims.models.base import NetworkDenoiser, Trainable
from fairsims.models.objective import Batch
from fairsims.seeds import derive


class LowRank(Trainable):
    """W + B A for each weight matrix or kernel of a frozen network (Hu et al. 2021, arXiv 2106.09685).

    A `(rank, inputs)` is drawn from `seed`, B `(outputs, rank)` starts at 0; gains, biases and norms stay as they are.
    An EDM2 network normalises the changed weights as it does its own. Parameters, state and copies are those of A and B
    alone; what is saved is the whole network with the change in it. Raises ValueError for a rank below 1.
    """

    def __init__(self, network: NetworkDenoiser, rank: int, seed: int) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}; expected 1 or more")
        # Not a module of this one: it is not trained, saved or copied with it.
        self._frozen = [network.requires_grad_(False)]
        self.config, self.augment_dim, self.label_dim = network.config, network.augment_dim, network.label_dim
        generator = torch.Generator().manual_seed(derive(seed, "low rank"))
        self.first, self.second = nn.ParameterDict(), nn.ParameterDict()
        for name, weight in network.named_parameters():
            if weight.ndim < 2:
                continue
            inputs, outputs = weight[0].numel(), len(weight)
            least, key = min(rank, inputs, outputs), name.replace(".", "/")
            drawn = torch.randn(least, inputs, generator=generator) / math.sqrt(inputs)
            self.first[key] = nn.Parameter(drawn.to(weight))
            self.second[key] = nn.Parameter(torch.zeros(outputs, least).to(weight))

    @property
    def network(self) -> NetworkDenoiser:
        """The frozen one."""
        return self._frozen[0]

    def changed(self) -> dict[str, Tensor]:
        """The weights with their change, by the name of the network's parameter."""
        known: Mapping[str, Tensor] = dict(self.network.named_parameters())
        return {
            (name := key.replace("/", ".")): known[name] + (self.second[key] @ first).reshape(known[name].shape)
            for key, first in self.first.items()
        }

    def saved(self) -> NetworkDenoiser:
        whole = copy.deepcopy(self.network)
        with torch.no_grad():
            for name, weight in self.changed().items():
                whole.get_parameter(name).copy_(weight)
        return whole.eval()

    @property
    def shape(self) -> tuple[int, ...]:
        return self.network.shape

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def precision(self) -> str:
        return self.network.precision

    @precision.setter
    def precision(self, value: str) -> None:
        self.network.precision = value

    def draw_noise(self, n: int, generator: torch.Generator, *, mean: float, std: float) -> tuple[Tensor, Tensor]:
        return self.network.draw_noise(n, generator, mean=mean, std=std)

    def loss(self, batch: Batch) -> Tensor:
        weights = {f"network.{name}": weight for name, weight in self.changed().items()}
        found: Tensor = functional_call(_Loss(self.network.train(self.training)), weights, (batch,))
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> LowRank:
        memo[id(self.network)] = self.network
        found = type(self).__new__(type(self))
        memo[id(self)] = found
        found.__dict__ = copy.deepcopy(self.__dict__, memo)
        return found


class _Loss(nn.Module):
    """The loss as a forward pass, which weights can be given to."""

    def __init__(self, network: NetworkDenoiser) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> Tensor:
        return self.network.loss(batch)
