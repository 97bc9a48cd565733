"""The client in the controller's process: what it submits, what became of it, and how long the objects live.

    user's threads ─▶ remote, get, wait, put ─▶ runtime.submit, read, put
    the runtime's thread ─▶ `_told`: outcomes settle refs, refs wake whoever waits
    finalisers ─▶ notes ─▶ the housekeeper's thread ─▶ runtime.free, release, unreserve

Invariants, beside those of `settling`:

- A task that has not ended is in `tasks`, which holds what it makes; so an object is freed after its task has ended,
  and nobody can be about to submit a reader of it.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dagengine.errors import BadArguments, RuntimeStopped, WaitTimeout
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.call_options import CallOptions
from dagengine.runtime.calling import EncodedCall, Target, encode_value
from dagengine.runtime.handles import DONE, FAILED, ActorHandle, ActorToken, Group, Ref, RefStream
from dagengine.runtime.housekeeping import Housekeeper
from dagengine.runtime.owners import StreamOwner, outcome
from dagengine.runtime.protocol import (
    ActorLost,
    Broken,
    NodeFacts,
    ObjectLost,
    RuntimeEvent,
    Started,
    Succeeded,
    Yielded,
)
from dagengine.runtime.raising import exception_of, stopped
from dagengine.runtime.reserving import Groups
from dagengine.runtime.shapes import Shape, shape
from dagengine.runtime.submitting import Submitting
from dagengine.runtime.waiters import Waiter
from dagengine.values import Encoded

if TYPE_CHECKING:
    from dagengine.runtime.actor_calls import Actor


class Session(Submitting):
    """A runtime in use. Thread-safe.

    runtime: any `protocol.Runtime`, not opened yet
    ended: called once when the session is over
    """

    dropped: Callable[..., None]

    def __init__(self, runtime: Any, ended: Callable[[Session], None] | None = None) -> None:
        from dagengine.runtime.serving import Serving

        super().__init__(runtime)
        self.pid = os.getpid()
        self._ended = ended
        self.actors: dict[int, Actor] = {}
        self.groups = Groups(self)
        self._functions: dict[str, int] = {}
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
        room_timeout: float | None = None,
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
            "room_timeout": room_timeout,
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
        for number in list(self.deferred):
            found[number] = "waits for an item of a stream, or a call on an actor that may be made again"
        return {number: f"{self.name_of(number)}: {why}" for number, why in found.items()}

    def explain(self, number: int) -> dict[str, Any]:
        if number in self.deferred:
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
        self.deferred.clear()
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
            owner = self.streams.pop(number, None)
            running = owner is not None and owner.unwanted()
        if running:
            self.cancel(number, force=False)
