"""What the scheduler core knows: tasks, classes of tasks, objects and their copies, nodes, actors, groups.

Pure data with the arithmetic of its own counts. May import nothing of ours but errors, runtime.protocol and the core's
other words.
"""

from __future__ import annotations

from collections import deque

from dagengine.errors import InternalError
from dagengine.runtime.core.events import Capacity, Need, NodeId, Request
from dagengine.runtime.core.ledger import Ledger
from dagengine.runtime.core.queues import TaskQueue
from dagengine.runtime.core.states import STATE_NAMES, TRANSITIONS, Place, State
from dagengine.runtime.protocol import ActorId, GroupId, ObjectId


class Estimate:
    """What tasks of one function take. seconds: below 0 as long as none has ended; output: bytes."""

    __slots__ = ("output", "seconds")

    def __init__(self) -> None:
        self.seconds = -1.0
        self.output = 0


class Extra:
    """What only some tasks have: those with objects, with more than one cpu, or with troubles.

    pins: copies that are kept for it
    pending: inputs that are on their way to the node
    expected: bytes that it is thought to make; reserved: those set aside for it in the node's arena
    prepared: admitted without a cpu, so that its inputs are there when one is free
    room: bytes that it needs there at once before its inputs can be brought (a bundle that waits)
    rooms: requests of its attempt that are granted, or asked for
    doomed: why it was killed, or will be dropped when it comes back
    moved: bytes of its inputs that had to be brought
    """

    __slots__ = (
        "awaits",
        "bundle",
        "devices",
        "doomed",
        "expected",
        "facts",
        "ledger",
        "losses",
        "memory",
        "memory_losses",
        "moved",
        "pending",
        "pins",
        "prepared",
        "rebuild",
        "reserved",
        "revoked",
        "room",
        "rooms",
        "score",
        "yielded",
    )

    def __init__(self) -> None:
        self.ledger: Ledger | None = None
        self.bundle: Bundle | None = None
        self.devices: tuple[int, ...] = ()
        self.memory = 0
        self.pins: dict[ObjectId, Copy] = {}
        self.expected = 0
        self.pending = 0
        self.reserved = 0
        self.room = 0
        self.rooms: set[int] = set()
        self.doomed: str | None = None
        self.facts: dict[str, int] | None = None
        self.awaits: tuple[ObjectId, ...] = ()
        self.losses = 0
        self.memory_losses = 0
        self.revoked = False
        self.rebuild = False
        self.prepared = False
        self.yielded = False
        self.moved = 0
        self.score: dict[str, float] | None = None


class Task:
    """One submitted task. `light`: nothing but a cpu, no objects: the short way through the core."""

    __slots__ = (
        "actor",
        "attempt",
        "entry",
        "estimate",
        "extra",
        "inputs",
        "klass",
        "light",
        "missing",
        "node",
        "order",
        "output",
        "pooled",
        "request",
        "since",
        "state",
    )

    def __init__(self, request: Request, order: int, now: float) -> None:
        self.request = request
        self.order = order
        self.state = State.WAITING
        self.attempt = 0
        self.entry = 0
        self.klass: Klass | None = None
        self.node: Node | None = None
        self.estimate = 0.0
        self.since = now
        self.missing = 0
        self.inputs: tuple[Obj, ...] = ()
        self.output: Obj | None = None
        self.light = False
        self.pooled = False
        self.extra: Extra | None = None
        self.actor: Actor | None = None

    @property
    def more(self) -> Extra:
        extra = self.extra
        if extra is None:
            extra = self.extra = Extra()
        return extra

    def move(self, state: int) -> None:
        if state not in TRANSITIONS[self.state]:
            raise InternalError(
                f"task {self.request.id} is {STATE_NAMES[self.state]} and can't be {STATE_NAMES[state]}"
            )
        self.state = state


