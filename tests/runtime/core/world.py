"""Nodes as the scheduler core sees them: they carry out its actions, refuse what is impossible, and answer when told.

Nothing happens by itself: a test (or hypothesis) says which attempt ends, which move is done, which worker dies.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.core.invariants import check
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.protocol import ActorId, ObjectId, TaskId

UNIT = e.UNIT


@dataclass
class Attempt:
    lease: a.Lease
    begun: bool = False
    blocked: bool = False
    rooms: dict[int, int] = field(default_factory=dict)
    overflow: set[int] = field(default_factory=set)
    asked: dict[int, int] = field(default_factory=dict)
    items: int = 0


@dataclass
class Host:
    """One node. `spilling`, `restoring`, `fetching`: moves that are under way."""

    id: int
    epoch: int
    capacity: e.Capacity
    arena: dict[ObjectId, int] = field(default_factory=dict)
    rooms: dict[int, int] = field(default_factory=dict)
    spilled: dict[ObjectId, int] = field(default_factory=dict)
    attempts: dict[TaskId, Attempt] = field(default_factory=dict)
    spilling: list[list[ObjectId]] = field(default_factory=list)
    restoring: dict[ObjectId, int] = field(default_factory=dict)
    fetching: dict[ObjectId, int] = field(default_factory=dict)
    actors: dict[ActorId, tuple[TaskId, int]] = field(default_factory=dict)

    @property
    def used(self) -> int:
        moves = sum(self.restoring.values()) + sum(self.fetching.values())
        return sum(self.arena.values()) + sum(self.rooms.values()) + moves


class World:
    def __init__(self, *capacities: e.Capacity) -> None:
        self.core = Scheduler()
        self.now = 0.0
        self.hosts: dict[int, Host] = {}
        self.sizes: dict[ObjectId, int] = {}
        self.inline: set[ObjectId] = set()
        self.durable: set[ObjectId] = set()
        self.live: dict[TaskId, e.Request] = {}
        self.ended: dict[TaskId, a.Ended] = {}
        self.told: list[a.Action] = []
        self.ready: dict[int, bool] = {}
        self.lost: set[ObjectId] = set()
        self.puts: dict[int, tuple[ObjectId, int]] = {}
        self.granted_puts: dict[int, bool] = {}
        self.restores = 0
        self.requests = 0
        self.log: list[tuple[e.Event, float]] = []
        for number, capacity in enumerate(capacities):
            self.join(number, capacity)

    # ---- telling ------------------------------------------------------------------------------

    def tell(self, event: e.Event) -> list[a.Action]:
        self.log.append((event, self.now))
        if isinstance(event, e.Submitted):
            for request in event.requests:
                self.live[request.id] = request
        actions = self.core.apply(event, self.now)
        for action in actions:
            self.told.append(action)
            self._carry_out(action)
        check(self.core)
        return actions

    def join(self, number: int, capacity: e.Capacity, holds: tuple[tuple[ObjectId, int], ...] = ()) -> None:
        self.hosts[number] = Host(number, -1, capacity, arena=dict(holds))
        self.tell(e.NodeJoined(number, capacity, holds))

    def submit(self, *requests: e.Request) -> list[a.Action]:
        return self.tell(e.Submitted(list(requests)))

    def wait(self, seconds: float) -> list[a.Action]:
        """Time goes by."""
        self.now += seconds
        return self.tell(e.Tick())

    # ---- carrying out -------------------------------------------------------------------------

    def _carry_out(self, action: a.Action) -> None:
        carry = getattr(self, f"_{type(action).__name__.lower()}", None)
        if carry is not None:
            carry(action)

    def _host(self, action: object) -> Host | None:
        host = self.hosts.get(getattr(action, "node"))  # noqa: B009 - of several types
        return host if host is not None and host.epoch == getattr(action, "epoch") else None  # noqa: B009

    def _welcome(self, action: a.Welcome) -> None:
        self.hosts[action.node].epoch = action.epoch

    def _fence(self, action: a.Fence) -> None:
        self.hosts.pop(action.node, None)

    def _run(self, action: a.Run) -> None:
        host = self._host(action)
        assert host is not None
        for lease in action.leases:
            request = lease.request
            assert request.id not in host.attempts, f"{request.id} is leased twice"
            for other in self.hosts.values():
                assert request.id not in other.attempts, f"{request.id} runs twice"
            for object_id in request.inputs:
                there = object_id in host.arena or object_id in self.inline or object_id in self.durable
                assert there, f"{request.id} is to run without its input {object_id}"
            host.attempts[request.id] = Attempt(lease)

    def _revoke(self, action: a.Revoke) -> None:
        pass  # given back when a test says so

    def _kill(self, action: a.Kill) -> None:
        pass

    def _endactor(self, action: a.EndActor) -> None:
        host = self._host(action)
        assert host is not None
        assert action.actor in host.actors
        del host.actors[action.actor]

    def _grant(self, action: a.Grant) -> None:
        host = self._host(action)
        assert host is not None
        if action.request in self.puts:
            host.rooms[action.request] = self.puts[action.request][1]
            self.granted_puts[action.request] = False
        for attempt in host.attempts.values():
            if action.request in attempt.asked:
                host.rooms[action.request] = attempt.rooms[action.request] = attempt.asked.pop(action.request)
        self._fits(host)

    def _overflow(self, action: a.Overflow) -> None:
        host = self._host(action)
        assert host is not None
        if action.request in self.puts:
            if action.refused:
                del self.puts[action.request]
            else:
                self.granted_puts[action.request] = True
        for attempt in host.attempts.values():
            if action.request in attempt.asked:
                attempt.rooms[action.request] = attempt.asked.pop(action.request)
                attempt.overflow.add(action.request)

    def _spill(self, action: a.Spill) -> None:
        host = self._host(action)
        assert host is not None
        for object_id in action.objects:
            assert object_id in host.arena
            self._nobody_reads(host, object_id)
        host.spilling.append(list(action.objects))

    def _drop(self, action: a.Drop) -> None:
        host = self._host(action)
        if host is None:
            return
        for object_id in action.objects:
            self._nobody_reads(host, object_id)
            assert object_id not in host.restoring
            assert object_id not in host.fetching
            host.arena.pop(object_id, None)
            if action.spilled:
                host.spilled.pop(object_id, None)
            if not any(object_id in other.arena or object_id in other.spilled for other in self.hosts.values()):
                self.inline.discard(object_id)

    def _nobody_reads(self, host: Host, object_id: ObjectId) -> None:
        for attempt in host.attempts.values():
            if object_id in attempt.lease.request.inputs and object_id in host.arena:
                raise AssertionError(f"{object_id} is taken from under {attempt.lease.request.id}")

    def _restore(self, action: a.Restore) -> None:
        host = self._host(action)
        assert host is not None
        assert action.object in host.spilled
        assert action.object not in host.arena
        host.restoring[action.object] = host.spilled[action.object]
        self.restores += 1
        self._fits(host)

    def _fetch(self, action: a.Fetch) -> None:
        host = self._host(action)
        assert host is not None
        source = self.hosts[action.source]
        assert action.object in source.arena or action.object in source.spilled
        host.fetching[action.object] = self.sizes[action.object]
        self._fits(host)

    def _fits(self, host: Host) -> None:
        assert host.used <= host.capacity.arena, f"the arena of {host.id} is over its limit"

    def _ended(self, action: a.Ended) -> None:
        task_id = action.request.id
        assert task_id in self.live, f"{task_id} ended twice"
        del self.live[task_id]
        self.ended[task_id] = action

    def _ready(self, action: a.Ready) -> None:
        self.ready[action.reader] = action.ok

    def _lost(self, action: a.Lost) -> None:
        self.lost.add(action.object)

    # ---- what nodes do ------------------------------------------------------------------------

    def find(self, task_id: TaskId) -> tuple[Host, Attempt]:
        for host in self.hosts.values():
            if task_id in host.attempts:
                return host, host.attempts[task_id]
        raise AssertionError(f"{task_id} is on no node")

    def running(self) -> list[TaskId]:
        return [task_id for host in self.hosts.values() for task_id in host.attempts]

    def ask(self, task_id: TaskId, size: int) -> int:
        """The attempt is about to write an object. Returns the number of the request."""
        host, attempt = self.find(task_id)
        self.requests += 1
        attempt.asked[self.requests] = size
        number = attempt.lease.attempt
        self.tell(e.RoomAsked(host.id, host.epoch, self.requests, size, task_id, number))
        return self.requests

    def finish(self, task_id: TaskId, size: int | None = None, failed: bool = False, seconds: float = 0.01) -> None:
        """The attempt comes to its end, with an output of that size in the room that it was given, or inline."""
        host, attempt = self.find(task_id)
        made: tuple[e.Made, ...] = ()
        output = attempt.lease.request.output
        if output is not None and not failed:
            if attempt.rooms:
                request, size = next(iter(attempt.rooms.items()))
                over = request in attempt.overflow
                made = (e.Made(output, size, -1 if over else request, over),)
                if output not in host.arena:
                    (host.spilled if over else host.arena)[output] = size
            else:
                size = size or 100
                made = (e.Made(output, size),)
                self.inline.add(output)
            self.sizes[output] = size
        for request in attempt.rooms:
            host.rooms.pop(request, None)
        del host.attempts[task_id]
        lease = attempt.lease
        if lease.request.actor is not None and lease.request.kind == e.TaskKind.CREATE and not failed:
            host.actors[lease.request.actor] = (task_id, lease.attempt)
        done = e.Done(task_id, lease.attempt, seconds, made, failed)
        self.tell(e.Finished(host.id, host.epoch, [done]))

    def make(self, task_id: TaskId, size: int) -> None:
        """Ask for room, write, end. Has to be granted (or overflow) at once."""
        self.ask(task_id, size)
        self.finish(task_id)

    def _gone(self, task_id: TaskId) -> tuple[Host, a.Lease]:
        host, attempt = self.find(task_id)
        for request in attempt.rooms:
            host.rooms.pop(request, None)
        del host.attempts[task_id]
        return host, attempt.lease

    def lose(self, task_id: TaskId, ours: bool = False) -> None:
        host, lease = self._gone(task_id)
        actor = lease.request.actor
        self.tell(e.AttemptLost(host.id, host.epoch, task_id, lease.attempt, ours))
        if actor is not None and actor in host.actors:
            self.lose_actor(actor)

    def lose_actor(self, actor: ActorId) -> None:
        host = next(host for host in self.hosts.values() if actor in host.actors)
        created = host.actors.pop(actor)
        self.tell(e.AttemptLost(host.id, host.epoch, *created))
        for task_id, attempt in list(host.attempts.items()):
            if attempt.lease.request.actor == actor:
                self.give_back(task_id)

    def give_back(self, task_id: TaskId) -> None:
        host, lease = self._gone(task_id)
        self.tell(e.AttemptReturned(host.id, host.epoch, task_id, lease.attempt))

    def spilled(self, host: Host, ok: bool = True, full: bool = False) -> None:
        """The oldest spill is done."""
        objects = host.spilling.pop(0)
        if ok:
            for object_id in objects:
                host.spilled[object_id] = host.arena.pop(object_id)
        self.tell(e.Spilled(host.id, host.epoch, tuple(objects), ok, full))

    def restored(self, host: Host, object_id: ObjectId, ok: bool = True) -> None:
        size = host.restoring.pop(object_id)
        if ok:
            host.arena[object_id] = size
        else:
            host.spilled.pop(object_id, None)
        self.tell(e.Restored(host.id, host.epoch, object_id, ok))

    def fetched(self, host: Host, object_id: ObjectId, ok: bool = True) -> None:
        size = host.fetching.pop(object_id)
        if ok:
            host.arena[object_id] = size
        self.tell(e.Fetched(host.id, host.epoch, object_id, ok))

    def moves(self) -> bool:
        """Carry all moves of bytes to their end. Whether there were any."""
        found = False
        while True:
            moving = [h for h in self.hosts.values() if h.spilling or h.restoring or h.fetching]
            if not moving:
                return found
            found = True
            host = moving[0]
            if host.spilling:
                self.spilled(host)
            elif host.restoring:
                self.restored(host, next(iter(host.restoring)))
            else:
                self.fetched(host, next(iter(host.fetching)))

    def put(self, object_id: ObjectId, size: int, node: int = 0) -> bool:
        """Whoever submits stores an object, moving bytes as that needs. False if it has to wait."""
        self.requests += 1
        request = self.requests
        self.puts[request] = (object_id, size)
        host = self.hosts[node]
        self.tell(e.RoomAsked(node, host.epoch, request, size))
        while request not in self.granted_puts and self.moves():
            pass
        return self.store(request, node)

    def store(self, request: int, node: int = 0) -> bool:
        if request not in self.granted_puts:
            return False
        host, over = self.hosts[node], self.granted_puts.pop(request)
        object_id, size = self.puts.pop(request)
        host.rooms.pop(request, None)
        (host.spilled if over else host.arena)[object_id] = size
        self.sizes[object_id] = size
        self.tell(e.Stored(object_id, node, size, False, -1 if over else request, over))
        return True

    def lose_host(self, number: int) -> None:
        host = self.hosts.pop(number)
        self.tell(e.NodeLost(number, host.epoch))


def capacity(
    name: str = "local",
    cpus: int = 2,
    arena: int = 1_000_000,
    memory: int = 10**9,
    devices: tuple[e.Device, ...] = (),
    **custom: int,
) -> e.Capacity:
    named = tuple((resource, amount * UNIT) for resource, amount in custom.items())
    return e.Capacity(name, cpus * UNIT, memory, arena, devices, named, slots=max(cpus, 1))


def request(number: int, *inputs: int, **more: object) -> e.Request:
    """Task (1, n) of function 1, reading objects (9, i); `output=n` for object (9, n)."""
    output = more.pop("output", None)
    made = (9, output) if isinstance(output, int) else None
    return e.Request((1, number), 1, inputs=tuple((9, i) for i in inputs), output=made, **more)  # type: ignore[arg-type]
