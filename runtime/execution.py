"""One attempt: a Run message in, a result message out. Workers and runtimes within a process share it.

Whatever the task does short of ending the process becomes a message: its exceptions, `SystemExit` included, are
failures of the task. (`Terminated` is not the task's: the worker ends.)

May import nothing of ours but errors, functions, model, packs, values and runtime modules.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextvars import copy_context
from hashlib import sha256
from types import CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

from dagengine.errors import InternalError
from dagengine.functions import Reference, resolve
from dagengine.model import INLINE_LIMIT
from dagengine.packs import install_file
from dagengine.runtime import current
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.hosting import Host
from dagengine.runtime.messages import Define, Done, Erred, Expanded, Result, Run, Written
from dagengine.values import Encoded, Placeholder, decode, encode

if TYPE_CHECKING:
    from dagengine.runtime.actors import Actor


class Function:
    """A defined function or class, found at its first use, so that what goes wrong then is a failure of the task that
    asked."""

    def __init__(self, reference: Reference, pack: str = "") -> None:
        self._reference = reference
        self._pack = pack
        self._call: Callable[..., Any] | None = None
        self.name = reference.qualname.rpartition(".")[2]
        self.is_retriable: Callable[[BaseException], bool] | None = None

    def resolved(self) -> Callable[..., Any]:
        """The plain function or class. Raises LoadError, or whatever its module raises."""
        if self._call is None:
            if self._pack:
                install_file(self._pack)
            found = resolve(self._reference)
            self.is_retriable = getattr(found, "is_retriable", None)
            # What a decorator has made is an object with the plain one inside; a plain class may have such a method.
            if isinstance(found, (type, FunctionType)):
                self._call = found
            else:
                self._call = getattr(found, "in_attempt", None) or getattr(found, "function", found)
        return self._call


class Executor:
    """Makes attempts. `execute` may run on several threads at a time.

    actor: what a "create" has made; there is one for each executor
    functions: what is defined, where executors share it
    """

    def __init__(self, host: Host, functions: dict[int, Function] | None = None) -> None:
        self.actor: Actor | None = None
        self._functions = {} if functions is None else functions
        self._host = host

    def define(self, message: Define) -> None:
        """Before the first Run of that function."""
        sys.path += [folder for folder in message.path if folder not in sys.path]
        self._functions[message.number] = Function(Reference.from_json(message.reference), message.pack)

    def execute(self, run: Run) -> Result:
        """Make the attempt on this thread."""
        function = self._function(run)
        # Where began and end are told apart in seconds only, wall clock; the time that it took comes from them, too.
        started_at = time.time()
        try:
            mode = run.mode
            if mode in ("call", "undo"):
                result = copy_context().run(self._call, function, run)
                if isinstance(result, bytes):
                    return Expanded(run.id, started_at, time.time(), [], result)
                return Done(run.id, started_at, time.time(), result)
            if mode == "expand":
                calls = copy_context().run(self._expand, function, run)
                return Expanded(run.id, started_at, time.time(), calls)
            if mode == "stream":
                result = copy_context().run(self._stream, function, run)
                return Done(run.id, started_at, time.time(), result)
            if mode == "create":
                result, state = copy_context().run(self._create, function, run)
            else:
                result, state = copy_context().run(self._method, run)
            return Done(run.id, started_at, time.time(), result, state)
        except current.Terminated:
            raise
        except BaseException as error:
            return self._erred(run, function, started_at, error)

    async def execute_later(self, run: Run) -> Result:
        """A call of an actor's async method, on the actor's loop."""
        function = self._function(run)
        started_at = time.time()
        try:
            self._enter(run)
            actor = self._existing_actor()
            value = await actor.call_later(run.method, self._arguments(run))
            values = self._encode_call(run, actor, value)
            if any(encoded is not None and encoded.size > INLINE_LIMIT for encoded in values):
                import asyncio

                # It may wait for room: the loop's other calls go on.
                result, state = await asyncio.to_thread(self._write_call, run, *values)
            else:
                result, state = self._write_call(run, *values)
            return Done(run.id, started_at, time.time(), result, state)
        except BaseException as error:
            return self._erred(run, function, started_at, error)

    def _function(self, run: Run) -> Function:
        function = self._functions.get(run.function)
        if function is None:
            raise InternalError(f"task {run.id} is of function {run.function}, which was not defined")
        return function

    def _erred(self, run: Run, function: Function, started_at: float, error: BaseException) -> Erred:
        return Erred(run.id, started_at, time.time(), describe_failure(error, function.is_retriable))

    # ---- modes ----------------------------------------------------------------------------------

    def _enter(self, run: Run) -> None:
        current.context.set(run.context)
        current.task.set(run.id)

    def _arguments(self, run: Run) -> Any:
        return decode(run.call, [self._host.open(given) for given in run.inputs] if run.inputs else ())

    def _arguments_to_undo(self, run: Run) -> Any:
        *inputs, result = [self._host.open(given) for given in run.inputs]
        args, kwargs = decode(run.call, inputs)
        return (result, *args), kwargs

    def _call(self, function: Function, run: Run) -> Written | bytes:
        """What the function returned; as bytes: the calls that it returned to be made after it."""
        self._enter(run)
        call = function.resolved()
        args, kwargs = self._arguments(run) if run.mode == "call" else self._arguments_to_undo(run)
        value = call(*args, **kwargs)
        if type(value) is CoroutineType:
            import asyncio

            value = asyncio.run(value)
        encoded = encode(value, f"the result of {function.name}", "result")
        if encoded.placeholders:
            from dagengine.runtime.growth import grown

            return grown(value, encoded, run, function.name)
        return self.written(encoded, run)

    def _stream(self, function: Function, run: Run) -> Written:
        from dagengine.runtime.streams import stream

        self._enter(run)
        call = function.resolved()
        args, kwargs = self._arguments(run)
        count = stream(call(*args, **kwargs), function.name, run, self._host, self.written)
        return self.written(encode(count), run)

    def _create(self, function: Function, run: Run) -> tuple[Written, Written | None]:
        from dagengine.runtime.actors import Actor

        self._enter(run)
        kind = function.resolved()
        if run.state is not None:
            actor = Actor.restored(kind, self._host.open(run.state))
        else:
            actor = Actor.constructed(kind, self._arguments(run))
        for method, call, inputs in run.replay:
            actor.call(method, decode(call, [self._host.open(given) for given in inputs]))
        self.actor = actor
        return self._finish_call(run, actor, None)

    def _method(self, run: Run) -> tuple[Written, Written | None]:
        self._enter(run)
        actor = self._existing_actor()
        return self._finish_call(run, actor, actor.call(run.method, self._arguments(run)))

    def _finish_call(self, run: Run, actor: Actor, value: Any) -> tuple[Written, Written | None]:
        return self._write_call(run, *self._encode_call(run, actor, value))

    def _encode_call(self, run: Run, actor: Actor, value: Any) -> tuple[Encoded, Encoded | None]:
        """What a call of the actor's has returned, and if wanted the state that it has left."""
        what = f"the result of {actor.name}.{run.method}" if run.method else f"the result of {actor.name}"
        result = encode(value, what, "result")
        if result.placeholders:
            from dagengine.runtime.growth import refuse_grown

            refuse_grown(what)
        if not run.save_state:
            return result, None
        return result, encode(actor.state(), f"the state of {actor.name}", "state")

    def _write_call(self, run: Run, result: Encoded, state: Encoded | None) -> tuple[Written, Written | None]:
        return self.written(result, run), None if state is None else self.written(state, run)

    def _existing_actor(self) -> Actor:
        if self.actor is None:
            raise InternalError("a call was sent to a worker that has no actor")
        return self.actor

    def written(self, encoded: Encoded, run: Run) -> Written:
        """Hand an encoded value over: in the message itself if it is small."""
        if encoded.size > INLINE_LIMIT:
            return self._host.store(encoded, run.hashed, run.id)
        data = encoded.to_bytes()
        return Written(sha256(data).hexdigest() if run.hashed else "", len(data), data)

    def _expand(self, function: Function, run: Run) -> list[bytes]:
        """One call for each item of the first argument; what else was a placeholder stays one, renumbered."""
        self._enter(run)
        inputs: list[Any] = [_Kept(index) for index in range(len(run.inputs))]
        if inputs:
            inputs[0] = self._host.open(run.inputs[0])
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
