"""Tasks one after the other on a thread of this process: for tests and for debugging with breakpoints and prints.

Values go through the same bytes as with worker processes, so what can't cross between processes fails here, too. What
needs a process of its own is not there: timeouts are not enforced, a running task can't be ended, output goes where
this process's output goes instead of to `TaskSpec.log`, and a task that ends the process ends this one. Concurrent calls
on an actor come one after the other, objects are never spilled, and streams make one item whenever they may.

    queue ─▶ the first entry that can go on: a task whose objects are there, an actor to end, a stream with credit

Of one actor's entries the first goes first. May import nothing of ours but base modules and runtime
modules.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

from dagengine.errors import Infeasible, InternalError, RuntimeStopped
from dagengine.functions import Reference
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.inline_groups import Groups, misfit
from dagengine.runtime.inline_objects import Found, Objects, read_by
from dagengine.runtime.inline_work import WORKER, Stream, Work, content_of, lost_with_actor
from dagengine.runtime.memory import memory_capacity
from dagengine.runtime.messages import Answer
from dagengine.runtime.protocol import (
    NO_CODE,
    ActorId,
    Asked,
    CodePack,
    Content,
    Dropped,
    Failed,
    GroupId,
    NodeFacts,
    ObjectId,
    Resources,
    RuntimeEvent,
    Started,
    Succeeded,
    TaskId,
    TaskSpec,
    Yielded,
)
from dagengine.runtime.raising import stopped
from dagengine.values import Encoded, encode

Sink = Callable[[list[RuntimeEvent]], None]


class _Release:
    """An actor that ends when what was submitted to it before has ended."""

    def __init__(self, actor: ActorId) -> None:
        self.actor = actor


Entry = TaskSpec | Stream | _Release


class InlineRuntime:
    """What it says that it has is what the machine has, so that a workflow that fits there runs here; and what it is
    told to have: `gpus` with `gpu_memory` bytes each, and `custom` resources. Nothing of them is used."""

    def __init__(self, gpus: int = 0, gpu_memory: int = 0, custom: Mapping[str, float] | None = None) -> None:
        amounts = tuple(sorted((custom or {}).items()))
        self._capacity = Resources(float(os.cpu_count() or 1), memory_capacity(), gpus, gpu_memory, amounts)
        self._work = Work(self._object, self._ask)
        self._asked: dict[int, SimpleQueue[Answer]] = {}  # questions that wait for their answers
        self._numbers = itertools.count()
        self._forced = False
        self._objects = Objects()
        self._groups = Groups(self._capacity)
        self._changed = threading.Condition()
        self._queue: deque[Entry] = deque()
        self._running: TaskId | None = None
        self._ended = 0
        # A thread of its own tells, so that what is dropped while a task runs is told while it runs. None: the end.
        self._told: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._sink: Sink | None = None
        self._threads: list[threading.Thread] = []
        self._closed = False

    # ---- any thread: life and tasks -----------------------------------------------------------

    def open(self, sink: Sink) -> None:
        with self._changed:
            if self._threads or self._closed:
                raise RuntimeStopped("the runtime was opened before: make a new one")
            self._sink = sink
            self._threads = [
                threading.Thread(target=self._run, name="dagengine-inline", daemon=True),
                threading.Thread(target=self._tell, name="dagengine-inline-events", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def define(self, function: int, reference: dict[str, Any], code: CodePack = NO_CODE) -> None:
        """In this process a module is what is loaded: whoever resumes a run has seen to it that this is the pack's."""
        self._work.define(function, Reference.from_json(reference))

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        for spec in tasks:
            group = spec.placement.group
            problem = misfit(spec.resources, self._capacity) if group is None else self._groups.misfit(group, spec)
            if problem is not None:
                raise Infeasible(problem)
            if spec.function not in self._work.functions:
                raise InternalError(f"task {spec.id} is of function {spec.function}, which was not defined")
        with self._changed:
            self._check_open()
            for spec in tasks:
                self._objects.reads(spec.inputs)
                if spec.output is not None and spec.mode != "stream":
                    self._objects.promise(spec.output)
            self._queue.extend(tasks)
            self._changed.notify()

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        dropped = set(ids)
        with self._changed:
            self._check_open()
            self._drop(lambda entry: _id_of(entry) in dropped)
            self._changed.notify()

    def close(self, force: bool = False) -> None:
        with self._changed:
            if not self._closed:
                self._closed = True
                self._drop(lambda entry: True)
                self._changed.notify()
            if force:
                self._forced = True
                for number in list(self._asked):
                    self._answer(number, Answer(number, None, stopped()))
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def reply(self, asked: Asked, answer: Any = None, failure: Failure | None = None) -> None:
        self._answer(asked.number, Answer(asked.number, answer, failure))

    def _answer(self, number: int, answer: Answer) -> None:
        waiting = self._asked.pop(number, None)
        if waiting is not None:
            waiting.put(answer)

    # ---- any thread: objects, actors, groups --------------------------------------------------

    def put(self, object_id: ObjectId, value: Encoded) -> None:
        with self._changed:
            self._check_open()
            self._settle(object_id, value.to_bytes())

    def read(self, object_id: ObjectId, told: Callable[[Content | Failure], None]) -> None:
        with self._changed:
            self._check_open()
            found = self._objects.ask(object_id, lambda found: told(_content(found)))
            self._changed.notify()
        if found is not None:
            told(_content(found))

    def free(self, objects: Sequence[ObjectId]) -> None:
        with self._changed:
            self._objects.free(objects)
            self._changed.notify()

    def release(self, actors: Sequence[ActorId], force: bool = False) -> None:
        with self._changed:
            self._check_open()
            ended = set(actors)
            for entry in [entry for entry in self._queue if force and _actor_of(entry) in ended]:
                self._queue.remove(entry)
                if isinstance(entry, TaskSpec):
                    self._end(entry, lost_with_actor(entry))
            self._queue.extend(_Release(actor) for actor in actors)
            self._changed.notify()

    def reserve(
        self, group: GroupId, bundles: Sequence[Resources], strategy: str, told: Callable[[Failure | None], None]
    ) -> None:
        with self._changed:
            self._check_open()
            for ready in self._groups.reserve(group, bundles, strategy, told):
                self._told.put(lambda ready=ready: ready(None))  # type: ignore[misc]

    def unreserve(self, group: GroupId) -> None:
        with self._changed:
            self._drop(lambda entry: isinstance(entry, TaskSpec) and entry.placement.group == group)
            for ready in self._groups.unreserve(group):
                self._told.put(lambda ready=ready: ready(None))  # type: ignore[misc]

    # ---- any thread: for people ---------------------------------------------------------------

    def capacity(self) -> Resources:
        return self._capacity

    def nodes(self) -> list[NodeFacts]:
        with self._changed:
            used = self._objects.size()
            return [NodeFacts("inline", self._capacity, self._groups.free(), self._capacity.memory, used, 0, 1)]

    def explain(self, task_id: TaskId) -> dict[str, Any]:
        with self._changed:
            if task_id == self._running:
                return {"state": "running", "waits_for": "", "placement": {}}
            for entry in self._queue:
                if _id_of(entry) == task_id:
                    return {"state": "queued", "waits_for": self._waits_for(entry), "placement": {}}
        return {"state": "unknown", "waits_for": "", "placement": {}}

    def waits(self) -> dict[TaskId, str]:
        with self._changed:
            return {task: self._waits_for(entry) for entry in self._queue if (task := _id_of(entry)) is not None}

    def stats(self) -> dict[str, int | float]:
        with self._changed:
            return {
                "tasks": self._ended,
                "objects": len(self._objects),
                "bytes_put": self._objects.bytes_put,
                "spilled": 0,
                "restored": 0,
            }

    def _waits_for(self, entry: Entry) -> str:
        if isinstance(entry, TaskSpec):
            missing = [found for found in read_by(entry.inputs) if self._objects.get(found) is None]
            if missing:
                return f"object {missing[0]}, which is not made yet"
        if isinstance(entry, Stream) and not self._can_go_on(entry, set()):
            return f"readers: {len(entry.unread)} items were not read yet"
        return "its turn: tasks run one after the other here"

    # ---- with the lock held -------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed or not self._threads:
            raise RuntimeStopped("the runtime is not open: it was closed, or was never opened")

    def _drop(self, which: Callable[[Entry], bool]) -> None:
        for entry in [entry for entry in self._queue if which(entry)]:
            self._queue.remove(entry)
            if isinstance(entry, TaskSpec):
                self._end(entry, Dropped(entry.id, started=False))
            elif isinstance(entry, Stream):
                self._end(entry.spec, Dropped(entry.spec.id, started=True))

    def _settle(self, object_id: ObjectId, found: Found) -> None:
        for told, what in self._objects.settle(object_id, found):
            self._told.put(lambda told=told, what=what: told(what))  # type: ignore[misc]
        self._changed.notify()

    def _end(self, spec: TaskSpec, event: RuntimeEvent) -> None:
        """The attempt is over: what follows for objects, and the news."""
        self._ended += 1
        self._objects.has_read(spec.inputs)
        if spec.output is not None:
            event = self._keep(spec.output, event)
        self._emit(event)

    def _keep(self, output: ObjectId, event: RuntimeEvent) -> RuntimeEvent:
        """A result that stays here, as an object; or why it never will."""
        if not isinstance(event, Succeeded):
            failure = getattr(event, "failure", None) or _dropped()
            self._settle(output, failure)
            return event
        if event.data is not None:
            self._settle(output, event.data)
            return event
        assert event.shared is not None
        self._settle(output, bytes(event.shared.view()))
        event.shared.close()
        return replace(event, shared=None)

    def _emit(self, event: RuntimeEvent) -> None:
        sink = self._sink
        if sink is not None:
            self._told.put(lambda: sink([event]))

    def _can_go_on(self, entry: Entry, actors: set[ActorId]) -> bool:
        """Whether it is the entry's turn. `actors`: those that an earlier entry waits for."""
        if isinstance(entry, Stream):
            return len(entry.unread) < entry.spec.ahead
        actor = _actor_of(entry)
        if actor in actors:
            return False
        return isinstance(entry, _Release) or all(self._objects.get(one) is not None for one in read_by(entry.inputs))

    def _next(self) -> Entry | None:
        """Take the first entry that can go on out of the queue."""
        consumed, self._objects.consumed = self._objects.consumed, set()
        if consumed:
            for entry in self._queue:
                if isinstance(entry, Stream):
                    entry.unread -= consumed
        actors: set[ActorId] = set()
        for index, entry in enumerate(self._queue):
            if self._can_go_on(entry, actors):
                del self._queue[index]
                return entry
            if (actor := _actor_of(entry)) is not None:
                actors.add(actor)
        return None

    # ---- the runtime's threads ----------------------------------------------------------------

    def _tell(self) -> None:
        while (tell := self._told.get()) is not None:
            tell()

    def _run(self) -> None:
        while True:
            with self._changed:
                while (entry := self._next()) is None and not self._closed:
                    self._changed.wait()
                if entry is None:
                    break
                self._running = _id_of(entry)
            if isinstance(entry, _Release):
                self._work.end_actor(entry.actor)
            elif isinstance(entry, Stream):
                self._advance(entry)
            else:
                self._attempt(entry)
            with self._changed:
                self._running = None
        for actor in list(self._work.actors):
            self._work.end_actor(actor)
        self._told.put(None)

    def _ask(self, task: TaskId, question: Any, value: Encoded | None, wanted: bool) -> Answer:
        """A task asks whoever submitted it, and waits for the answer if it is `wanted`."""
        number = next(self._numbers) if wanted else -1
        if self._forced:
            return Answer(number, None, stopped())
        asked = Asked(task, WORKER, number, question)
        waiting: SimpleQueue[Answer] = SimpleQueue()
        with self._changed:
            if value is not None and value.size > INLINE_LIMIT:
                asked.object = (*task, WORKER, number)
                self._settle(asked.object, value.to_bytes())
            elif value is not None:
                asked.data = value.to_bytes()
            if wanted:
                self._asked[number] = waiting
            self._emit(asked)
        return waiting.get() if wanted else Answer(number)

    def _attempt(self, spec: TaskSpec) -> None:
        self._emit(Started(spec.id, WORKER, os.getpid(), time.time()))
        folder = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            result = self._work.attempt(spec)
        finally:
            os.fchdir(folder)
            os.close(folder)
        with self._changed:
            if isinstance(result, Stream):
                self._queue.append(result)
            else:
                self._end(spec, result)

    def _advance(self, stream: Stream) -> None:
        """Have the stream make its next item."""
        spec = stream.spec
        end: RuntimeEvent
        try:
            item = encode(stream.context.run(next, stream.items), "an item of the stream", "item")
        except StopIteration:
            end = self._work.succeeded(replace(spec, output=None), stream.started_at, encode(stream.count))
            with self._changed:
                self._objects.has_read(spec.inputs)
                self._ended += 1
                self._emit(end)
            return
        except BaseException as error:
            end = self._work.failed(spec, stream.started_at, error)
            with self._changed:
                self._lose_items(stream, end)
            return
        with self._changed:
            made = (*(spec.output or ()), stream.count)
            self._settle(made, item.to_bytes())
            stream.unread.add(made)
            self._emit(Yielded(spec.id, stream.count, made, item.size))
            stream.count += 1
            if self._closed:
                self._end(replace(spec, output=None), Dropped(spec.id, started=True))
            else:
                self._queue.append(stream)

    def _lose_items(self, stream: Stream, end: Failed) -> None:
        """Whoever waits for the item that raised, or for the next, fails as the stream did."""
        self._settle((*(stream.spec.output or ()), stream.count), end.failure)
        self._end(replace(stream.spec, output=None), end)

    def _object(self, object_id: ObjectId) -> Found:
        with self._changed:
            found = self._objects.get(object_id)
        if found is None:
            raise InternalError(f"object {object_id} was read before it was made")
        return found


def _content(found: Found) -> Content | Failure:
    if isinstance(found, Failure):
        return found
    return content_of(Encoded([found], []))


def _dropped() -> Failure:
    return Failure("cancelled", "dagengine.errors.ObjectLost", "the task that was to make it was cancelled")


def _id_of(entry: Entry) -> TaskId | None:
    if isinstance(entry, _Release):
        return None
    return entry.spec.id if isinstance(entry, Stream) else entry.id


def _actor_of(entry: Entry) -> ActorId | None:
    if isinstance(entry, _Release):
        return entry.actor
    return entry.actor.id if isinstance(entry, TaskSpec) and entry.actor is not None else None
