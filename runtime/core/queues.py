"""Tasks that wait for a node, of one class: by priority, then the longest path behind them, then submission.

Most come in the very order in which they go, and are kept in a row; the others in a heap beside it. Tasks that have
left the queue otherwise stay where they are until they come to the front. May import nothing of ours but the model.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

from dagengine.runtime.core.states import State

if TYPE_CHECKING:
    from dagengine.runtime.core.model import Klass, Task

Key = tuple[int, float, int]

_QUEUED = State.QUEUED


def key_of(task: Task) -> Key:
    """Smaller goes first."""
    request = task.request
    return (-request.priority, -request.rank, task.order)


class TaskQueue:
    """`len` counts what is in it; `forget` has to be told of each task that leaves it other than by `pop`.

    A task's `entry` counts how often it was forgotten: entries from before are of no use. The row has only tasks that
    never were.
    """

    __slots__ = ("_count", "_heap", "_last", "_row", "owner")

    def __init__(self, owner: Klass) -> None:
        self.owner = owner
        self._row: deque[Task] = deque()
        self._last: Key = (0, 0.0, -1)
        self._heap: list[tuple[Key, int, Task]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, task: Task) -> None:
        key = key_of(task)
        if not task.entry and (not self._row or key >= self._last):
            self._row.append(task)
            self._last = key
        else:
            heapq.heappush(self._heap, (key, task.entry, task))
        self._count += 1

    def forget(self, task: Task) -> None:
        """The task leaves the queue."""
        task.entry += 1
        self._count -= 1

    def head(self) -> Task | None:
        row, heap = self._row, self._heap
        while row and (row[0].state != _QUEUED or row[0].entry):
            row.popleft()
        while heap and (heap[0][2].state != _QUEUED or heap[0][1] != heap[0][2].entry):
            heapq.heappop(heap)
        if not heap:
            return row[0] if row else None
        if not row or heap[0][0] < key_of(row[0]):
            return heap[0][2]
        return row[0]

    def pop(self) -> Task:
        """Remove what `head` has just returned."""
        self._count -= 1
        row, heap = self._row, self._heap
        if not heap or (row and key_of(row[0]) < heap[0][0]):
            return row.popleft()
        return heapq.heappop(heap)[2]
