"""LoRA: low-rank adapters of a pipeline's network, trained, combined and worn.

An adapter adds B A to a layer's weights, A `(r, in)` and B `(out, r)`; alpha is the rank everywhere, so that nothing
but A and B decides what it does. Two adapters are one whose ranks are added: A = [A1; A2], B = [B1, B2].
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairsims.errors import InputError
from fairsims.files import sha256_json
from fairsims.models.folders import read_meta, read_weights
from fairsims.models.pipelines import OpenedPipeline, library, quiet

NAME = "fairsims"
"""What our adapters are called among those that a network may have."""
DOWN, UP = ".lora_A.weight", ".lora_B.weight"
SMALL = 100_000_000
"""Parameters of a network that counts as small; a copy of its weights is nothing to the memory it is sampled in."""
LoRA = Mapping[str, Tensor]
"""Tensors `LAYER.lora_A.weight` and `LAYER.lora_B.weight` by name, as peft calls them."""


@dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """What a folder of a trained adapter holds, read once."""

    tensors: dict[str, Tensor]
    digest: str
    """SHA-256 over the tensors and what they are made for."""
    config: dict[str, Any]
    recipe: dict[str, Any]


def read_adapter(folder: str | Path) -> AdapterFolder:
    """The adapter that a training left in a folder.

    Raises InputError, naming the file, when something is missing, corrupt, or is another kind of checkpoint.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    folder = Path(folder)
    meta = read_meta(folder)
    if meta.get("class") != "AdapterTraining":
        raise InputError(f"{folder} holds a {meta.get('class')}; expected an adapter of a text-to-image pipeline")
    weights = read_weights(folder)
    try:
        tensors = load(weights)
    except SafetensorError as e:
        raise InputError(f"{folder / 'model.safetensors'} is corrupt ({e}); restore it or train again") from None
    digest = sha256_json([hashlib.sha256(weights).hexdigest(), meta["class"], meta["config"]])
    return AdapterFolder(tensors=tensors, digest=digest, config=meta["config"], recipe=dict(meta.get("recipe") or {}))


def layers_of(lora: LoRA) -> list[str]:
    """Names of the layers that an adapter sits on."""
    return sorted({name.removesuffix(DOWN) for name in lora if name.endswith(DOWN)})


def scaled(lora: LoRA, factor: float) -> dict[str, Tensor]:
    """The adapter at a strength: B times the factor, so that it acts at 1.0 wherever it is loaded.

    Never by alpha: a negative one hangs diffusers' conversion of FLUX files, and other programs read it otherwise.
    """
    return {name: (t * factor if name.endswith(UP) else t) for name, t in lora.items()}


def joined(first: LoRA, second: LoRA) -> dict[str, Tensor]:
    """The sum of two adapters, exactly: their ranks side by side. Raises InputError where they sit on other layers."""
    if layers_of(first) != layers_of(second):
        raise InputError("the two adapters sit on different layers; train both with the same setting of layers")
    return {name: torch.cat([t, second[name]], dim=0 if name.endswith(DOWN) else 1) for name, t in first.items()}


def baked(negative: LoRA, strength: float, positive: LoRA | None = None) -> dict[str, Tensor]:
    """theta + w (positive - negative) as one adapter for strength 1.0: the sign and w are in B.

    Without a positive part (1 + w) theta - w theta_aux, which is `fairsims.models.guidance.merge` of an adapter.
    """
    away = scaled(negative, -strength)
    return away if positive is None else joined(away, scaled(positive, strength))


class Merged:
    """An adapter worn as it will be loaded from a file: at 1.0, by the pipeline's own loader.

    In a small network its weights are added to the layers', where the ranks would cost as much as the layers do: an
    image then costs what the plain network's does. `beside` leaves them beside the layers, as a loaded file is used.
    """

    def __init__(self, lora: LoRA, *, beside: bool = False) -> None:
        self.lora, self.beside = dict(lora), beside
        self.plain_weights: list[tuple[Any, Tensor]] = []

    def load(self, pipeline: OpenedPipeline) -> None:
        """The adapter beside the network's layers."""
        prefix = pipeline.row.network
        pipeline.pipe.load_lora_weights({f"{prefix}.{k}": v for k, v in self.lora.items()}, adapter_name=NAME)

    def put_on(self, pipeline: OpenedPipeline) -> None:
        self.load(pipeline)
        weights = list(pipeline.network.parameters())
        # What sequential offloading fetches layer by layer is not there to be added to.
        if self.beside or sum(p.numel() for p in weights) > SMALL or any(p.is_meta for p in weights):
            return
        layers = library("peft").tuners.tuners_utils.BaseTunerLayer
        for layer in (m for m in pipeline.network.modules() if isinstance(m, layers)):
            # Taking the sum apart again would leave rounding behind.
            self.plain_weights.append((layer, layer.get_base_layer().weight.detach().clone()))
            layer.merge()

    def take_off(self, pipeline: OpenedPipeline) -> None:
        for layer, weight in self.plain_weights:
            layer.unmerge()
            layer.get_base_layer().weight.data.copy_(weight)
        self.plain_weights.clear()
        pipeline.pipe.unload_lora_weights()


