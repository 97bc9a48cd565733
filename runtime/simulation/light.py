"""Nodes with next to no cost of their own, for a million tasks and for real graphs: no faults, no network, no checks but
those of the arenas.

A task takes `Work.seconds` of a slot and makes one object of `Work.size` bytes. With `batches`, what a node is given at
one time ends at one time, which makes one event of it: what is then measured is the core.

May import nothing of ours but the simulator's other modules and the core.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from dagengine.model import INLINE_LIMIT
from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.core.machine import Scheduler
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.simulation.plans import Violation, name
from dagengine.runtime.simulation.store import Copy, Store

DISK_RATE: Final = 500e6
NET_RATE: Final = 1e9
"""Bytes a second."""

ENDLESS: Final = 1 << 60


class Work(NamedTuple):
    """Of a task: `Request.spec`."""

    seconds: float
    size: int = 0


class _Node:
    __slots__ = ("epoch", "free", "number", "queue", "slots", "store")

    def __init__(self, number: int, capacity: e.Capacity) -> None:
        self.number = number
        self.slots = self.free = capacity.slots
        self.epoch = -1
        self.queue: deque[a.Lease] = deque()
        self.store = Store(capacity.name, capacity.arena, ENDLESS)


class LightWorld:
    """`starts`: when each task began, if `watch`."""

    def __init__(
        self,
        capacities: Sequence[e.Capacity],
        scheduler: Callable[[], Scheduler] = Scheduler,
        batches: bool = False,
        watch: bool = False,
    ) -> None:
        self.core = scheduler()
        self.now = 0.0
        self.events = 0
        self.ended = 0
        self.moved: dict[str, int] = {"spilled": 0, "restored": 0, "fetched": 0}
        self.starts: dict[TaskId, float] = {}
        self.outcomes: dict[str, int] = {}
        self._watch = watch
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._timer: float | None = None
        self._inline: set[ObjectId] = set()
        self._requests: dict[tuple[int, int], tuple[a.Lease, int]] = {}
        self._nodes = [_Node(number, capacity) for number, capacity in enumerate(capacities)]
        self._handlers: dict[type, Callable[[Any], None]] = {
            a.Run: self._run_batch if batches else self._run,
            a.Ended: self._ended,
            a.Welcome: self._welcome,
            a.SetTimer: self._set_timer,
            a.Grant: self._grant,
            a.Overflow: self._overflow,
            a.Spill: self._spill,
            a.Drop: self._drop,
            a.Restore: self._restore,
            a.Fetch: self._fetch,
            a.Revoke: self._revoke,
        }
        for number, capacity in enumerate(capacities):
            self.feed(e.NodeJoined(number, capacity))

    def feed(self, event: e.Event) -> None:
        """Not to be called from what carries out an action: actions come in an order."""
        self.events += 1
        for action in self.core.apply(event, self.now):
            handler = self._handlers.get(type(action))
            if handler is not None:
                handler(action)

    def run(self, tasks: int) -> float:
        """Until so many tasks have ended in all; the time that it then is."""
        heap = self._heap
        while self.ended < tasks:
            if not heap:
                raise Violation(f"{tasks - self.ended} tasks have not ended, and nothing will happen any more")
            self.now, _, what, arguments = heapq.heappop(heap)
            what(*arguments)
        return self.now

    def _later(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now + delay, self._number, what, arguments))

    # ---- tasks ----------------------------------------------------------------------------------

    def _run_batch(self, run: a.Run) -> None:
        node = self._nodes[run.node]
        results = [e.Done(lease.request.id, lease.attempt, _work(lease).seconds) for lease in run.leases]
        self._later(sum(done.seconds for done in results) / node.slots, self._told, node, results)

    def _told(self, node: _Node, results: list[e.Done]) -> None:
        self.feed(e.Finished(node.number, node.epoch, results))

    def _run(self, run: a.Run) -> None:
        node = self._nodes[run.node]
        for lease in run.leases:
            for object_id in lease.request.inputs:
                if object_id in self._inline:
                    continue
                if object_id not in node.store.arena:
                    raise Violation(f"{name(lease.request.id)} is leased, and its input {name(object_id)} is not there")
                node.store.view(object_id)
        node.queue.extend(run.leases)
        self._start(node)

    def _start(self, node: _Node) -> None:
        while node.free and node.queue:
            lease = node.queue.popleft()
            node.free -= 1
            if self._watch:
                self.starts[lease.request.id] = self.now
            self._later(_work(lease).seconds, self._computed, node, lease)

    def _computed(self, node: _Node, lease: a.Lease) -> None:
        output, size = lease.request.output, _work(lease).size
        if output is None:
            self._finish(node, lease, ())
            return
        if size <= INLINE_LIMIT:
            self._inline.add(output)
            self._finish(node, lease, (e.Made(output, size),))
            return
        self._number += 1
        self._requests[node.number, self._number] = (lease, size)
        self.feed(e.RoomAsked(node.number, node.epoch, self._number, size, lease.request.id, lease.attempt))

    def _finish(self, node: _Node, lease: a.Lease, made: tuple[e.Made, ...]) -> None:
        self._unview(node, lease)
        node.free += 1
        self._start(node)
        done = e.Done(lease.request.id, lease.attempt, _work(lease).seconds, made)
        self.feed(e.Finished(node.number, node.epoch, [done]))

    def _unview(self, node: _Node, lease: a.Lease) -> None:
        for object_id in lease.request.inputs:
            if object_id not in self._inline:
                node.store.unview(object_id)

    def _ended(self, ended: a.Ended) -> None:
        self.ended += 1
        self.outcomes[ended.outcome] = self.outcomes.get(ended.outcome, 0) + 1

    def _revoke(self, revoke: a.Revoke) -> None:
        node = self._nodes[revoke.node]
        wanted = set(revoke.attempts)
        back = [lease for lease in node.queue if (lease.request.id, lease.attempt) in wanted]
        node.queue = deque(lease for lease in node.queue if (lease.request.id, lease.attempt) not in wanted)
        for lease in back:
            self._unview(node, lease)
            self._later(0.0, self.feed, e.AttemptReturned(node.number, node.epoch, lease.request.id, lease.attempt))

    # ---- objects --------------------------------------------------------------------------------

    def _grant(self, grant: a.Grant) -> None:
        node = self._nodes[grant.node]
        lease, size = self._requests.pop((grant.node, grant.request))
        assert lease.request.output is not None
        node.store.grant(grant.request, size)
        node.store.seal(grant.request, lease.request.output, Copy(size, 0))
        made = e.Made(lease.request.output, size, grant.request)
        self._later(0.0, self._finish, node, lease, (made,))

    def _overflow(self, overflow: a.Overflow) -> None:
        node = self._nodes[overflow.node]
        lease, size = self._requests.pop((overflow.node, overflow.request))
        assert lease.request.output is not None
        node.store.overflow(lease.request.output, Copy(size, 0))
        made = e.Made(lease.request.output, size, overflow.request, overflow=True)
        self._later(size / DISK_RATE, self._finish, node, lease, (made,))

    def _spill(self, spill: a.Spill) -> None:
        node = self._nodes[spill.node]
        size = sum(node.store.arena[object_id].size for object_id in spill.objects)
        self.moved["spilled"] += len(spill.objects)
        self._later(size / DISK_RATE, self._spilled, node, tuple(spill.objects))

    def _spilled(self, node: _Node, objects: tuple[ObjectId, ...]) -> None:
        for object_id in objects:
            node.store.spill(object_id)
        self.feed(e.Spilled(node.number, node.epoch, objects))

    def _drop(self, drop: a.Drop) -> None:
        for object_id in drop.objects:
            if object_id in self._inline:
                continue
            self._nodes[drop.node].store.drop(object_id, drop.spilled)

    def _restore(self, restore: a.Restore) -> None:
        node = self._nodes[restore.node]
        copy = node.store.spilled[restore.object]
        self.moved["restored"] += 1
        node.store.expect(restore.object, copy.size)
        news = e.Restored(node.number, node.epoch, restore.object)
        self._later(copy.size / DISK_RATE, self._arrived, node, restore.object, copy, news)

    def _fetch(self, fetch: a.Fetch) -> None:
        node, source = self._nodes[fetch.node], self._nodes[fetch.source]
        copy = source.store.arena.get(fetch.object) or source.store.spilled[fetch.object]
        self.moved["fetched"] += 1
        node.store.expect(fetch.object, copy.size)
        news = e.Fetched(node.number, node.epoch, fetch.object)
        self._later(copy.size / NET_RATE, self._arrived, node, fetch.object, copy, news)

    def _arrived(self, node: _Node, object_id: ObjectId, copy: Copy, news: e.Event) -> None:
        node.store.arrive(object_id, Copy(copy.size, 0))
        self.feed(news)

    # ---- the rest -------------------------------------------------------------------------------

    def _welcome(self, welcome: a.Welcome) -> None:
        self._nodes[welcome.node].epoch = welcome.epoch

    def _set_timer(self, timer: a.SetTimer) -> None:
        self._timer = timer.at
        self._later(max(0.0, timer.at - self.now), self._tick, timer.at)

    def _tick(self, at: float) -> None:
        if self._timer == at:
            self._timer = None
            self.feed(e.Tick())


def _work(lease: a.Lease) -> Work:
    work = lease.request.spec
    assert isinstance(work, Work)
    return work
