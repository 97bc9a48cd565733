"""A ref: the promise of a step's value, in the hands of a workflow's body.

To a type checker a call of a task *is* the value; at run time it is a ref, to be handed to other tasks (in any
container) or waited for. Using it as the value is a mistake that Python would often let pass in silence (`if ref`,
f-strings), so each such use says what to do instead. May import errors, model, values and scopes.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NoReturn

from dagengine.errors import AttributeMisuse, BadArguments, RefMisuse
from dagengine.model import StepInput
from dagengine.scopes import current_scope
from dagengine.values import Placeholder

if TYPE_CHECKING:
    from dagengine.body import Body


class Misused:
    """What stands for a value that is not there yet: each use of it as the value raises RefMisuse, with `_hint`."""

    __slots__ = ()

    def _hint(self, what: str) -> str:
        raise NotImplementedError

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)  # how Python itself asks what an object can do
        raise AttributeMisuse(self._hint(f"read its attribute {name}"))

    def _misused(self, what: str, *_: object) -> NoReturn:
        raise RefMisuse(self._hint(what))


class Ref(Misused, Placeholder):
    """The value that step `_key` of `_body`'s run will have."""

    __slots__ = ("_body", "_input", "_key", "_seq")

    def __init__(self, body: Body, seq: int, key: str) -> None:
        self._body = body
        self._seq = seq
        self._key = key
        self._input = StepInput(seq)  # one for all the steps that read it

    def __repr__(self) -> str:
        return f"<ref {self._key}>"

    def __await__(self) -> Generator[Any, None, Any]:
        awaited: Generator[Any, None, Any] = body_of(self).wait_async(self).__await__()
        return awaited

    def __hash__(self) -> int:
        return hash((Ref, self._seq))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Ref):
            return self._seq == other._seq and self._body is other._body
        return self._misused("compare it")

    def _hint(self, what: str) -> str:
        return (
            f"{self._key} has no value yet, so you can't {what}. "
            "Wait for it with get(...), or hand it to a task that does this."
        )


class EphemeralRef(Ref):
    """A ref to a value that is not recorded. When the body has dropped it, nobody in the body can ask for the value."""

    __slots__ = ()

    def __del__(self) -> None:
        self._body.dropped(self._seq)


def body_of(ref: Ref) -> Body:
    """The body that made the ref, which has to be the one that calls this.

    Raises BadArguments in the body of another run, after the run, and in threads, which have no part in the run.
    """
    scope = current_scope.get()
    if scope is None or scope.body is not ref._body:
        raise BadArguments(
            f"{ref!r} belongs to another run, or to no thread of this one. Use it in the body that made it."
        )
    return scope.body


def _misuse(what: str) -> Any:
    def method(self: Misused, *_: object, **__: object) -> NoReturn:
        self._misused(what)

    return method


for _what, _names in {
    "branch on it": ("bool",),
    "iterate over it": ("iter", "reversed", "contains"),
    "take its length": ("len",),
    "index it": ("getitem", "setitem", "delitem"),
    "call it": ("call",),
    "format it into text": ("format",),
    "convert it": ("int", "float", "complex", "index", "bytes", "round", "fspath"),
    "compare it": ("lt", "le", "gt", "ge"),
    "enter it": ("enter", "exit"),
    "calculate with it": (
        *tuple(
            prefix + operator
            for operator in [
                "add",
                "sub",
                "mul",
                "truediv",
                "floordiv",
                "mod",
                "divmod",
                "pow",
                "matmul",
                "lshift",
                "rshift",
                "and",
                "or",
                "xor",
            ]
            for prefix in ("", "r", "i")
        ),
        "neg",
        "pos",
        "abs",
        "invert",
    ),
}.items():
    for _name in _names:
        setattr(Misused, f"__{_name}__", _misuse(_what))
