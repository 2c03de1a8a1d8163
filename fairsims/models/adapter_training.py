"""Training an adapter by the objective that its pipeline was trained with: noise, velocity or flow."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fairsims.errors import InputError
from fairsims.models.adapters import attach, detach
from fairsims.models.base import Trainable
from fairsims.models.objective import Batch
from fairsims.models.pipelines import OpenedPipeline, Settings, quiet
from fairsims.options import check_choices, choice, to_json
from fairsims.seeds import derive


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """An adapter and how it is trained. Raises ValueError for a setting that is not possible.

    >>> AdapterConfig(rank=4, layers="attention").rank
    4
    """

    rank: int = 16
    """Rank of the adapter in every layer; its alpha is the same number."""
    layers: str = choice("all", "attention", "cross-attention")
    """Layers of the network's blocks that it sits on: all linear and convolution layers, or attention's alone."""
    timesteps: str = choice("own", "uniform", "logit-normal")
    """How time steps are drawn in the loss: as the architecture was trained (logit-normal for flow, else uniform)."""
    min_snr: float | None = None
    """gamma of min-SNR weighting (Hang et al. 2023), for pipelines that predict noise or velocity; none by default."""
    checkpointing: bool = False
    """Compute activations again instead of keeping them: slower, with less memory."""
    seed: int = 0
    """Chooses the adapter's first weights."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.rank <= 1024:
            raise ValueError(f"rank is {self.rank}; expected 1 to 1024")
        if self.min_snr is not None and not (self.min_snr > 0 and math.isfinite(self.min_snr)):
            raise ValueError(f"min_snr is {self.min_snr}; expected a positive number")


