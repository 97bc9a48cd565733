"""A call's arguments, encoded: refs become inputs, large arguments become artifacts, the rest is the call.

Also the comparison of a call with the recorded one of the same key. Bytes that are equal are the same call; bytes that
differ may still be (a set has no order, equal strings may or may not be one object), so both are decoded and compared
by a canonical digest. That is the rare path: recording pays nothing for it.

May import errors, model, values and refs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dagengine.errors import BadArguments, RefMisuse, Unpicklable
from dagengine.model import INLINE_LIMIT, Input, PayloadInput, StepInput
from dagengine.refs import EphemeralRef, Ref
from dagengine.values import Encoded, Placeholder, decode, encode, encode_plain

if TYPE_CHECKING:
    from dagengine.body import Body

CALL_LIMIT = 32 * 1024 * 1024
"""Bytes. What may remain in a call once its large arguments are set aside; it travels in rows and frames."""

Keep = Callable[[Encoded], None]
"""Makes encoded bytes durable among the artifacts, under their digest, before it returns."""


class LargeArgument(Placeholder):
    """Stands in a call for an argument that is an artifact."""

    __slots__ = ("payload",)

    def __init__(self, payload: PayloadInput) -> None:
        self.payload = payload


def encode_call(
    args: tuple[Any, ...], kwargs: dict[str, Any], what: str, keep: Keep, body: Body | None = None
) -> tuple[bytes, tuple[Input, ...]]:
    """The encoded ((args), {kwargs}) and the inputs that its placeholders stand for. Refs have to be of `body`.

    Raises Unpicklable with the path to the offending part; BadArguments if an argument mixes refs with much data.
    """
    fast = _encode_small(args, kwargs, body)
    if fast is not None:
        return fast
    encoded = None
    if not any(_surely_large(value) for value in args) and not any(_surely_large(value) for value in kwargs.values()):
        encoded = _encode(args, kwargs, what)
    if encoded is None or encoded.size > INLINE_LIMIT:
        args = tuple(set_aside(value, f"{what}, argument {index}", keep) for index, value in enumerate(args))
        kwargs = {name: set_aside(value, f"{what}, argument {name}", keep) for name, value in kwargs.items()}
        encoded = _encode(args, kwargs, what)
        if encoded.size > CALL_LIMIT:
            raise BadArguments(
                f"{what}: {encoded.size:,} bytes of arguments are mixed with refs. Pass the data as an argument of its own."
            )
    return encoded.to_bytes(), tuple(_input(found, body) for found in encoded.placeholders)


def _encode_small(
    args: tuple[Any, ...], kwargs: dict[str, Any], body: Body | None
) -> tuple[bytes, tuple[Input, ...]] | None:
    """Most calls by far: refs, numbers and short texts. A third of the time of the general way."""
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind not in _SMALL and not (kind in _TEXTS and len(value) <= _SHORT):
            return None
    if len(args) + len(kwargs) > _FEW:
        return None
    encoded = encode_plain((args, kwargs))
    return encoded.to_bytes(), tuple([_input(found, body) for found in encoded.placeholders])


_SMALL = frozenset({Ref, EphemeralRef, int, float, bool, type(None)})
_TEXTS = frozenset({str, bytes})
_SHORT = 1_000  # characters; with at most _FEW arguments the call stays below INLINE_LIMIT (an int may be long, too:
_FEW = 4  # one of 16 KiB has 39,000 digits, and does no harm inline)


def set_aside(value: Any, what: str, keep: Keep) -> Any:
    """The value, or if it is large and holds no refs, a stand-in for the artifact that it has become."""
    if isinstance(value, (Placeholder, int, float, bool, type(None))):
        return value
    encoded = _encoded(value, what, "argument")
    if encoded.size <= INLINE_LIMIT or encoded.placeholders:
        return value
    digest = encoded.digest()
    keep(encoded)
    return LargeArgument(PayloadInput(digest, encoded.size))


def _input(found: Placeholder, body: Body | None) -> Input:
    if isinstance(found, Ref):
        if found._body is not body:
            raise BadArguments(f"{found!r} belongs to another run. Use it in the body that made it.")
        return found._input
    assert isinstance(found, LargeArgument)
    return found.payload


def _encode(args: tuple[Any, ...], kwargs: dict[str, Any], what: str) -> Encoded:
    return _encoded((args, kwargs), what, "arguments")


def _encoded(value: Any, what: str, path: str) -> Encoded:
    try:
        return encode(value, what, path)
    except Unpicklable as error:
        if isinstance(error.__cause__, RefMisuse):  # it says better what to do
            raise error.__cause__ from None
        raise


def _surely_large(value: Any) -> bool:
    if isinstance(value, Placeholder):
        return False
    size = getattr(value, "nbytes", 0) if not isinstance(value, (str, bytes)) else len(value)
    return isinstance(size, int) and size > INLINE_LIMIT


# ---- is it the same call? -------------------------------------------------------------------


class _StandIn:
    """What an input looks like while two calls are compared."""

    def __init__(self, name: Input) -> None:
        self.name = name

    def __repr__(self) -> str:
        if isinstance(self.name, StepInput):
            return f"<ref to step {self.name.seq}>"
        return f"<{self.name.size:,} bytes, {self.name.digest[:12]}>"


Load = Callable[[PayloadInput], Any]


def same_call(recorded: tuple[bytes, tuple[Input, ...]], called: tuple[bytes, tuple[Input, ...]], load: Load) -> bool:
    """Whether two encoded calls have the same arguments. `load` reads a large argument."""
    if recorded == called:
        return True
    return canonical_digest(_open(recorded, load)) == canonical_digest(_open(called, load))


def _open(call: tuple[bytes, tuple[Input, ...]], load: Load | None) -> Any:
    data, inputs = call
    return decode(
        data,
        [load(item) if load is not None and isinstance(item, PayloadInput) else _StandIn(item) for item in inputs],
    )


class ByDigest(_StandIn):
    """An input that is known by the digest of its value."""

    def __init__(self, digest: str) -> None:
        self._digest = digest

    def __repr__(self) -> str:
        return f"<{self._digest}>"


def argument_digests(call: bytes, inputs: Sequence[Any], parameters: Sequence[str | None] = ()) -> dict[str, str]:
    """By "argument x", "argument 1", …: a digest of each argument of an encoded call, whose placeholder i stands for
    inputs[i]: a value, or one that is known `ByDigest`. Decoding runs the code of the arguments' classes.

    parameters: names of the positional ones, as far as they have any
    """
    args, kwargs = decode(call, inputs)
    names = [name or str(place) for place, name in enumerate(parameters[: len(args)], 1)]
    names += [str(place) for place in range(len(names) + 1, len(args) + 1)]
    named = {**dict(zip(names, args, strict=True)), **kwargs}
    return {f"argument {name}": canonical_digest(value) for name, value in named.items()}


def show_call(name: str, call: tuple[bytes, tuple[Input, ...]]) -> str:
    """The call as text: `name(1, <ref to step 3>, x=2)`."""
    try:
        args, kwargs = _open(call, None)
        parts = [_short(value) for value in args] + [f"{key}={_short(value)}" for key, value in kwargs.items()]
    except Exception as error:
        return f"{name}(… can't be read: {type(error).__name__})"
    return f"{name}({', '.join(parts)})"


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def canonical_digest(value: Any) -> str:
    """SHA-256 over a form of `value` that does not depend on identity, order of sets or the pickler's memo."""
    sha = hashlib.sha256()
    _canonical(value, sha.update, set())
    return sha.hexdigest()


