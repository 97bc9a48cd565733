"""A simulated node: its workers, its arena, its disk; it carries out the core's actions and tells its news.

News are told in order. The results of attempts that end within FLUSH_SECONDS go together, and never after later news.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from dagengine.runtime.core import actions as a
from dagengine.runtime.core import events as e
from dagengine.runtime.protocol import ObjectId, TaskId
from dagengine.runtime.simulation.attempts import World
from dagengine.runtime.simulation.crew import Crew
from dagengine.runtime.simulation.plans import Violation, name
from dagengine.runtime.simulation.store import Copy, Store

FLUSH_SECONDS: Final = 0.002


class Node:
    """`up`: its process lives. Rates: bytes a second."""

    def __init__(self, number: int, capacity: e.Capacity, disk: int, world: World) -> None:
        self.number = number
        self.capacity = capacity
        self.world = world
        self.store = Store(capacity.name, capacity.arena, disk)
        self.up = True
        self.life = 0
        self.epoch = -1
        self.disk_rate = 50e6
        self.net_rate = 100e6
        self.write_rate = 30e6  # into the arena, by tasks that work out what they write
        self.fail_spills = 0
        self.fail_restores = 0
        self.crew = Crew(self)
        self._rooms: dict[int, tuple[int, Callable[[int, str], None]]] = {}  # asked for or granted, by request
        self._next_request = 0
        self._results: list[e.Done] = []
        self._handlers: dict[type, Callable[[Any], None]] = {
            a.Revoke: self.crew.revoke,
            a.Kill: self.crew.kill,
            a.EndActor: self.crew.end_actor,
            a.Grant: self._grant,
            a.Overflow: self._overflow,
            a.Spill: self._spill,
            a.Drop: self._drop,
            a.Restore: self._restore,
            a.Fetch: self._fetch,
        }

    def do(self, action: Any, mapped: frozenset[ObjectId] = frozenset()) -> None:
        if not self.up or action.epoch != self.epoch:
            return
        if type(action) is a.Run:
            self.crew.run(action, mapped)
        else:
            self._handlers[type(action)](action)

    # ---- rooms ----------------------------------------------------------------------------------

    def ask_room(
        self, size: int, told: Callable[[int, str], None], task: TaskId | None = None, attempt: int = 0
    ) -> int:
        """`told` is called with the request and "granted", "disk" or "refused". No task: it is for a put."""
        request = self._next_request
        self._next_request += 1
        self._rooms[request] = (size, told)
        self.say(e.RoomAsked(self.number, self.epoch, request, size, task, attempt))
        return request

    def abandon_room(self, request: int) -> None:
        """Whoever asked for it is gone."""
        del self._rooms[request]
        if request in self.store.rooms:
            self.store.give_back(request)

    def return_room(self, request: int) -> None:
        """A put was given up."""
        self.abandon_room(request)
        self.say(e.RoomReturned(self.number, self.epoch, request))

    def seal(self, request: int, object_id: ObjectId, copy: Copy) -> None:
        del self._rooms[request]
        self.store.seal(request, object_id, copy)

    def _grant(self, grant: a.Grant) -> None:
        if grant.request in self._rooms:  # else given back while this was under way
            size, told = self._rooms[grant.request]
            self.store.grant(grant.request, size)
            told(grant.request, "granted")

    def _overflow(self, overflow: a.Overflow) -> None:
        if overflow.request in self._rooms:
            _, told = self._rooms.pop(overflow.request)
            told(overflow.request, "refused" if overflow.refused else "disk")

    # ---- objects --------------------------------------------------------------------------------

    def _spill(self, spill: a.Spill) -> None:
        sizes = {}
        for object_id in spill.objects:
            if object_id not in self.store.arena:
                raise Violation(f"{self.capacity.name}: {name(object_id)} is to be spilled, and is not in the arena")
            if self.store.views.get(object_id):
                raise Violation(f"{self.capacity.name}: {name(object_id)} is to be spilled while it is read")
            sizes[object_id] = self.store.arena[object_id].size
        seconds = 0.002 + sum(sizes.values()) / self.disk_rate
        self.world.later(seconds, self._spill_written, self.life, tuple(spill.objects), sum(sizes.values()))

    def _spill_written(self, life: int, objects: tuple[ObjectId, ...], size: int) -> None:
        if life != self.life or not self.up:
            return
        if self.fail_spills:
            self.fail_spills -= 1
            self.say(e.Spilled(self.number, self.epoch, objects, ok=False))
        elif not self.store.fits_disk(size):
            self.say(e.Spilled(self.number, self.epoch, objects, ok=False, full=True))
        else:
            for object_id in objects:
                self.store.spill(object_id)
            self.say(e.Spilled(self.number, self.epoch, objects))

    def _drop(self, drop: a.Drop) -> None:
        for object_id in drop.objects:
            self.store.drop(object_id, drop.spilled)

    def _restore(self, restore: a.Restore) -> None:
        copy = self.store.spilled.get(restore.object)
        if copy is None:
            raise Violation(f"{self.capacity.name}: {name(restore.object)} is to be restored, and was not spilled")
        self.store.expect(restore.object, copy.size)
        seconds = 0.002 + copy.size / self.disk_rate
        self.world.later(seconds, self._restored, self.life, restore.object)

    def _restored(self, life: int, object_id: ObjectId) -> None:
        if life != self.life or not self.up or object_id not in self.store.coming:
            return
        copy = self.store.spilled.get(object_id)
        if copy is not None and self.fail_restores:
            self.fail_restores -= 1
            copy.damaged = True
        ok = copy is not None and not copy.damaged
        self.store.arrive(object_id, Copy(copy.size, copy.value) if ok and copy is not None else None)
        self.say(e.Restored(self.number, self.epoch, object_id, ok))

    def _fetch(self, fetch: a.Fetch) -> None:
        copy = self.world.fetch(self.number, fetch.source, fetch.object)
        size = copy.size if copy is not None else 0
        self.store.expect(fetch.object, size)
        seconds = 0.005 + size / self.net_rate
        self.world.later(seconds, self._fetched, self.life, fetch.object, fetch.source)

    def _fetched(self, life: int, object_id: ObjectId, source: int) -> None:
        if life != self.life or not self.up or object_id not in self.store.coming:
            return
        copy = self.world.fetch(self.number, source, object_id)
        if copy is not None and self.store.coming[object_id] != copy.size:
            copy = None  # there was none when it began
        self.store.arrive(object_id, Copy(copy.size, copy.value) if copy is not None else None)
        self.say(e.Fetched(self.number, self.epoch, object_id, copy is not None))

    def keep(self, request: int, object_id: ObjectId, copy: Copy, overflow: bool) -> bool:
        """A put has written its bytes; False: the disk was full."""
        if not overflow:
            self.seal(request, object_id, copy)
        elif self.store.fits_disk(copy.size):
            self.store.overflow(object_id, copy)
        else:
            return False
        return True

    # ---- its own life ---------------------------------------------------------------------------

    def joined(self, epoch: int) -> None:
        self.epoch = epoch

    def stop(self, arena_too: bool) -> None:
        """All workers end, nothing that was under way goes on; what the arena holds stays, unless `arena_too`."""
        self.crew.stop()
        self._rooms.clear()
        self._results.clear()
        self.store.forget(arena_too)
        self.epoch = -1
        self.life += 1

    def join(self) -> None:
        holds = tuple((object_id, copy.size) for object_id, copy in self.store.arena.items())
        self.say(e.NodeJoined(self.number, self.capacity, holds))

    def high_memory(self, used: int, limit: int) -> None:
        usage = [
            e.Usage(*attempt.key, used=self.world.rng.randint(1, used))
            for attempt in self.crew.attempts.values()
            if attempt.state in ("running", "blocked")
        ]
        self.say(e.MemoryHigh(self.number, self.epoch, used, limit, usage))

    # ---- news -----------------------------------------------------------------------------------

    def result(self, done: e.Done) -> None:
        self._results.append(done)
        if len(self._results) == 1:
            self.world.later(FLUSH_SECONDS, self._flush, self.life)

    def say(self, event: e.Event) -> None:
        self._flush(self.life)
        self.world.say(self.number, event)

    def _flush(self, life: int) -> None:
        if life == self.life and self._results:
            results, self._results = self._results, []
            self.world.say(self.number, e.Finished(self.number, self.epoch, results))
