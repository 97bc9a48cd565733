"""The dispatcher's words: tasks and workers as it knows them, its events, its actions, its table of transitions.

Pure data. May import nothing of ours but errors and runtime.protocol.

    (leased) ─▶ QUEUED ──send──▶ SENT ──begin──▶ RUNNING ──finish──▶ FINISHED
                 │  ▲              │ take back      │  │ lose ──────▶ LOST
                 │  └──────────────┴────────────────┘  │ time out ──▶ TIMED_OUT
                 └─drop─▶ DROPPED ◀────────────────────┘ drop

SENT: waits on a worker behind another task. RUNNING: nothing is before it on its worker; it has taken its permit, or is
about to. A RUNNING task is taken back if its worker died, or had it revoked, before it took its permit. Of an actor's
concurrent calls several run at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from dagengine.errors import InternalError
from dagengine.runtime.protocol import ActorId, TaskId

UNIT: Final = 10_000
"""One cpu. Integers, so that shares of a cpu add up to exactly what there is."""

PREFETCH_SECONDS: Final = 0.005
"""Estimated work that may wait on one worker. Long enough to hide a round trip of some 0.1 ms many times over, short
enough that a worker never sits on work that another could begin noticeably earlier."""

PREFETCH_TASKS: Final = 256
"""Tasks that may be on one worker: bounds what is sent in one batch, and what a death makes us queue again."""

REVOKE_SECONDS: Final = 0.001
"""Estimated work worth taking back for an idle worker: less is done before the round trip is."""

STUCK_SECONDS: Final = 0.002
"""When the task at the head of a worker runs this long, whatever waits behind it is taken back for an idle worker."""

GRACE_SECONDS: Final = 2.0
"""For a worker without a task that was told to end: it is a matter of milliseconds, unless it is stopped."""

START_TRIES: Final = 3
"""Workers in a row that may die before they come up, until the runtime gives up."""

START_DELAY: Final = 0.1
"""Seconds before a worker that did not come up is tried again; doubles each time."""

IDLE_SECONDS: Final = 30.0
"""After which a worker that is not one of the `slots` ends: nested waits come in waves, and a fork costs milliseconds."""

WORKERS_MAX: Final = 500
"""Processes. Tasks that wait inside themselves need one each; beyond this, those that they wait for would only queue."""


class TaskState(IntEnum):
    QUEUED = 0
    SENT = 1
    RUNNING = 2
    FINISHED = 3
    LOST = 4
    TIMED_OUT = 5
    DROPPED = 6


class Move(IntEnum):
    SEND = 0
    BEGIN = 1
    TAKE_BACK = 2
    FINISH = 3
    LOSE = 4
    TIME_OUT = 5
    DROP = 6


TRANSITIONS: Final[dict[tuple[TaskState, Move], TaskState]] = {
    (TaskState.QUEUED, Move.SEND): TaskState.SENT,
    (TaskState.QUEUED, Move.DROP): TaskState.DROPPED,
    (TaskState.SENT, Move.BEGIN): TaskState.RUNNING,
    (TaskState.SENT, Move.TAKE_BACK): TaskState.QUEUED,
    (TaskState.RUNNING, Move.TAKE_BACK): TaskState.QUEUED,
    (TaskState.RUNNING, Move.FINISH): TaskState.FINISHED,
    (TaskState.RUNNING, Move.LOSE): TaskState.LOST,
    (TaskState.RUNNING, Move.TIME_OUT): TaskState.TIMED_OUT,
    (TaskState.RUNNING, Move.DROP): TaskState.DROPPED,
}


@dataclass(slots=True, eq=False)
class Task:
    """One attempt that this node was given the lease of. `timeout`: seconds from its beginning, or None.

    plain: one cpu and nothing more, and nothing times it: it may wait on a worker behind others. What is not plain was
        given all that it needs, and gets a worker at once, a new one if need be
    grace: seconds between SIGTERM and SIGKILL
    devices: GPUs that it may see
    actor: whose task it is; `creates`: it is the one that makes it; `concurrent`: it may run beside others of the actor
    threads: of a task that creates: how many concurrent calls run at a time
    code: group of the packs that its function is imported from; processes that have run another one can't have it
    spec: the shell's, never looked at here
    order: of leasing; smaller goes first
    estimate: seconds that it was thought to take when it was sent
    began: when it came to the head of its worker
    cancelled, forced: is to be dropped when it is taken back; also when it runs, by ending its worker
    """

    id: TaskId
    function: int
    plain: bool = True
    attempt: int = 0
    cpus: int = UNIT
    timeout: float | None = None
    grace: float = 2.0
    devices: tuple[int, ...] = ()
    actor: ActorId | None = None
    creates: bool = False
    concurrent: bool = False
    threads: int = 1
    spec: object = None
    code: str = ""
    state: TaskState = TaskState.QUEUED
    order: int = -1
    estimate: float = 0.0
    began: float = 0.0
    worker: int = -1
    cancelled: bool = False
    forced: bool = False
    timed_out: bool = False

    @property
    def calls(self) -> bool:
        """Whether it has to run on the worker that its actor lives in."""
        return self.actor is not None and not self.creates

    def move(self, move: Move) -> None:
        state = TRANSITIONS.get((self.state, move))
        if state is None:
            raise InternalError(f"task {self.id} is {self.state.name} and can't {move.name}")
        self.state = state


class WorkerState(IntEnum):
    STARTING = 0  # asked for
    READY = 1
    ENDING = 2  # told to end: gets nothing more


@dataclass(slots=True, eq=False)
class Worker:
    """`tasks`: sent and not ended, in the order of sending.

    backlog: estimated seconds of `tasks`
    revoking: revocations that the worker has not acknowledged; until it has, nothing is sent to it, because it could
        take the new task's permit for the old task
    revocable: something was sent since the last revocation, which took all that had not begun
    blocked: how often its task waits inside itself for others: it needs no cpu, and nothing can start behind it
    counted: cpus that it is counted with, as one that is busy
    idle_since: when it had done its last task
    actor: that lives in it, or is to be made by its task; `made`: the task that made it, once it has
    mailbox: calls that could not be sent yet
    devices: GPUs that its process has seen; it can't forget them
    code: of what it was sent first; its process has imported from there, and can't forget that, either
    """

    id: int
    state: WorkerState = WorkerState.STARTING
    tasks: deque[Task] = field(default_factory=deque)
    backlog: float = 0.0
    revoking: int = 0
    revocable: bool = False
    blocked: int = 0
    counted: int = 0
    idle_since: float = 0.0
    actor: ActorId | None = None
    made: Task | None = None
    mailbox: deque[Task] = field(default_factory=deque)
    devices: tuple[int, ...] = ()
    code: str | None = None

    def fits(self, task: Task) -> bool:
        """Whether its process may import what the task is of."""
        return self.code is None or self.code == task.code

    @property
    def pooled(self) -> bool:
        """Whether any task may run in it."""
        return self.actor is None and not self.devices


# ---- events -------------------------------------------------------------------------------


@dataclass(slots=True)
class Leased:
    tasks: Sequence[Task]


@dataclass(slots=True)
class Finished:
    """The worker sent the results of its first tasks, in order: (id, seconds it took). An actor's in any order."""

    worker: int
    results: Sequence[tuple[TaskId, float]]


