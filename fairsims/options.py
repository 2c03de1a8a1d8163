"""Settings said once: a frozen dataclass, each field documented under it, gives options, TOML and JSON.

What a field is called, its type, its default and its help are read from the source of the class, without importing it:
`fairsims --help` describes the settings of rooms that need torch and loads none of it.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import dataclasses
import functools
import importlib
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fairsims.errors import InputError, closest

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One field of a settings dataclass."""

    name: str
    kind: Any
    """Its type, as annotated; Any where that is a class of another room."""
    default: Any
    """MISSING where a value has to be given; of a `default_factory` what it makes, None where that is
    a settings class."""
    help: str
    """The first paragraph of what is written under the field."""
    choices: tuple[str, ...] = ()
    """The words that are expected, where the field is a `choice`."""


def choice(*known: str, default: Any = None) -> Any:
    """A field that takes one of the `known` words, by default the first. `check_choices` refuses any other."""
    return dataclasses.field(default=known[0] if default is None else default, metadata={"choices": known})


def check_choices(settings: Any) -> None:
    """Raises ValueError where a `choice` of the dataclass is another word; to be called in its `__post_init__`."""
    for field in dataclasses.fields(settings):
        known, value = field.metadata.get("choices"), getattr(settings, field.name)
        if known and value not in known:
            raise ValueError(f"{field.name} is {value!r}; expected one of {', '.join(known)}")


def check_fields(settings: Any, expected: str, fits: Callable[[Any], bool], *names: str) -> None:
    """Raises ValueError `<name> is <found>; expected ...` for the first of these fields that does not fit; None does.

    To be called in `__post_init__` of the dataclass.
    """
    for name in names:
        value = getattr(settings, name)
        if value is not None and not fits(value):
            raise ValueError(f"{name} is {value}; expected {expected}")