class AdapterTraining(Trainable):
    """An adapter on a pipeline's network while it is trained; its parameters, state and copies are the adapter's alone.

    Batches have final latents `(B, *latent shape)` as images, positions among the prompts `(B,)` as labels, and
    quantiles of the time steps' distribution in [0, 1) as noise levels.
    """

    def __init__(
        self, pipeline: OpenedPipeline, settings: Settings, prompts: Sequence[str], config: AdapterConfig
    ) -> None:
        """Puts the adapter on; `detach` takes it off. Raises InputError where the settings do not fit the pipeline."""
        super().__init__()
        if pipeline.row.flow and config.min_snr is not None:
            raise InputError(f"--min-snr is {config.min_snr} and {pipeline.name} predicts flow; leave it out")
        pipeline.wear(None)
        layers = pipeline.row.targets(pipeline.network, config.layers)
        if not layers:
            raise InputError(f"{pipeline.name} has no layers of {config.layers}; choose others with --layers")
        self.pipeline, self.settings, self.prompts, self.adapter = pipeline, settings, tuple(prompts), config
        self.precision = "float32"
        self.config: dict[str, Any] = {
            "pipeline": pipeline.row.pipeline,
            "base_digest": pipeline.digest,
            **to_json(config),
        }
        found = attach(pipeline.network, layers, config.rank, derive(config.seed, "adapter"))
        self.names = list(found)
        self.tensors = nn.ParameterList(found.values())
        if config.checkpointing:
            pipeline.network.enable_gradient_checkpointing()
        self._levels = None if pipeline.row.flow else _signal_to_noise(pipeline)

    def detach(self) -> None:
        """Take the adapter off the network."""
        if self.adapter.checkpointing:
            self.pipeline.network.disable_gradient_checkpointing()
        detach(self.pipeline.network)

    def __deepcopy__(self, memo: dict[int, Any]) -> AdapterTraining:
        """A copy of the adapter's tensors, on no network: for the weight average."""
        found: AdapterTraining = AdapterTraining.__new__(AdapterTraining)
        nn.Module.__init__(found)
        for name, value in vars(self).items():
            if not name.startswith("_") and name != "tensors":
                found.__dict__[name] = value
        found.tensors = copy.deepcopy(self.tensors, memo)
        return found

    @property
    def shape(self) -> tuple[int, ...]:
        return self.pipeline.latent_shape(self.settings)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.tensors[0].device
        return device

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapter's tensors by the names that peft gives them."""
        return dict(zip(self.names, (t.detach() for t in self.tensors), strict=True))

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Take the tensors of `state_dict`. Raises InputError where they are those of other layers."""
        if set(state_dict) != set(self.names):
            raise InputError("the state is of an adapter on other layers; delete it to train again from the start")
        with torch.no_grad():
            for name, tensor in zip(self.names, self.tensors, strict=True):
                tensor.copy_(state_dict[name])

    def draw_noise(self, n: int, generator: torch.Generator, *, mean: float, std: float) -> tuple[Tensor, Tensor]:
        """Quantiles of the time `(n,)` in [0, 1), and noise `(n, *latent shape)`; `mean` and `std` have no part."""
        kind = self.adapter.timesteps
        if kind == "logit-normal" or (kind == "own" and self.pipeline.row.flow):
            # Esser et al. 2024 (arXiv 2403.03206), section 3.1, with location 0 and scale 1.
            u = torch.sigmoid(torch.randn(n, generator=generator))
        else:
            u = torch.rand(n, generator=generator)
        return u, torch.randn((n, *self.shape), generator=generator)

    def loss(self, batch: Batch) -> Tensor:
        """Squared error of what the network predicts, averaged over the batch; min-SNR weighted where asked."""
        assert batch.labels is not None
        x, noise = batch.images, batch.noise
        if self.pipeline.row.flow:
            t, noisy, target, weight = self._flow(x, noise, batch.sigma)
        else:
            t, noisy, target, weight = self._diffusion(x, noise, batch.sigma)
        asked = [self.prompts[int(k)] for k in batch.labels]
        with (
            quiet(),
            self._plain_attention(),
            torch.autocast(self.device.type, _autocast(self.precision), enabled=self.precision != "float32"),
        ):
            told = self.pipeline.embeddings(asked)
            facts = vars(self.settings)
            dtype = told["prompt_embeds"].dtype
            found = self.pipeline.row.predict(
                self.pipeline.pipe, self.pipeline.network, noisy.to(dtype), t, told, facts
            )
        error = (found.float() - target) ** 2
        return (error.flatten(1).mean(dim=1) * weight).mean()

    def _plain_attention(self) -> contextlib.AbstractContextManager[None]:
        """On a CPU, below float32, attention in single steps: the fused one has a slow backward pass there.

        It was 38% of a training step of the embedded pipeline in bfloat16. Checkpointing computes again in the
        backward pass, where another kernel than in the forward pass is an error: it keeps the fused one.
        """
        plain = self.device.type == "cpu" and self.precision != "float32" and not self.adapter.checkpointing
        return sdpa_kernel(SDPBackend.MATH) if plain else contextlib.nullcontext()

    def _flow(self, x: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Straight paths: x_s = (1 - s) x + s n, target n - x; s is shifted as the scheduler's are when sampling."""
        config = self.pipeline.pipe.scheduler.config
        shift = 1.0 if config.use_dynamic_shifting else float(config.shift)
        s = shift * u / (1 + (shift - 1) * u)
        column = s.reshape(-1, *([1] * (x.ndim - 1)))
        t = s * config.num_train_timesteps
        return t, (1 - column) * x + column * noise, noise - x, torch.ones_like(s)

    def _diffusion(self, x: Tensor, noise: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Variance-preserving steps: x_t = a x + b n; the target is n, or the velocity a n - b x."""
        assert self._levels is not None
        t = (u * len(self._levels)).long().clamp(max=len(self._levels) - 1)
        alpha = self._levels.to(x.device)[t]
        a, b = (v.sqrt().reshape(-1, *([1] * (x.ndim - 1))) for v in (alpha, 1 - alpha))
        kind = self.pipeline.pipe.scheduler.config.prediction_type
        target = {"epsilon": noise, "v_prediction": a * noise - b * x, "sample": x}[kind]
        weight = torch.ones_like(alpha)
        if self.adapter.min_snr is not None:
            snr = alpha / (1 - alpha).clamp(min=1e-8)
            capped = snr.clamp(max=self.adapter.min_snr)
            # Hang et al. 2023 (arXiv 2303.09556), eq. 8, over the weight that each target has by itself.
            weight = {"epsilon": capped / snr.clamp(min=1e-8), "v_prediction": capped / (snr + 1), "sample": capped}[
                kind
            ]
        return t, a * x + b * noise, target, weight


def _signal_to_noise(pipeline: OpenedPipeline) -> Tensor:
    """alpha-bar of every training step, `(T,)`. Raises InputError for a scheduler that does not say."""
    levels = getattr(pipeline.pipe.scheduler, "alphas_cumprod", None)
    kind = pipeline.pipe.scheduler.config.get("prediction_type")
    if levels is None or kind not in ("epsilon", "v_prediction", "sample"):
        name = type(pipeline.pipe.scheduler).__name__
        raise InputError(f"{pipeline.name} has a {name} that predicts {kind}; expected noise (epsilon) or velocity")
    return torch.as_tensor(levels, dtype=torch.float32).cpu()


def _autocast(precision: str) -> torch.dtype:
    return torch.bfloat16 if precision == "float32" else getattr(torch, precision)
