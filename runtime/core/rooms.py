"""Who gets room in an arena, and how room is made.

In this order: what running tasks write, readers, the admitted task whose inputs have to be brought (the bundle: room
for all of them at once, or none), whoever puts objects. When there is none: copies that exist elsewhere are dropped,
then objects are spilled, and if that can't help, either,

    a running task's output   goes straight to the spill space: it never waits for ever
    a reader                  is told to read the spilled bytes, if only readers keep the arena full
    the bundle                is taken back, and its cpus are free for others
    a put                     waits while running tasks will free room, else goes to the spill space

So nobody who holds anything waits for somebody who holds something and waits.

May import nothing of ours but errors, the model, runtime.protocol and the core's words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dagengine.errors import InternalError
from dagengine.runtime.core.actions import Fetch, Grant, Overflow, Ready, Restore, Spill, Throttle
from dagengine.runtime.core.events import NodeId
from dagengine.runtime.core.limits import BACKOFF_SECONDS, FETCHES, SPILL_ABOVE, SPILL_DOWN_TO
from dagengine.runtime.core.model import Copy, Node, Obj, Reader, Room, Task
from dagengine.runtime.core.spilling import batches, has_other, loose, spare, victims
from dagengine.runtime.core.states import Place

if TYPE_CHECKING:
    from dagengine.runtime.core.core import Core


class Rooms:
    def __init__(self, core: Core) -> None:
        self._core = core
        self.throttled = False
        self.puts = 0

    # ---- rooms for what is written ------------------------------------------------------------

    def asked(self, node: Node, number: int, size: int, task: Task | None) -> None:
        room = Room(number, size, task)
        node.rooms[number] = room
        if task is not None:
            task.more.rooms.add(number)
        if size > node.limit:
            self._overflow(node, room, node.spill_full)
            return
        node.asking.append(room)
        self.puts += task is None
        self._core.disturbed(node)

    def leave(self, node: Node, room: Room) -> None:
        """It does not wait any more."""
        node.asking.remove(room)
        self.puts -= room.task is None

    def close(self, node: Node, room: Room) -> None:
        """The room is none any more: an object lies there (which counts it anew), or nothing will."""
        if room.granted:
            node.used -= room.size
            self._core.disturbed(node)
        elif room in node.asking:
            self.leave(node, room)
            self._core.disturbed(node)

    def close_all(self, task: Task) -> None:
        """The attempt has come to an end: what it did not use is free."""
        extra, node = task.extra, task.node
        if extra is None or node is None:
            return
        for number in sorted(extra.rooms):
            room = node.rooms.pop(number, None)
            if room is not None:
                self.close(node, room)
        extra.rooms.clear()

    def _grant(self, node: Node, room: Room) -> None:
        if room.task is not None and room.task.extra is not None:
            extra = room.task.extra
            used = min(extra.reserved, room.size)
            extra.reserved -= used
            node.reserved -= used
        node.used += room.size
        room.granted = True
        self._core.actions.append(Grant(node.id, node.epoch, room.number))

    def _overflow(self, node: Node, room: Room, refused: bool = False) -> None:
        del node.rooms[room.number]
        if room.task is not None:
            room.task.more.rooms.discard(room.number)
        self._core.actions.append(Overflow(node.id, node.epoch, room.number, refused))

    # ---- readers ------------------------------------------------------------------------------

    def wanted(self, reader: Reader) -> None:
        """Have the object there for the reader, as far as it can be now."""
        obj, node = reader.object, reader.node
        if reader.ready:
            return
        if obj.dead:
            self.refuse(reader)
            return
        if not obj.exists:
            return
        copy = obj.copies.get(node.id)
        if copy is not None and copy.place == Place.PRESENT:
            self._core.directory.pin(copy)
            reader.copy = copy
            self._ready(reader)
        elif obj.inline or obj.durable:
            self._ready(reader)
        elif copy is not None and copy.place == Place.INCOMING:
            self._core.directory.pin(copy)
            reader.copy = copy
            self.wait(copy, reader)
        elif copy is not None and copy.place in (Place.SPILLING, Place.DAMAGED):
            self.wait(copy, reader)
        elif obj.size > node.limit:
            if copy is not None:
                self._ready(reader)
            else:
                self.refuse(reader)  # there is no place for it on the node
        elif copy is None and self.source_of(obj, node) is None:
            # All that there is of it is moving, or could not be fetched just now.
            moving = [other for other in obj.copies.values() if other.place in (Place.SPILLING, Place.INCOMING)]
            if moving:
                self.wait(moving[0], reader)
        elif not reader.room:
            reader.room = obj.size
            node.readers.append(reader)
            self._core.disturbed(node)

    def refuse(self, reader: Reader) -> None:
        """It will never be there."""
        if reader.object.wanted is not None:
            reader.object.wanted.pop((reader.node.id, reader.number), None)
        self._core.actions.append(Ready(reader.object.id, reader.node.id, reader.number, False))

    def unwanted(self, reader: Reader) -> None:
        obj, node = reader.object, reader.node
        reader.ready = True
        if reader in node.readers:
            node.readers.remove(reader)
            self._core.disturbed(node)
        copy, reader.copy = reader.copy, None
        if copy is not None:
            if copy.waiting and reader in copy.waiting:
                copy.waiting.remove(reader)
            self._core.directory.unpin(copy)
        self._core.directory.no_reader(obj)

    def _ready(self, reader: Reader) -> None:
        reader.ready = True
        self._core.actions.append(Ready(reader.object.id, reader.node.id, reader.number, True))

    @staticmethod
    def wait(copy: Copy, waiter: Task | Reader) -> None:
        if copy.waiting is None:
            copy.waiting = []
        copy.waiting.append(waiter)

    def again(self, waiter: Task | Reader) -> None:
        """What it waited for is not under way any more."""
        if isinstance(waiter, Reader):
            waiter.copy = None
            self.wanted(waiter)

    # ---- moves --------------------------------------------------------------------------------

    def bring(self, obj: Obj, node: Node, waiter: Task | Reader) -> Copy:
        """Start to have the object on the node: there is room for it. Pins it for the waiter."""
        directory = self._core.directory
        copy = directory.expect(obj, node)
        directory.pin(copy)
        self.wait(copy, waiter)
        if copy.spilled:
            self._core.actions.append(Restore(node.id, node.epoch, obj.id))
            return copy
        source = self.source_of(obj, node)
        if source is None:
            raise InternalError(f"object {obj.id} is fetched from nowhere")
        directory.pin(source)
        copy.source = source
        self._core.actions.append(Fetch(node.id, node.epoch, obj.id, source.node.id))
        return copy

    def came(self, copy: Copy, ok: bool) -> None:
        """The answer to a Restore or a Fetch."""
        waiting, copy.waiting = copy.waiting, None
        if not ok:
            if copy.source is None:
                copy.spilled = False
                copy.node.spilled -= copy.size
                self._core.directory.drop(copy.node, copy.object.id, True)
            for waiter in waiting or ():
                # Before the copy is gone: they give their pins back.
                if isinstance(waiter, Reader):
                    waiter.room = 0
                    if waiter.copy is copy:
                        waiter.copy = None
                        self._core.directory.unpin(copy)
                else:
                    self._core.lives.take_back(waiter)
            source = copy.source
            self._core.directory.came(copy, False)
            if source is not None and not source.node.dead:
                self._missed(copy.object, source)
            self._core.recovery.lost_copy(copy.object)
            for waiter in waiting or ():
                if isinstance(waiter, Reader):
                    self.wanted(waiter)
            return
        if copy.source is not None:
            copy.source.misses = 0
        self._core.directory.came(copy, True)
        for waiter in waiting or ():
            if isinstance(waiter, Reader):
                if waiter.copy is copy:
                    self._ready(waiter)
                else:
                    self.wanted(waiter)
            else:
                waiter.more.pending -= 1
                if not waiter.more.pending and copy.node.bundle is not waiter:
                    self._core.admission.lease_admitted(waiter)
        self._core.directory.movable(copy.object)
        if copy.object.freed:
            self._core.directory.let_go(copy.object)

    def source_of(self, obj: Obj, node: Node) -> Copy | None:
        """The copy on another node from which it can be fetched now."""
        best: Copy | None = None
        if obj.later > self._core.now:
            return None
        for copy in obj.copies.values():
            if copy.node is node or not (copy.place == Place.PRESENT or (copy.place == Place.AWAY and copy.spilled)):
                continue
            if best is None or _effort(copy) < _effort(best):
                best = copy
        return best

    def _missed(self, obj: Obj, source: Copy) -> None:
        """The object could not be fetched. Later again; and a copy that is never to be had is none."""
        source.misses += 1
        obj.later = self._core.now + BACKOFF_SECONDS * 2.0 ** min(source.misses, 6)
        self._core.timers.wake(obj.later, self._core.directory.movable, obj)
        if source.misses >= FETCHES and not source.pins and source.place in (Place.PRESENT, Place.AWAY):
            others = any(copy is not source and copy.place != Place.INCOMING for copy in obj.copies.values())
            if others or obj.durable or obj.lineage is not None:
                self._core.directory.remove(source)

    # ---- who gets what ------------------------------------------------------------------------

    def demand(self, node: Node) -> int:
        """Bytes that others wait for already: a new task does not take them."""
        demand = sum(reader.room for reader in node.readers)
        for room in node.asking:
            demand += room.size
            if room.task is not None and room.task.extra is not None:
                demand -= min(room.size, room.task.extra.reserved)
        if node.bundle is not None:
            demand += node.bundle.more.room
        return demand

    def evictable(self, node: Node) -> int:
        """Bytes that could be free some time from now, by writing or dropping what nobody reads."""
        if self.may_spill(node):
            return node.loose
        return sum(copy.size for copy in loose(node) if has_other(copy))

    def may_spill(self, node: Node) -> bool:
        return not node.spill_full and node.spill_later <= self._core.now

    def settle(self, node: Node) -> None:
        """Give what there is to those who wait, and make room for the others."""
        while True:
            self._serve(node)
            short = self.demand(node) - node.free - node.spilling
            if short <= 0 or not self._evict(node, short):
                break
        if short > 0 and self.may_spill(node):
            short -= self._spill(node, victims(node, short, self._core.directory.next_use))
        if short > 0 and not node.spilling:
            self._yield(node)
        self._spill_ahead(node)

    def _serve(self, node: Node) -> None:
        blocked = False
        for room in [room for room in node.asking if room.task is not None]:
            extra = room.task.more if room.task is not None else None
            reserved = min(extra.reserved, room.size) if extra is not None else 0
            if room.size <= reserved or (not blocked and room.size - reserved <= node.free):
                self.leave(node, room)
                self._grant(node, room)
            else:
                blocked = True
        while not blocked and node.readers:
            reader = node.readers[0]
            copy = reader.object.copies.get(node.id)
            if reader.object.size > node.free and (copy is None or copy.place != Place.PRESENT):
                blocked = True
                break
            node.readers.popleft()
            reader.room = 0
            away = copy is not None and copy.place == Place.AWAY
            if not away and (copy is not None or self.source_of(reader.object, node) is None):
                self.wanted(reader)
            else:
                reader.copy = self.bring(reader.object, node, reader)
        if not blocked and node.bundle is not None:
            blocked = not self._core.admission.bring(node.bundle)
        for room in list(node.asking):
            if room.task is None:
                if blocked or room.size > node.free:
                    break
                self.leave(node, room)
                self._grant(node, room)

    def _evict(self, node: Node, short: int) -> bool:
        """Drop copies that exist elsewhere. Whether there were any."""
        found = False
        for copy in spare(node):
            if short <= 0:
                break
            # Of two nodes that have it, the first to need room drops it: the other's is then the last.
            if has_other(copy):
                self._core.directory.evict(copy)
                short -= copy.size
                found = True
        return found

    def _spill(self, node: Node, copies: list[Copy]) -> int:
        """Have these written. Returns their bytes."""
        total = 0
        for batch in batches(copies):
            for copy in batch:
                copy.place = Place.SPILLING
                node.loose -= copy.size
                node.spilling += copy.size
                total += copy.size
            self._core.actions.append(Spill(node.id, node.epoch, [copy.object.id for copy in batch]))
        return total

    def _spill_ahead(self, node: Node) -> None:
        taken = node.used + node.reserved - node.spilling
        if taken <= SPILL_ABOVE * node.limit or not node.loose or not self.may_spill(node):
            return
        chosen = victims(node, int(taken - SPILL_DOWN_TO * node.limit), self._core.directory.next_use)
        write = []
        for copy in chosen:
            if has_other(copy):
                self._core.directory.evict(copy)
            else:
                write.append(copy)
        self._spill(node, write)

    def _yield(self, node: Node) -> None:
        """Nothing more can leave the arena by itself: let nobody wait who would wait for ever."""
        if self._core.admission.give_up_prepared(node):
            return  # what they read can leave; the node is served again
        for room in [room for room in node.asking if room.task is not None]:
            self.leave(node, room)
            self._overflow(node, room, node.spill_full)
        if node.bundle is not None and not self._core.admission.bring(node.bundle, short=True):
            self._core.lives.take_back(node.bundle)
        if node.argued:
            if node.asking or node.readers:
                self._core.stalls.notice()
            return
        self.let_nobody_wait(node)
        if node.readers:
            self._core.stalls.notice()

    def let_nobody_wait(self, node: Node, for_ever: bool = False) -> None:
        """Readers read from the spill space; who puts writes there, or is refused; `for_ever`: so is a reader of what
        would have to be fetched."""
        for reader in list(node.readers):
            copy = reader.object.copies.get(node.id)
            if copy is not None and copy.spilled and copy.place == Place.AWAY:
                node.readers.remove(reader)
                reader.room = 0
                self._ready(reader)
            elif for_ever:
                node.readers.remove(reader)
                reader.room = 0
                self.refuse(reader)
                self._core.disturbed(node)
        for room in list(node.asking):
            if room.size <= node.free:
                break
            self.leave(node, room)
            self._overflow(node, room, node.spill_full)

    def throttle(self) -> None:
        """Tell whoever puts objects whether it has to wait."""
        on = self.puts > 0
        if on != self.throttled:
            self.throttled = on
            self._core.actions.append(Throttle(on))


def _effort(copy: Copy) -> tuple[int, bool, int, NodeId]:
    return (copy.misses, copy.place != Place.PRESENT, copy.pins, copy.node.id)
