"""Settings as options of a command, small parsers of texts, and the options that several commands have."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import MISSING
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from fairsims.errors import InputError
from fairsims.files import RemotePath, place
from fairsims.options import Setting, arms, settings_of

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

RETARGET = "fairsims.retarget.config:RetargetConfig"
SAMPLER = "fairsims.models.sampling:SamplerConfig"
PROMPTING = "fairsims.models.prompting:Prompting"


class Text(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """Text that stands for something else; what cannot be read is refused in one line."""

    def __init__(self, metavar: str, expected: str, read: Callable[[str], Any], none: str = "none") -> None:
        self.name, self.expected, self.read, self.none = metavar, expected, read, none

    def written(self, values: Iterable[Any]) -> str:
        """A default as it would be typed."""
        return ",".join(self.none if v is None else _written(v) for v in values)

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError:
            option = param.opts[0] if param else self.name
            raise InputError(f"{option} is {value!r}; expected {self.expected}") from None


def _written(value: str | float | tuple[float, ...]) -> str:
    if isinstance(value, tuple):
        return ":".join(f"{v:g}" for v in value)
    return value if isinstance(value, str) else f"{value:g}"


def listed(read: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A reader of `1,2,2` from one of `1`."""
    return lambda text: tuple(read(part.strip()) for part in text.split(","))


def otherwise(word: str, read: Callable[[str], T]) -> Callable[[str], T | None]:
    """A reader for which one word means None."""
    return lambda text: None if text == word else read(text)


def pair(text: str) -> tuple[float, float]:
    """`0.2,5` or `0.2:5`."""
    low, high = (float(part) for part in text.replace(":", ",").split(","))
    return low, high


def levels(text: str) -> tuple[float, float]:
    """`0.3:5`, two noise levels."""
    low, high = pair(text)
    if not 0 <= low < high < math.inf:
        raise ValueError
    return low, high


def changed(text: str) -> tuple[str, float]:
    """`augment=0.15` or `xflip=true`."""
    name, _, value = text.partition("=")
    switch = {"true": True, "false": False}
    return name, switch[value] if value in switch else float(value)


def seed_range(text: str) -> range:
    """`0-1023`, both ends included."""
    first, _, last = text.partition("-")
    wanted = range(int(first), int(last or first) + 1)
    if not wanted:
        raise ValueError
    return wanted


WHOLE = Text("N,N,...", "whole numbers with commas between, such as 512,1024", listed(int))
NUMBERS = Text("X,X,...", "numbers with commas between, such as 0.5,1", listed(float))
WORDS = Text("NAME,...", "words with commas between", listed(str))
PAIR = Text("LO,HI", "two numbers with a comma between, such as 0.2,5", pair)
CHANGE = Text("NAME=VALUE", "NAME=NUMBER such as augment=0.15", changed)
SEEDS = Text("FIRST-LAST", "first-last, such as 0-1023, the last not below the first", seed_range)
SIZES = Text("N,N,...", "sizes with commas between, such as all,1024", listed(otherwise("all", int)), "all")
INTERVALS = Text(
    "LO:HI,...", "none, or two finite noise levels, the lower first: none,0.3:5", listed(otherwise("none", levels))
)
BLOCKS = Text("ENC:DEC,...", "factors for encoder and decoder, such as 1:0,0:1", listed(pair))


class Place(click.ParamType):  # type: ignore[type-arg, unused-ignore]
    """A path on this machine or, where a pool may lie anywhere, an address as `s3://bucket/pool`."""

    name = "path"

    def __init__(self, anywhere: bool = False) -> None:
        self.anywhere = anywhere

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        found = place(value)
        if isinstance(found, RemotePath) and not self.anywhere:
            option = param.opts[0] if param else "the path"
            raise InputError(f"{option} is {value}; expected a path on this machine: pools alone may lie elsewhere")
        return found


PATH, POOL = Place(), Place(anywhere=True)


