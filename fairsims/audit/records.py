"""Frozen dataclasses to JSON and back, and the JSON schema of what is written: all three from the types.

A field is its JSON key. What `always` or `beside` says of a field is about writing: reading takes whatever an older
version left out.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from fairsims.errors import InputError

T = TypeVar("T")


def limits(**keywords: Any) -> tuple[tuple[str, Any], ...]:
    """Keywords of JSON schema for `Annotated[type, limits(...)]`: what is written lies within, reading asks less."""
    return tuple(keywords.items())


def always(default: Any) -> Any:
    """A field that is always written; files of older formats may lack it, and get `default` (called, if callable)."""
    return _field(default, always=True)


def beside(other: str, default: Any = None) -> Any:
    """A field that is written, be it as null, wherever the field `other` is."""
    return _field(default, beside=other)


def renamed(key: str) -> Any:
    """A required field with another JSON key than its name."""
    return _field(dataclasses.MISSING, key=key)


def by_key() -> Any:
    """A field that is the key under which the object stands in its parent."""
    return _field("", by_key=True)


def rest() -> Any:
    """A mapping of all keys that have no field."""
    return _field(dict, rest=True)


def to_json(value: Any) -> Any:
    """A dataclass, and all that it holds, as JSON. What is at its default is left out, unless it is always written."""
    if dataclasses.is_dataclass(value):
        found: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            if f.metadata.get("rest"):
                found |= to_json(getattr(value, f.name))
            elif _written(f, value):
                found[_key(f)] = to_json(getattr(value, f.name))
        return found
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    return [to_json(v) for v in value] if isinstance(value, list | tuple) else value


def from_json(cls: type[T], value: object, *, place: str = "", key: str = "") -> T:
    """The inverse of `to_json`. Raises InputError naming the place of what is missing, unknown or of another kind.

    `place` is where the value stands in its file, `key` its key there. A ValueError of the dataclass's own checks is
    one of that place.
    """
    if not isinstance(value, Mapping):
        raise _wrong(place, value, "an object")
    hints: dict[str, Any] = _hints(cls)
    given: dict[str, Any] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        if f.metadata.get("by_key"):
            given[f.name] = key
        elif f.metadata.get("rest"):
            known = {_key(g) for g in dataclasses.fields(cls)}  # type: ignore[arg-type]
            given[f.name] = _decoded(hints[f.name], {k: v for k, v in value.items() if k not in known}, place)
        elif (found := value.get(_key(f))) is not None:
            given[f.name] = _decoded(hints[f.name], found, _at(place, _key(f)))
        elif _default(f) is dataclasses.MISSING:
            if not _optional(hints[f.name]):
                raise InputError(f"{_at(place, _key(f))} of the audit is missing; run the audit again")
            given[f.name] = None
    try:
        return cls(**given)
    except ValueError as e:
        if isinstance(e, InputError):
            raise
        raise InputError(f"{place or 'the audit'} {'of the audit ' if place else ''}{e}; run the audit again") from None


def schema(cls: type[Any], **top: Any) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what `to_json` writes of a dataclass; `top` are further keys of it."""
    parts: dict[str, Any] = {}
    whole = _object(cls, parts)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | top | whole | {"$defs": parts}


def _object(cls: type[Any], parts: dict[str, Any]) -> dict[str, Any]:
    hints, properties, required = _hints(cls), {}, []
    open_: Any = False
    dependent: dict[str, list[str]] = {}
    for f in dataclasses.fields(cls):
        if f.metadata.get("rest"):
            open_ = _type(hints[f.name], parts)["additionalProperties"] or True
        elif not f.metadata.get("by_key"):
            properties[_key(f)] = _type(hints[f.name], parts)
            if _default(f) is dataclasses.MISSING or f.metadata.get("always"):
                required.append(_key(f))
            if other := f.metadata.get("beside"):
                dependent.setdefault(other, []).append(_key(f))
    found = {
        "type": "object",
        "description": " ".join((inspect.getdoc(cls) or "").split()),
        "properties": properties,
        "required": required,
        "additionalProperties": open_,
    }
    return found | ({"dependentRequired": dependent} if dependent else {})


