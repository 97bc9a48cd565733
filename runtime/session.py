"""The client in the controller's process: what it submits, what became of it, and how long the objects live.

    user's threads ─▶ remote, get, wait, put ─▶ runtime.submit, read, put
    the runtime's thread ─▶ `_told`: outcomes settle refs, refs wake whoever waits
    finalisers ─▶ notes ─▶ the housekeeper's thread ─▶ runtime.free, release, unreserve

Invariants:

- A ref is settled once. Its state is written with the lock held; who reads it without sees an older state at worst.
- A task that has not ended is in `_tasks`, which holds what it makes; so an object is freed after its task has ended,
  and nobody can be about to submit a reader of it.
- With the lock held nothing is called that takes another lock: what has to be done waits in `_later`.
- What the scheduler may not know yet (an item of a stream, a call on an actor that may be made again) is `_unsure`:
  tasks that read it are submitted when it is there.

May import nothing of ours but errors, model, values and runtime modules.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
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
    Content,
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
from dagengine.runtime.shapes import Shape, shape
from dagengine.runtime.waiters import Then, Waiter, add_waiter
from dagengine.values import Encoded, decode

if TYPE_CHECKING:
    from dagengine.runtime.actor_calls import Actor


class Refusal(Exception):
    """The task can't succeed, because what it reads has failed."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


