"""What a runtime is to whoever uses it: tasks in, events out. The interface that every backend implements.

A runtime knows nothing of workflows, runs or stores. It is handed task specs, whose inputs are already known (as bytes,
or as files to map), decides where and when each runs, and tells what became of it. Whoever submits owns all policy
on the task's *own* failures (retries, backoff); the runtime owns what is about machines: placement, resources, dead
workers, timeouts.

    submit ──▶ (queued) ──▶ Started ──▶ Succeeded | Failed | TimedOut | Lost | Dropped
                                                       every submitted attempt gets exactly one of these ends

May import nothing of ours but errors, model and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dagengine.model import Failure

TaskId = tuple[int, int, int]
"""Chosen by the submitter and opaque to the runtime (the engine uses run, step, attempt). Unique among live tasks."""


@dataclass(frozen=True, slots=True)
class InlineInput:
    """An encoded value, given as its bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class FileInput:
    """An encoded value in a local file, to be mapped read-only. With `verify`, its bytes are held against `digest`."""

    path: str
    size: int
    digest: str
    verify: bool = False


@dataclass(frozen=True, slots=True)
class ListInput:
    """A list of values, each given as an input."""

    items: tuple[InlineInput | FileInput | ListInput, ...]


TaskInput = InlineInput | FileInput | ListInput


@dataclass(frozen=True, slots=True)
class Resources:
    """What one attempt asks for: `cpus` (a worker counts as one), `memory` in bytes (0: not said)."""

    cpus: float = 1.0
    memory: int = 0


@dataclass(slots=True)
class TaskSpec:
    """One attempt to make.

    function: the number of a function that `define` has announced
    call: the encoded ((args), {kwargs}); its placeholder i stands for inputs[i]
    timeout: seconds from start, or None
    context: handed to the task as it is (`dagengine.contexts.context()` reads it): strings and ints only
    log: path that gets what the task prints, or None; the file exists only if it printed something
    mode: "call", or "expand": the call's first argument is a list; instead of calling the function, encode one call
        for each of its items (the item takes the first argument's place)
    """

    id: TaskId
    function: int
    call: bytes
    inputs: tuple[TaskInput, ...] = ()
    resources: Resources = field(default_factory=Resources)
    timeout: float | None = None
    context: dict[str, Any] = field(default_factory=dict)
    log: str | None = None
    mode: str = "call"


class SharedObject(Protocol):
    """A large encoded value in shared memory: nobody else's name leads to it, so a kill leaves nothing behind.

    `fileno()` is open for reading until `close()`; whoever receives the object closes it.
    """

    size: int
    digest: str

    def fileno(self) -> int: ...

    def close(self) -> None: ...


# ---- events -------------------------------------------------------------------------------


@dataclass(slots=True)
class Started:
    """The attempt runs (or is next on a worker that is about to run it). Left out of attempts that end at once."""

    id: TaskId
    worker: int
    pid: int
    at: float


@dataclass(slots=True)
class Succeeded:
    """`data`: the encoded result if it is no larger than model.INLINE_LIMIT, else `shared`. Times: wall clock.

    `calls`: of an "expand" task, the encoded calls (then there is no data).
    """

    id: TaskId
    worker: int
    started_at: float
    finished_at: float
    digest: str
    size: int
    data: bytes | None = None
    shared: SharedObject | None = None
    calls: list[bytes] | None = None


@dataclass(slots=True)
class Failed:
    """The task raised, or its arguments or result can't cross between processes. `failure.retriable` is the
    predicate's verdict on the exception."""

    id: TaskId
    worker: int
    started_at: float
    finished_at: float
    failure: Failure


@dataclass(slots=True)
class TimedOut:
    """The attempt ran past its timeout and its worker was ended."""

    id: TaskId
    worker: int
    started_at: float
    finished_at: float


@dataclass(slots=True)
class Lost:
    """The worker died while it ran the attempt. `failure.facts`: {"signal": "SIGSEGV"} or {"exit": 3}, and
    {"oom": True} where the kernel says so."""

    id: TaskId
    worker: int
    started_at: float
    finished_at: float
    failure: Failure


@dataclass(slots=True)
class Dropped:
    """The attempt was cancelled. `started` says whether any of it may have run."""

    id: TaskId
    started: bool


@dataclass(slots=True)
class Broken:
    """The runtime itself can't go on (its parent process died, no worker can be started). Nothing more will come."""

    failure: Failure


RuntimeEvent = Started | Succeeded | Failed | TimedOut | Lost | Dropped | Broken


class Runtime(Protocol):
    """Thread-safe. Events arrive in batches by `sink`, called on a thread of the runtime's: it must be quick.

    Life: construct, `open(sink)`, …, `close()`. Closing twice, or before opening, is harmless.
    """

    def open(self, sink: Callable[[list[RuntimeEvent]], None]) -> None:
        """Start what has to run. Returns at once; tasks may be submitted from here on."""

    def define(self, function: int, reference: dict[str, Any]) -> None:
        """Announce a function (JSON of functions.Reference) under a number of the caller's, before its first use."""

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        """Queue attempts. Raises Infeasible, and queues none, if one asks for more than there is."""

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        """Drop queued attempts. Running ones are left to end by themselves, or with `force` their workers are ended."""

    def capacity(self) -> Resources:
        """What there is in all: cpus (workers) and memory in bytes for tasks that declare theirs."""

    def close(self, force: bool = False) -> None:
        """End all workers and wait until they are gone. Attempts that run are waited for, or with `force` killed."""
