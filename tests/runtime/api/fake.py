"""A runtime in this process: tasks on threads, objects in a dict. For tests of what is built on a runtime.

What can be scripted: `hold()` keeps tasks from starting until `go()`; `lose(actor)` ends an actor's incarnation.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from dagengine.errors import Infeasible
from dagengine.functions import Reference, resolve
from dagengine.model import INLINE_LIMIT, Failure
from dagengine.runtime.failures import describe_failure
from dagengine.runtime.protocol import (
    NO_CODE,
    ActorLost,
    CodePack,
    Content,
    Dropped,
    Failed,
    InlineInput,
    Lost,
    ObjectInput,
    Resources,
    RuntimeEvent,
    Succeeded,
    TaskSpec,
    Yielded,
)
from dagengine.values import Encoded, decode, encode
from tests.runtime.harness import WAIT


class Shared:
    def __init__(self, data: bytes) -> None:
        self.data, self.size, self.digest, self.offset = data, len(data), "", 0
        self.closed = False

    def fileno(self) -> int:
        raise OSError("this one is no file")

    def view(self) -> memoryview:
        assert not self.closed
        return memoryview(self.data)

    def close(self) -> None:
        self.closed = True


class FakeRuntime:
    def __init__(self, cpus: float = 4.0) -> None:
        self.serving: Any = None
        self.cpus = cpus
        self.objects: dict[tuple[int, ...], bytes | Failure] = {}
        self.freed: list[tuple[int, ...]] = []
        self.released: list[tuple[int, ...]] = []
        self.submitted: list[TaskSpec] = []
        self.replies: list[tuple[int, Any]] = []
        self.closed = False
        self._functions: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._queue: deque[TaskSpec] = deque()
        self._instances: dict[tuple[int, ...], Any] = {}
        self._readers: list[tuple[tuple[int, ...], Callable[[Any], None]]] = []
        self._held = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def open(self, sink: Callable[[list[RuntimeEvent]], None]) -> None:
        self._sink = sink
        self._thread.start()

    def define(self, function: int, reference: dict[str, Any], code: CodePack = NO_CODE) -> None:
        self._functions[function] = Reference.from_json(reference)

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        for spec in tasks:
            if spec.resources.cpus > self.cpus:
                raise Infeasible(f"a task asks for {spec.resources.cpus:g} cpus, and there are {self.cpus:g}")
        with self._changed:
            self.submitted += tasks
            self._queue += tasks
            self._changed.notify_all()

    def hold(self) -> None:
        self._held = True

    def go(self) -> None:
        with self._changed:
            self._held = False
            self._changed.notify_all()

    def cancel(self, ids: Sequence[tuple[int, ...]], force: bool = False) -> None:
        with self._changed:
            dropped = [spec for spec in self._queue if spec.id in set(ids)]
            self._queue = deque(spec for spec in self._queue if spec not in dropped)
        events: list[RuntimeEvent] = [Dropped(spec.id, started=False) for spec in dropped]
        if events:
            self._sink(events)

    def put(self, object_id: tuple[int, ...], value: Encoded) -> None:
        with self._changed:
            self.objects[object_id] = value.to_bytes()

    def read(self, object_id: tuple[int, ...], told: Callable[[Any], None]) -> None:
        with self._changed:
            found = self.objects.get(object_id)
            if found is None:
                self._readers.append((object_id, told))
                return
        self._tell(found, told)

    @staticmethod
    def _tell(found: bytes | Failure, told: Callable[[Any], None]) -> None:
        if isinstance(found, Failure):
            told(found)
        elif len(found) <= INLINE_LIMIT:
            told(Content("", len(found), found))
        else:
            told(Content("", len(found), None, Shared(found)))

    def free(self, objects: Sequence[tuple[int, ...]]) -> None:
        with self._changed:
            self.freed += objects
            for each in objects:
                self.objects.pop(each, None)
            self._changed.notify_all()

    def await_freed(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.freed) >= count, WAIT)

    def release(self, actors: Sequence[tuple[int, ...]], force: bool = False) -> None:
        with self._changed:
            self.released += actors
            self._changed.notify_all()

    def await_released(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.released) >= count, WAIT)

    def lose(self, actor: tuple[int, ...]) -> None:
        """The actor's process dies while it does nothing; what waits for it never began."""
        with self._changed:
            self._instances.pop(actor, None)
            waiting = [spec for spec in self._queue if spec.actor is not None and spec.actor.id == actor]
            self._queue = deque(spec for spec in self._queue if spec not in waiting)
        failure = Failure("lost", "WorkerLost", "the worker was killed by SIGKILL")
        self._sink([ActorLost(actor, failure)])
        self._sink([Lost(spec.id, -1, 0.0, 0.0, failure) for spec in waiting])

    def reserve(self, group: Any, bundles: Sequence[Resources], strategy: str, told: Callable[[Any], None]) -> None:
        if sum(bundle.cpus for bundle in bundles) > self.cpus:
            raise Infeasible(f"the bundles ask for more than the {self.cpus:g} cpus that there are")
        told(None)

    def unreserve(self, group: Any) -> None:
        self.released.append(group)

    def nodes(self) -> list[Any]:
        return []

    def explain(self, task_id: Any) -> dict[str, Any]:
        return {"state": "queued"}

    def waits(self) -> dict[Any, str]:
        with self._changed:
            return {spec.id: "a worker" for spec in self._queue}

    def stats(self) -> dict[str, int | float]:
        return {"tasks": len(self.submitted)}

    def answer(self, worker: int, message: Any) -> None:
        with self._changed:
            self.replies.append((worker, message))
            self._changed.notify_all()

    def await_reply(self, number: int) -> Any:
        with self._changed:
            found: list[Any] = []

            def there() -> bool:
                found[:] = [message for _, message in self.replies if message.number == number]
                return bool(found)

            assert self._changed.wait_for(there, WAIT)
            return found[0]

    def close(self, force: bool = False) -> None:
        with self._changed:
            self.closed = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(WAIT)

    # ---- its thread ---------------------------------------------------------------------------

    def _ready(self) -> TaskSpec | None:
        for spec in self._queue:
            if all(not isinstance(i, ObjectInput) or i.id in self.objects for i in spec.inputs):
                return spec
        return None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closed or (not self._held and self._ready() is not None))
                if self.closed:
                    return
                spec = self._ready()
                assert spec is not None
                self._queue.remove(spec)
            self._sink([self._attempt(spec)])
            self._serve()

    def _serve(self) -> None:
        with self._changed:
            ready = [(each, told) for each, told in self._readers if each in self.objects]
            self._readers = [pair for pair in self._readers if pair not in ready]
        for each, told in ready:
            self._tell(self.objects[each], told)

    def _attempt(self, spec: TaskSpec) -> RuntimeEvent:
        now = time.time()
        try:
            values = []
            for given in spec.inputs:
                found = given.data if isinstance(given, InlineInput) else self.objects[given.id]  # type: ignore[union-attr]
                if isinstance(found, Failure):
                    return self._failed(spec, found)
                values.append(decode(found))
            function = resolve(self._functions[spec.function])
            function = getattr(function, "function", function)
            args, kwargs = decode(spec.call, values)
            state = None
            if spec.actor is not None:
                result, state = self._act(spec, function, args, kwargs)
            elif spec.mode == "stream":
                result = self._stream(spec, function(*args, **kwargs))
            else:
                result = function(*args, **kwargs)
            data = encode(result).to_bytes()
        except BaseException as error:
            return self._failed(spec, describe_failure(error))
        small = data if len(data) <= INLINE_LIMIT else None
        shared = None
        if spec.output is not None and spec.mode != "stream":
            with self._changed:
                self.objects[spec.output] = data
        elif small is None:
            shared = Shared(data)
        return Succeeded(spec.id, 0, now, time.time(), "", len(data), small, shared, state=state)

    def _stream(self, spec: TaskSpec, items: Any) -> int:
        assert spec.output is not None
        made = 0
        for made, item in enumerate(items, 1):
            key = (*spec.output, made - 1)
            with self._changed:
                self.objects[key] = data = encode(item).to_bytes()
            self._sink([Yielded(spec.id, made - 1, key, len(data))])
        return made

    def _act(self, spec: TaskSpec, cls: Any, args: Any, kwargs: Any) -> tuple[Any, Content | None]:
        assert spec.actor is not None
        work = spec.actor
        if spec.mode == "create":
            if work.state is not None:
                found = work.state.data if isinstance(work.state, InlineInput) else self.objects[work.state.id]  # type: ignore[union-attr]
                assert isinstance(found, bytes)
                self._instances[work.id] = instance = cls.__new__(cls)
                instance.__dict__.update(decode(found))
            else:
                self._instances[work.id] = cls(*args, **kwargs)
            return None, None
        instance = self._instances[work.id]
        result = getattr(instance, work.method)(*args, **kwargs)
        state = encode(instance.__dict__).to_bytes() if work.save_state else None
        return result, None if state is None else Content("", len(state), state)

    def _failed(self, spec: TaskSpec, failure: Failure) -> RuntimeEvent:
        if spec.output is not None:
            with self._changed:
                self.objects[spec.output] = failure
        return Failed(spec.id, 0, 0.0, 0.0, failure)