def _type(hint: Any, parts: dict[str, Any]) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return {**_type(args[0], parts), **dict(args[1])}
    if _optional(hint):
        inner = _type(_without_none(hint), parts)
        return inner | {"type": [inner["type"], "null"]} if "type" in inner else {"anyOf": [inner, {"type": "null"}]}
    if origin is Literal:
        return {"enum": list(args)}
    if dataclasses.is_dataclass(hint):
        name = cast(type[Any], hint).__name__
        if name not in parts:
            parts[name] = {}
            parts[name] |= _object(cast(type[Any], hint), parts)
        return {"$ref": f"#/$defs/{name}"}
    if origin is not None and issubclass(origin, Mapping):
        inside = _type(args[1], parts)
        if get_origin(args[0]) is Literal:
            names = get_args(args[0])
            return {"type": "object", "properties": dict.fromkeys(names, inside), "additionalProperties": False}
        return {"type": "object", "additionalProperties": inside}
    if origin is tuple:
        if args[-1] is Ellipsis:
            return {"type": "array", "items": _type(args[0], parts)}
        return {"type": "array", "prefixItems": [_type(a, parts) for a in args], "minItems": len(args), "items": False}
    return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[hint]} if hint is not Any else {}


def _decoded(hint: Any, value: Any, place: str, key: str = "") -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _decoded(args[0], value, place, key)
    if _optional(hint):
        return None if value is None else _decoded(_without_none(hint), value, place)
    if origin is Literal:
        if value not in args:
            raise _wrong(place, value, " or ".join(map(repr, args)))
        return value
    if dataclasses.is_dataclass(hint):
        return from_json(cast(type[Any], hint), value, place=place, key=key)
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(args, value, place)
    if origin is tuple:
        return _sequence(args, value, place)
    if hint in (int, float):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or (hint is int and value != int(value)):
            raise _wrong(place, value, "a whole number" if hint is int else "a finite number")
        return int(value) if hint is int else value
    if hint in (str, bool) and not isinstance(value, hint):
        raise _wrong(place, value, "text" if hint is str else "true or false")
    return value


def _mapping(args: Sequence[Any], value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(place, value, "an object")
    if get_origin(args[0]) is Literal:
        value = {k: value[k] for k in get_args(args[0]) if value.get(k) is not None}
    return {k: _decoded(args[1], v, _at(place, k), k) for k, v in value.items()}


def _sequence(args: Sequence[Any], value: Any, place: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(place, value, "a list")
    hints = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(value) != len(hints):
        raise _wrong(place, value, f"a list of {len(hints)}")
    return tuple(_decoded(h, v, f"{place}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _wrong(place: str, value: object, expected: str) -> InputError:
    plain = value is None or isinstance(value, bool | int | float | str)
    found = repr(value) if plain else f"{'an object' if isinstance(value, Mapping) else 'a list'}"
    return InputError(f"{place or 'the file'} of the audit is {found}; expected {expected}; run the audit again")


def _field(default: Any, **metadata: Any) -> Any:
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def _written(f: dataclasses.Field[Any], value: Any) -> bool:
    if f.metadata.get("by_key"):
        return False
    default = _default(f)
    if default is dataclasses.MISSING or f.metadata.get("always") or getattr(value, f.name) != default:
        return True
    other = f.metadata.get("beside")
    return other is not None and bool(getattr(value, other))


def _default(f: dataclasses.Field[Any]) -> Any:
    return f.default if f.default_factory is dataclasses.MISSING else f.default_factory()


def _key(f: dataclasses.Field[Any]) -> str:
    return str(f.metadata.get("key", f.name))


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _optional(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _without_none(hint: Any) -> Any:
    (inner,) = (a for a in get_args(hint) if a is not type(None))
    return inner
