"""Rooms: places that were asked for, for what is about to be written, by workers and by `put`.

    asked ─▶ (the scheduler core) ─▶ granted ─▶ a range of the arena  ─▶ used by an object, or given back
                                  └▶ overflow ─▶ a file of the spill space, or refused

Used by the runtime's thread only. May import nothing of ours but errors and runtime modules.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

from dagengine.runtime.arena import Arena
from dagengine.runtime.objects import whole_pages
from dagengine.runtime.protocol import TaskId
from dagengine.runtime.spilling import SpillSpace


class Room:
    """`number`: as the core knows it. `task`: the attempt that writes, if it is one. `answer`: tells who asked.

    offset: in the arena, or -1; then `path` of a new file, or else `trouble`, why there is neither
    """

    __slots__ = ("answer", "number", "offset", "path", "size", "task", "trouble")

    def __init__(self, number: int, size: int, task: TaskId | None, answer: Callable[[Room], None]) -> None:
        self.number = number
        self.size = size
        self.task = task
        self.answer = answer
        self.offset = -1
        self.path = ""
        self.trouble = ""

    @property
    def pages(self) -> int:
        return whole_pages(self.size)


class Rooms:
    """`open`: those that are neither used nor given back."""

    def __init__(self, arena: Arena, spill: SpillSpace) -> None:
        self.open: dict[int, Room] = {}
        self._arena = arena
        self._spill = spill
        self._numbers = itertools.count()
        self._waiting: deque[tuple[int, Callable[[int], None]]] = deque()

    def ask(self, size: int, task: TaskId | None, answer: Callable[[Room], None]) -> Room:
        room = Room(next(self._numbers), size, task, answer)
        self.open[room.number] = room
        return room

    def granted(self, number: int) -> None:
        room = self.open.get(number)
        if room is None:
            return  # given back meanwhile

        def found(offset: int) -> None:
            if number in self.open:
                room.offset = offset
                room.answer(room)
            else:
                self.release(offset)

        self.allocate(room.size, found)

    def overflow(self, number: int, refused: bool) -> None:
        room = self.open.get(number)
        if room is None:
            return
        if refused:
            room.trouble = no_room(room.size, self._arena.limit, self._spill)
        else:
            try:
                room.path = self._spill.overflow_path()
            except OSError as error:
                room.trouble = no_room(room.size, self._arena.limit, self._spill, error.strerror or str(error))
        room.answer(room)

    def used(self, number: int) -> Room:
        """An object lies there from now on."""
        return self.open.pop(number)

    def give_back(self, room: Room) -> None:
        """Nothing was written there, or nothing that anybody wants."""
        del self.open[room.number]
        if room.offset >= 0:
            self.release(room.offset)
        if room.path:
            self._spill.discard(room.path)

    # ---- the arena ----------------------------------------------------------------------------

    def allocate(self, size: int, found: Callable[[int], None]) -> None:
        """The core says that there is room: so there is, or will be at once, when a thread has done with what was there."""
        offset = self._arena.allocate(size) if not self._waiting else None
        if offset is None:
            self._waiting.append((size, found))
        else:
            found(offset)

    def release(self, offset: int) -> None:
        self._arena.release(offset)
        while self._waiting:
            size, found = self._waiting[0]
            at = self._arena.allocate(size)
            if at is None:
                return
            self._waiting.popleft()
            found(at)


def no_room(size: int, arena: int, spill: SpillSpace, trouble: str = "") -> str:
    why = trouble or (
        f"the spill space, which holds {spill.used:,} bytes, is full: free disk space there, or give another place to spill to"
    )
    return f"there is no room for an object of {size:,} bytes: the memory for objects ({arena:,} bytes) is in use, and {why}"
