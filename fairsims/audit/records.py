"""Frozen dataclasses to JSON and back, and the JSON schema of what is written: all three from the types.

A field is its JSON key. What `always` or `beside` says of a field is about writing: reading takes whatever an older
version left out.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from fairsims.errors import InputError
from fairsims.options import Reader, arms

T = TypeVar("T")


def limits(**keywords: Any) -> tuple[tuple[str, Any], ...]:
    """Keywords of JSON schema for `Annotated[type, limits(...)]`: what is written lies within, reading asks less."""
    return tuple(keywords.items())


def always(default: Any, **metadata: str) -> Any:
    """A field that is always written; files of older formats may lack it, and get `default` (called, if callable).

    `earlier` is another key that they may have it under.
    """
    return _field(default, always=True, **metadata)


def beside(other: str, default: Any = None) -> Any:
    """A field that is written, be it as null, wherever the field `other` is."""
    return _field(default, beside=other)


def renamed(key: str) -> Any:
    """A required field with another JSON key than its name."""
    return _field(dataclasses.MISSING, key=key)


def called(earlier: str) -> Any:
    """An optional field that files of earlier versions have under another key, which is read."""
    return _field(None, earlier=earlier)


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
    reader = _Reader()
    if not isinstance(value, Mapping):
        raise reader.wrong(place, value, reader.table)
    hints: dict[str, Any] = get_type_hints(cls, include_extras=True)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    given: dict[str, Any] = {}
    for f in fields:
        if f.metadata.get("by_key"):
            given[f.name] = key
        elif f.metadata.get("rest"):
            known = {_key(g) for g in fields}
            given[f.name] = reader.read(hints[f.name], {k: v for k, v in value.items() if k not in known}, place)
        elif (found := value.get(_key(f), value.get(f.metadata.get("earlier", "")))) is not None:
            given[f.name] = reader.read(hints[f.name], found, _at(place, _key(f)))
        elif _default(f) is dataclasses.MISSING:
            if not _optional(hints[f.name]):
                raise InputError(f"{_at(place, _key(f))} of the audit is missing; run the audit again")
            given[f.name] = None
    try:
        return cls(**given)
    except ValueError as e:
        raise InputError(f"{place or 'the audit'} {'of the audit ' if place else ''}{e}; run the audit again") from None


class _Reader(Reader):
    """Reads what an audit's file holds."""

    table = "an object"

    def wrong(self, place: str, value: object, expected: str) -> InputError:
        found = self.table if isinstance(value, Mapping) else "a list" if isinstance(value, list) else repr(value)
        return InputError(f"{place or 'the file'} of the audit is {found}; expected {expected}; run the audit again")

    def record(self, cls: type[Any], value: Mapping[str, Any], place: str, key: str) -> Any:
        return from_json(cls, value, place=place, key=key)

    def read(self, kind: Any, value: Any, place: str, key: str = "") -> Any:
        if get_origin(kind) is Mapping and isinstance(value, Mapping) and get_origin(get_args(kind)[0]) is Literal:
            # The sides of one source: what is null is not there.
            value = {k: value[k] for k in get_args(get_args(kind)[0]) if value.get(k) is not None}
        if kind is float and not (isinstance(value, int | float) and math.isfinite(value)):
            raise self.wrong(place, value, "a finite number")
        return super().read(kind, value, place, key)


def schema(cls: type[Any], **top: Any) -> dict[str, Any]:
    """JSON schema (draft 2020-12) of what `to_json` writes of a dataclass; `top` are further keys of it."""
    parts: dict[str, Any] = {}
    whole = _object(cls, parts)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | top | whole | {"$defs": parts}


def _object(cls: type[Any], parts: dict[str, Any]) -> dict[str, Any]:
    hints, properties, required = get_type_hints(cls, include_extras=True), {}, []
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


def _optional(hint: Any) -> bool:
    return type(None) in arms(hint)


def _without_none(hint: Any) -> Any:
    (inner,) = (a for a in arms(hint) if a is not type(None))
    return inner
