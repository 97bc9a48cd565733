"""A remote call, encoded: refs become inputs, large arguments become objects, the rest is the call; and what it runs.

Most calls hold nothing but numbers, short texts and refs: they take a third of the time of the general way.

May import nothing of ours but errors, functions, model, values and runtime.handles.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final, NamedTuple

from dagengine.errors import BadArguments
from dagengine.functions import Reference, named_by_itself, refer
from dagengine.model import INLINE_LIMIT
from dagengine.runtime.handles import Ref, crossing
from dagengine.values import Encoded, encode, encode_plain

CALL_LIMIT: Final = 32 * 1024 * 1024
"""Bytes. What may remain in a call once its large arguments are set aside; it travels in frames."""

Keep = Callable[[Encoded], Ref[Any]]
"""Puts an encoded value, and gives its ref."""

_SMALL = frozenset({Ref, int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_SHORT = 1_000  # characters; with at most _FEW arguments the call stays below INLINE_LIMIT
_FEW = 4


class EncodedCall(NamedTuple):
    """`reads`: the refs whose values the placeholders stand for, in order. `holds`: what crosses as itself."""

    data: bytes
    reads: list[Ref[Any]]
    holds: list[Any]


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any], what: str, keep: Keep) -> EncodedCall:
    """Raises Unpicklable with the path to the offending part; BadArguments if an argument mixes refs with much data."""
    outer = crossing.call, crossing.kept
    kept: list[Any] = []
    crossing.call, crossing.kept = True, kept
    try:
        if len(args) + len(kwargs) <= _FEW and _all_small(args, kwargs):
            encoded = encode_plain((args, kwargs))
        else:
            encoded = _encode(args, kwargs, what, kept, keep)
    finally:
        crossing.call, crossing.kept = outer
    return EncodedCall(encoded.to_bytes(), encoded.placeholders, kept)  # type: ignore[arg-type]


def _all_small(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind not in _SMALL and not (kind in _TEXTS and len(value) <= _SHORT):
            return False
    return True


def _encode(args: tuple[Any, ...], kwargs: dict[str, Any], what: str, kept: list[Any], keep: Keep) -> Encoded:
    encoded = None
    if not any(_surely_large(value) for value in args) and not any(_surely_large(value) for value in kwargs.values()):
        encoded = encode((args, kwargs), what, "arguments")
    if encoded is not None and encoded.size <= INLINE_LIMIT:
        return encoded
    args = tuple(_set_aside(value, f"{what}, argument {index}", keep) for index, value in enumerate(args))
    kwargs = {name: _set_aside(value, f"{what}, argument {name}", keep) for name, value in kwargs.items()}
    kept.clear()
    encoded = encode((args, kwargs), what, "arguments")
    if encoded.size > CALL_LIMIT:
        raise BadArguments(
            f"{what}: {encoded.size:,} bytes of arguments are mixed with refs. Pass the data as an argument of its own."
        )
    return encoded


def _set_aside(value: Any, what: str, keep: Keep) -> Any:
    """The value, or if it is large and holds no refs, the ref of the object that it has become."""
    if isinstance(value, (Ref, int, float, bool, type(None))):
        return value
    kept = crossing.kept
    before = len(kept) if kept is not None else 0
    encoded = encode(value, what, "argument")
    if encoded.size <= INLINE_LIMIT or encoded.placeholders or (kept is not None and len(kept) > before):
        return value
    return keep(encoded)


def _surely_large(value: Any) -> bool:
    if isinstance(value, Ref):
        return False
    size = getattr(value, "nbytes", 0) if not isinstance(value, (str, bytes)) else len(value)
    return isinstance(size, int) and size > INLINE_LIMIT


def encode_value(value: Any, what: str = "the value") -> tuple[Encoded, list[Any]]:
    """A value to put, and the handles inside of it."""
    outer = crossing.call, crossing.kept
    kept: list[Any] = []
    crossing.call, crossing.kept = False, kept
    try:
        return encode(value, what), kept
    finally:
        crossing.call, crossing.kept = outer


# ---- what is called -------------------------------------------------------------------------


class Target(NamedTuple):
    """A function that was announced. `leading`: arguments that come before the caller's own."""

    reference: dict[str, Any]
    leading: tuple[Any, ...]
    name: str
    streams: bool


def target(function: Callable[..., Any], returns: int = 1) -> Target:
    """How another process finds `function`, which may be anything that can be called.

    What has a name is named. A function without one (a lambda, one of a script) travels by value, once; any other
    object (a partial, a bound method) travels with each call.
    """
    name = name_of(function)
    plain = getattr(function, "function", function)
    streams = inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)
    if returns > 1:
        return Target(refer(_split).to_json(), (function, returns), name, True)
    if isinstance(function, (FunctionType, type)):
        return Target(refer(function).to_json(), (), name, streams)
    if isinstance(function, BuiltinFunctionType) and named_by_itself(function):
        return Target(Reference(function.__module__, function.__qualname__).to_json(), (), name, False)
    if plain is not function:
        # A decorated function: found by its name, or by value as the plain function that it is.
        reference = refer(function) if named_by_itself(function) else refer(plain)
        return Target(reference.to_json(), (), name, streams)
    if not callable(function):
        raise BadArguments(f"{function!r:.200} can't be called: give a function.")
    return Target(refer(_apply).to_json(), (function,), name, False)


def name_of(function: Any) -> str:
    for found in (function, getattr(function, "func", None), type(function)):
        name = getattr(found, "__name__", None)
        if isinstance(name, str):
            return name
    return "a callable"


def _apply(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Runs in the worker: what has no name of its own is called from here."""
    return function(*args, **kwargs)


def _split(function: Callable[..., Any], count: int, /, *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Runs in the worker: the items of one result, each an object of its own."""
    value = getattr(function, "function", function)(*args, **kwargs)
    if inspect.iscoroutine(value):
        import asyncio

        value = asyncio.run(value)
    items = list(value)
    if len(items) != count:
        raise ValueError(
            f"{name_of(function)} was to return {count} values (returns={count}), and returned {len(items)}"
        )
    items.reverse()
    while items:
        yield items.pop()  # what has been handed over takes no memory here
