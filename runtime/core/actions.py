"""What the scheduler core asks its shell to do: of nodes, and of whoever submitted. To be carried out in their order.

May import nothing of ours but runtime.protocol and the core's other words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from dagengine.runtime.core.events import NodeId, Request
from dagengine.runtime.protocol import ActorId, GroupId, ObjectId, TaskId

# ---- of nodes -------------------------------------------------------------------------------


class Lease(NamedTuple):
    """One attempt for a node to make. Its inputs are there and stay: in the arena, or to be mapped from an artifact.

    devices: ids of the GPUs that it may see
    memory: bytes set aside for it (asked for, or learned)
    """

    request: Request
    attempt: int
    devices: tuple[int, ...] = ()
    memory: int = 0


@dataclass(slots=True)
class Run:
    node: NodeId
    epoch: int
    leases: list[Lease]


@dataclass(slots=True)
class Revoke:
    """Give these back, if they have not begun: AttemptReturned; else nothing follows."""

    node: NodeId
    epoch: int
    attempts: list[tuple[TaskId, int]]


@dataclass(slots=True)
class Kill:
    """End the attempt's worker: SIGTERM, after the grace time SIGKILL. `why`: "cancelled" or "memory"."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int
    why: str


@dataclass(slots=True)
class EndActor:
    """End the worker that holds the actor: politely (it has nothing to do), or with `force` at once."""

    node: NodeId
    epoch: int
    actor: ActorId
    force: bool = False


@dataclass(slots=True)
class Grant:
    """There is room for what was asked: it may be written to the arena now."""

    node: NodeId
    epoch: int
    request: int


@dataclass(slots=True)
class Overflow:
    """There is no room, and waiting could be for ever: write it straight to the node's spill space.

    `refused`: not there either, because it is full: the writer fails with ObjectStoreFull.
    """

    node: NodeId
    epoch: int
    request: int
    refused: bool = False


@dataclass(slots=True)
class Spill:
    """Write these to the spill space, small ones into one file; then their room is free. Answered by Spilled."""

    node: NodeId
    epoch: int
    objects: list[ObjectId]


@dataclass(slots=True)
class Drop:
    """Give back the room that these have in the arena, and with `spilled` also their place in the spill space."""

    node: NodeId
    epoch: int
    objects: list[ObjectId]
    spilled: bool = False


@dataclass(slots=True)
class Restore:
    """Bring the object back from the spill space: its room is set aside. Answered by Restored."""

    node: NodeId
    epoch: int
    object: ObjectId


@dataclass(slots=True)
class Fetch:
    """Copy the object from another node: its room is set aside. Answered by Fetched."""

    node: NodeId
    epoch: int
    object: ObjectId
    source: NodeId


@dataclass(slots=True)
class Welcome:
    """Answers NodeJoined: the epoch that the node's news have to carry from now on."""

    node: NodeId
    epoch: int


@dataclass(slots=True)
class Fence:
    """The node was given up: should it still live, it ends its workers and forgets all it has, then joins anew."""

    node: NodeId
    epoch: int


# ---- of whoever submitted -------------------------------------------------------------------


class Outcome:
    """How a task ended, for good."""

    DONE = "done"  # it came to its end by itself, well or with an exception of its own
    TIMED_OUT = "timed out"
    LOST = "lost"  # its worker or node died, and it has no more `losses`
    MEMORY = "memory"  # ended because memory ran out; may be tried again, with more room
    TOO_LARGE = "too large"  # the same, and it was alone: another try would end as this one
    DROPPED = "dropped"
    INPUT = "input"  # an object that it reads will never be there
    ACTOR = "actor"  # its actor is gone
    STALLED = "stalled"  # its inputs can't be brought: what is in the arena can't be written to the full spill space
    NO_ROOM = "no room"  # its inputs together are more than any arena holds; facts: inputs, arena (bytes)


@dataclass(slots=True)
class Ended:
    """`started`: some of it may have run. `node`: where, -1: nowhere. `cause`: for INPUT, the object."""

    request: Request
    attempt: int
    outcome: str
    started: bool
    node: NodeId = -1
    cause: ObjectId | None = None
    facts: dict[str, int] | None = None  # of MEMORY, TOO_LARGE: bytes it had, the limit, attempts beside it


@dataclass(slots=True)
class Retried:
    """An attempt was lost, and the core makes another one."""

    request: Request
    attempt: int
    node: NodeId
    delay: float


@dataclass(slots=True)
class Ready:
    """Answers Wanted. The object is on the node, pinned for the reader; not `ok`: it never will be."""

    object: ObjectId
    node: NodeId
    reader: int
    ok: bool = True


@dataclass(slots=True)
class Lost:
    """The object is gone with all its copies, and nobody can make it again."""

    object: ObjectId


@dataclass(slots=True)
class GroupReserved:
    """`places`: for each bundle its node and devices."""

    group: GroupId
    places: tuple[tuple[NodeId, tuple[int, ...]], ...]


@dataclass(slots=True)
class GroupRefused:
    group: GroupId
    reason: str


@dataclass(slots=True)
class ActorGone:
    """The actor's process died while it had nothing to do."""

    actor: ActorId
    node: NodeId


@dataclass(slots=True)
class Cycle:
    """These tasks wait for each other, each for the next and the last for the first. Told once."""

    ids: tuple[TaskId, ...]


@dataclass(slots=True)
class Throttle:
    """`on`: no room is left for new objects: whoever puts some should wait. Otherwise: go on."""

    on: bool


@dataclass(slots=True)
class SetTimer:
    """Send a Tick at this time. Replaces what was set before."""

    at: float


Action = (
    Run
    | Revoke
    | Kill
    | EndActor
    | Grant
    | Overflow
    | Spill
    | Drop
    | Restore
    | Fetch
    | Welcome
    | Fence
    | Ended
    | Retried
    | Ready
    | Lost
    | GroupReserved
    | GroupRefused
    | ActorGone
    | Cycle
    | Throttle
    | SetTimer
)
