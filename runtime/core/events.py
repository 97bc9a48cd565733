"""What is told to the scheduler core: by whoever submits, and by nodes.

Amounts of cpus, gpus and named resources are integers, `UNIT` to one; memory is bytes; `now` comes with each event.
News of a node carry the epoch that the node was given when it joined: what an older epoch says is dropped. News of an
attempt carry its number: what is said of one that is not the current one is dropped, too. So each may come late, twice
or never, and the core stays right.

May import nothing of ours but runtime.protocol and the core's other words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from dagengine.runtime.protocol import ActorId, GroupId, ObjectId, TaskId

UNIT: Final = 10_000
"""One cpu or gpu in the ledgers. Integers, so that shares add up to exactly what there is."""

NodeId = int


class Need(NamedTuple):
    """What a task, an actor or a bundle asks for. Equal needs are one class of tasks, and wait in one queue.

    gpus: below UNIT a share of one device; else a whole number of devices. gpu_memory: bytes on each of them
    node: by name; with `soft` only preferred
    """

    cpus: int = UNIT
    memory: int = 0
    gpus: int = 0
    gpu_memory: int = 0
    custom: tuple[tuple[str, int], ...] = ()
    node: str | None = None
    soft: bool = False
    group: GroupId | None = None
    bundle: int = -1


class Device(NamedTuple):
    """One GPU of a node, with its bytes of memory."""

    id: int
    memory: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a node has. `arena`: the hard limit of bytes for objects; `slots`: workers that it keeps."""

    name: str
    cpus: int
    memory: int
    arena: int
    devices: tuple[Device, ...] = ()
    custom: tuple[tuple[str, int], ...] = ()
    slots: int = 1


class TaskKind:
    """CALL: rebuildable. CREATE makes the actor, METHOD needs it and is done in order; a STREAM yields objects."""

    CALL: Final = 0
    CREATE: Final = 1
    METHOD: Final = 2
    STREAM: Final = 3


@dataclass(slots=True, eq=False)
class Request:
    """One task to run, as the core has to know it. The shell's own part (function, bytes) is `spec`, never looked at.

    function: by which what it takes is estimated
    inputs: objects that it reads, whether they exist or not
    output: the object that it makes, if the runtime is to hold it
    expected: bytes that the output is thought to have; None: as it was for others of the function
    losses: further attempts after its worker or node was lost that the core makes by itself (0: it is told as lost)
    plain: nothing but one cpu, and no timeout: may wait on a worker behind others
    rank: the length in seconds of the longest path behind it, where whoever submits knows the graph: longest first
    """

    id: TaskId
    function: int
    need: Need = Need()  # noqa: RUF009 - a tuple
    inputs: tuple[ObjectId, ...] = ()
    output: ObjectId | None = None
    expected: int | None = None
    kind: int = TaskKind.CALL
    actor: ActorId | None = None
    concurrent: bool = False
    priority: int = 0
    rank: float = 0.0
    losses: int = 0
    plain: bool = True
    spec: object = None


# ---- from whoever submits -------------------------------------------------------------------


@dataclass(slots=True)
class Submitted:
    requests: list[Request]


@dataclass(slots=True)
class Cancelled:
    """Drop them; those that run only with `force`."""

    ids: Sequence[TaskId]
    force: bool = False


@dataclass(slots=True)
class Stored:
    """Whoever submits has put an object on a node: its room was granted before. Inline: it takes no room anywhere.

    request: of the room, as in RoomAsked; overflow: it was written straight to the node's spill space
    """

    object: ObjectId
    node: NodeId
    size: int
    inline: bool = False
    request: int = -1
    overflow: bool = False


@dataclass(slots=True)
class Freed:
    objects: Sequence[ObjectId]


@dataclass(slots=True)
class Durable:
    """The object can be mapped from an artifact by every node from now on, without room in any arena."""

    object: ObjectId


@dataclass(slots=True)
class Wanted:
    """Somebody on the node (not a task) wants to read the object: have it there and pinned; answered by Ready."""

    object: ObjectId
    node: NodeId
    reader: int


@dataclass(slots=True)
class Unwanted:
    """The reader has done with it (or gave up waiting)."""

    object: ObjectId
    node: NodeId
    reader: int


@dataclass(slots=True)
class GroupAsked:
    """`strategy`: pack, spread, strict_pack, strict_spread. Answered by GroupReserved or GroupRefused."""

    group: GroupId
    bundles: tuple[Need, ...]
    strategy: str


@dataclass(slots=True)
class GroupReleased:
    group: GroupId


@dataclass(slots=True)
class ActorReleased:
    actor: ActorId
    force: bool = False


# ---- from nodes -----------------------------------------------------------------------------


@dataclass(slots=True)
class NodeJoined:
    """`holds`: objects (with sizes) that its arena already has, after a reconnection."""

    node: NodeId
    capacity: Capacity
    holds: tuple[tuple[ObjectId, int], ...] = ()


