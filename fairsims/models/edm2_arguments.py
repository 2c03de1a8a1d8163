"""What an EDM2 snapshot says its network was constructed with, and what its images are encoded by; checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from fairsims.errors import InputError
from fairsims.models.edm2 import Block, EDM2Denoiser, EDM2UNet
from fairsims.models.edm_arguments import arguments_of, check_size, checked
from fairsims.models.inert_pickle import Array, Bag, Persistent, printable

EDM2_CLASS = "Precond"
"""EDM2's only denoiser."""
NULLABLE = ("channel_mult_noise", "channel_mult_emb", "clip_act")
OURS = {"flavor", "resample", "attention", "half_gain"}
"""Arguments that the UNet sets for its blocks, or that EDM2 does not have."""
RGB, VAE = "StandardRGBEncoder", "StabilityVAEEncoder"
STORED = {
    "flavor": "flavor",
    "resample_mode": "resample",
    "resample_filter": "taps",
    "num_heads": "heads",
    "dropout": "dropout",
    "res_balance": "res_balance",
    "attn_balance": "attn_balance",
    "clip_act": "clip_act",
    "label_balance": "label_balance",
    "concat_balance": "concat_balance",
}
"""Attributes that a snapshot's objects act by, and ours of the same meaning."""


def describe_edm2(ema: Persistent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments of our denoiser, and facts about theirs for the recipe. Raises InputError."""
    inner = (ema.state.get("_modules") or {}).get("unet")
    if not isinstance(inner, Persistent) or inner.class_name != "UNet":
        name = inner.class_name if isinstance(inner, Persistent) else "missing"
        raise InputError(f"its network is {printable(name)}; expected the UNet of NVlabs/edm2")
    arguments = arguments_of(ema)
    use_fp16 = arguments.pop("use_fp16", True) is True
    functions = (EDM2Denoiser, EDM2UNet, Block)
    known = {k: p.default for f in functions for k, p in inspect.signature(f).parameters.items()}
    known = {k: v for k, v in known.items() if k not in OURS | {"inputs", "outputs", "embedding", "options", "block"}}
    unknown = sorted(printable(k) for k in arguments if k not in known)
    if unknown:
        raise InputError(f"its Precond has the unknown argument {', '.join(unknown[:5])}; expected one of NVlabs/edm2")
    for name in ("img_resolution", "img_channels", "label_dim"):
        if name not in arguments:
            raise InputError(f"its Precond was constructed without {name}; expected a number")
    given = {k: None if v is None and k in NULLABLE else checked(k, v) for k, v in arguments.items()}
    check_size(known | given)
    for name in ("img_resolution", "img_channels", "label_dim", "sigma_data"):
        now, value = ema.state.get(name), given.get(name, known[name])
        if now is not None and now != value:
            raise InputError(f"it was constructed with {name} {value} and now has {printable(now)}; expected one value")
    gain = (inner.state.get("_parameters") or {}).get("out_gain")
    # EDM2 runs a file's weights as they lie in it, and released ones lie in float16.
    half = isinstance(gain, torch.Tensor) and gain.dtype == torch.float16
    return given | ({"half_gain": True} if half else {}), {"class": EDM2_CLASS, "network": "UNet", "use_fp16": use_fp16}


def check_attributes(ema: Persistent, denoiser: EDM2Denoiser) -> None:
    """Raises InputError where an object in a snapshot acts otherwise than its constructor arguments say."""
    for name, record in _records("", ema):
        ours: nn.Module | None = dict(denoiser.named_modules()).get(name)
        for theirs, attribute in STORED.items():
            if theirs not in record.state or not hasattr(ours, attribute):
                continue
            now, built = record.state[theirs], getattr(ours, attribute)
            same = list(now) == list(built) if isinstance(now, (list, tuple)) and attribute == "taps" else now == built
            if not same:
                raise InputError(f"its {printable(name)} has {theirs} {printable(now)}; expected {printable(built)}")


def _records(prefix: str, module: Persistent | Bag) -> Iterator[tuple[str, Persistent]]:
    """All persistent objects in a module that is known to be finite, by the name of each."""
    if isinstance(module, Persistent):
        yield prefix.removesuffix("."), module
    for name, child in (module.state.get("_modules") or {}).items():
        if isinstance(child, (Persistent, Bag)):
            yield from _records(f"{prefix}{name}.", child)


def encoder_facts(encoder: Any, channels: int) -> dict[str, Any]:
    """What images are encoded by: nothing for pixels, else `codec` with a scale and a bias for each channel.

    Raises InputError for an encoder that is not known.
    """
    if encoder is None or (isinstance(encoder, Persistent) and encoder.class_name == RGB):
        return {}
    if not isinstance(encoder, Persistent) or encoder.class_name != VAE:
        name = encoder.class_name if isinstance(encoder, Persistent) else encoder
        raise InputError(f"its encoder is {printable(name)}; expected {RGB} or {VAE}")
    facts: dict[str, Any] = {"vae": printable(encoder.state.get("vae_name"), 200)}
    for name in ("scale", "bias"):
        value = encoder.state.get(name)
        values = value.values if isinstance(value, Array) else []
        if len(values) != channels or not all(map(math.isfinite, values)) or (name == "scale" and 0 in values):
            raise InputError(f"its encoder has the {name} {values[:8]}; expected {channels} finite numbers, none 0")
        facts[name] = values
    return {"codec": facts}
