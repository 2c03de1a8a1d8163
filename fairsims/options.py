"""Settings said once: a frozen dataclass, each field documented under it, gives options, TOML and JSON.

What a field is called, its type, its default and its help are read from the source of the class, without importing it:
`fairsims --help` describes the settings of rooms that need torch and loads none of it.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

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
    return cls(**{name: _fitted(name, value, kinds[name]) for name, value in values.items()})


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


def _fitted(name: str, value: Any, kind: Any) -> Any:
    for arm in arms(kind):
        fitted = _fit(value, arm)
        if fitted is not MISSING:
            return fitted
    raise ValueError(f"{name} is {value!r}; expected {' or '.join(_words(arms(kind)))}")


def _fit(value: Any, kind: Any) -> Any:
    """The value as the type has it, MISSING where it is of another."""
    if kind is None or kind is types.NoneType:
        return None if value is None else MISSING
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return from_mapping(cast(type, kind), value)
    origin, inside = get_origin(kind) or kind, get_args(kind)
    if origin is tuple and isinstance(value, list | tuple):
        of = [inside[0]] * len(value) if inside[1:] == (...,) else list(inside)
        parts = [next((f for a in arms(k) if (f := _fit(v, a)) is not MISSING), MISSING) for v, k in zip(value, of)]  # noqa: B905
        return MISSING if len(of) != len(value) or any(p is MISSING for p in parts) else tuple(parts)
    if kind is bool:
        return bool(value) if value in (0, 1) else MISSING
    if kind is float:
        return value if isinstance(value, int | float) and not isinstance(value, bool) else MISSING
    if kind is int:
        return value if isinstance(value, int) and not isinstance(value, bool) else MISSING
    if origin is Path:
        return Path(value) if isinstance(value, str | Path) else MISSING
    return value if origin is Any or (isinstance(origin, type) and isinstance(value, origin)) else MISSING


def _words(kinds: Iterable[Any]) -> Iterable[str]:
    known = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    for kind in kinds:
        if kind is types.NoneType:
            yield "nothing"
        elif get_origin(kind) is tuple:
            yield "a list"
        else:
            yield known.get(kind, "a table")
