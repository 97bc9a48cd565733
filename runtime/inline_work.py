"""One attempt in this process: a task spec in, an event out. Values go through the same bytes as between processes.

Whatever the task does short of ending the process is an event: its exceptions, `SystemExit` included, are failures.

May import nothing of ours but errors, functions, model, values and runtime modules.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextvars import Context, copy_context
from functools import partial
from types import CoroutineType
from typing import Any

from dagengine.errors import InternalError
from dagengine.functions import Reference
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime import current
from dagengine.runtime.actors import Actor
from dagengine.runtime.execution import Function
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.growth import grown, refuse_grown
from dagengine.runtime.inputs import Inputs
from dagengine.runtime.messages import Answer
from dagengine.runtime.protocol import (
    ActorId,
    Content,
    Failed,
    FileInput,
    InlineInput,
    ListInput,
    Lost,
    ObjectId,
    RuntimeEvent,
    Succeeded,
    TaskId,
    TaskInput,
    TaskSpec,
)
from dagengine.runtime.shared import LentFile, share
from dagengine.values import Encoded, Placeholder, decode, encode

WORKER = 0
"""The number that attempts are told to have run on: there is one."""


class InlineActor(Actor):
    """Its coroutines run on the thread that calls."""

    runner: asyncio.Runner | None = None

    def _wait_for(self, call: Coroutine[Any, Any, Any]) -> Any:
        if self.runner is None:
            self.runner = asyncio.Runner()
        return self.runner.run(call)

    def close(self) -> None:
        if self.runner is not None:
            self.runner.close()


class Stream:
    """A generator between two of its items. `unread`: of its objects, those that count against `ahead`."""

    def __init__(self, spec: TaskSpec, items: Iterator[Any], context: Context, started_at: float) -> None:
        self.spec = spec
        self.items = items
        self.context = context
        self.started_at = started_at
        self.count = 0
        self.unread: set[ObjectId] = set()


class Work:
    """Makes attempts, one at a time.

    open_object: the bytes of an object that is there, or why there are none
    ask: what an attempt asks whoever submitted it by (`current.inline`)
    """

    def __init__(
        self,
        open_object: Callable[[ObjectId], bytes | Failure],
        ask: Callable[[TaskId, Any, Encoded | None, bool], Answer],
    ) -> None:
        self._ask = ask
        self.functions: dict[int, Function] = {}
        self.actors: dict[ActorId, Actor] = {}
        self._open_object = open_object
        self._inputs = Inputs()

    def define(self, number: int, reference: Reference) -> None:
        self.functions[number] = Function(reference)

    def attempt(self, spec: TaskSpec) -> RuntimeEvent | Stream:
        """The attempt's end; or its generator, whose items are yet to come."""
        started_at = time.time()
        try:
            return self._begin(spec, started_at)
        except BaseException as error:
            return self.failed(spec, started_at, error)

    def failed(self, spec: TaskSpec, started_at: float, error: BaseException) -> Failed:
        if isinstance(error, _Unread):
            return Failed(spec.id, WORKER, started_at, time.time(), error.failure)
        failure = describe_failure(error, self.functions[spec.function].is_retriable)
        return Failed(spec.id, WORKER, started_at, time.time(), failure)

    def _begin(self, spec: TaskSpec, started_at: float) -> RuntimeEvent | Stream:
        context = copy_context()
        context.run(current.context.set, spec.context or None)
        context.run(current.task.set, spec.id)
        context.run(current.inline.set, partial(self._ask, spec.id))
        name = self.functions[spec.function].name
        if spec.mode == "expand":
            calls = context.run(self._expand, spec)
            return Succeeded(spec.id, WORKER, started_at, time.time(), "", 0, calls=calls)
        if spec.mode == "stream":
            return Stream(spec, items_of(context.run(self._call, spec), name), context, started_at)
        if spec.mode in ("create", "method"):
            return self._act(spec, context, started_at)
        if spec.mode not in ("call", "undo"):
            raise InternalError(f"task {spec.id} has mode {spec.mode!r}, which there is not")
        made = context.run(self._value, spec, name)
        if isinstance(made, bytes):
            return Succeeded(spec.id, WORKER, started_at, time.time(), "", 0, grown=made)
        return self.succeeded(spec, started_at, made)

    def _call(self, spec: TaskSpec) -> Any:
        call = self.functions[spec.function].resolved()
        if spec.mode == "undo":
            args, kwargs = self._arguments(spec.call, spec.inputs[:-1])
            args = (self.open(spec.inputs[-1]), *args)
        else:
            args, kwargs = self._arguments(spec.call, spec.inputs)
        return call(*args, **kwargs)

    def _value(self, spec: TaskSpec, name: str) -> Encoded | bytes:
        """What the function returned; as bytes: the calls that it returned to be made after it."""
        value = self._call(spec)
        if type(value) is CoroutineType:
            value = asyncio.run(value)
        encoded = encode(value, f"the result of {name}", "result")
        return grown(value, encoded, spec, name) if encoded.placeholders else encoded

    def _arguments(self, call: bytes, inputs: tuple[TaskInput, ...]) -> Any:
        return decode(call, [self.open(given) for given in inputs])

    def open(self, given: TaskInput) -> Any:
        """The value of an input."""
        if isinstance(given, InlineInput):
            return decode(given.data)
        if isinstance(given, FileInput):
            return self._inputs.open((given.path, given.size, given.digest, given.verify))
        if isinstance(given, ListInput):
            return [self.open(item) for item in given.items]
        found = self._open_object(given.id)
        if isinstance(found, Failure):
            raise _Unread(found)
        return decode(found)

    def _expand(self, spec: TaskSpec) -> list[bytes]:
        """One call for each item of the first argument; what else was a placeholder stays one, renumbered."""
        name = self.functions[spec.function].name
        inputs: list[Any] = [_Kept(index) for index in range(len(spec.inputs))]
        if inputs:
            inputs[0] = self.open(spec.inputs[0])
        (items, *others), kwargs = decode(spec.call, inputs)
        try:
            items = list(items)
        except TypeError:
            raise TypeError(
                f"{name}.map goes over the items of a list, and was given {type(items).__qualname__}"
            ) from None
        return [
            encode(((item, *others), kwargs), f"item {index} for {name}", "arguments").to_bytes()
            for index, item in enumerate(items)
        ]

    def succeeded(self, spec: TaskSpec, started_at: float, encoded: Encoded, state: Content | None = None) -> Succeeded:
        content = content_of(encoded)
        return Succeeded(
            spec.id,
            WORKER,
            started_at,
            time.time(),
            content.digest,
            content.size,
            content.data,
            content.shared,
            state=state,
        )

    # ---- actors -----------------------------------------------------------------------------

    def _act(self, spec: TaskSpec, context: Context, started_at: float) -> RuntimeEvent:
        work = spec.actor
        if work is None:
            raise InternalError(f"task {spec.id} is of no actor")
        if spec.mode == "method" and work.id not in self.actors:
            return lost_with_actor(spec)
        encoded, state = context.run(self._create if spec.mode == "create" else self._method, spec)
        return self.succeeded(spec, started_at, encoded, None if state is None else content_of(state))

    def _create(self, spec: TaskSpec) -> tuple[Encoded, Encoded | None]:
        work = spec.actor
        assert work is not None
        kind = self.functions[spec.function].resolved()
        if work.state is not None:
            actor = InlineActor.restored(kind, self.open(work.state))
        else:
            actor = InlineActor.constructed(kind, self._arguments(spec.call, spec.inputs))
        for replayed in work.replay:
            actor.call(replayed.method, self._arguments(replayed.call, replayed.inputs))
        left = self._left(actor, None, spec)
        self.actors[work.id] = actor
        return left

    def _method(self, spec: TaskSpec) -> tuple[Encoded, Encoded | None]:
        work = spec.actor
        assert work is not None
        actor = self.actors[work.id]
        return self._left(actor, actor.call(work.method, self._arguments(spec.call, spec.inputs)), spec)

    def end_actor(self, actor_id: ActorId) -> None:
        actor = self.actors.pop(actor_id, None)
        if isinstance(actor, InlineActor):
            actor.close()

    def _left(self, actor: Actor, value: Any, spec: TaskSpec) -> tuple[Encoded, Encoded | None]:
        """What a call has returned, and if wanted the state that it has left."""
        assert spec.actor is not None
        method = f".{spec.actor.method}" if spec.actor.method else ""
        encoded = encode(value, f"the result of {actor.name}{method}", "result")
        if encoded.placeholders:
            refuse_grown(f"the result of {actor.name}{method}")
        if not spec.actor.save_state:
            return encoded, None
        return encoded, encode(actor.state(), f"the state of {actor.name}", "state")