class Guided(Merged):
    """base + sum of weight x (base + adapter - base), a forward of the network for each part, in both branches.

    With one adapter of weight -w it is (1 + w) D_g - w A_g, SIMS guidance (arXiv 2408.16333) under classifier-free
    guidance, which is linear in the network's outputs, as these are in each other whatever they predict.
    """

    def __init__(self, parts: Mapping[str, tuple[LoRA, float]]) -> None:
        """`parts` are adapters by name with their weights."""
        super().__init__({})
        self.parts = parts

    def put_on(self, pipeline: OpenedPipeline) -> None:
        for name, (lora, _) in self.parts.items():
            tensors = {f"{pipeline.row.network}.{k}": v for k, v in lora.items()}
            pipeline.pipe.load_lora_weights(tensors, adapter_name=name)
        network = pipeline.network
        self.plain = network.forward

        def forward(*args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            network.disable_lora()
            found = self.plain(*args, return_dict=False, **kwargs)
            base = total = found[0]
            network.enable_lora()
            for name, (_, weight) in self.parts.items():
                network.set_adapters(name, 1.0)
                total = total + weight * (self.plain(*args, return_dict=False, **kwargs)[0] - base)
            return _Output(sample=total) if return_dict else (total, *found[1:])

        network.forward = forward

    def take_off(self, pipeline: OpenedPipeline) -> None:
        pipeline.network.forward = self.plain
        super().take_off(pipeline)


class Unconditional(Merged):
    """An adapter in the unconditional branch of classifier-free guidance alone, the plain network in the other.

    D_c' = A_0 + g (D_c - A_0): what guidance leads away from is the adapted network (Diffusion-NPO, Wang et al. 2025).
    A step costs as much as without: each half of the batch is evaluated once.
    """

    def put_on(self, pipeline: OpenedPipeline) -> None:
        self.load(pipeline)
        network = pipeline.network
        self.plain = network.forward

        def forward(*args: Any, return_dict: bool = True, **kwargs: Any) -> Any:
            halves, size = [], len(args[0] if args else kwargs["hidden_states"])
            for k, switch in enumerate((network.enable_lora, network.disable_lora)):
                switch()
                # Every pipeline that guides by two branches stacks the unconditional one on top.
                given = [_half(value, k, size) for value in args]
                halves.append(self.plain(*given, return_dict=False, **_half(kwargs, k, size))[0])
            network.enable_lora()
            found = torch.cat(halves)
            return _Output(sample=found) if return_dict else (found,)

        network.forward = forward

    def take_off(self, pipeline: OpenedPipeline) -> None:
        pipeline.network.forward = self.plain
        super().take_off(pipeline)


def _half(value: Any, k: int, size: int) -> Any:
    """The k-th half of the batch in what a network is called with; what has no rows is of both."""
    if isinstance(value, Mapping):
        return {name: _half(inner, k, size) for name, inner in value.items()}
    if isinstance(value, Tensor) and value.ndim and len(value) == size:
        return value.chunk(2)[k]
    return value


@dataclass(frozen=True)
class _Output:
    """What a network returns where its caller asks for a record."""

    sample: Tensor


def attach(network: Any, layers: list[str], rank: int, seed: int) -> dict[str, torch.nn.Parameter]:
    """Put a fresh adapter on a network, to be trained: its parameters by name. B is zero, so nothing changes yet."""
    peft = library("peft")
    config = peft.LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers)
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config, adapter_name=NAME)
    return dict(_parameters(network))


def _parameters(network: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    for name, parameter in network.named_parameters():
        if f".{NAME}." in name:
            # Only what is trained needs float32.
            parameter.data = parameter.data.float()
            yield name.replace(f".{NAME}.", "."), parameter.requires_grad_(True)


def detach(network: Any) -> None:
    """Take the adapter off again; the network is what it was."""
    with quiet():
        network.unload_lora()
