"""A runtime under test: it collects what is told, lets tests wait for it, and checks what every runtime must hold."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from dagengine.functions import Reference
from dagengine.runtime.protocol import (
    ActorLost,
    Asked,
    Broken,
    Dropped,
    Failed,
    InlineInput,
    Lost,
    ObjectLost,
    Runtime,
    RuntimeEvent,
    Started,
    Succeeded,
    TaskId,
    TaskInput,
    TaskSpec,
    TimedOut,
    Yielded,
)
from dagengine.values import Placeholder, decode, encode

TASKS = Path(__file__).with_name("tasks.py")
WAIT = 300.0
"""Seconds. Bounds what would otherwise hang; nothing is measured by it."""

End = Succeeded | Failed | TimedOut | Lost | Dropped
E = TypeVar("E")


class Input(Placeholder):
    """Stands in a call for its next input."""


class Harness:
    """`ends`: how each attempt ended. `desk`: what is done with what attempts ask. `close` checks that each ended exactly once, and was started before if it ran."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.events: list[RuntimeEvent] = []
        self.ends: dict[TaskId, End] = {}
        self.broken: Broken | None = None
        self.problems: list[str] = []
        self.desk: Callable[[Asked], None] = lambda asked: None
        self._submitted: set[TaskId] = set()
        self._started: set[TaskId] = set()
        self._numbers = itertools.count()
        self._functions: dict[str, int] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Harness:
        self.runtime.open(self.sink)
        return self

    def __exit__(self, *_: object) -> None:
        self.runtime.close(force=True)
        for end in self.ends.values():
            if isinstance(end, Succeeded) and end.shared is not None:
                end.shared.close()
        missing = self._submitted - set(self.ends)
        if self.broken is None and missing:
            self.problems.append(f"no end of {sorted(missing)[:5]}")
        assert not self.problems, self.problems

    def sink(self, events: list[RuntimeEvent]) -> None:
        asked: list[Asked] = []
        with self._changed:
            for event in events:
                self.events.append(event)
                if isinstance(event, Broken):
                    self.broken = event
                elif isinstance(event, (Yielded, ActorLost, ObjectLost)):
                    continue
                elif isinstance(event, Asked):
                    asked.append(event)
                elif isinstance(event, Started):
                    self._started.add(event.id)
                    if event.id in self.ends:
                        self.problems.append(f"{event.id} was started after it had ended")
                else:
                    self._end(event)
            self._changed.notify_all()
        for question in asked:
            self.desk(question)

    def _end(self, event: End) -> None:
        if event.id in self.ends:
            self.problems.append(f"{event.id} ended twice: {event}")
        self.ends[event.id] = event

    # ---- what tests do ------------------------------------------------------------------------

    def function(self, name: str) -> int:
        number = self._functions.get(name)
        if number is None:
            number = self._functions[name] = len(self._functions)
            self.runtime.define(number, Reference("tasks", name, str(TASKS)).to_json())
        return number

    def spec(
        self,
        name: str,
        *args: Any,
        inputs: Sequence[TaskInput] = (),
        kwargs: dict[str, Any] | None = None,
        **fields: Any,
    ) -> TaskSpec:
        """An attempt at the task `name`. `fields`: of TaskSpec."""
        task_id = (1, next(self._numbers), 1)
        call = encode((args, kwargs or {})).to_bytes()
        return TaskSpec(task_id, self.function(name), call, tuple(inputs), **fields)

    def submit(self, *specs: TaskSpec) -> None:
        self._submitted.update(spec.id for spec in specs)
        self.runtime.submit(specs)

    def start(self, name: str, *args: Any, **fields: Any) -> TaskId:
        spec = self.spec(name, *args, **fields)
        self.submit(spec)
        return spec.id

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: condition() or self.broken is not None, WAIT), "it never happened"
            assert condition(), f"the runtime broke: {self.broken}"

    def settle(self, **expected: int) -> None:
        """Ask for the statistics until they are these: what was freed while it moved goes when the move is done."""
        deadline = time.monotonic() + WAIT
        while (found := {name: self.runtime.stats()[name] for name in expected}) != expected:
            assert time.monotonic() < deadline, found

    def end(self, task: TaskId, kind: type[E]) -> E:
        """How the attempt ended, which must be `kind`."""
        self.wait(lambda: task in self.ends)
        end = self.ends[task]
        assert isinstance(end, kind), end
        return end

    def ends_of(self, tasks: Sequence[TaskId]) -> list[End]:
        self.wait(lambda: all(task in self.ends for task in tasks))
        return [self.ends[task] for task in tasks]

    def wait_broken(self) -> Broken:
        with self._changed:
            assert self._changed.wait_for(lambda: self.broken is not None, WAIT), "it never broke"
            assert self.broken is not None
            return self.broken

    def wait_started(self, task: TaskId) -> Started:
        self.wait(lambda: task in self._started)
        return next(event for event in self.events if isinstance(event, Started) and event.id == task)

    def timed_out(self, name: str, path: Path, *args: Any, **fields: Any) -> tuple[TaskId, TimedOut]:
        """An attempt that hangs, and says before by a file at `path` that it runs. Its time is the shortest in which a
        worker gets that far: on a busy machine it may be over before anything was said."""
        for timeout in (0.3, 3.0, 30.0):
            task = self.start(name, str(path), *args, timeout=timeout, **fields)
            end = self.end(task, TimedOut)
            if path.exists():
                return task, end
        raise AssertionError("it never ran")

    def result(self, task: TaskId) -> Any:
        """The value that the attempt ended with."""
        end = self.end(task, Succeeded)
        if end.data is not None:
            return decode(end.data)
        assert end.shared is not None
        with end.shared.view() as view:
            return decode(bytes(view), digest=end.digest)

    def run(self, name: str, *args: Any, **fields: Any) -> Any:
        return self.result(self.start(name, *args, **fields))

    def fails(self, name: str, *args: Any, **fields: Any) -> Failed:
        return self.end(self.start(name, *args, **fields), Failed)


def inline(value: Any) -> InlineInput:
    return InlineInput(encode(value).to_bytes())


def wait_for_file(path: Path) -> str:
    """The text of a file that a task makes by renaming. Waits for the change of its folder, without polling."""
    import ctypes
    import os
    import select

    libc = ctypes.CDLL(None, use_errno=True)
    watch = libc.inotify_init1(os.O_CLOEXEC)
    try:
        moved_to = 0x80
        assert libc.inotify_add_watch(watch, str(path.parent).encode(), moved_to) >= 0
        while not path.exists():
            assert select.select([watch], [], [], WAIT)[0], f"{path.name} never appeared"
            os.read(watch, 4096)
    finally:
        os.close(watch)
    return path.read_text()
