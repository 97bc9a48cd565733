"""What a runtime is to whoever uses it: tasks in, events out. The interface that every backend implements.

A runtime knows nothing of workflows, runs or stores. It is handed task specs, whose inputs are already known (as bytes,
or as files to map), decides where and when each runs, and tells what became of it. Whoever submits owns all policy
on the task's *own* failures (retries, backoff); the runtime owns what is about machines: placement, resources, dead
workers, timeouts.

    submit ──▶ (queued) ──▶ Started ──▶ Succeeded | Failed | TimedOut | Lost | Dropped
                               Yielded*, Asked*        every submitted attempt gets exactly one of these ends

*Objects* are encoded values that the runtime holds for whoever submits: results of tasks that name an `output`, and
what was `put`. They lie in the node's arena, or spilled; tasks read them by `ObjectInput`, also before they exist.
An object lives until it is freed, and as long as a task that was submitted before reads it.

*Actors* are worker processes with state. An actor is created by a task (`mode="create"`), ends with `release`, and
runs tasks with `mode="method"` in the order of their submission. Whoever submits decides what follows from its loss.

May import nothing of ours but errors, model and values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dagengine.model import Failure
from dagengine.values import Encoded

TaskId = tuple[int, ...]
"""Chosen by the submitter and opaque to the runtime (the engine uses run, step, attempt). Unique among live tasks."""

ObjectId = tuple[int, ...]
"""Chosen by the submitter and opaque to the runtime. Unique among live objects."""

ActorId = tuple[int, ...]
GroupId = tuple[int, ...]
"""Chosen by the submitter, as well."""

CodePack = tuple[str, str]
"""What a function's modules are imported from: the name of a group of packs that may be in one process together, opaque to
the runtime; and the path of the pack's file (dagengine.packs)."""

NO_CODE: CodePack = ("", "")
"""Modules are imported from where they lie."""


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

    items: tuple[InlineInput | FileInput | ListInput | ObjectInput, ...]


@dataclass(frozen=True, slots=True)
class ObjectInput:
    """An object of the runtime's; it may not exist yet. If its task does not succeed, the reader fails as it did."""

    id: ObjectId


TaskInput = InlineInput | FileInput | ListInput | ObjectInput


@dataclass(frozen=True, slots=True)
class Resources:
    """What one attempt asks for.

    cpus: a worker counts as one; 0 is allowed for what only waits
    memory: bytes of the process's own (0: not said)
    gpus: shares of one device if below 1, else whole devices
    gpu_memory: bytes on each of these devices
    custom: (name, amount) of resources that a node was declared to have
    """

    cpus: float = 1.0
    memory: int = 0
    gpus: float = 0.0
    gpu_memory: int = 0
    custom: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Placement:
    """Where an attempt may run, and in which order.

    priority: higher goes first; within one, the order of submission
    node: the name of a node, or None; with `soft` only preferred
    group, bundle: run in what a placement group has reserved; bundle -1: in any of its bundles
    """

    priority: int = 0
    node: str | None = None
    soft: bool = False
    group: GroupId | None = None
    bundle: int = -1


@dataclass(frozen=True, slots=True)
class Replayed:
    """A call that is made again on an actor to rebuild its state; what it returns is thrown away."""

    method: str
    call: bytes
    inputs: tuple[TaskInput, ...] = ()


@dataclass(slots=True)
class ActorWork:
    """What makes a task one of an actor's.

    method: its name, of "method" tasks
    concurrent: of "method" tasks: may run beside other concurrent ones, on a thread of its own, or (async methods) on
        the actor's event loop. Those that are not are alone: they start when all before them have ended
    threads: of "create": how many concurrent calls may run at a time
    save_state: when it has succeeded, encode the actor's state as well (`Succeeded.state`)
    state: of "create": the state to begin with, instead of calling the class with the call's arguments
    replay: of "create": calls to make, in this order, before the actor is up
    """

    id: ActorId
    method: str = ""
    concurrent: bool = False
    threads: int = 1
    save_state: bool = False
    state: TaskInput | None = None
    replay: tuple[Replayed, ...] = ()


