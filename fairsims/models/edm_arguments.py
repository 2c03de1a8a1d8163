"""What an EDM snapshot says its network was constructed with, checked and in our terms."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from fairsims.errors import InputError
from fairsims.models.families import NETWORKS
from fairsims.models.inert_pickle import Persistent, printable
from fairsims.models.precondition import SCHEDULES

PRECONDITIONINGS: dict[str, tuple[str, dict[str, float]]] = {
    "EDMPrecond": ("edm", {"sigma_min": 0.0, "sigma_max": math.inf, "sigma_data": 0.5}),
    "VPPrecond": ("vp", SCHEDULES["vp"]),
    "VEPrecond": ("ve", {"sigma_min": 0.02, "sigma_max": 100.0}),
    "iDDPMPrecond": ("iddpm", SCHEDULES["iddpm"]),
}
"""EDM's classes: our name of each, and the constants that its constructor takes, with their defaults."""
ARCHITECTURES = {network.__name__: name for name, network in NETWORKS.items()}

INTEGERS = {
    "img_resolution": (1, 1024),
    "img_channels": (1, 64),
    "label_dim": (0, 100_000),
    "augment_dim": (0, 1000),
    "model_channels": (1, 4096),
    "channel_mult_emb": (1, 64),
    "channel_mult_noise": (1, 64),
    "num_blocks": (1, 32),
    "M": (2, 10_000),
    "channels_per_head": (1, 4096),
    "logvar_channels": (1, 4096),
    "channel_mult": (1, 64),
    "attn_resolutions": (0, 1024),
    "resample_filter": (-1000, 1000),
}
NUMBERS = {
    "dropout": (0, 1),
    "label_dropout": (0, 1),
    "sigma_data": (1e-6, 1e6),
    "sigma_min": (0, 1e6),
    "sigma_max": (1e-6, math.inf),
    "beta_d": (0, 1e3),
    "beta_min": (0, 1e3),
    "epsilon_t": (0, 1),
    "C_1": (1e-9, 1),
    "C_2": (0, 1e3),
    "label_balance": (0, 1),
    "concat_balance": (0, 1),
    "res_balance": (0, 1),
    "attn_balance": (0, 1),
    "clip_act": (1e-6, 1e9),
}
"""Ranges of arguments: nothing is built from what a file claims before it is known to be of a sane size."""
LISTS = ("channel_mult", "attn_resolutions", "resample_filter")
MAX_ATTENTION = 128
"""Largest image side with attention, the cost of which grows with the fourth power of it."""
MAX_ACTIVATION = 2**27
"""Most numbers in one layer's output."""


def describe(ema: Persistent) -> tuple[dict[str, Any], dict[str, Any]]:
    """Constructor arguments of our denoiser, and facts about theirs for the recipe. Raises InputError."""
    inner = (ema.state.get("_modules") or {}).get("model")
    if ema.class_name not in PRECONDITIONINGS:
        raise InputError(f"it holds a {printable(ema.class_name)}; expected one of {', '.join(PRECONDITIONINGS)}")
    if not isinstance(inner, Persistent) or inner.class_name not in ARCHITECTURES:
        name = inner.class_name if isinstance(inner, Persistent) else "missing"
        raise InputError(f"its network is {printable(name)}; expected one of {', '.join(ARCHITECTURES)}")
    arguments, (preconditioning, defaults) = arguments_of(ema), PRECONDITIONINGS[ema.class_name]
    if arguments.pop("model_type", inner.class_name) != inner.class_name:
        raise InputError(f"its model_type is not the {inner.class_name} that it holds; download or copy it again")
    use_fp16 = arguments.pop("use_fp16", False) is True

    network = dict(inspect.signature(NETWORKS[ARCHITECTURES[inner.class_name]]).parameters)
    known = {*network, *defaults, "img_channels"} - {"in_channels", "out_channels", "patch_size"}
    unknown = sorted(printable(k) for k in arguments if k not in known)
    if unknown:
        raise InputError(
            f"its {ema.class_name} of a {inner.class_name} has the unknown argument {', '.join(unknown[:5])}; "
            "expected a network of NVlabs/edm itself"
        )
    missing = [k for k in ("img_resolution", "img_channels") if k not in arguments]
    if missing:
        raise InputError(f"its {ema.class_name} was constructed without {', '.join(missing)}; expected a number")
    given = {k: checked(k, v) for k, v in arguments.items()}
    check_size({k: p.default for k, p in network.items()} | given)

    constants = {k: given.pop(k, v) for k, v in defaults.items()}
    for name, value in constants.items():
        now = ema.state.get(name, value)
        if not isinstance(now, (int, float)) or now != value:
            raise InputError(
                f"it was constructed with {name} {value} and now has {printable(now)}; expected one of them"
            )
    names = {"class": ema.class_name, "network": inner.class_name}
    facts = {**names, "constants": plain(constants), "use_fp16": use_fp16}
    if "sigma_min" in constants:
        low, high = constants.pop("sigma_min"), constants.pop("sigma_max")
        given |= {"sigma_min": max(0.002, low), "sigma_max": min(80.0, high)}
        if not given["sigma_min"] < given["sigma_max"]:
            raise InputError(f"it was trained for sigma from {low} to {high}; expected some of 0.002 to 80")
    chosen = {"preconditioning": preconditioning, "architecture": ARCHITECTURES[inner.class_name]}
    return chosen | constants | given, facts


