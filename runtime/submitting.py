"""How a session's calls become tasks of the runtime: now, or when what they read is known to the scheduler.

What the scheduler may not know (an item of a stream, a call on an actor that may be made again, a task that waits here
itself) is `_unsure`: tasks that read it are submitted when it is there.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from dagengine.errors import BadArguments, Infeasible, RuntimeStopped
from dagengine.model import Failure
from dagengine.runtime.calling import EncodedCall
from dagengine.runtime.handles import DONE, FAILED, PENDING, Ref, RefStream
from dagengine.runtime.owners import Owner, SplitOwner, StreamOwner
from dagengine.runtime.protocol import InlineInput, ObjectInput, TaskInput, TaskSpec
from dagengine.runtime.raising import cancelled, stopped
from dagengine.runtime.settling import Settling
from dagengine.runtime.shapes import Shape


class Refusal(Exception):
    """The task can't succeed, because what it reads has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Submitting(Settling):
    """`tasks`: by number, whoever is told what becomes of each that has not ended. `known`: what was pickled as itself,
    as long as it lives."""

    def __init__(self, runtime: Any) -> None:
        super().__init__(runtime)
        self.numbers = itertools.count(1)
        self.tasks: dict[int, Any] = {}
        self.known: WeakValueDictionary[Any, Any] = WeakValueDictionary()
        self.streams: dict[int, StreamOwner] = {}
        self.deferred: dict[int, Callable[[], None]] = {}

    def submit(self, shape: Shape, call: EncodedCall) -> Any:
        """A ref, a list of them if there are several results, or a stream of a generator's."""
        me: Any = self  # a session, which is a client
        number = next(self.numbers)
        if shape.streams:
            return self._submit_stream(number, shape, call)
        ref: Ref[Any] = Ref(me, (number,), shape.name)
        if call.reads or call.holds:
            ref._reads = (call.reads, call.holds)
        self.tasks[number] = ref
        self.send(number, shape.spec, call, [ref])
        return ref

    def _submit_stream(self, number: int, shape: Shape, call: EncodedCall) -> Any:
        me: Any = self
        owner: Owner
        found: Any
        if shape.options.returns > 1:
            refs: list[Ref[Any]] = [Ref(me, (number, index), shape.name) for index in range(shape.options.returns)]
            for ref in refs:
                ref._unsure = True
                ref._reads = (call.reads, call.holds)
            owner, found = SplitOwner(me, shape.name, refs), refs
        else:
            stream = StreamOwner(me, number, shape.name, call)
            self.streams[number] = stream
            owner, found = stream, RefStream(me, (number,), shape.name, stream)
        self.tasks[number] = owner
        self.send(number, shape.spec, call, [])
        return found

    def submit_owned(self, shape: Shape, call: EncodedCall, owner: Any) -> int:
        """A task whose result is handed over instead of kept: `owner` is told, on the runtime's thread, and has to keep
        what the call reads."""
        number = next(self.numbers)
        self.tasks[number] = owner
        self.send(number, shape.handed_over, call, [])
        return number

    def send(
        self,
        number: int,
        spec_of: Callable[[int, bytes, tuple[TaskInput, ...]], TaskSpec],
        call: EncodedCall,
        refs: list[Ref[Any]],
    ) -> None:
        """Submit, now or when what it reads is known to the scheduler."""
        for handle in call.holds:
            self.exported(handle)
        try:
            inputs = self.inputs(call.reads) if call.reads else ()
            if inputs is None:
                self._defer(number, spec_of, call, refs)
                return
            self.check()
            self.runtime.submit((spec_of(number, call.data, inputs),))
        except Refusal as refusal:
            self._fail(number, refusal.failure)
        except BaseException:
            self.tasks.pop(number, None)
            raise

    def inputs(self, reads: list[Ref[Any]]) -> tuple[TaskInput, ...] | None:
        """What the refs are for the runtime; None if one of them has to be waited for here. Raises Refusal."""
        me: Any = self
        found: list[TaskInput] = []
        for ref in reads:
            if ref._client is not me:
                raise BadArguments(f"{ref!r} belongs to another runtime, which may have been stopped.")
            state = ref._state
            if state == FAILED:
                assert isinstance(ref._content, Failure)
                raise Refusal(ref._content)
            data = ref._content
            if state == DONE and isinstance(data, bytes):
                found.append(InlineInput(data))
            elif state == PENDING and ref._unsure:
                return None
            else:
                found.append(ObjectInput(ref.id))
        return tuple(found)

    def _defer(self, number: int, spec_of: Any, call: EncodedCall, refs: list[Ref[Any]]) -> None:
        def go() -> None:
            if self.deferred.pop(number, None) is None:
                return
            for ref in refs:
                ref._unsure = False
            try:
                self.send(number, spec_of, call, refs)
            except Infeasible as error:
                self._fail(number, Failure("error", "dagengine.errors.Infeasible", str(error), retriable=False))
            except RuntimeStopped as error:
                self._fail(number, stopped(str(error)))

        for ref in refs:
            ref._unsure = True
        self.deferred[number] = go
        self.when_settled([ref for ref in call.reads if ref._unsure], go)

    def _fail(self, number: int, failure: Failure) -> None:
        with self.lock:
            owner = self.tasks.pop(number, None)
            if type(owner) is Ref:
                self.settle(owner, FAILED, failure)
            elif owner is not None:
                owner.failed(failure)
        self.do_later()

    def cancel(self, number: int, force: bool) -> None:
        """Drop the task if it has not begun; with `force`, end it."""
        if self.deferred.pop(number, None) is not None:
            self._fail(number, cancelled(self.name_of(number)))
            return
        with self.lock:
            owner = self.tasks.get(number)
            actor = getattr(owner, "actor", None)
            waiting = actor is not None and actor.cancel(number)
        self.do_later()
        if not waiting and owner is not None and self.over is None:
            self.runtime.cancel([(number,)], force)

    def cancel_many(self, numbers: Sequence[int]) -> None:
        """Drop those that have not begun."""
        unfinished = [number for number in numbers if number in self.tasks]
        for number in unfinished:
            if number in self.deferred:
                self.cancel(number, force=False)
        if unfinished and self.over is None:
            self.runtime.cancel([(number,) for number in unfinished])

    def name_of(self, number: int) -> str:
        return str(getattr(self.tasks.get(number), "name", "the task"))

    def exported(self, handle: Any) -> None:
        """It may come back, as long as it lives here: what it was pickled into holds it, or whoever pickled it by hand."""
        if isinstance(handle, Ref):
            self.known[handle.id] = handle