def content_of(encoded: Encoded) -> Content:
    """The encoded value as it is handed over."""
    if encoded.size <= INLINE_LIMIT:
        data = encoded.to_bytes()
        return Content(hashlib.sha256(data).hexdigest(), len(data), data)
    digest = encoded.digest()
    return Content(digest, encoded.size, shared=LentFile(share(encoded.segments), encoded.size, digest))


def lost_with_actor(spec: TaskSpec) -> Lost:
    message = "the actor is gone: it was ended, or was never there"
    return Lost(spec.id, WORKER, time.time(), time.time(), Failure("lost", "dagengine.errors.ActorLost", message))


def items_of(made: Any, name: str) -> Iterator[Any]:
    """The items of what a generator function has made, async ones included."""
    if hasattr(made, "__anext__"):
        return _driven(made)
    if not hasattr(made, "__next__"):
        raise TypeError(f"{name} is to yield its results, and returned {type(made).__qualname__}")
    items: Iterator[Any] = made
    return items


def _driven(made: AsyncIterator[Any]) -> Iterator[Any]:
    with asyncio.Runner() as runner:
        while True:
            try:
                yield runner.run(_next(made))
            except StopAsyncIteration:
                return


async def _next(made: AsyncIterator[Any]) -> Any:
    return await anext(made)


class _Unread(Exception):
    """An object that the task reads is not there: the task fails as the one did that was to make it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


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
