"""A diffusers UNet2DModel as a denoiser: the discrete noise levels of its DDPM or DDIM scheduler, and D from F.

diffusers speaks of x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) n. Divided by sqrt(abar_t) this is x0 + sigma_t n with
sigma_t = sqrt((1 - abar_t) / abar_t) (Karras et al. 2022, arXiv 2206.00364, appendix C), so the network's own input is
x / sqrt(1 + sigma**2).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fairsims.errors import EXTRAS_PAGE, InputError
from fairsims.models.base import NetworkDenoiser, sigma_column

PIPELINES = ("DDPMPipeline", "DDIMPipeline")
SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
PREDICTIONS = ("epsilon", "v_prediction", "sample")
HIGHEST_START = 160.0
"""Sampling starts at the highest level up to here. Cosine and zero-SNR schedules go on to 20,000, where an image is
no less lost in the noise but an error of the predicted noise weighs a hundred times more."""


class DiffusersDenoiser(NetworkDenoiser):
    """D(x; sigma) = c_skip x + c_out F(x / sqrt(1 + sigma**2), t), t the trained step nearest in sigma; F is `model`.

    `unet` and `scheduler` are the settings of the two parts of a diffusers pipeline, `pipeline` its class, which only
    matters for going back. A scheduler that clips its prediction of x0 (`clip_sample`) makes D clip too, except in
    training, where clipped pixels would have no gradient. A network with twice the channels (learned variance) gives
    its first half.
    Raises ValueError for settings that describe no unconditional model of pixels, InputError without diffusers.
    """

    levels: Tensor

    def __init__(self, *, unet: dict[str, Any], scheduler: dict[str, Any], pipeline: str = "DDPMPipeline") -> None:
        super().__init__()
        check_settings(unet, scheduler, pipeline)
        # Complete settings, so that a later diffusers with other defaults still builds the same network.
        unet, scheduler = _complete("UNet2DModel", unet), _complete(scheduler["_class_name"], scheduler)
        self.config: dict[str, Any] = {"unet": unet, "scheduler": scheduler, "pipeline": pipeline}
        self.model: nn.Module = build("UNet2DModel", unet)
        # No weights, so not in the state; float64, because sigma's low end carries few digits of 1 - abar.
        self.register_buffer("levels", noise_levels(scheduler), persistent=False)
        self.img_resolution, self.img_channels = _side(unet["sample_size"]), unet["in_channels"]
        self.sigma_min = float(self.levels[0])
        self.sigma_max = float(self.levels[self.levels <= HIGHEST_START][-1])
        self.prediction: str = scheduler["prediction_type"]
        self.clip = float(scheduler["clip_sample_range"]) if scheduler["clip_sample"] else None

    def forward(
        self, x: Tensor, sigma: Tensor, labels: Tensor | None = None, augment_labels: Tensor | None = None
    ) -> Tensor:
        s = sigma_column(sigma, x)
        t = self._nearest(s.flatten()).expand(len(x))
        scaled = x * (1 + s**2).rsqrt()
        if self.precision == "float32":
            raw = self.model(scaled, t, return_dict=False)[0]
        else:
            with torch.autocast(x.device.type, dtype=getattr(torch, self.precision)):
                raw = self.model(scaled, t, return_dict=False)[0]
        c_skip, c_out = self._scales(s)
        x0: Tensor = c_skip * x + c_out * raw[:, : self.img_channels].to(x.dtype)
        return x0 if self.training or self.clip is None else x0.clamp(-self.clip, self.clip)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        return self.levels[self._nearest(sigma)].to(sigma)

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return self._scales(sigma)[1] ** -2

    def _scales(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """c_skip and c_out of x0 = x - sigma eps, or of v = (n - sigma x0) / sqrt(1 + sigma**2), or of x0 itself."""
        if self.prediction == "epsilon":
            return torch.ones_like(s), -s
        if self.prediction == "v_prediction":
            return 1 / (1 + s**2), -s * (1 + s**2).rsqrt()
        return torch.zeros_like(s), torch.ones_like(s)

    def _nearest(self, sigma: Tensor) -> Tensor:
        """The step t whose level is nearest, in sigma's shape."""
        return torch.bucketize(sigma.to(self.levels), (self.levels[1:] + self.levels[:-1]) / 2)