@dataclass(slots=True)
class TaskSpec:
    """One attempt to make.

    function: the number of a function (for actors: of a class) that `define` has announced
    call: the encoded ((args), {kwargs}); its placeholder i stands for inputs[i]
    timeout: seconds from start, or None
    grace: seconds between SIGTERM and SIGKILL when the attempt has to be ended
    context: handed to the task as it is (`dagengine.contexts.context()` reads it): strings and ints only
    log: path that gets what the task prints, or None; the file exists only if it printed something
    mode: "call";
        "expand": the call's first argument is a list; instead of calling the function, encode one call for each of
            its items (the item takes the first argument's place);
        "stream": the function is a generator (or async generator); each item becomes an object `(*output, i)` that is
            told by Yielded at once; at most `ahead` of them that nobody has read or freed, then it waits. Its result
            is the number of items;
        "create" and "method": see ActorWork;
        "undo": the last input is a value that goes in front of the call's arguments
    output: keep the result as this object, large or small; None: hand it over with the event
    hashed: whether the result needs its digest (else "")
    expected: bytes that the result is thought to have, or None; room for it is set aside before the task starts
    ahead: of "stream"
    losses: further attempts that the runtime makes by itself when the worker or node was lost (0: it tells Lost)
    rank: seconds of the longest path behind the task, where whoever submits knows the graph: longest first
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
    placement: Placement = field(default_factory=Placement)
    output: ObjectId | None = None
    hashed: bool = True
    expected: int | None = None
    actor: ActorWork | None = None
    ahead: int = 16
    grace: float = 2.0
    losses: int = 0
    rank: float = 0.0


class SharedObject(Protocol):
    """A large encoded value in shared memory: nobody else's name leads to it, so a kill leaves nothing behind.

    `size` bytes from `offset` of `fileno()`, which is open for reading until `close()`; whoever receives the object
    closes it. Until then, and as long as a memoryview of `view()` lives, its bytes stay where they are.
    """

    size: int
    digest: str
    offset: int

    def fileno(self) -> int: ...

    def view(self) -> memoryview: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Content:
    """An encoded value, either as `data` or, if it is larger than model.INLINE_LIMIT, in shared memory."""

    digest: str
    size: int
    data: bytes | None = None
    shared: SharedObject | None = None


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """A node, for people and for `nodes()`. Bytes and counts; `free`: what nobody has claimed."""

    name: str
    capacity: Resources
    free: Resources
    object_limit: int
    object_used: int
    spilled: int
    workers: int
    alive: bool = True


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
    `grown`: of a "call" that returned calls to be made after it, these (runtime/growth.py; then there is no data).
    `state`: of an actor's task with `save_state`.
    `peak`: bytes of memory that the attempt is known to have had at the most; 0: not watched.
    A task that has an `output`: `data` if it is small, and the runtime keeps the object; large ones it only keeps.
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
    state: Content | None = None
    peak: int = 0
    grown: bytes | None = None


@dataclass(slots=True)
class Yielded:
    """A "stream" task has made object number `index`."""

    id: TaskId
    index: int
    object: ObjectId
    size: int


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
    {"oom": True} where the kernel says so. If we ended it because memory ran out: {"memory": bytes it had, "limit":
    bytes, "neighbours": attempts beside it}; the next attempt of the function gets more room, and one that ran alone
    is told as Failed (kind "memory"), for another try would end as this one did."""

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


@dataclass(slots=True)
class ActorLost:
    """The actor's process is gone while no task of it ran. Tasks that wait for it are told as Lost, one by one."""

    actor: ActorId
    failure: Failure


@dataclass(slots=True)
class ObjectLost:
    """The object's bytes are gone or damaged; tasks that read it fail with this failure (kind "object")."""

    object: ObjectId
    failure: Failure


