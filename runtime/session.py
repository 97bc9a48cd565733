"""The client in the controller's process: what it submits, what became of it, and how long the objects live.

    user's threads ─▶ remote, get, wait, put ─▶ runtime.submit, read, put
    the runtime's thread ─▶ `_told`: outcomes settle refs, refs wake whoever waits
    finalisers ─▶ notes ─▶ the housekeeper's thread ─▶ runtime.free, release, unreserve

Invariants, beside those of `settling`:

- A task that has not ended is in `tasks`, which holds what it makes; so an object is freed after its task has ended,
  and nobody can be about to submit a reader of it.
- What the scheduler may not know yet (an item of a stream, a call on an actor that may be made again) is `_unsure`:
  tasks that read it are submitted when it is there.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from dagengine.errors import BadArguments, Infeasible, RuntimeStopped, WaitTimeout
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import EncodedCall, Target, encode_value
from dagengine.runtime.handles import DONE, FAILED, PENDING, ActorHandle, ActorToken, Group, Ref, RefStream
from dagengine.runtime.housekeeping import Housekeeper
from dagengine.runtime.owners import Owner, SplitOwner, StreamOwner, outcome
from dagengine.runtime.protocol import (
    ActorLost,
    Broken,
    InlineInput,
    NodeFacts,
    ObjectInput,
    ObjectLost,
    RuntimeEvent,
    Started,
    Succeeded,
    TaskInput,
    TaskSpec,
    Yielded,
)
from dagengine.runtime.raising import cancelled, exception_of, stopped
from dagengine.runtime.reserving import Groups
from dagengine.runtime.settling import Settling
from dagengine.runtime.shapes import Shape, shape
from dagengine.runtime.waiters import Waiter
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.runtime.actor_calls import Actor


class Refusal(Exception):
    """The task can't succeed, because what it reads has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Session(Settling):
    """A runtime in use. Thread-safe.

    runtime: any `protocol.Runtime`, not opened yet
    ended: called once when the session is over
    """

    def __init__(self, runtime: Any, ended: Callable[[Session], None] | None = None) -> None:
        from dagengine.runtime.serving import Serving

        super().__init__(runtime)
        self.pid = os.getpid()
        self._ended = ended
        self.tasks: dict[int, Any] = {}
        self._deferred: dict[int, Callable[[], None]] = {}
        self.actors: dict[int, Actor] = {}
        self._streams: dict[int, StreamOwner] = {}
        self.groups = Groups(self)
        self.numbers = itertools.count(1)
        self._functions: dict[str, int] = {}
        self.known: WeakValueDictionary[Any, Any] = WeakValueDictionary()
        self.housekeeper = Housekeeper(self._give_up)
        self.dropped = self.housekeeper.note
        self.serving = Serving(self)
        runtime.serving = self.serving
        runtime.open(self._told)

    @classmethod
    def open(
        cls,
        workers: int | None = None,
        *,
        memory: int | None = None,
        object_memory: int | None = None,
        spill: str | Sequence[str] | None = None,
        gpus: int | None = None,
        gpu_memory: int | None = None,
        resources: dict[str, float] | None = None,
        stopped: Callable[[Session], None] | None = None,
    ) -> Session:
        from dagengine.runtime.processes import ProcessRuntime

        settings: dict[str, Any] = {
            "memory": memory,
            "object_memory": object_memory,
            "spill": None if spill is None else (spill,) if isinstance(spill, str) else tuple(spill),
            "gpus": gpus,
            "gpu_memory": gpu_memory,
            "resources": resources,
        }
        given = {name: value for name, value in settings.items() if value is not None}
        return cls(ProcessRuntime(workers or len(os.sched_getaffinity(0)), **given), stopped)

    def stop(self, force: bool = True) -> None:
        """End it: running tasks are killed, or without `force` waited for. What has no result fails. Harmless twice."""
        with self.lock:
            first = self.over is None
            if first:
                self.over = stopped()
        if self.pid != os.getpid():
            return
        self.runtime.close(force)
        self._end(stopped())
        if first:
            self.housekeeper.close()
            if self._ended is not None:
                self._ended(self)

    def abandon(self) -> None:
        """In a fork of the process: nothing of this session works there, and nothing may be ended from there."""
        self.over = stopped("the runtime belongs to the process that this one was forked from")
        self.housekeeper.mute()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ---- functions ----------------------------------------------------------------------------

    def declare(self, target: Target, options: CallOptions) -> Shape:
        """Announce a function to the workers; once for each that differs."""
        key = repr(sorted(target.reference.items()))
        with self.lock:
            number = self._functions.get(key)
            if number is None:
                number = self._functions[key] = len(self._functions) + 1
                self.runtime.define(number, target.reference)
        return shape(number, target.name, target.streams, options)

    # ---- tasks --------------------------------------------------------------------------------

    def submit(self, shape: Shape, call: EncodedCall) -> Any:
        """A ref, a list of them if there are several results, or a stream of a generator's."""
        number = next(self.numbers)
        if shape.streams:
            return self._submit_stream(number, shape, call)
        ref: Ref[Any] = Ref(self, (number,), shape.name)
        if call.reads or call.holds:
            ref._reads = (call.reads, call.holds)
        self.tasks[number] = ref
        self.send(number, shape.spec, call, [ref])
        return ref

    def _submit_stream(self, number: int, shape: Shape, call: EncodedCall) -> Any:
        owner: Owner
        found: Any
        if shape.options.returns > 1:
            refs: list[Ref[Any]] = [Ref(self, (number, index), shape.name) for index in range(shape.options.returns)]
            for ref in refs:
                ref._unsure = True
                ref._reads = (call.reads, call.holds)
            owner, found = SplitOwner(self, shape.name, refs), refs
        else:
            stream = StreamOwner(self, number, shape.name, call)
            self._streams[number] = stream
            owner, found = stream, RefStream(self, (number,), shape.name, stream)
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
        found: list[TaskInput] = []
        for ref in reads:
            if ref._client is not self:
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
            if self._deferred.pop(number, None) is None:
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
        self._deferred[number] = go
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
        if self._deferred.pop(number, None) is not None:
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
            if number in self._deferred:
                self.cancel(number, force=False)
        if unfinished and self.over is None:
            self.runtime.cancel([(number,) for number in unfinished])

    def name_of(self, number: int) -> str:
        return str(getattr(self.tasks.get(number), "name", "the task"))

    # ---- values -------------------------------------------------------------------------------

    def put(self, value: Any) -> Ref[Any]:
        if isinstance(value, Ref):
            raise BadArguments(f"{value!r} is an object already: put takes a value.")
        encoded, kept = encode_value(value)
        return self.put_encoded(encoded, kept)

    def put_encoded(self, encoded: Encoded, kept: list[Any] | None = None) -> Ref[Any]:
        """Small values stay with their ref, and travel with each task that reads them."""
        self.check()
        ref: Ref[Any] = Ref(self, (next(self.numbers),), "put")
        if encoded.size <= INLINE_LIMIT:
            ref._content = encoded.to_bytes()
        else:
            self.runtime.put(ref.id, encoded)
        if kept:
            ref._contains = kept
            for handle in kept:
                self.exported(handle)
        ref._state = DONE
        return ref

    # ---- streams ------------------------------------------------------------------------------

    def next_item(self, stream: RefStream[Any], timeout: float | None) -> Ref[Any]:
        owner: StreamOwner = stream._state
        while True:
            with self.lock:
                found = owner.take()
                if found is not None:
                    return found
                if owner.failure is not None:
                    raise exception_of(owner.failure, owner.name)
                if owner.ended:
                    raise StopIteration
                waiter = Waiter(1)
                owner.waiters.append(waiter)
            if not waiter.wait(timeout):
                raise WaitTimeout(f"{owner.name} has not yielded anything within {timeout:g} s", task=owner.name)

    # ---- actors -----------------------------------------------------------------------

    def create_actor(self, shape: Shape, call: EncodedCall, methods: tuple[str, ...]) -> ActorHandle[Any]:
        from dagengine.runtime.actor_calls import Actor

        self.check()
        actor = Actor(self, next(self.numbers), shape, call, methods)
        token = ActorToken(self, actor.number)
        with self.lock:
            name = shape.options.name
            if name is not None and any(other.public == name and not other.over for other in self.actors.values()):
                raise BadArguments(f"there is an actor named {name} already: rt.actor({name!r}) is it.")
            self.known[("actor", actor.number)] = token
            self.actors[actor.number] = actor
        try:
            actor.create()
        except BaseException:
            self.actors.pop(actor.number, None)
            raise
        return ActorHandle(token, actor.name, methods)

    def call_actor(
        self, handle: ActorHandle[Any], method: str, args: tuple[Any, ...], kwargs: dict[str, Any], changes: Any
    ) -> Ref[Any]:
        from dagengine.runtime.calling import encode_call

        self.check()
        call = encode_call(args, kwargs, f"{handle._name}.{method}", self.put_encoded)
        return self.actors[handle._token.number].call(method, call, changes)

    def kill(self, handle: ActorHandle[Any]) -> None:
        self.kill_number(handle._token.number)

    def kill_number(self, number: int) -> None:
        with self.lock:
            self.actors[number].kill()
        self.do_later()

    def named_actor(self, name: str) -> ActorHandle[Any] | None:
        with self.lock:
            for actor in self.actors.values():
                if actor.public == name and not actor.over:
                    token = self.known.get(("actor", actor.number))
                    if token is not None:
                        return ActorHandle(token, actor.name, actor.methods)
        return None

    def group(self, bundles: list[CallOptions], shown: list[dict[str, Any]], strategy: str) -> Group:
        self.check()
        return self.groups.reserve(next(self.numbers), bundles, shown, strategy)

    def group_ready(self, group: Group, timeout: float | None) -> None:
        self.groups.await_ready(group, timeout)

    def ungroup(self, number: int) -> None:
        self.groups.give_back(number)

    # ---- what crosses as itself ---------------------------------------------------------------

    def exported(self, handle: Any) -> None:
        """It may come back, as long as it lives here: what it was pickled into holds it, or whoever pickled it by hand."""
        if isinstance(handle, Ref):
            self.known[handle.id] = handle

    def adopted_ref(self, number: tuple[int, ...], name: str) -> Ref[Any]:
        ref: Ref[Any] | None = self.known.get(number)
        if ref is None:
            raise BadArguments(f"the ref {number} of {name} can't be brought back: its object was freed.")
        return ref

    def adopted_actor(self, number: int, name: str, methods: tuple[str, ...]) -> ActorHandle[Any]:
        token = self.known.get(("actor", number))
        if token is None:
            raise BadArguments(f"the handle of actor {name} can't be brought back: the actor has ended.")
        return ActorHandle(token, name, methods)

    # ---- facts --------------------------------------------------------------------------------

    def nodes(self) -> list[NodeFacts]:
        found: list[NodeFacts] = self.runtime.nodes()
        return found

    def stats(self) -> dict[str, int | float]:
        found: dict[str, int | float] = self.runtime.stats()
        return found

    def waits(self) -> dict[Any, str]:
        """For each unfinished task, by its number, what it waits for."""
        found: dict[Any, str] = {task[0]: why for task, why in self.runtime.waits().items()}
        for number in list(self._deferred):
            found[number] = "waits for an item of a stream, or a call on an actor that may be made again"
        return {number: f"{self.name_of(number)}: {why}" for number, why in found.items()}

    def explain(self, number: int) -> dict[str, Any]:
        if number in self._deferred:
            return {"state": "waiting", "waits_for": self.waits()[number]}
        found: dict[str, Any] = self.runtime.explain((number,))
        return found

    # ---- the runtime's thread -----------------------------------------------------------------

    def _told(self, events: list[RuntimeEvent]) -> None:
        tasks = self.tasks
        with self.lock:
            for event in events:
                if type(event) is Succeeded:
                    owner = tasks.pop(event.id[0], None)
                    if type(owner) is Ref:
                        self.settle(owner, DONE, event.data)
                    elif owner is not None:
                        owner.succeeded(event)
                elif type(event) is Started:
                    continue
                else:
                    self._told_else(event)
        self.do_later()

    def _told_else(self, event: RuntimeEvent) -> None:
        if isinstance(event, Yielded):
            owner = self.tasks.get(event.id[0])
            if owner is not None:
                owner.yielded(event)
            else:
                self.housekeeper.note(event.object)
        elif isinstance(event, ActorLost):
            actor = self.actors.get(event.actor[0])
            if actor is not None:
                actor.lost(event.actor, event.failure)
        elif isinstance(event, Broken):
            self.over = event.failure
            self.later.append(lambda: self._end(event.failure))
        elif not isinstance(event, (ObjectLost, Started, Succeeded)):
            owner = self.tasks.pop(event.id[0], None)
            if type(owner) is Ref:
                self.settle(owner, FAILED, outcome(event, owner.name, self.over))
            elif owner is not None:
                owner.ended_badly(event)

    def _end(self, failure: Failure) -> None:
        """Nothing more will come."""
        self.over = failure
        self._deferred.clear()
        with self.lock:
            for actor in list(self.actors.values()):
                actor.end(failure)
            tasks, self.tasks = self.tasks, {}
            for owner in tasks.values():
                if type(owner) is Ref:
                    self.settle(owner, FAILED, failure)
                else:
                    owner.failed(failure)
            self.groups.end(failure)
        self.do_later()

    # ---- the housekeeper's thread -------------------------------------------------------------

    def _give_up(self, keys: list[tuple[Any, ...]]) -> None:
        """The last handles of these are gone."""
        try:
            self._give_up_now(keys)
        except RuntimeStopped:
            return  # and with it all that was to be given up

    def _give_up_now(self, keys: list[tuple[Any, ...]]) -> None:
        objects = []
        for key in keys:
            if key[0] == "actor":
                with self.lock:
                    actor = self.actors.get(key[1])
                    if actor is not None:
                        actor.release()
                self.do_later()
            elif key[0] == "stream":
                self._stop_stream(key[1])
            elif key[0] == "group":
                self.ungroup(key[1])
            else:
                objects.append(key)
        if objects:
            self.runtime.free(objects)

    def _stop_stream(self, number: int) -> None:
        with self.lock:
            owner = self._streams.pop(number, None)
            running = owner is not None and owner.unwanted()
        if running:
            self.cancel(number, force=False)
