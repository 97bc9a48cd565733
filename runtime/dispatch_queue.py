"""The tasks that wait for a worker, in the order of submission.

Tasks that were taken back from a worker are older than all that were never sent; they are kept apart, sorted, and go
first. Dropped tasks stay in place until they come to the front. May import nothing of ours but dispatch_model.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from dagengine.runtime.dispatch_model import Task, TaskState


class TaskQueue:
    """`len` counts the tasks that are QUEUED."""

    def __init__(self) -> None:
        self._fresh: deque[Task] = deque()
        self._returned: list[tuple[int, Task]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Task]:
        for _, task in sorted(self._returned, key=lambda entry: entry[0]):
            if task.state is TaskState.QUEUED:
                yield task
        for task in self._fresh:
            if task.state is TaskState.QUEUED:
                yield task

    def add(self, task: Task) -> None:
        """A new task: its order is larger than that of all others."""
        self._fresh.append(task)
        self._count += 1

    def give_back(self, task: Task) -> None:
        heapq.heappush(self._returned, (task.order, task))
        self._count += 1

    def forget(self) -> None:
        """One of the tasks has been dropped."""
        self._count -= 1

    def head(self) -> Task | None:
        returned, fresh = self._returned, self._fresh
        while returned:
            task = returned[0][1]
            if task.state is TaskState.QUEUED:
                return task
            heapq.heappop(returned)
        while fresh:
            task = fresh[0]
            if task.state is TaskState.QUEUED:
                return task
            fresh.popleft()
        return None

    def pop(self) -> Task:
        """Remove what `head` just returned."""
        self._count -= 1
        return heapq.heappop(self._returned)[1] if self._returned else self._fresh.popleft()
