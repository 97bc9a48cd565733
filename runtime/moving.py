"""Objects on their way between the arena and the spill space, on two threads.

What the scheduler core asks for begins at once; what has happened is told on the runtime's thread. An object that is
dropped while it moves goes when the move is done: nobody reads where something else is written.

Everything but the copying runs on the runtime's thread. May import nothing of ours but errors and runtime modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dagengine.runtime.arena import Arena
from dagengine.runtime.core.events import Event, NodeId, Restored, Spilled
from dagengine.runtime.objects import AWAY, Objects
from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.rooms import Rooms
from dagengine.runtime.spilling import SpillFull, SpillSpace

THREADS: Final = 2

Post = Callable[[Callable[[], None]], None]


class Mover:
    """`post`: runs something on the runtime's thread; `tell`: gives the core an event, of which epoch it knows."""

    def __init__(
        self,
        *,
        arena: Arena,
        spill: SpillSpace,
        objects: Objects,
        rooms: Rooms,
        node: NodeId,
        post: Post,
        tell: Callable[[Event], None],
    ) -> None:
        self.epoch = 0
        self.spilled = self.restored = 0  # bytes so far
        self.trouble: dict[ObjectId, str] = {}  # why an object could not be brought back
        self._arena = arena
        self._spill = spill
        self._objects = objects
        self._rooms = rooms
        self._node = node
        self.post = post
        self._tell = tell
        self._moving: dict[ObjectId, bool] = {}  # whether it was dropped meanwhile
        self._threads: ThreadPoolExecutor | None = None

    def run(self, job: Callable[[], None]) -> None:
        """On one of the threads."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, "dagengine-spill")
        self._threads.submit(job)

    def close(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    # ---- out ----------------------------------------------------------------------------------

    def spill(self, objects: Sequence[ObjectId]) -> None:
        places = [(object_id, self._objects.places[object_id]) for object_id in objects]
        self._moving.update(dict.fromkeys(objects, False))

        def job() -> None:
            ok, full = True, False
            try:
                views = [
                    (object_id, self._arena.read(place.offset, place.size, _nothing)) for object_id, place in places
                ]
                self._spill.write(views)
            except SpillFull:
                ok, full = False, True
            except Exception:
                ok = False  # the place can't be written: the core tries others, and says so if there are none
            self.post(lambda: self._was_spilled(objects, ok, full))

        self.run(job)

    def _was_spilled(self, objects: Sequence[ObjectId], ok: bool, full: bool) -> None:
        for object_id in objects:
            dropped = self._moving.pop(object_id)
            place = self._objects.places[object_id]
            if ok:
                place.spilled = True
                self.spilled += place.size
            if ok or dropped:
                offset, place.offset = place.offset, AWAY
                self._rooms.release(offset)
            if dropped:
                self._forget([object_id])
        self._tell(Spilled(self._node, self.epoch, tuple(objects), ok, full))

    # ---- back ---------------------------------------------------------------------------------

    def restore(self, object_id: ObjectId) -> None:
        place = self._objects.places[object_id]
        self._moving[object_id] = False

        def found(offset: int) -> None:
            def job() -> None:
                trouble = ""
                try:
                    self._spill.read_into(object_id, self._arena.view(offset, place.size))
                except Exception as error:
                    trouble = str(error)
                self.post(lambda: self._was_restored(object_id, offset, trouble))

            self.run(job)

        self._rooms.allocate(place.size, found)

    def _was_restored(self, object_id: ObjectId, offset: int, trouble: str) -> None:
        place = self._objects.places[object_id]
        dropped = self._moving.pop(object_id)
        if trouble or dropped:
            self._rooms.release(offset)
        else:
            place.offset = offset
            self.restored += place.size
        if trouble:
            self.trouble[object_id] = trouble
        if dropped:
            self._forget([object_id])
        self._tell(Restored(self._node, self.epoch, object_id, not trouble))

    # ---- away ---------------------------------------------------------------------------------

    def drop(self, objects: Sequence[ObjectId], spilled: bool) -> None:
        """Of what is in memory; with `spilled` also of what is on disk."""
        freed = []
        for object_id in objects:
            if self._objects.inline.pop(object_id, None) is not None:
                continue
            if object_id in self._moving:
                self._moving[object_id] = True
                continue
            place = self._objects.places.get(object_id)
            if place is None:
                continue
            if place.offset != AWAY:
                offset, place.offset = place.offset, AWAY
                self._rooms.release(offset)
            if spilled or not place.spilled:
                freed.append(object_id)
        self._forget(freed)

    def _forget(self, objects: Sequence[ObjectId]) -> None:
        spilled = [object_id for object_id in objects if self._objects.places.pop(object_id).spilled]
        if spilled:
            self._spill.forget(spilled)


def _nothing() -> None:
    pass