class Session:
    """A runtime in use. Thread-safe.

    runtime: any `protocol.Runtime`, not opened yet
    ended: called once when the session is over
    """

    def __init__(self, runtime: Any, ended: Callable[[Session], None] | None = None) -> None:
        from dagengine.runtime.serving import Serving

        self.runtime = runtime
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.later: list[Callable[[], None]] = []
        self._ended = ended
        self._over: Failure | None = None
        self._tasks: dict[int, Any] = {}
        self._deferred: dict[int, Callable[[], None]] = {}
        self.actors: dict[int, Actor] = {}
        self._streams: dict[int, StreamOwner] = {}
        self._groups: dict[int, tuple[list[Failure | None], list[Any]]] = {}
        self._numbers = itertools.count(1)
        self._functions: dict[str, int] = {}
        self._exported: WeakValueDictionary[Any, Any] = WeakValueDictionary()
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
            first = self._over is None
            if first:
                self._over = stopped()
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
        self._over = stopped("the runtime belongs to the process that this one was forked from")
        self.housekeeper.mute()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _check(self) -> None:
        if self._over is not None:
            raise RuntimeStopped(f"there is no runtime: {self._over.message}")

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
        number = next(self._numbers)
        if shape.streams:
            return self._submit_stream(number, shape, call)
        ref: Ref[Any] = Ref(self, (number,), shape.name)
        if call.reads or call.holds:
            ref._reads = (call.reads, call.holds)
        self._tasks[number] = ref
        self._send(number, shape.spec, call, [ref])
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
        self._tasks[number] = owner
        self._send(number, shape.spec, call, [])
        return found

    def submit_owned(self, shape: Shape, call: EncodedCall, owner: Any) -> int:
        """A task whose result is handed over instead of kept: `owner` is told, on the runtime's thread, and has to keep
        what the call reads."""
        number = next(self._numbers)
        self._tasks[number] = owner
        self._send(number, shape.handed_over, call, [])
        return number

    def _send(
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
            self._check()
            self.runtime.submit((spec_of(number, call.data, inputs),))
        except Refusal as refusal:
            self._fail(number, refusal.failure)
        except BaseException:
            self._tasks.pop(number, None)
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
                self._send(number, spec_of, call, refs)
            except Infeasible as error:
                self._fail(number, Failure("error", "dagengine.errors.Infeasible", str(error), retriable=False))
            except RuntimeStopped as error:
                self._fail(number, stopped(str(error)))

        for ref in refs:
            ref._unsure = True
        self._deferred[number] = go
        self.when_settled([ref for ref in call.reads if ref._unsure], go)

    def when_settled(self, refs: list[Ref[Any]], action: Callable[[], None]) -> None:
        """Do it when all of them have ended, on whatever thread is told last."""
        with self.lock:
            pending = [ref for ref in refs if ref._state == PENDING]
            if pending:
                then = Then(len(pending), action, self.later)
                for ref in pending:
                    add_waiter(ref, then)
                return
        action()

    def _fail(self, number: int, failure: Failure) -> None:
        with self.lock:
            owner = self._tasks.pop(number, None)
            if type(owner) is Ref:
                self.settle(owner, FAILED, failure)
            elif owner is not None:
                owner.failed(failure)
        self.do_later()

    def cancel(self, number: int, force: bool) -> None:
        """Drop the task if it has not begun; with `force`, end it."""
        if self._deferred.pop(number, None) is not None:
            self._fail(number, cancelled(self._name_of(number)))
            return
        with self.lock:
            owner = self._tasks.get(number)
            actor = getattr(owner, "actor", None)
            waiting = actor is not None and actor.cancel(number)
        self.do_later()
        if not waiting and owner is not None and self._over is None:
            self.runtime.cancel([(number,)], force)

    def cancel_many(self, numbers: Sequence[int]) -> None:
        """Drop those that have not begun."""
        unfinished = [number for number in numbers if number in self._tasks]
        for number in unfinished:
            if number in self._deferred:
                self.cancel(number, force=False)
        if unfinished and self._over is None:
            self.runtime.cancel([(number,) for number in unfinished])

    def _name_of(self, number: int) -> str:
        return str(getattr(self._tasks.get(number), "name", "the task"))

    # ---- values -------------------------------------------------------------------------------

    def put(self, value: Any) -> Ref[Any]:
        if isinstance(value, Ref):
            raise BadArguments(f"{value!r} is an object already: put takes a value.")
        encoded, kept = encode_value(value)
        return self.put_encoded(encoded, kept)

    def put_encoded(self, encoded: Encoded, kept: list[Any] | None = None) -> Ref[Any]:
        """Small values stay with their ref, and travel with each task that reads them."""
        self._check()
        ref: Ref[Any] = Ref(self, (next(self._numbers),), "put")
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

    def get(self, refs: Sequence[Ref[Any]], timeout: float | None) -> list[Any]:
        """Their values, when all have ended. Raises a failed one's exception, as soon as there is one."""
        deadline = None if timeout is None else time.monotonic() + timeout
        if not self.settled(refs, len(refs), timeout, hasty=True):
            raise late(refs, timeout)
        for ref in refs:
            if ref._state == FAILED:
                assert isinstance(ref._content, Failure)
                raise exception_of(ref._content, ref.name)
        contents = self._contents(refs, deadline, timeout)
        return [decode_content(found) for found in contents]

    def _contents(
        self, refs: Sequence[Ref[Any]], deadline: float | None, timeout: float | None
    ) -> list[bytes | Content]:
        contents: list[Any] = [ref._content for ref in refs]
        large = [index for index, content in enumerate(contents) if content is None]
        if not large:
            return contents
        waiter = Waiter(len(large))
        abandoned = False

        def reader(index: int) -> Callable[[Content | Failure], None]:
            def told(content: Content | Failure) -> None:
                with self.lock:
                    contents[index] = content
                    waiter.one()
                    unwanted = abandoned
                if unwanted and isinstance(content, Content) and content.shared is not None:
                    content.shared.close()

            return told

        self._check()
        for index in large:
            self.runtime.read(refs[index].id, reader(index))
        try:
            in_time = waiter.wait(None if deadline is None else deadline - time.monotonic())
        except BaseException:
            abandoned = True
            raise
        if not in_time:
            with self.lock:
                abandoned = waiter.left > 0
            if abandoned:
                raise late(refs, timeout)
        for index in large:
            if isinstance(contents[index], Failure):
                raise exception_of(contents[index], refs[index].name)
        return contents

    def settled(self, refs: Sequence[Ref[Any]], count: int, timeout: float | None, hasty: bool = False) -> bool:
        """Wait until `count` of them have ended, or if it is `hasty`, one has failed. False: not in time."""
        for ref in refs:
            if ref._client is not self:
                raise BadArguments(f"{ref!r} belongs to another runtime, which may have been stopped.")
        with self.lock:
            pending = [ref for ref in refs if ref._state == PENDING]
            missing = count - (len(refs) - len(pending))
            if missing <= 0 or (hasty and any(ref._state == FAILED for ref in refs)):
                return True
            if timeout is not None and timeout <= 0:
                return False
            waiter = Waiter(missing, hasty)
            for ref in pending:
                add_waiter(ref, waiter)
        done = False
        try:
            done = waiter.wait(timeout)
        finally:
            if not done or hasty or missing < len(pending):
                with self.lock:
                    for ref in pending:
                        if ref._waiters is not None and waiter in ref._waiters:
                            ref._waiters.remove(waiter)
        return done

    def wait(self, refs: Sequence[Ref[Any]], count: int, timeout: float | None) -> list[bool]:
        """For each whether it has ended, when `count` have or the time is over."""
        self.settled(refs, count, timeout)
        return [ref._state != PENDING for ref in refs]

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

    # ---- actors, groups -----------------------------------------------------------------------

    def create_actor(self, shape: Shape, call: EncodedCall, methods: tuple[str, ...]) -> ActorHandle[Any]:
        from dagengine.runtime.actor_calls import Actor

        self._check()
        actor = Actor(self, next(self._numbers), shape, call, methods)
        token = ActorToken(self, actor.number)
        with self.lock:
            name = shape.options.name
            if name is not None and any(other.public == name and not other.over for other in self.actors.values()):
                raise BadArguments(f"there is an actor named {name} already: rt.actor({name!r}) is it.")
            self._exported[("actor", actor.number)] = token
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

        self._check()
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
                    token = self._exported.get(("actor", actor.number))
                    if token is not None:
                        return ActorHandle(token, actor.name, actor.methods)
        return None

    def group(self, bundles: list[CallOptions], shown: list[dict[str, Any]], strategy: str) -> Group:
        self._check()
        number = next(self._numbers)
        answers: list[Failure | None] = []
        waiters: list[Any] = []

        def told(failure: Failure | None) -> None:
            with self.lock:
                answers.append(failure)
                for waiter in waiters:
                    waiter.one()
            self.do_later()

        self._groups[number] = (answers, waiters)
        try:
            self.runtime.reserve((number,), [bundle.demand() for bundle in bundles], strategy, told)
        except BaseException:
            del self._groups[number]
            raise
        return Group(self, number, shown, strategy)

    def group_ready(self, group: Group, timeout: float | None) -> None:
        answers, waiters = self._groups[group.id[0]]
        with self.lock:
            waiter = None if answers else Waiter(1)
            if waiter is not None:
                waiters.append(waiter)
        if waiter is not None and not waiter.wait(timeout):
            raise WaitTimeout(f"{group!r} was not set aside within {timeout:g} s", task="")
        if answers[0] is not None:
            raise Infeasible(answers[0].message)

    def when_group(self, number: int, action: Callable[[], None]) -> list[Failure | None]:
        """The answer to come; `action` is done when it is there."""
        answers, waiters = self._groups[number]
        with self.lock:
            if not answers:
                waiters.append(Then(1, action, self.later))
                return answers
        action()
        return answers

    def ungroup(self, number: int) -> None:
        if self._groups.pop(number, None) is not None and self._over is None:
            self.runtime.unreserve((number,))

    # ---- what crosses as itself ---------------------------------------------------------------

    def exported(self, handle: Any) -> None:
        """It may come back, as long as it lives here: what it was pickled into holds it, or whoever pickled it by hand."""
        if isinstance(handle, Ref):
            self._exported[handle.id] = handle

    def adopted_ref(self, number: tuple[int, ...], name: str) -> Ref[Any]:
        ref: Ref[Any] | None = self._exported.get(number)
        if ref is None:
            raise BadArguments(f"the ref {number} of {name} can't be brought back: its object was freed.")
        return ref

    def adopted_actor(self, number: int, name: str, methods: tuple[str, ...]) -> ActorHandle[Any]:
        token = self._exported.get(("actor", number))
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
        return {number: f"{self._name_of(number)}: {why}" for number, why in found.items()}

    def explain(self, number: int) -> dict[str, Any]:
        if number in self._deferred:
            return {"state": "waiting", "waits_for": self.waits()[number]}
        found: dict[str, Any] = self.runtime.explain((number,))
        return found

    # ---- the runtime's thread -----------------------------------------------------------------

    def _told(self, events: list[RuntimeEvent]) -> None:
        tasks = self._tasks
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
            owner = self._tasks.get(event.id[0])
            if owner is not None:
                owner.yielded(event)
            else:
                self.housekeeper.note(event.object)
        elif isinstance(event, ActorLost):
            actor = self.actors.get(event.actor[0])
            if actor is not None:
                actor.lost(event.actor, event.failure)
        elif isinstance(event, Broken):
            self._over = event.failure
            self.later.append(lambda: self._end(event.failure))
        elif not isinstance(event, (ObjectLost, Started, Succeeded)):
            owner = self._tasks.pop(event.id[0], None)
            if type(owner) is Ref:
                self.settle(owner, FAILED, outcome(event, owner.name, self._over))
            elif owner is not None:
                owner.ended_badly(event)

    def settle(self, ref: Ref[Any], state: int, content: bytes | Failure | None) -> None:
        """With the lock held."""
        if ref._state != PENDING:
            return
        ref._content = content
        ref._state = state
        ref._reads = None
        ref._unsure = False
        waiters, ref._waiters = ref._waiters, None
        if waiters is not None:
            for waiter in waiters:
                waiter.one(state == FAILED)

    def do_later(self) -> None:
        """Without the lock."""
        while self.later:
            with self.lock:
                actions = self.later[:]
                self.later.clear()
            for action in actions:
                action()

    def _end(self, failure: Failure) -> None:
        """Nothing more will come."""
        self._over = failure
        self._deferred.clear()
        with self.lock:
            for actor in list(self.actors.values()):
                actor.end(failure)
            tasks, self._tasks = self._tasks, {}
            for owner in tasks.values():
                if type(owner) is Ref:
                    self.settle(owner, FAILED, failure)
                else:
                    owner.failed(failure)
            for answers, waiters in self._groups.values():
                if not answers:
                    answers.append(failure)
                    for waiter in waiters:
                        waiter.one()
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


def late(refs: Sequence[Ref[Any]], timeout: float | None) -> WaitTimeout:
    missing = [ref for ref in refs if ref._state == PENDING] or list(refs)
    others = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    name = missing[0].name
    return WaitTimeout(f"no result of {name}{others} within {timeout:g} s", task=name)


def decode_content(content: bytes | Content) -> Any:
    """The value; of a large one, as a view on shared memory that stays as long as the value does."""
    if isinstance(content, bytes):
        return decode(content)
    if content.data is not None:
        return decode(content.data)
    assert content.shared is not None
    view = content.shared.view()
    content.shared.close()
    return decode(view)