def option(
    place: str, name: str, *flags: str, once: bool = False, unset: bool = False, prefix: str = "", **changes: Any
) -> Decorator:
    """The option of one field of the settings class at `place`, under its own name when no `flags` are given.

    `once`: one value of a field that takes several. `unset`: not given is None, whatever the field's default is.
    `prefix` stands before its help. Other changes are arguments of `click.option`.
    """
    setting = settings_of(place)[name]
    kinds = [k for k in arms(setting.kind) if k is not NoneType]
    flag = f"--{name.replace('_', '-')}"
    flags = flags or ((f"{flag}/--no-{flag[2:]}",) if bool in kinds else (flag,))
    found: dict[str, Any] = {
        "help": prefix + setting.help.replace("`", ""),
        "required": setting.default is MISSING and not unset,
    }
    found |= changes
    default = None if setting.default is MISSING or unset else setting.default
    if "type" in found:
        pass
    elif any(get_args(k) == (str, ...) for k in kinds):
        found |= {"multiple": True} | ({"callback": given_once} if once else {})
        found["help"] += "" if once else " May be given again."
    elif any(get_origin(k) is Mapping for k in kinds):
        found |= {"multiple": True, "type": CHANGE, "callback": lambda context, option, pairs: dict(pairs)}
    elif name == "precision":
        found |= {"type": click.Choice(["auto", *setting.choices]), "callback": None if unset else _resolved}
        found["help"] += " auto: bfloat16 where the hardware has it."
        default = "auto"
    else:
        found["type"] = _type(setting, kinds)
    if isinstance(found.get("type"), Text) and "multiple" not in found and default is not None:
        default = found["type"].written(default)
    if unset:
        found["default"] = None
    elif not (default is None or default == () or default == {}):
        found = {"default": default, "show_default": not isinstance(default, bool)} | found
    return click.option(*flags, name, **found)


def _type(setting: Setting, kinds: list[Any]) -> Any:
    if setting.choices:
        return click.Choice(setting.choices)
    for kind in kinds:
        if get_origin(kind) is tuple:
            inside = get_args(kind)
            return PAIR if inside == (float, float) else WHOLE if inside[0] is int else NUMBERS
    return PATH if Path in kinds else kinds[0]


def settings(
    place: str,
    *names: str,
    without: Collection[str] = (),
    once: bool = False,
    unset: bool = False,
    **changes: Mapping[str, Any],
) -> Decorator:
    """The options of the named fields of a settings class, of all but those `without` when none is named.

    `changes` are those of single fields, as `option` takes them.
    """
    chosen = names or [n for n in settings_of(place) if n not in without]
    return together(*(option(place, n, **{"once": once, "unset": unset, **changes.get(n, {})}) for n in chosen))


def together(*options: Decorator) -> Decorator:
    """Several options as one decorator, in this order in the help."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for one in reversed(options):
            command = one(command)
        return command

    return decorate


def given_once(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> str | None:
    """The value of an option that other commands take several times; click alone would drop all but the last."""
    if len(values) > 1:
        raise InputError(f"{option.opts[0]} is given {len(values)} times; expected once: this command takes one")
    return values[0] if values else None


def _resolved(context: click.Context, option: click.Parameter, name: str) -> str:
    from fairsims.models.precondition import resolve_precision

    return resolve_precision(name)


def refuse_idle(why: str, *names: str) -> None:
    """Raises InputError where one of these options was given: `why` says where it changes nothing."""
    for parameter in click.get_current_context().command.params:
        if parameter.name in names and was_given(parameter.name):
            raise InputError(f"{parameter.opts[0]} changes nothing {why}; leave it out")


def was_given(name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
out_option = click.option("--out", type=PATH, required=True, help="Folder to write; resumes when begun.")
compile_option = click.option(
    "--compile", "compiled", is_flag=True, help="torch.compile the networks: minutes at the start, faster after."
)
prompts_option = click.option(
    "--prompts",
    metavar="FILE",
    help="Text-to-image: TOML, CSV or text file of prompts, or the name of a ready set (winobias, emoji-t2i).",
)
attr_option = option(RETARGET, "attr", once=True, help="Attribute, e.g. gender.")
target_option = option(RETARGET, "target", once=True, help="0.5, uniform or woman=0.3,man=0.7.")
classifier_option = option(
    RETARGET, "classifier", once=True, help="Classifier folder or embedded name; the one that fits by default."
)
