"""Tasks on worker processes of this machine.

One thread owns core, shell and crew, and waits in one selector: for the forker, for the workers, for whoever submits.
Other threads only append to an inbox and wake it, which is what this module is about.

    submit, cancel, close ─▶ inbox ─┐                       ┌─▶ frames, permits ─▶ workers
    workers' results ───────────────┼─▶ core.apply ─▶ actions ─▶ start, kill ──▶ forker
    forker's reports, the clock ────┘                       └─▶ events ────────▶ sink

A worker's death is complete when the forker has reported its wait status *and* everything that it had sent is read;
then its remaining permits say what it had not begun.

May import nothing of ours but errors, model and runtime modules. Linux only.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
from collections.abc import Sequence
from typing import Any, Final

from dagengine.errors import Infeasible, InternalError, RuntimeStopped
from dagengine.runtime.dispatch import Dispatcher, misfit
from dagengine.runtime.dispatch_model import UNIT, Cancelled, Closing, Event, Submitted, Task
from dagengine.runtime.events import Sink
from dagengine.runtime.forker import import_path
from dagengine.runtime.memory import memory_capacity
from dagengine.runtime.messages import Define
from dagengine.runtime.protocol import Resources, TaskId, TaskSpec
from dagengine.runtime.shell import Shell

DESCRIPTORS: Final = 600
"""For each worker: its own four, and one for each large result that the caller has not yet taken in."""


class ProcessRuntime:
    """`workers` processes.

    scratch: folder for what tasks print until it goes to their logs; None: the system's temporary one. Nothing in it
        has a name.
    memory: bytes that tasks may ask for in all; None: most of what there is
    """

    def __init__(self, workers: int, scratch: str | None = None, memory: int | None = None) -> None:
        if workers < 1:
            raise ValueError(f"a runtime needs at least 1 worker, not {workers}")
        self._core = Dispatcher(workers, memory_capacity() if memory is None else memory)
        self._workers = workers
        self._scratch = scratch
        self._definitions: dict[int, Define] = {}
        self._lock = threading.Lock()
        self._inbox: list[Event] = []
        self._wake: int | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    # ---- any thread ---------------------------------------------------------------------------
    def open(self, sink: Sink) -> None:
        if sys.platform != "linux":
            raise RuntimeStopped("worker processes need Linux: use the inline runtime here")
        with self._lock:
            if self._thread is not None or self._closed:
                raise RuntimeStopped("the runtime was opened before: make a new one")
            _allow_descriptors(1024 + self._workers * DESCRIPTORS)
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            shell = Shell(
                self._core,
                sink,
                scratch=self._scratch,
                definitions=self._definitions,
                wake=self._wake,
                inbox=self._take,
            )
            self._thread = threading.Thread(target=self._run, args=(shell,), name="dagengine-runtime", daemon=True)
            self._thread.start()

    def define(self, function: int, reference: dict[str, Any]) -> None:
        self._definitions[function] = Define(function, reference, import_path())

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        converted = []
        capacity = self.capacity()
        for spec in tasks:
            cpus = round(spec.resources.cpus * UNIT)
            problem = misfit(spec.resources, capacity)
            if problem is not None:
                raise Infeasible(problem)
            if spec.function not in self._definitions:
                raise InternalError(f"task {spec.id} is of function {spec.function}, which was not defined")
            converted.append(Task(spec.id, spec.function, cpus, spec.resources.memory, spec.timeout, spec))
        self._hand_over(Submitted(converted))

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        self._hand_over(Cancelled(list(ids), force))

    def capacity(self) -> Resources:
        return Resources(self._core.cpus / UNIT, self._core.memory)

    def close(self, force: bool = False) -> None:
        with self._lock:
            self._closed = True
            thread = self._thread
            if thread is None:
                return
            self._put(Closing(force))
        if thread is not threading.current_thread():
            thread.join()

    def _hand_over(self, event: Event) -> None:
        with self._lock:
            if self._closed or self._thread is None:
                raise RuntimeStopped("the runtime is not open: it was closed, or one of its processes died")
            self._put(event)

    def _put(self, event: Event) -> None:
        # One wake-up for all that comes before the runtime's thread looks.
        self._inbox.append(event)
        if len(self._inbox) == 1 and self._wake is not None:
            os.eventfd_write(self._wake, 1)

    # ---- the runtime's thread -----------------------------------------------------------------

    def _take(self) -> list[Event]:
        with self._lock:
            assert self._wake is not None
            os.eventfd_read(self._wake)
            inbox, self._inbox = self._inbox, []
            return inbox

    def _run(self, shell: Shell) -> None:
        try:
            shell.run()
        finally:
            with self._lock:
                self._closed = True
                wake, self._wake = self._wake, None
                if wake is not None:
                    os.close(wake)


def _allow_descriptors(count: int) -> None:
    """Raise this process's own limit of open files, where it may: the usual 1,024 date from the days of select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
