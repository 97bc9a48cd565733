"""Calls that a task returns, to be made after it: on their way from the attempt to whoever submitted it.

A value that such calls are parts of is taken apart where it was made: into the calls, each after those whose results it
reads, and what the value is to be made of: the result of the last call, or the list of the results of the last few. Any
other value around calls becomes one more call, which puts the results into their places.

May import nothing of ours but errors, functions and values.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Protocol

import msgspec

from dagengine.errors import BadArguments, DefinitionError
from dagengine.functions import Reference
from dagengine.values import Encoded, Placeholder, encode

CALL_LIMIT = 32 * 1024 * 1024
"""Bytes. What the arguments of one call may be; they travel in a frame, and lie in a row."""


class LaterFunction(msgspec.Struct, array_like=True):
    name: str
    reference: dict[str, Any]
    options: dict[str, Any]
    fingerprint: str = ""


class Later(Placeholder):
    """A call to be made later. `attempt`: which one made this. `call`: encoded; its placeholder i stands for `reads[i]`."""

    __slots__ = ("attempt", "call", "function", "key", "reads")

    def __init__(self, attempt: Any, function: LaterFunction, encoded: Encoded, key: str | None = None) -> None:
        name = function.name
        if encoded.size > CALL_LIMIT:
            raise BadArguments(
                f"{name}.defer: {encoded.size:,} bytes of arguments. Let a task of its own return the data, and defer"
                " that, too."
            )
        self.attempt = attempt
        self.function = function
        self.key = key
        self.call = encoded.to_bytes()
        self.reads = later_of(encoded.placeholders, attempt)


class LaterCall(msgspec.Struct, array_like=True):
    """`function`, `reads`: places in the growth's lists. A call reads only from calls before it."""

    function: int
    key: str | None
    call: bytes
    reads: list[int]


class Growth(msgspec.Struct, array_like=True):
    """What an attempt returned: the value is the result of the last call; or, with `count`, the list of the results of
    the last `count` calls."""

    functions: list[LaterFunction]
    calls: list[LaterCall]
    count: int | None


class _Attempt(Protocol):
    """`output`: of an attempt whose value is to be an object of the runtime's."""

    @property
    def id(self) -> Any: ...

    @property
    def mode(self) -> str: ...

    @property
    def output(self) -> Any: ...


def later_of(placeholders: Iterable[Placeholder], attempt: Any) -> list[Later]:
    """The placeholders, which all have to be calls that `attempt` makes later. Raises DefinitionError."""
    found = []
    for placeholder in placeholders:
        if not isinstance(placeholder, Later):
            raise DefinitionError(f"a task can't return {placeholder!r}. Return a value, or what .defer() gives.")
        if placeholder.attempt != attempt:
            raise DefinitionError(
                f"{placeholder!r} was deferred by another step. Return it from the task that made it, and make a new one"
                " each time."
            )
        found.append(placeholder)
    return found


def grown(value: Any, encoded: Encoded, attempt: _Attempt, name: str) -> bytes:
    """The packed `Growth` of what `name` returned. Raises DefinitionError."""
    if attempt.mode != "call":
        refuse_grown(f"the result of {name}")
    returned = later_of(encoded.placeholders, attempt.id)
    if attempt.output is not None:
        raise DefinitionError(
            f"{name} defers calls, so its value has to be recorded. Take checkpoint=False away from {name}."
        )
    last, count = _shape(value, encoded, returned, attempt)
    order = _in_order(last)
    functions: dict[tuple[int, str, str], int] = {}
    kept: list[LaterFunction] = []
    places: dict[int, int] = {}
    calls = []
    for place, later in enumerate(order):
        function = later.function
        known = (id(function.reference), function.name, repr(function.options))
        if known not in functions:
            functions[known] = len(kept)
            kept.append(function)
        calls.append(LaterCall(functions[known], later.key, later.call, [places[id(read)] for read in later.reads]))
        places[id(later)] = place
    return msgspec.msgpack.encode(Growth(kept, calls, count))


def read(packed: bytes) -> Growth:
    return msgspec.msgpack.decode(packed, type=Growth)


def refuse_grown(what: str) -> NoReturn:
    raise DefinitionError(f"{what} has deferred calls in it, and only that of a task may: let a task defer them.")


def together(value: Any) -> Any:
    """The call that puts the results of others into their places in a value."""
    return value


_TOGETHER = LaterFunction(together.__name__, Reference(__name__, together.__qualname__).to_json(), {})


def _shape(
    value: Any, encoded: Encoded, returned: list[Later], attempt: _Attempt
) -> tuple[Sequence[Later], int | None]:
    """The calls that the value is made of, which come last; and if it is the list of them, how many these are."""
    if isinstance(value, Later):
        return [value], None
    if type(value) is list and len(value) == len(returned) and all(map(_is, value, returned)):
        read_by_others = {id(read) for later in _in_order(returned) for read in later.reads}
        if read_by_others.isdisjoint(map(id, returned)):
            return returned, len(returned)
    if encoded.size > CALL_LIMIT:
        raise BadArguments(
            f"{encoded.size:,} bytes of data are returned together with deferred calls. Let a task of its own return them."
        )
    around = encode(((value,), {}))
    return [Later(attempt.id, _TOGETHER, around)], None


def _is(one: object, other: object) -> bool:
    return one is other


def _in_order(last: Sequence[Later]) -> list[Later]:
    """These and all that they read, each once and after what it reads; `last` at the end, if none of them reads another.
    Iterative: a chain of calls may be as long as it likes."""
    found: list[Later] = []
    seen: set[int] = {id(later) for later in last}
    todo: list[tuple[Later, bool]] = []
    for later in reversed(last):
        todo += [(read, False) for read in reversed(later.reads)]
    while todo:
        later, is_read = todo.pop()
        if is_read:
            found.append(later)
        elif id(later) not in seen:
            seen.add(id(later))
            todo.append((later, True))
            todo += [(read, False) for read in reversed(later.reads)]
    return [*found, *last]