@dataclass(slots=True)
class Asked:
    """A running attempt has a question to whoever submitted it: to be answered with `Runtime.reply`, unless its number is
    negative, which only tells something. Told before the attempt's end.

    question: opaque to the runtime; what msgpack knows
    data, object: an encoded value that came with it, in this message if it is small, else as an object of the runtime's,
        which whoever is asked frees
    """

    id: TaskId
    worker: int
    number: int
    question: Any
    data: bytes | None = None
    object: ObjectId | None = None


RuntimeEvent = (
    Started | Yielded | Asked | Succeeded | Failed | TimedOut | Lost | Dropped | ActorLost | ObjectLost | Broken
)


class Runtime(Protocol):
    """Thread-safe. Events arrive in batches by `sink`, called on a thread of the runtime's: it must be quick.

    Life: construct, `open(sink)`, …, `close()`. Closing twice, or before opening, is harmless.
    """

    def open(self, sink: Callable[[list[RuntimeEvent]], None]) -> None:
        """Start what has to run. Returns at once; tasks may be submitted from here on."""

    def define(self, function: int, reference: dict[str, Any], code: CodePack = NO_CODE) -> None:
        """Announce a function (JSON of functions.Reference) under a number of the caller's, before its first use.

        Its attempts run in processes that import from the pack, and that have run nothing of another group.
        """

    def submit(self, tasks: Sequence[TaskSpec]) -> None:
        """Queue attempts. Raises Infeasible, and queues none, if one asks for more than there is."""

    def cancel(self, ids: Sequence[TaskId], force: bool = False) -> None:
        """Drop queued attempts. Running ones are left to end by themselves, or with `force` their workers are ended."""

    def reply(self, asked: Asked, answer: Any = None, failure: Failure | None = None) -> None:
        """Answer a question. An attempt that is over needs none; nor does a runtime that is closed."""

    def put(self, object_id: ObjectId, value: Encoded) -> None:
        """Keep an encoded value as an object. Waits while there is no room. Raises ObjectStoreFull if none comes."""

    def read(self, object_id: ObjectId, told: Callable[[Content | Failure], None]) -> None:
        """Have the object's bytes here, restored if it was spilled; `told` is called once, on a thread of the runtime's
        or at once. The object may not exist yet. The shared part of the content is pinned until it is closed."""

    def free(self, objects: Sequence[ObjectId]) -> None:
        """Nobody will name these objects again. Unknown ones are ignored."""

    def release(self, actors: Sequence[ActorId], force: bool = False) -> None:
        """End actors: when what was submitted to them has ended, or with `force` at once. Unknown ones are ignored."""

    def reserve(
        self, group: GroupId, bundles: Sequence[Resources], strategy: str, told: Callable[[Failure | None], None]
    ) -> None:
        """Set bundles of resources aside, all or none: "pack", "spread", "strict_pack", "strict_spread".

        `told` is called once, with None when they are reserved. Raises Infeasible if they never can be.
        """

    def unreserve(self, group: GroupId) -> None:
        """Give a group's resources back when its tasks have ended; those that have not begun are told as Dropped."""

    def capacity(self) -> Resources:
        """What there is in all."""

    def nodes(self) -> list[NodeFacts]:
        """The nodes as they are now."""

    def explain(self, task_id: TaskId) -> dict[str, Any]:
        """Where the task is and why: {"state", "waits_for": text, "placement": {term of the score: value}, …}; JSON."""

    def waits(self) -> dict[TaskId, str]:
        """For every unfinished task what it waits for, as text; blocked cycles are named as such."""

    def stats(self) -> dict[str, int | float]:
        """Counters since the start: tasks, objects, bytes put, spilled, restored; see docs/runtime.md."""

    def close(self, force: bool = False) -> None:
        """End all workers and wait until they are gone. Attempts that run are waited for, or with `force` killed."""
