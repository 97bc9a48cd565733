"""Text and JSON as a Python type says: what a word of the command line means to a parameter.

`parse` takes text, `convert` a value that JSON knows. Both go by the annotation alone, and call nothing of the user's but the
constructors of dataclasses, named tuples and enums, and what pydantic's models have for this.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import enum
import json
import math
import re
import types
import typing
import uuid
from pathlib import Path, PosixPath, PurePath
from typing import Any

_LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_SETS = (set, frozenset, collections.abc.Set)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_TRUE = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_NOTHING = ("none", "null")
_INTEGER = re.compile(r"[+-]?[0-9]+(_[0-9]+)*")
DEPTH_LIMIT = 200
"""Of nested values: deeper ones are no arguments, and would exhaust the stack of whoever pickles them."""


class Mismatch(ValueError):
    """The value does not fit. `path` leads to the part that does not: "[3].name"."""

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(message)
        self.path = path


def parse(text: str, annotation: Any) -> Any:
    """What the text means to a parameter of that type. Raises Mismatch."""
    annotation = _bare(annotation)
    if _is_anything(annotation):
        return _guess(text)
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(text, annotation, parse)
    if origin is typing.Literal:
        for choice in typing.get_args(annotation):
            if text in (
                str(choice.value if isinstance(choice, enum.Enum) else choice),
                json.dumps(choice, default=str),
            ):
                return choice
        raise Mismatch(f"{_shown(text)} is none of the choices")
    if annotation is type(None):
        if text.lower() in (*_NOTHING, ""):
            return None
        raise Mismatch(f"{_shown(text)} is not none")
    if isinstance(annotation, type):
        if annotation is bool:
            if text.lower() not in _TRUE:
                raise Mismatch(f"{_shown(text)} is neither true nor false")
            return _TRUE[text.lower()]
        if annotation is int:
            return _integer(text)
        if annotation is float:
            return _number(text)
        if issubclass(annotation, enum.Enum):
            return _member(text, annotation)
        if annotation is str or annotation in _FROM_TEXT or issubclass(annotation, PurePath):
            return convert(text, annotation)
    if _is_listing(annotation) and not text.lstrip().startswith(("[", "{")):
        items = [item.strip() for item in text.split(",")] if text.strip() else []
        return _collected(
            [_at(i, parse, item, kind) for i, (item, kind) in enumerate(_paired(items, annotation))], annotation
        )
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Mismatch(f"{_shown(text)} is not JSON") from None
    return convert(value, annotation)


def convert(value: Any, annotation: Any, depth: int = 0) -> Any:
    """The JSON value as that type. Raises Mismatch."""
    if depth > DEPTH_LIMIT:
        raise Mismatch("it is nested too deep")
    annotation = _bare(annotation)
    if _is_anything(annotation):
        return value
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(value, annotation, lambda v, kind: convert(v, kind, depth + 1))
    if origin is typing.Literal:
        for choice in typing.get_args(annotation):
            plain = choice.value if isinstance(choice, enum.Enum) else choice
            if value == plain and type(value) is type(plain):
                return choice
        raise Mismatch(f"{_shown(value)} is none of the choices")
    kind = origin or annotation
    if kind is type(None):
        if value is None:
            return None
    elif kind is bool or kind is str:
        if type(value) is kind:
            return value
    elif kind is int:
        if type(value) is int or (type(value) is float and value.is_integer()):
            return int(value)
    elif kind is float:
        if type(value) in (int, float):
            return float(value)
    elif isinstance(kind, type) and issubclass(kind, enum.Enum):
        return _member(value, kind)
    elif isinstance(kind, type) and issubclass(kind, PurePath):
        if isinstance(value, str):
            return Path(value) if kind in (Path, PosixPath) else kind(value)
    elif kind in _FROM_TEXT:
        return _from_text(value, kind)
    elif kind in (tuple, *_LISTS, *_SETS):
        if isinstance(value, list):
            items = [_at(i, convert, item, k, depth + 1) for i, (item, k) in enumerate(_paired(value, annotation))]
            return _collected(items, annotation)
    elif kind in _DICTS:
        if isinstance(value, dict):
            return _mapping(value, annotation, depth)
    elif _is_dataclass(kind) or _is_named_tuple(kind) or typing.is_typeddict(kind):
        if isinstance(value, dict):
            return _fields(value, kind, depth)
        if isinstance(value, list) and _is_named_tuple(kind) and len(value) <= len(kind._fields):
            return _fields(dict(zip(kind._fields, value, strict=False)), kind, depth)
    elif hasattr(kind, "model_validate_json"):
        return _validated(value, kind)
    else:
        raise Mismatch(f"a {type_name(annotation)} can't be given on the command line, as a dataclass can")
    raise Mismatch(f"{_shown(value)} is not {an(type_name(annotation))}")


def type_name(annotation: Any) -> str:
    """As people say it."""
    annotation = _bare(annotation)
    if _is_anything(annotation):
        return "value"
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(getattr(c, "value", c)) for c in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join("none" if m is type(None) else type_name(m) for m in typing.get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return "one of " + ", ".join(member.name for member in annotation)
    if origin is not None:
        inner = ", ".join("…" if a is Ellipsis else type_name(a) for a in typing.get_args(annotation))
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


# ---- parts --------------------------------------------------------------------------------


def _bare(annotation: Any) -> Any:
    """Without Annotated, NewType, aliases and type variables."""
    while True:
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif isinstance(annotation, typing.NewType):
            annotation = annotation.__supertype__
        elif isinstance(annotation, typing.TypeVar):
            annotation = annotation.__bound__ or Any
        elif type(annotation).__name__ == "TypeAliasType":
            annotation = annotation.__value__
        else:
            return type(None) if annotation is None else annotation


def _is_anything(annotation: Any) -> bool:
    return annotation is Any or annotation is object or isinstance(annotation, (str, typing.ForwardRef))


def _guess(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _first_that_fits(value: Any, annotation: Any, attempt: Any) -> Any:
    """Members in their order, but text last: everything is text."""
    members = sorted(typing.get_args(annotation), key=lambda member: (_bare(member) is str, member is not type(None)))
    reasons = []
    for member in members:
        if isinstance(value, bool) and _bare(member) in (int, float):
            continue
        try:
            return attempt(value, member)
        except Mismatch as error:
            reasons.append((len(error.path), member is not type(None), error))
    if not reasons:
        raise Mismatch(f"{_shown(value)} is not {an(type_name(annotation))}")
    deepest = max(reasons, key=lambda reason: reason[:2])
    if deepest[0]:
        raise deepest[2]
    raise Mismatch(f"{_shown(value)} is not {an(type_name(annotation))}")


def _integer(text: str) -> int:
    if not _INTEGER.fullmatch(text.strip()) or len(text) > 4000:
        raise Mismatch(f"{_shown(text)} is not a whole number")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise Mismatch(f"{_shown(text)} is not a number") from None
    if math.isinf(number) and "inf" not in text.lower():
        raise Mismatch(f"{_shown(text)} is too large for a float")
    return number


def _member(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    for member in kind:
        if value in (member.name, member.value) or (isinstance(value, str) and value == str(member.value)):
            return member
    raise Mismatch(f"{_shown(value)} is none of the choices")


_FROM_TEXT: dict[Any, Any] = {
    datetime.datetime: datetime.datetime.fromisoformat,
    datetime.date: datetime.date.fromisoformat,
    datetime.time: datetime.time.fromisoformat,
    uuid.UUID: uuid.UUID,
    decimal.Decimal: decimal.Decimal,
    complex: complex,
    bytes: str.encode,
}


def _from_text(value: Any, kind: Any) -> Any:
    if kind is decimal.Decimal and type(value) in (int, float):
        return decimal.Decimal(str(value))
    if isinstance(value, str):
        try:
            return _FROM_TEXT[kind](value)
        except (ValueError, decimal.InvalidOperation):
            pass
    raise Mismatch(f"{_shown(value)} is not {an(kind.__name__)}")


def _is_listing(annotation: Any) -> bool:
    return (typing.get_origin(annotation) or annotation) in (tuple, *_LISTS, *_SETS)


def _paired(items: list[Any], annotation: Any) -> list[tuple[Any, Any]]:
    """Each item with the type that it should have."""
    kinds = typing.get_args(annotation)
    if (typing.get_origin(annotation) or annotation) is tuple and kinds and kinds[-1] is not Ellipsis:
        if len(items) != len(kinds):
            raise Mismatch(f"it has {len(items)} items, not {len(kinds)}")
        return list(zip(items, kinds, strict=True))
    return [(item, kinds[0] if kinds else Any) for item in items]


def _collected(items: list[Any], annotation: Any) -> Any:
    kind = typing.get_origin(annotation) or annotation
    try:
        return (
            tuple(items)
            if kind is tuple
            else frozenset(items)
            if kind is frozenset
            else set(items)
            if kind in _SETS
            else items
        )
    except TypeError as error:
        raise Mismatch(str(error)) from None


def _at(index: int, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Mismatch as error:
        raise Mismatch(str(error), f"[{index}]{error.path}") from None


def _mapping(value: dict[str, Any], annotation: Any, depth: int) -> dict[Any, Any]:
    key_kind, item_kind = typing.get_args(annotation) or (Any, Any)
    result = {}
    for key, item in value.items():
        try:
            result[parse(key, key_kind) if _bare(key_kind) is not Any else key] = convert(item, item_kind, depth + 1)
        except Mismatch as error:
            raise Mismatch(str(error), f"[{key!r:.40}]{error.path}") from None
    return result


def _is_dataclass(kind: Any) -> bool:
    return dataclasses.is_dataclass(kind)  # as a plain bool: what narrows `kind` here is not to be known elsewhere


def _is_named_tuple(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _fields(value: dict[str, Any], kind: Any, depth: int) -> Any:
    """A dataclass, named tuple or typed dict from an object."""
    try:
        hints = typing.get_type_hints(kind)
    except Exception:
        hints = {}
    if _is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind) if field.init]
    else:
        names = list(kind._fields) if _is_named_tuple(kind) else list(hints)
    arguments = {}
    for name, item in value.items():
        if name not in names:
            raise Mismatch(f"{kind.__name__} has no field {name!r}; it has {', '.join(names) or 'none'}")
        try:
            arguments[name] = convert(item, hints.get(name, Any), depth + 1)
        except Mismatch as error:
            raise Mismatch(str(error), f".{name}{error.path}") from None
    if typing.is_typeddict(kind):
        absent = sorted(kind.__required_keys__ - arguments.keys())
        if absent:
            raise Mismatch(f"{kind.__name__} misses {', '.join(absent)}")
        return arguments
    try:
        return kind(**arguments)
    except Exception as error:  # a missing field, or what the class itself says of the values
        raise Mismatch(f"{type(error).__name__}: {error}") from None


def _validated(value: Any, model: Any) -> Any:
    """A model of pydantic's, which checks the value itself."""
    try:
        return model.model_validate_json(json.dumps(value))
    except ValueError as error:
        first: dict[str, Any] = error.errors()[0] if hasattr(error, "errors") else {"loc": (), "msg": str(error)}
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        raise Mismatch(first["msg"], path) from None


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def an(words: str) -> str:
    if words.startswith("one of"):
        return words
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"
