"""One attempt: a Run message in, a result message out. Workers and the inline runtime share it.

Whatever the task does short of ending the process becomes a message: its exceptions, `SystemExit` included, are
failures of the task.

May import nothing of ours but errors, functions, model, values and runtime modules.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextvars import copy_context
from hashlib import sha256
from types import CoroutineType
from typing import Any

from dagengine.errors import InternalError
from dagengine.functions import Reference, resolve
from dagengine.model import INLINE_LIMIT
from dagengine.runtime import current
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.inputs import Inputs
from dagengine.runtime.messages import Define, Done, Erred, Expanded, Result, Run
from dagengine.runtime.shared import SharedFile, share_value
from dagengine.values import Encoded, Placeholder, decode, encode


class Function:
    """A defined function, found at its first use, so that what goes wrong then is a failure of the task that asked."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._call: Callable[..., Any] | None = None
        self.name = reference.qualname.rpartition(".")[2]
        self.is_retriable: Callable[[BaseException], bool] | None = None

    def resolved(self) -> Callable[..., Any]:
        """The plain function. Raises LoadError, or whatever its module raises."""
        if self._call is None:
            found = resolve(self._reference)
            self.is_retriable = getattr(found, "is_retriable", None)
            # A decorated function is an object with the plain one inside.
            self._call = getattr(found, "function", found)
        return self._call


class Executor:
    """Runs attempts, one at a time."""

    def __init__(self) -> None:
        self._functions: dict[int, Function] = {}
        self._inputs = Inputs()

    def define(self, message: Define) -> None:
        sys.path += [folder for folder in message.path if folder not in sys.path]
        self._functions[message.number] = Function(Reference.from_json(message.reference))

    def execute(self, run: Run) -> tuple[Result, SharedFile | None]:
        """The result message, and the descriptor that it owns, if it does."""
        function = self._functions.get(run.function)
        if function is None:
            raise InternalError(f"task {run.id} is of function {run.function}, which was not defined")
        # Where began and end are told apart in seconds only, wall clock; the time that it took comes from them, too.
        started_at = time.time()
        try:
            if run.expand:
                calls = copy_context().run(self._expand, function, run)
                return Expanded(run.id, started_at, time.time(), calls), None
            encoded = copy_context().run(self._call, function, run)
            if encoded.size <= INLINE_LIMIT:
                data = encoded.to_bytes()
                digest = sha256(data).hexdigest()
                return Done(run.id, started_at, time.time(), digest, encoded.size, data), None
            shared = share_value(encoded)
            return Done(run.id, started_at, time.time(), shared.digest, shared.size, None), shared
        except BaseException as error:
            failure = describe_failure(error, function.is_retriable)
            return Erred(run.id, started_at, time.time(), failure), None

    def _call(self, function: Function, run: Run) -> Encoded:
        current.context.set(run.context)
        call = function.resolved()
        args, kwargs = decode(run.call, [self._inputs.open(given) for given in run.inputs])
        value = call(*args, **kwargs)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
        return encode(value, f"the result of {function.name}", "result")

    def _expand(self, function: Function, run: Run) -> list[bytes]:
        """One call for each item of the first argument; what else was a placeholder stays one, renumbered."""
        inputs: list[Any] = [_Kept(index) for index in range(len(run.inputs))]
        if inputs:
            inputs[0] = self._inputs.open(run.inputs[0])
        (items, *others), kwargs = decode(run.call, inputs)
        try:
            items = list(items)
        except TypeError:
            raise TypeError(
                f"{function.name}.map goes over the items of a list, and was given {type(items).__qualname__}"
            ) from None
        return [
            encode(((item, *others), kwargs), f"item {index} for {function.name}", "arguments").to_bytes()
            for index, item in enumerate(items)
        ]


class _Kept(Placeholder):
    """Stands for input `index` of the map; in the calls of its items it is input `index` - 1, as the list is gone.

    It writes its own number instead of being counted, so that the order in which a call is pickled does not matter.
    """

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        read, _ = super().__reduce__()
        return read, (self.index - 1,)