@dataclass(slots=True)
class NodeHeard:
    """A heartbeat. A node that is not heard becomes suspect, then dead (constants of the core)."""

    node: NodeId
    epoch: int


@dataclass(slots=True)
class NodeLost:
    """Proved gone (its connection ended, its process died)."""

    node: NodeId
    epoch: int


@dataclass(slots=True)
class RoomAsked:
    """Somebody on the node is about to write `size` bytes of an object. Answered by Grant, once there is room, or by
    Overflow. `task`, `attempt`: who writes it; None: whoever submits, by `put`."""

    node: NodeId
    epoch: int
    request: int
    size: int
    task: TaskId | None = None
    attempt: int = 0


@dataclass(slots=True)
class RoomReturned:
    """The granted room was not used: whoever asked for it has died."""

    node: NodeId
    epoch: int
    request: int


class Made(NamedTuple):
    """An object that an attempt has made. `request`: of its room; -1: it is inline, and takes none.

    overflow: it was written straight to the node's spill space

    What the node has already (in its arena, or spilled) it keeps as it is, and gives the new room, or file, back by itself.
    """

    object: ObjectId
    size: int
    request: int = -1
    overflow: bool = False


class Done(NamedTuple):
    """An attempt that came to its end by itself. `failed`: the task raised; then what it would have made won't come.

    seconds: that it ran; peak: bytes of memory it had at the most (0: unknown)
    """

    id: TaskId
    attempt: int
    seconds: float
    made: tuple[Made, ...] = ()
    failed: bool = False
    peak: int = 0


@dataclass(slots=True)
class Finished:
    node: NodeId
    epoch: int
    results: list[Done]


@dataclass(slots=True)
class Yielded:
    """A STREAM task has made one more object."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int
    made: Made


@dataclass(slots=True)
class AttemptLost:
    """The worker died under it. `ours`: because of a Kill (a cancellation, a lack of memory)."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int
    ours: bool = False


@dataclass(slots=True)
class AttemptTimedOut:
    node: NodeId
    epoch: int
    id: TaskId
    attempt: int


@dataclass(slots=True)
class AttemptReturned:
    """It was leased and never begun (its worker died under another task, or a Revoke came in time)."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int


@dataclass(slots=True)
class Blocked:
    """A task waits inside itself for these objects, or tasks: its cpus are free until it goes on."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int
    objects: tuple[ObjectId, ...] = ()


@dataclass(slots=True)
class Unblocked:
    """It goes on. Nobody is put off for it: the ledger may be overdrawn until others end."""

    node: NodeId
    epoch: int
    id: TaskId
    attempt: int


@dataclass(slots=True)
class Held:
    """A worker still has views on objects after the task that read them has ended: they stay where they are."""

    node: NodeId
    epoch: int
    objects: tuple[ObjectId, ...]


@dataclass(slots=True)
class LetGo:
    """The last of those views is gone."""

    node: NodeId
    epoch: int
    objects: tuple[ObjectId, ...]


@dataclass(slots=True)
class Spilled:
    """Answers a Spill, for some of its objects. Not `ok`: it could not be written (`full`: there is no room)."""

    node: NodeId
    epoch: int
    objects: tuple[ObjectId, ...]
    ok: bool = True
    full: bool = False


@dataclass(slots=True)
class Restored:
    """Answers a Restore. Not `ok`: the bytes are gone or damaged."""

    node: NodeId
    epoch: int
    object: ObjectId
    ok: bool = True


@dataclass(slots=True)
class Fetched:
    """Answers a Fetch. Not `ok`: the other node does not have it, or does not answer."""

    node: NodeId
    epoch: int
    object: ObjectId
    ok: bool = True


@dataclass(slots=True)
class Damaged:
    """A task of the node found the object's bytes gone or damaged."""

    node: NodeId
    epoch: int
    object: ObjectId


class Usage(NamedTuple):
    """Bytes of memory that an attempt has now."""

    id: TaskId
    attempt: int
    used: int


@dataclass(slots=True)
class MemoryHigh:
    """The node runs out of memory of its own (not of its arena): `used` of `limit`. Answered by Kill, or by nothing."""

    node: NodeId
    epoch: int
    used: int
    limit: int
    usage: list[Usage] = field(default_factory=list)


@dataclass(slots=True)
class Tick:
    """The time for which SetTimer asked has come. A Tick at any other time is harmless."""


@dataclass(slots=True)
class Closing:
    """Drop what has not begun; with `force` also kill what runs."""

    force: bool = False


Event = (
    Submitted
    | Cancelled
    | Stored
    | Freed
    | Durable
    | Wanted
    | Unwanted
    | GroupAsked
    | GroupReleased
    | ActorReleased
    | NodeJoined
    | NodeHeard
    | NodeLost
    | RoomAsked
    | RoomReturned
    | Finished
    | Yielded
    | AttemptLost
    | AttemptTimedOut
    | AttemptReturned
    | Blocked
    | Unblocked
    | Held
    | LetGo
    | Spilled
    | Restored
    | Fetched
    | Damaged
    | MemoryHigh
    | Tick
    | Closing
)
