"""What a simulated node holds: its arena with the hard limit, and its spill space.

Checks by itself what no order of events may bring about: more bytes in the arena than it has; bytes taken away while a
task reads them; an object that is to be moved and is not there.

May import nothing of ours but the simulator's other modules and the core's words.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from dagengine.runtime.protocol import ObjectId
from dagengine.runtime.simulation.plans import Violation, name


@dataclass(slots=True)
class Copy:
    """One copy of an object. Damaged ones are found out when they are read, by their checksum."""

    size: int
    value: int
    damaged: bool = False


class Store:
    """`rooms`: granted and not yet sealed, by request. `coming`: rooms of what is being restored or fetched."""

    def __init__(self, node: str, limit: int, disk: int) -> None:
        self.node = node
        self.limit = limit
        self.disk = disk
        self.arena: dict[ObjectId, Copy] = {}
        self.rooms: dict[int, int] = {}
        self.coming: dict[ObjectId, int] = {}
        self.spilled: dict[ObjectId, Copy] = {}
        self.views: Counter[ObjectId] = Counter()
        self.most = 0
        self._used = 0
        self._written = 0

    # ---- rooms ----------------------------------------------------------------------------------

    def grant(self, request: int, size: int) -> None:
        if request in self.rooms:
            raise Violation(f"{self.node}: room {request} was granted twice")
        self.rooms[request] = size
        self._take(size, f"room {request}")

    def seal(self, request: int, object_id: ObjectId, copy: Copy) -> None:
        """What was written becomes an object. Where there is one already, also a spilled one, that is kept instead."""
        size = self.rooms.pop(request)
        if object_id in self.arena or object_id in self.spilled:
            self._used -= size
        else:
            self.arena[object_id] = copy

    def give_back(self, request: int) -> None:
        self._used -= self.rooms.pop(request)

    def expect(self, object_id: ObjectId, size: int) -> None:
        if object_id in self.coming or object_id in self.arena:
            raise Violation(f"{self.node}: {name(object_id)} is to be brought here, and is here or on its way")
        self.coming[object_id] = size
        self._take(size, f"bringing {name(object_id)}")

    def arrive(self, object_id: ObjectId, copy: Copy | None) -> None:
        """What was expected is here, or (None) will not come."""
        size = self.coming.pop(object_id)
        if copy is None:
            self._used -= size
        else:
            self.arena[object_id] = copy

    # ---- the spill space ------------------------------------------------------------------------

    def fits_disk(self, size: int) -> bool:
        return self._written + size <= self.disk

    def overflow(self, object_id: ObjectId, copy: Copy) -> None:
        """Straight to the spill space, unless it is here already."""
        if object_id not in self.arena:
            self._write(object_id, copy)

    def spill(self, object_id: ObjectId) -> None:
        """The object is written, and its room free. Harmless for one that was dropped meanwhile."""
        copy = self.arena.get(object_id)
        if copy is None:
            return
        self._write(object_id, Copy(copy.size, copy.value, copy.damaged))
        self._leave_arena(object_id, "spilled")

    def drop(self, object_id: ObjectId, spilled: bool) -> None:
        if object_id not in self.arena and not (spilled and object_id in self.spilled):
            raise Violation(f"{self.node}: {name(object_id)} is to be dropped, and is not here")
        if object_id in self.arena:
            self._leave_arena(object_id, "dropped")
        if spilled and object_id in self.spilled:
            self._written -= self.spilled.pop(object_id).size

    def forget(self, arena_too: bool) -> None:
        """The workers have ended; with `arena_too` nothing is kept."""
        for size in self.rooms.values():
            self._used -= size
        for size in self.coming.values():
            self._used -= size
        self.rooms.clear()
        self.coming.clear()
        self.spilled.clear()
        self.views.clear()
        self._written = 0
        if arena_too:
            self.arena.clear()
            self._used = 0

    # ---- who reads ------------------------------------------------------------------------------

    def view(self, object_id: ObjectId) -> None:
        self.views[object_id] += 1

    def unview(self, object_id: ObjectId) -> None:
        self.views[object_id] -= 1
        if self.views[object_id] <= 0:
            del self.views[object_id]

    @property
    def used(self) -> int:
        return self._used

    @property
    def written(self) -> int:
        return self._written

    # ---- one place each -------------------------------------------------------------------------

    def _take(self, size: int, what: str) -> None:
        self._used += size
        self.most = max(self.most, self._used)
        if self._used > self.limit:
            raise Violation(f"{self.node}: {what} makes {self._used:,} bytes in an arena of {self.limit:,}")

    def _write(self, object_id: ObjectId, copy: Copy) -> None:
        if object_id not in self.spilled:
            self._written += copy.size
            self.spilled[object_id] = copy

    def _leave_arena(self, object_id: ObjectId, how: str) -> None:
        if self.views.get(object_id):
            raise Violation(f"{self.node}: {name(object_id)} is {how} while it is read")
        self._used -= self.arena.pop(object_id).size
