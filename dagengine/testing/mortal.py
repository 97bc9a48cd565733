"""A store and a runtime of a process that dies: at its n-th write, before the store has it or right after.

    engine ─▶ MortalStore ───▶ the real store        A `Fate` counts the writes. From the moment of death on nothing
           ─▶ MortalRuntime ─▶ the real runtime      passes: no write, no answer, no task, no news of a task.

Invariants: of the writes exactly those before the death are in the store (with "after", the fatal one, too); none is
answered after it but with `ProcessDied`, so that no thread waits for ever; whoever asks the store anything after it, on
whatever thread, ends with that. A task that runs
at that moment ends by itself (a thread can't be killed), but nobody hears of it: as if the process had died between
the task's last line and its record.

May import everything of the workflow layer but the engine.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from dagengine.errors import InternalError, StoreError
from dagengine.model import Claim, ProcessRecord
from dagengine.runtime.protocol import Failed as TaskFailed
from dagengine.runtime.protocol import Lost, Runtime, RuntimeEvent, Started, Succeeded, TaskId, TaskSpec, TimedOut
from dagengine.storage.interface import Store
from dagengine.storage.writes import Write

T = TypeVar("T")

Refusal = StoreError | InternalError

WRITES = ("create_run", "claim", "claim_all", "request_cancel")
"""Methods of a store, beside `write` and `side`, that write and answer when it is durable."""

THREADS_OWN = ("wake", "listen")
"""What the thread of the heartbeat waits with; it ends with the engine, also with one that is dead."""


class ProcessDied(SystemExit):
    """The process of this engine is dead. No `except Exception` catches it, and a thread that it ends, ends silently."""


@dataclass(frozen=True, slots=True)
class Ran:
    """An attempt at a step that has begun."""

    run_id: str
    key: str
    number: int
    task: str


@dataclass
class Fate:
    """When the process dies. `at`: its n-th write, from 1; None: it doesn't. `after`: the store still has that write."""

    at: int | None = None
    after: bool = False
    writes: int = 0
    dead: bool = False
    doomed: bool = False  # the fatal write is on its way: none may follow it
    fatal: str = ""
    died: Callable[[], None] = lambda: None  # told once, on whatever thread it happens
    ran: dict[tuple[TaskId, str], Ran] = field(default_factory=dict)
    gone: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self) -> None:
        if self.doomed:
            raise ProcessDied("the process is dead")

    def count(self, what: str) -> bool:
        """One more write. True if it is the last one, and still reaches the store. Raises ProcessDied if none may."""
        with self._lock:
            self.check()
            self.writes += 1
            if self.writes != self.at:
                return False
            self.fatal = what
            self.doomed = True
        if not self.after:
            self.die()
            raise ProcessDied("the process is dead")
        return True

    def die(self) -> None:
        with self._lock:
            if self.dead:
                return
            self.dead = True
        self.died()
        self.gone.set()


def passing_for_dead(process: ProcessRecord) -> ProcessRecord:
    """The process, as one that nobody takes for alive: this one is, when its engine is dead."""
    return replace(process, start_time=-1.0)


class _SilentDeaths:
    """A `threading.excepthook` without those of threads that end with their process.

    Python's own is silent about them; pytest's, which counts every exception of a thread as an error of a test, is not.
    """

    def __init__(self, hook: Callable[[threading.ExceptHookArgs], object]) -> None:
        self._hook = hook

    def __call__(self, args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, ProcessDied):
            self._hook(args)


class MortalStore:
    """A `Store` until the process dies. `close` leaves the real store open, for the next process."""

    def __init__(self, store: Store, fate: Fate) -> None:
        self._store = store
        self._fate = fate
        if not isinstance(threading.excepthook, _SilentDeaths):
            threading.excepthook = _SilentDeaths(threading.excepthook)
        self.url = store.url
        self.lease = store.lease

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name in THREADS_OWN or not callable(method):
            return method

        def asked(*args: Any, **kwargs: Any) -> Any:
            self._fate.check()
            if name not in WRITES:
                return method(*args, **kwargs)
            return self._written(name, lambda: method(*args, **kwargs))

        return asked

    def close(self) -> None: ...

    def hurry(self) -> None: ...

    def renew(self, process: ProcessRecord) -> dict[int, bool]:
        return {} if self._fate.dead else self._store.renew(passing_for_dead(process))

    def _written(self, what: str, work: Callable[[], T]) -> T:
        """A write whose caller waits for it."""
        if not self._fate.count(what):
            return work()
        with contextlib.suppress(Exception):  # one that is refused is the last one, too
            work()
        self._fate.die()
        raise ProcessDied("the process is dead")

    def side(self, work: Callable[[Any], T], write: bool = True) -> T:
        self._fate.check()
        if not write:
            return self._store.side(work, write=False)
        return self._written("a write beside the record", lambda: self._store.side(work))

    def write(self, claim: Claim, batch: Sequence[Write], done: Callable[[Refusal | None], None]) -> None:
        fate = self._fate
        if fate.doomed:
            done(cast(Refusal, ProcessDied("the process is dead")))
            return
        last = fate.count(", ".join(dict.fromkeys(type(write).__name__ for write in batch))) if batch else False

        def answered(error: Refusal | None) -> None:
            if last:  # also if it was refused: nothing follows it
                fate.die()
            done(cast(Refusal, ProcessDied("the process is dead")) if fate.dead else error)

        self._store.write(claim, batch, answered)


_BEGAN = (Started, Succeeded, TaskFailed, TimedOut, Lost)


class MortalRuntime:
    """A `Runtime` until the process dies. Notes which attempts have begun."""

    def __init__(self, runtime: Runtime, fate: Fate) -> None:
        self._runtime = runtime
        self._fate = fate
        self._specs: dict[TaskId, Ran] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runtime, name)

    def open(self, sink: Callable[[list[RuntimeEvent]], None]) -> None:
        def heard(events: list[RuntimeEvent]) -> None:
            for event in events:
                if isinstance(event, _BEGAN) and event.id in self._specs:
                    ran = self._specs[event.id]
                    self._fate.ran[(event.id, ran.run_id)] = ran
            if not self._fate.dead:
                sink(events)

        self._runtime.open(heard)

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        if self._fate.dead:
            return
        for spec in tasks:
            if spec.id[2] > 0:  # else a stateful object is made again, which is no attempt at a step
                said = spec.context
                self._specs[spec.id] = Ran(said["run_id"], said["key"], spec.id[2], said["task"])
        self._runtime.submit(tasks)
