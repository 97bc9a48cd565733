"""The inline runtime's objects: encoded values in this process's memory, without a limit.

An object is promised by the task that has it as output, then made or lost with it. It is kept until it is freed and no
task that was submitted before reads it any more. Not thread-safe: the runtime's lock is held.

May import nothing of ours but model and the protocol.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from dagengine.model import Failure
from dagengine.runtime.protocol import ListInput, ObjectId, ObjectInput, TaskInput

Found = bytes | Failure
Told = Callable[[Found], None]


class Objects:
    """`consumed`: objects that were read or freed since a stream has looked: it may make more."""

    def __init__(self) -> None:
        self._found: dict[ObjectId, Found] = {}
        self._readers: Counter[ObjectId] = Counter()  # tasks that will read it
        self._promised: set[ObjectId] = set()
        self._freed: set[ObjectId] = set()  # but still to be made, or read
        self._waiting: dict[ObjectId, list[Told]] = {}
        self.consumed: set[ObjectId] = set()
        self.puts = 0
        self.bytes_put = 0

    def __len__(self) -> int:
        return sum(isinstance(found, bytes) for found in self._found.values())

    def size(self) -> int:
        return sum(len(found) for found in self._found.values() if isinstance(found, bytes))

    def get(self, object_id: ObjectId) -> Found | None:
        """Its bytes, or why there are none; None: it is not made yet."""
        return self._found.get(object_id)

    def promise(self, object_id: ObjectId) -> None:
        """A task was submitted that will make it."""
        self._promised.add(object_id)

    def settle(self, object_id: ObjectId, found: Found) -> list[tuple[Told, Found]]:
        """It is made, or will never be. Returns who is to be told what."""
        if isinstance(found, bytes):
            self.puts += 1
            self.bytes_put += len(found)
        self._promised.discard(object_id)
        told = self._waiting.pop(object_id, [])
        if object_id in self._freed and not self._readers[object_id]:
            self._freed.discard(object_id)
            self.consumed.add(object_id)
        else:
            self._found[object_id] = found
        return [(one, found) for one in told]

    def ask(self, object_id: ObjectId, told: Told) -> Found | None:
        """The object, or None: `told` will be."""
        found = self._found.get(object_id)
        if found is None:
            self._waiting.setdefault(object_id, []).append(told)
        else:
            self.consumed.add(object_id)
        return found

    def free(self, objects: Iterable[ObjectId]) -> None:
        for object_id in objects:
            if object_id in self._found or object_id in self._promised:
                self._freed.add(object_id)
                self._drop(object_id)

    def reads(self, inputs: Iterable[TaskInput]) -> None:
        """A task that reads these was submitted."""
        self._readers.update(read_by(inputs))

    def has_read(self, inputs: Iterable[TaskInput]) -> None:
        """It has ended, in whatever way."""
        for object_id in read_by(inputs):
            self._readers[object_id] -= 1
            self.consumed.add(object_id)
            self._drop(object_id)

    def _drop(self, object_id: ObjectId) -> None:
        if object_id in self._freed and self._readers[object_id] <= 0:
            del self._readers[object_id]
            if object_id not in self._promised:
                del self._found[object_id]
                self._freed.discard(object_id)
                self.consumed.add(object_id)


def read_by(inputs: Iterable[TaskInput]) -> list[ObjectId]:
    found: list[ObjectId] = []
    for given in inputs:
        if isinstance(given, ObjectInput):
            found.append(given.id)
        elif isinstance(given, ListInput):
            found += read_by(given.items)
    return found