def _canonical(value: Any, write: Callable[[bytes], None], above: set[int]) -> None:
    kind = type(value)
    write(f"{kind.__qualname__}(".encode())
    if isinstance(value, _StandIn) or kind in (int, float, bool, type(None), str, bytes, complex):
        write(repr(value).encode())
    elif id(value) in above:
        write(b"cycle")
    else:
        above.add(id(value))
        _canonical_parts(value, write, above)
        above.discard(id(value))
    write(b")")


def _canonical_parts(value: Any, write: Callable[[bytes], None], above: set[int]) -> None:
    kind = type(value)
    if kind in (list, tuple):
        for part in value:
            _canonical(part, write, above)
    elif kind in (set, frozenset):
        write("".join(sorted(canonical_digest(part) for part in value)).encode())
    elif kind is dict:
        for key, part in value.items():
            _canonical(key, write, above)
            _canonical(part, write, above)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            write(field.name.encode())
            _canonical(getattr(value, field.name, None), write, above)
    elif (numpy := sys.modules.get("numpy")) is not None and kind is numpy.ndarray and not value.dtype.hasobject:
        write(f"{value.dtype.str}{value.shape}".encode())
        write(numpy.ascontiguousarray(value).tobytes())
    else:
        write(encode(value).to_bytes())