class Klass:
    """Tasks that ask for the same: what one can't get, none can.

    light: of light tasks; heavy: some of them need room in an arena
    feasible: nodes that could run them if they were empty, as of `version` of the cluster; able: their ids
    asked: bytes of memory that they asked for; `need` may have more, learned from a kill
    stuck: no node has what they ask for, until something changes on one of them
    """

    __slots__ = (
        "able",
        "asked",
        "feasible",
        "group",
        "heavy",
        "light",
        "need",
        "number",
        "plain",
        "queue",
        "ring",
        "stuck",
        "version",
    )

    def __init__(self, number: int, need: Need, plain: bool, light: bool, heavy: bool) -> None:
        self.number = number
        self.need = need
        self.plain = plain
        self.light = light
        self.heavy = heavy
        self.queue = TaskQueue(self)
        self.stuck = False
        self.feasible: list[Node] = []
        self.able: set[NodeId] = set()
        self.version = -1
        self.ring = 0
        self.group = need.group
        self.asked = need.memory


class Copy:
    """An object on one node. pins: tasks, readers and views for which it has to stay in the arena; held: the views.

    spilled: it is (also) in the node's spill space
    waiting: tasks and readers for which it is on its way
    source: from where it is fetched; misses: how often in a row it could not be fetched from here
    size: its bytes; an object that is made again may have others
    """

    __slots__ = ("age", "held", "misses", "node", "object", "pins", "place", "size", "source", "spilled", "waiting")

    def __init__(self, obj: Obj, node: Node, age: int) -> None:
        self.object = obj
        self.node = node
        self.place = Place.AWAY
        self.spilled = False
        self.pins = 0
        self.held = 0
        self.misses = 0
        self.size = obj.size
        self.age = age
        self.waiting: list[Task | Reader] | None = None
        self.source: Copy | None = None


class Obj:
    """One object. It *exists* if it is inline, durable, or a node has its bytes.

    readers: tasks that read it and have not ended, among some that have: `users` counts; in the order of submission
    producer: the unfinished task that makes it
    lineage: the ended one that made it and could do so again; heirs: how many objects have it in their lineage
    made: it exists (or its loss is being worked out); born: it did once
    bad: how many of the copies are damaged
    later: when it may be fetched again, after a fetch has failed
    dead: it will never exist; whoever reads it ends
    streamed: the task that makes it makes items as well, by its id and a number
    """

    __slots__ = (
        "attempts",
        "bad",
        "born",
        "copies",
        "dead",
        "durable",
        "first",
        "freed",
        "heirs",
        "home",
        "id",
        "inline",
        "later",
        "lineage",
        "made",
        "parents",
        "producer",
        "readers",
        "rebuilds",
        "size",
        "streamed",
        "users",
        "wanted",
    )

    def __init__(self, object_id: ObjectId) -> None:
        self.id = object_id
        self.size = 0
        self.inline = False
        self.durable = False
        self.made = self.born = False
        self.dead = False
        self.streamed = False
        self.freed = False
        self.copies: dict[NodeId, Copy] = {}
        self.bad = 0
        self.home: NodeId = -1
        self.producer: Task | None = None
        self.readers: list[Task] = []
        self.first = 0
        self.users = 0
        self.wanted: dict[tuple[NodeId, int], Reader] | None = None
        self.lineage: Request | None = None
        self.parents: tuple[Obj, ...] = ()
        self.attempts = 0
        self.heirs = 0
        self.rebuilds = 0
        self.later = 0.0

    @property
    def exists(self) -> bool:
        return self.inline or self.durable or len(self.copies) > self.bad


class Reader:
    """Somebody on a node who waits for an object, or has it pinned. Not a task."""

    __slots__ = ("copy", "node", "number", "object", "ready", "room", "since")

    def __init__(self, obj: Obj, node: Node, number: int, now: float) -> None:
        self.object = obj
        self.node = node
        self.number = number
        self.since = now
        self.ready = False
        self.copy: Copy | None = None
        self.room = 0


class Room:
    """Asked for by whoever writes an object. `task`: None for `put`."""

    __slots__ = ("granted", "number", "size", "task")

    def __init__(self, number: int, size: int, task: Task | None) -> None:
        self.number = number
        self.size = size
        self.task = task
        self.granted = False