@dataclass(slots=True)
class WorkerUp:
    worker: int


@dataclass(slots=True)
class WorkerDown:
    """The worker's process is gone and its results have all been handed over. `unstarted`: permits it left."""

    worker: int
    unstarted: int


@dataclass(slots=True)
class Revoked:
    """Answers a Revoke: the worker's last `count` tasks will not be run by it. It will acknowledge unless it is 0."""

    worker: int
    count: int


@dataclass(slots=True)
class RevokeAcknowledged:
    worker: int


@dataclass(slots=True)
class Blocked:
    """The worker's task waits inside itself for others."""

    worker: int


@dataclass(slots=True)
class Unblocked:
    worker: int


@dataclass(slots=True)
class Cancelled:
    """Give up those that have not begun; with `force` also those that have, by ending their workers."""

    ids: Sequence[TaskId]
    force: bool


@dataclass(slots=True)
class ActorReleased:
    """End the actor's worker when it has done what it was sent, or with `force` at once."""

    actor: ActorId
    force: bool


@dataclass(slots=True)
class Tick:
    """The time for which SetTimer asked has come. A Tick at any other time is harmless."""


@dataclass(slots=True)
class Closing:
    """Drop what is queued, let what runs end (or with `force` kill it), and retire the workers."""

    force: bool


Event = (
    Leased
    | Finished
    | WorkerUp
    | WorkerDown
    | Revoked
    | RevokeAcknowledged
    | Blocked
    | Unblocked
    | Cancelled
    | ActorReleased
    | Tick
    | Closing
)


# ---- actions ------------------------------------------------------------------------------


@dataclass(slots=True)
class StartWorker:
    worker: int


@dataclass(slots=True)
class Send:
    """Give the worker these tasks, and as many permits."""

    worker: int
    tasks: list[Task]


@dataclass(slots=True)
class Revoke:
    """Take back up to `count` permits, answer with Revoked at once, and tell the worker."""

    worker: int
    count: int


@dataclass(slots=True)
class Signal:
    """Send SIGTERM, or with `hard` SIGKILL, to the worker and whatever it started."""

    worker: int
    hard: bool


@dataclass(slots=True)
class Retire:
    """Let the worker end by itself, when it has done what it was sent."""

    worker: int


@dataclass(slots=True)
class SetTimer:
    """Send a Tick at this time. Replaces what was set before."""

    at: float


@dataclass(slots=True)
class Begun:
    task: Task


@dataclass(slots=True)
class Ended:
    """The task is over: `task.state` says how. `started`: some of it may have run."""

    task: Task
    started: bool


@dataclass(slots=True)
class ActorDown:
    """The worker that an actor lived in is gone. `made`: the task that had made it. `ours`: it was told to end."""

    made: Task
    ours: bool


@dataclass(slots=True)
class GiveUp:
    """No worker comes up."""


@dataclass(slots=True)
class AllGone:
    """Closing is complete: no task and no worker is left."""


Action = StartWorker | Send | Revoke | Signal | Retire | SetTimer | Begun | Ended | ActorDown | GiveUp | AllGone
