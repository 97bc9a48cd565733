"""Where the objects of this node are: small ones as bytes here, large ones in the arena or in the spill space.

The scheduler core decides what happens to them; this knows the places. Used by the runtime's thread; only a Lent is
closed by others.

Objects with an id of the node's own (`private`) are results that go to whoever submitted, and are theirs until they
close them.

May import nothing of ours but errors, model and runtime modules.
"""

from __future__ import annotations

import itertools
import mmap
import threading
from collections.abc import Callable
from typing import Any, Final

from dagengine.errors import InternalError
from dagengine.runtime.arena import Arena
from dagengine.runtime.protocol import Content, FileInput, InlineInput, ListInput, ObjectId, ObjectInput, TaskInput

NODE: Final = 0
"""This node, among those that the scheduler core knows."""

PAGE: Final = mmap.PAGESIZE
AWAY: Final = -1
"""The offset of an object that is only in the spill space."""


def whole_pages(size: int) -> int:
    """What an object takes in the arena. The scheduler core's account is in these bytes."""
    return -(-size // PAGE) * PAGE


class Place:
    """Of a large object. `offset` in the arena, or AWAY; `spilled`: its bytes are in the spill space (as well)."""

    __slots__ = ("digest", "offset", "size", "spilled")

    def __init__(self, offset: int, size: int, digest: str, spilled: bool = False) -> None:
        self.offset = offset
        self.size = size
        self.digest = digest
        self.spilled = spilled


class Lent:
    """An object's bytes, lent to whoever submitted, as protocol.SharedObject. `done` is called once, when it is closed
    and no view is left; it must not take a lock that the caller may hold."""

    def __init__(self, loans: Loans, place: Place, done: Callable[[], None]) -> None:
        self.size = place.size
        self.digest = place.digest
        self.offset = place.offset
        self._loans = loans
        self._done = done
        self._uses = 1
        self._closed = False
        self._lock = threading.RLock()  # a collection may end a view of this very object

    def fileno(self) -> int:
        if self._closed:
            raise ValueError("the shared object is closed")
        return self._loans.arena.descriptor

    def view(self) -> memoryview:
        with self._lock:
            if self._closed:
                raise ValueError("the shared object is closed")
            self._uses += 1
        return self._loans.arena.read(self.offset, self.size, self._released)

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._released()

    def _released(self) -> None:
        with self._lock:
            self._uses -= 1
            if self._uses:
                return
        self._loans.back(self._done)

    def __del__(self) -> None:
        # Whoever drops an event unread must not keep its memory.
        self.close()


class Loans:
    """Keeps the arena open as long as somebody has a part of it, also after the runtime's end."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self._lock = threading.RLock()  # a collection may close a Lent inside of any of these methods
        self._count = 0
        self._over = False

    def lend(self, place: Place, done: Callable[[], None]) -> Lent:
        with self._lock:
            self._count += 1
        return Lent(self, place, done)

    def back(self, done: Callable[[], None]) -> None:
        with self._lock:
            self._count -= 1
            over, last = self._over, not self._count
        if not over:
            done()
        elif last:
            self.arena.close()

    def end(self) -> None:
        """The runtime's thread ends."""
        with self._lock:
            self._over, last = True, not self._count
        if last:
            self.arena.close()


class Objects:
    def __init__(self, arena: Arena) -> None:
        self.inline: dict[ObjectId, tuple[bytes, str]] = {}
        self.places: dict[ObjectId, Place] = {}
        self.loans = Loans(arena)
        self._numbers = itertools.count()

    def private(self) -> ObjectId:
        """A new id, that no submitter chooses."""
        return (-1, next(self._numbers))

    def pack(self, given: TaskInput) -> Any:
        """An input for the wire. What the core has leased is here."""
        if isinstance(given, InlineInput):
            return given.data
        if isinstance(given, FileInput):
            return (given.path, given.size, given.digest, given.verify)
        if isinstance(given, ListInput):
            return {"items": [self.pack(item) for item in given.items]}
        inline = self.inline.get(given.id)
        if inline is not None:
            return inline[0]
        place = self.places.get(given.id)
        if place is None or place.offset == AWAY:
            raise InternalError(f"object {given.id} is not on this node, and a task was sent that reads it")
        return (place.offset, place.size, given.id)

    def content(self, object_id: ObjectId, done: Callable[[], None]) -> Content | None:
        """The object for whoever submitted; None if it is not in memory. `done`: when its shared part was closed."""
        inline = self.inline.get(object_id)
        if inline is not None:
            done()
            return Content(inline[1], len(inline[0]), inline[0])
        place = self.places.get(object_id)
        if place is None or place.offset == AWAY:
            return None
        return Content(place.digest, place.size, shared=self.loans.lend(place, done))


def objects_of(inputs: tuple[TaskInput, ...]) -> tuple[ObjectId, ...]:
    """The objects that a task reads, each once."""
    found: dict[ObjectId, None] = {}
    stack = list(inputs)
    while stack:
        given = stack.pop()
        if isinstance(given, ObjectInput):
            found[given.id] = None
        elif isinstance(given, ListInput):
            stack += given.items
    return tuple(found)