@functools.cache
def settings_of(place: str) -> Mapping[str, Setting]:
    """The fields of a settings dataclass in their order; `place` is `package.module:Class`.

    A field whose default is that of another class (`steps: int = SamplerConfig.steps`) has its choices, too, and its
    help where nothing is written under it.
    """
    module, _, name = place.partition(":")
    names = _names(module)
    body = next(n.body for n in names.tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    found = {}
    for field, under in zip(body, [*body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            default = MISSING if field.value is None else names.value(field.value)
            same = default if isinstance(default, Setting) else None
            choices = same.choices if same else ()
            if isinstance(default, dataclasses.Field):
                choices, made = default.metadata.get("choices", ()), default.default_factory
                default = default.default if made is MISSING else made()
            found[field.target.id] = Setting(
                name=field.target.id,
                kind=names.value(field.annotation),
                default=same.default if same else default,
                help=_first_paragraph(under) or (same.help if same else ""),
                choices=choices,
            )
    return found


def keys_of(place: str) -> tuple[str, ...]:
    """The keys of a dict that a module holds, in their order; `place` is `package.module:NAME`. Nothing is imported."""
    module, _, name = place.partition(":")
    return tuple(_names(module)[name])


def _first_paragraph(node: ast.stmt | None) -> str:
    if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
        return ""
    return " ".join(inspect.cleandoc(node.value.value).partition("\n\n")[0].split())


class _Names(dict[str, Any]):
    """The names of a module of this package, evaluated from its source; what comes from torch and the like is Any."""

    def __init__(self, module: str) -> None:
        super().__init__(vars(builtins))
        self.module = module
        path = Path(__file__).parent.joinpath(*module.split(".")[1:])
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        self.tree = ast.parse(file.read_text(encoding="utf-8"))

    def value(self, expression: ast.expr) -> Any:
        return eval(compile(ast.Expression(expression), "<settings>", "eval"), {}, self)  # our own source

    def __missing__(self, name: str) -> Any:
        self[name] = found = self._looked_up(name)
        return found

    def _looked_up(self, name: str) -> Any:
        for node in self.tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return _imported(node.module, alias.name)
            elif isinstance(node, ast.Import) and name in [alias.asname or alias.name for alias in node.names]:
                return importlib.import_module(name) if name in LIGHT else Any
            elif isinstance(node, ast.ClassDef) and node.name == name:
                return _Fields(f"{self.module}:{name}")
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                    return self.value(node.value)
        return Any


class _Fields:
    """A settings class that another one takes a default from: its attributes are its settings."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __getattr__(self, name: str) -> Setting:
        return settings_of(self.place)[name]

    def __call__(self, *_: Any, **__: Any) -> Any:
        return None

    def __or__(self, other: Any) -> Any:
        return Any

    __ror__ = __or__


LIGHT = ("collections.abc", "dataclasses", "math", "pathlib", "typing", __name__)
"""Modules that settings may be written with and that cost nothing to import."""


@functools.cache
def _names(module: str) -> _Names:
    return _Names(module)


def _imported(module: str, name: str) -> Any:
    if module in LIGHT:
        return getattr(importlib.import_module(module), name)
    return _names(module)[name] if module.startswith(f"{__package__}.") else Any


def from_mapping(cls: type[S], values: Mapping[str, Any], *, where: str = "") -> S:
    """The settings that TOML or JSON gives, lists as tuples; `where` names the file in messages.

    Raises InputError for a name that the class does not have, with the closest one, and for a missing one; ValueError
    `<name> is <found>; expected ...` for a value of another type, and as the class itself.
    """
    kinds = get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    start = f"{where}: " if where else ""
    for name in values:
        if name not in fields:
            raise InputError(f"{start}there is no setting {name!r}{closest(name, fields)}")
    for name, field in fields.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise InputError(f"{start}the setting {name!r} is missing; give it")
    return cls(**{name: Reader().read(kinds[name], value, name) for name, value in values.items()})


class Reader:
    """Values of JSON or TOML as the types of annotations have them: settings here, other records in subclasses."""

    table = "a table"
    """What a mapping is called."""

    def wrong(self, place: str, value: object, expected: str) -> Exception:
        """The error for a value that is not what is expected at its place."""
        return ValueError(f"{place} is {value!r}; expected {expected}")

    def record(self, cls: type[Any], value: Mapping[str, Any], place: str, key: str) -> Any:
        """A dataclass from its fields; `key` is its own in the mapping that holds it."""
        return from_mapping(cls, value)

    def read(self, kind: Any, value: Any, place: str, key: str = "") -> Any:
        """The value at `place` as its type has it. Raises what `wrong` gives where it is of another."""
        origin, inside = get_origin(kind) or kind, get_args(kind)
        if origin is Annotated:
            return self.read(inside[0], value, place, key)
        if origin in (Union, types.UnionType):
            return self._one_of(inside, value, place, key)
        if origin is Literal and value not in inside:
            raise self.wrong(place, value, " or ".join(map(repr, inside)))
        if dataclasses.is_dataclass(kind) and not isinstance(value, cast(type, kind)):
            if not isinstance(value, Mapping):
                raise self.wrong(place, value, self.table)
            return self.record(cast(type, kind), value, place, key)
        if origin is Mapping:
            if not isinstance(value, Mapping):
                raise self.wrong(place, value, self.table)
            return {k: self.read(inside[1], v, f"{place}.{k}".strip("."), k) for k, v in value.items()}
        if origin is tuple:
            return self._sequence(inside, value, place)
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return value
        if kind is int and isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1:
            return int(value)
        if kind is bool and value in (0, 1):
            return bool(value)
        if kind is Path and isinstance(value, str | Path):
            return Path(value)
        if kind in EXPECTED and not (kind is str and isinstance(value, str)):
            raise self.wrong(place, value, EXPECTED[kind])
        return value

    def _one_of(self, kinds: tuple[Any, ...], value: Any, place: str, key: str) -> Any:
        """A value of one of several types, the first that it fits."""
        others = [k for k in kinds if k is not types.NoneType]
        if value is None and len(others) < len(kinds):
            return None
        for kind in others[:-1]:
            with contextlib.suppress(ValueError, InputError):
                return self.read(kind, value, place, key)
        return self.read(others[-1], value, place, key)

    def _sequence(self, kinds: tuple[Any, ...], value: Any, place: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise self.wrong(place, value, "a list")
        of = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        if len(of) != len(value):
            raise self.wrong(place, value, f"a list of {len(of)}")
        return tuple(self.read(k, v, f"{place}[{i}]") for i, (k, v) in enumerate(zip(of, value, strict=True)))


EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
"""What is expected where a value has one of these types."""


def to_json(settings: Any) -> Any:
    """A settings dataclass as JSON values, which `from_mapping` reads back."""
    if dataclasses.is_dataclass(settings):
        return {f.name: to_json(getattr(settings, f.name)) for f in dataclasses.fields(settings)}
    if isinstance(settings, Mapping):
        return {name: to_json(value) for name, value in settings.items()}
    if isinstance(settings, tuple | list):
        return [to_json(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def arms(kind: Any) -> tuple[Any, ...]:
    """The types of a union; of any other type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