class Node:
    """A machine. Of its arena: used + reserved <= limit, always.

    used: bytes of what lies there, and of granted rooms; reserved: for what is on its way, and what tasks will make
    pinned: bytes of copies that have pins; loose: of present copies that have none; spilling: on their way to the disk
    pool: plain leases that are not blocked; held: the cpus (in units of one) that they have. The others are ahead
    argued: tasks that have pins here; blocked: those that wait inside themselves
    asking: rooms that can't be granted yet; bundle: the admitted task whose room is being made
    readers: those who wait for room
    prepared: admitted tasks that have no cpu yet; prepares: whether there may be more of them
    claim: a task that waits for long: nothing younger takes what it needs
    """

    __slots__ = (
        "argued",
        "asking",
        "backlog",
        "blocked",
        "bundle",
        "capacity",
        "claim",
        "copies",
        "dead",
        "epoch",
        "heard",
        "held",
        "id",
        "leases",
        "ledger",
        "limit",
        "loose",
        "pinned",
        "pool",
        "prepared",
        "prepares",
        "pressed",
        "readers",
        "reserved",
        "revoked",
        "rooms",
        "spill_full",
        "spill_later",
        "spill_tries",
        "spilled",
        "spilling",
        "suspect",
        "used",
    )

    def __init__(self, node_id: NodeId, epoch: int, capacity: Capacity) -> None:
        self.id = node_id
        self.epoch = epoch
        self.capacity = capacity
        self.ledger = Ledger.of(capacity)
        self.limit = capacity.arena
        self.used = self.reserved = self.pinned = self.loose = self.spilling = self.spilled = 0
        self.copies: dict[ObjectId, Copy] = {}
        self.leases: dict[tuple[int, ...], Task] = {}
        self.pool = self.held = self.argued = self.blocked = 0
        self.backlog = 0.0
        self.rooms: dict[int, Room] = {}
        self.asking: list[Room] = []
        self.bundle: Task | None = None
        self.readers: deque[Reader] = deque()
        self.claim: Task | None = None
        self.prepared: dict[tuple[int, ...], Task] = {}
        self.prepares = True
        self.spill_full = False
        self.spill_later = 0.0
        self.spill_tries = 0
        self.pressed = 0.0
        self.revoked = 0
        self.heard: float | None = None
        self.suspect = False
        self.dead = False

    @property
    def free(self) -> int:
        return self.limit - self.used - self.reserved


class Bundle:
    """A part of a group: what was set aside for it on a node."""

    __slots__ = ("devices", "index", "ledger", "need", "node")

    def __init__(self, index: int, need: Need) -> None:
        self.index = index
        self.need = need
        self.node: Node | None = None
        self.devices: tuple[int, ...] = ()
        self.ledger = Ledger()


class Group:
    """order: tasks that were submitted before have a smaller one. reserved: told to whoever asked. released: ends with its last task. tasks: its unfinished ones."""

    __slots__ = ("bundles", "id", "order", "released", "reserved", "since", "strategy", "tasks")

    def __init__(self, group_id: GroupId, needs: tuple[Need, ...], strategy: str, now: float) -> None:
        self.id = group_id
        self.bundles = [Bundle(index, need) for index, need in enumerate(needs)]
        self.strategy = strategy
        self.since = now
        self.order = 0
        self.reserved = False
        self.released = False
        self.tasks: dict[tuple[int, ...], Task] = {}


class Actor:
    """mailbox: calls that have not gone out, in the order of submission; sent: those that have, and have not ended.

    creation: the task that makes it; it keeps what it was given as long as the actor lives
    """

    __slots__ = ("alive", "creation", "force", "gone", "id", "mailbox", "releasing", "sent")

    def __init__(self, actor_id: ActorId, creation: Task) -> None:
        self.id = actor_id
        self.creation = creation
        self.alive = False
        self.gone = False
        self.releasing = False
        self.force = False
        self.mailbox: deque[Task] = deque()
        self.sent: dict[tuple[int, ...], Task] = {}