def noise_levels(scheduler: dict[str, Any]) -> Tensor:
    """sigma_t of every trained step, `(T,)` float64, rising; without the last one where it is infinite (zero SNR).

    Raises ValueError when the settings describe no schedule.
    """
    abar = build(scheduler["_class_name"], scheduler).alphas_cumprod.double()
    levels: Tensor = ((1 - abar) / abar).sqrt()
    if len(levels) > 1 and abar[-1] == 0:
        levels = levels[:-1]
    steps = scheduler.get("num_train_timesteps")
    if len(abar) != steps:
        raise ValueError(f"the scheduler has {len(abar)} betas; expected one for each of {steps} training steps")
    if len(levels) < 2 or not (levels.isfinite().all() and (levels.diff() > 0).all() and levels[0] > 0):
        raise ValueError("the scheduler's noise levels do not rise; expected betas between 0 and 1")
    if levels[0] > HIGHEST_START:
        raise ValueError(f"the lowest noise level is {levels[0]:.4g}; expected a schedule that begins near the image")
    return levels


def check_settings(unet: dict[str, Any], scheduler: dict[str, Any], pipeline: str) -> None:
    """Raise ValueError, in one line, for anything but an unconditional pixel-space DDPM or DDIM pipeline."""
    if pipeline not in PIPELINES:
        raise ValueError(f"it is a {pipeline}; expected {' or '.join(PIPELINES)}: unconditional, in pixels")
    if scheduler.get("_class_name") not in SCHEDULERS:
        raise ValueError(
            f"its scheduler is a {scheduler.get('_class_name')}; expected {' or '.join(SCHEDULERS)} "
            "(save the pipeline with `DDPMScheduler.from_config(pipeline.scheduler.config)`)"
        )
    for key in ("num_class_embeds", "class_embed_type"):
        if unet.get(key) is not None:
            raise ValueError(f"the UNet has {key} = {unet[key]!r}, so it is class-conditional; expected no classes")
    if unet.get("time_embedding_type", "positional") != "positional":
        raise ValueError(f"the UNet's time_embedding_type is {unet['time_embedding_type']!r}; expected 'positional'")
    _side(unet.get("sample_size"))
    channels, out = unet.get("in_channels", 3), unet.get("out_channels", 3)
    if channels not in (1, 3) or out not in (channels, 2 * channels):
        raise ValueError(
            f"the UNet has {channels} channels in and {out} out; expected images of 1 or 3 channels, and as many out "
            "or twice as many (learned variance)"
        )
    if scheduler.get("prediction_type", "epsilon") not in PREDICTIONS:
        raise ValueError(
            f"the scheduler's prediction_type is {scheduler['prediction_type']!r}; expected {', '.join(PREDICTIONS)}"
        )
    if scheduler.get("thresholding"):
        raise ValueError("the scheduler has thresholding (a clip that depends on the image); expected it off")


def build(name: str, settings: dict[str, Any]) -> Any:
    """An object of a class of diffusers. Raises ValueError when the settings do not fit it."""
    cls, known = getattr(library(), name), parameters(name)
    try:
        return cls(**{k: v for k, v in settings.items() if k in known})
    except Exception as e:  # whatever a library raises on settings that it did not expect
        raise ValueError(f"diffusers builds no {name} of these settings ({type(e).__name__}: {e})") from None


def parameters(name: str) -> dict[str, Any]:
    """The settings that a class of the installed diffusers knows, with their defaults."""
    signature = inspect.signature(getattr(library(), name).__init__)
    return {k: p.default for k, p in signature.parameters.items() if k != "self"}


def library() -> Any:
    """The diffusers package. Raises InputError when the extra is not installed."""
    try:
        import diffusers
    except ImportError:
        raise InputError("diffusers is not installed; pip install 'fairsims[diffusers]'", page=EXTRAS_PAGE) from None
    return diffusers


def _complete(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in parameters(name).items()}
    return defaults | settings


def _side(sample_size: object) -> int:
    sides = sample_size if isinstance(sample_size, (list, tuple)) else [sample_size]
    side = sides[0] if len(set(map(str, sides))) == 1 else None
    if not isinstance(side, int) or side < 1:
        raise ValueError(f"the UNet's sample_size is {sample_size!r}; expected one number, the side of square images")
    return side