def constructed_with(value: Any) -> dict[str, Any] | None:
    """Class and arguments of an object such as the loss, for the recipe; None when there is none."""
    if not isinstance(value, Persistent):
        return None
    return {"class": printable(value.class_name), **plain(value.state.get("_init_kwargs"))}


def plain(values: Any) -> dict[str, Any]:
    """What can be said in JSON of a dict in a snapshot: its numbers and short texts."""
    found: dict[str, Any] = {}
    for key, value in list(values.items())[:64] if isinstance(values, Mapping) else []:
        if isinstance(value, bool) or (isinstance(value, (int, float)) and abs(value) < 1e300):
            found[printable(key)] = value
        elif isinstance(value, (str, float)):
            found[printable(key)] = printable(value, 300)
    return found


def arguments_of(record: Persistent) -> dict[str, Any]:
    """Keyword arguments that an object was constructed with; EDM gives no others."""
    arguments = record.state.get("_init_kwargs")
    if not isinstance(arguments, dict) or record.state.get("_init_args") != ():
        raise InputError(f"its {record.class_name} does not say by keyword what it was constructed with")
    return dict(arguments)


def checked(name: str, value: Any) -> Any:
    """A constructor argument of the right kind and in its range."""
    if name not in INTEGERS and name not in NUMBERS:
        if not isinstance(value, str):
            raise InputError(f"its {name} is {printable(value)}; expected text")
        return printable(value)
    if name in LISTS and (not isinstance(value, (list, tuple)) or len(value) > 16):
        raise InputError(f"its {name} is {printable(value)}; expected up to 16 numbers")
    (low, high), kinds = (NUMBERS[name], (int, float)) if name in NUMBERS else (INTEGERS[name], (int,))
    for v in value if name in LISTS else [value]:
        if type(v) not in kinds or not low <= v <= high:
            raise InputError(f"its {name} is {printable(v)}; expected a number from {low} to {high}")
    return list(value) if name in LISTS else float(value) if name in NUMBERS else value


def check_size(settings: Mapping[str, Any]) -> None:
    """Refuses what would not run in any reasonable time or memory."""
    mults, attended = settings["channel_mult"], settings["attn_resolutions"]
    sides = [settings["img_resolution"] >> i for i in range(len(mults))] or [settings["img_resolution"]]
    largest = max([sides[-1], *(s for s in sides if s in attended)])
    if largest > MAX_ATTENTION:
        raise InputError(f"it has attention at {largest}x{largest}; expected {MAX_ATTENTION}x{MAX_ATTENTION} at most")
    if sides[0] ** 2 * settings["model_channels"] * max(mults, default=1) > MAX_ACTIVATION:
        raise InputError(f"its {settings['model_channels']} channels at {sides[0]}x{sides[0]} are too many to run")
