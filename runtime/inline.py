"""Tasks one after the other on a thread of this process: for tests and for debugging with breakpoints and prints.

Values go through the same bytes as with worker processes, so what can't cross between processes fails here, too. What
needs a process of its own is not there: timeouts are not enforced, a running task can't be ended, output goes where
this process's output goes instead of to `TaskSpec.log`, and a task that ends the process ends this one.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

from dagengine.errors import Infeasible, InternalError, RuntimeStopped
from dagengine.runtime.dispatch import misfit
from dagengine.runtime.events import Sink, result_event, run_message
from dagengine.runtime.execution import Executor
from dagengine.runtime.memory import memory_capacity
from dagengine.runtime.messages import Define
from dagengine.runtime.protocol import Dropped, Resources, RuntimeEvent, Started, TaskId, TaskSpec


class InlineRuntime:
    """What it says that it has is what the machine has, so that a workflow that fits there runs here."""

    def __init__(self) -> None:
        self._capacity = Resources(float(os.cpu_count() or 1), memory_capacity())
        self._executor = Executor()
        self._defined: set[int] = set()
        self._changed = threading.Condition()
        self._tasks: deque[TaskSpec] = deque()
        # A thread of its own tells, so that what is dropped while a task runs is told while it runs. None: the end.
        self._told: SimpleQueue[list[RuntimeEvent] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._closed = False

    # ---- any thread ---------------------------------------------------------------------------

    def open(self, sink: Sink) -> None:
        with self._changed:
            if self._threads or self._closed:
                raise RuntimeStopped("the runtime was opened before: make a new one")
            self._threads = [
                threading.Thread(target=self._run, name="dagengine-inline", daemon=True),
                threading.Thread(target=self._tell, args=(sink,), name="dagengine-inline-events", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def define(self, function: int, reference: dict[str, Any]) -> None:
        self._executor.define(Define(function, reference))
        self._defined.add(function)

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        for spec in tasks:
            problem = misfit(spec.resources, self._capacity)
            if problem is not None:
                raise Infeasible(problem)
            if spec.function not in self._defined:
                raise InternalError(f"task {spec.id} is of function {spec.function}, which was not defined")
        with self._changed:
            self._check_open()
            self._tasks.extend(tasks)
            self._changed.notify()

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        dropped = set(ids)
        with self._changed:
            self._check_open()
            self._drop([spec for spec in self._tasks if spec.id in dropped])
            self._tasks = deque(spec for spec in self._tasks if spec.id not in dropped)

    def capacity(self) -> Resources:
        return self._capacity

    def close(self, force: bool = False) -> None:
        with self._changed:
            if not self._closed:
                self._closed = True
                self._drop(list(self._tasks))
                self._tasks.clear()
                self._changed.notify()
        if threading.current_thread() not in self._threads:
            for thread in self._threads:
                thread.join()

    def _check_open(self) -> None:
        if self._closed or not self._threads:
            raise RuntimeStopped("the runtime is not open: it was closed, or was never opened")

    def _drop(self, specs: list[TaskSpec]) -> None:
        if specs:
            self._told.put([Dropped(spec.id, started=False) for spec in specs])

    # ---- the runtime's threads ----------------------------------------------------------------

    def _tell(self, sink: Sink) -> None:
        while (events := self._told.get()) is not None:
            sink(events)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._tasks and not self._closed:
                    self._changed.wait()
                if not self._tasks:
                    break
                spec = self._tasks.popleft()
            self._told.put([Started(spec.id, 0, os.getpid(), time.time())])
            self._told.put([self._attempt(spec)])
        self._told.put(None)

    def _attempt(self, spec: TaskSpec) -> RuntimeEvent:
        folder = os.open(".", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return result_event(0, *self._executor.execute(run_message(spec)))
        finally:
            os.fchdir(folder)
            os.close(folder)
